"""`swiftfs share`: print a TempURL, after trying whether the server takes it."""

import json
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import click
from msgspec import Struct

from swiftfs.attributes import decode_type
from swiftfs.cli.command_line import complain
from swiftfs.cli.connection import Place, account_options, connected, container_of, find_place
from swiftfs.concurrency import unix_time
from swiftfs.config.options import parse_age, parse_date
from swiftfs.errors import AccessDenied, ConfigurationError, NotFound
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.temp_url import DIGESTS, Share, TempUrls


def end_of(text: str) -> int:
    """Return the end of a time such as `7d`, or a date or time, in Unix seconds; raise `ValueError`."""
    with suppress(ValueError):
        if seconds := parse_age(text):
            return int(unix_time()) + seconds
    end = int(parse_date(text).timestamp())
    if end <= unix_time():
        raise ValueError("it has passed")
    return end


def run(
    path: str, flags: Mapping[str, Any], wanted: Mapping[str, Any], *, new_key: bool, as_json: bool
) -> None:
    """Print the URL of `path`; `wanted` are further fields of `Share`."""
    place = find_place(path)
    share = Share(_name(place, **wanted), **wanted)
    place.flush()
    with connected(account_options(flags)) as account, container_of(share.name.container):
        place.check_account(account.label, account.place)
        assert account.temp_urls is not None
        signed = Sharing(account.store, account.temp_urls, complain).url(share, new_key=new_key)
    if not as_json:
        click.echo(signed.url)
        return
    expires = datetime.fromtimestamp(share.expires, timezone.utc)
    shown = {"url": signed.url, "method": share.method, "expires": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
    click.echo(json.dumps({**shown, "prefix": share.prefix, "key": signed.owner}, indent=2))


def _name(place: Place, *, prefix: bool, filename: str, **_others: object) -> ObjectName:
    name = place.name
    if prefix and filename:
        raise click.UsageError("--filename is for one file, and --prefix for many")
    if prefix:
        return ObjectName(name.container, f"{name.key}/" if name.key else "")
    if not name.key or place.must_be_folder:
        raise ConfigurationError(f"{place.text} is a folder: --prefix shares what is in it")
    return name


KEY, SECOND_KEY = "temp-url-key", "temp-url-key-2"
"""The metadata of a container or account by which it knows its keys; both are valid."""

NOBODYS_NAME = "swiftfs-share-test"
"""A name below a prefix that is asked for to try its URL; nothing is stored there."""

_IS_FOLDER = "is a folder: --prefix shares what is in it"

OF_ACCOUNT, OF_CONTAINER = "account", "container"


class Signed(Struct, frozen=True):
    """A URL, and whose key has signed it: that of the `account` or of the `container`."""

    url: str
    owner: str


class Sharing:
    """Makes the URLs of one account; `tell` is called with what the user should know."""

    def __init__(self, store: ObjectStore, temp_urls: TempUrls, tell: Callable[[str], None]) -> None:
        self._store = store
        self._temp_urls = temp_urls
        self._tell = tell

    def url(self, share: Share, *, new_key: bool) -> Signed:
        """Return a URL that the server takes; with `new_key` the container gets a key first.

        Raise `ConfigurationError` if there is none, and the store's errors.
        """
        digest = self._digest(share)
        self._refuse_without_bytes(share)
        keys = [(OF_CONTAINER, self._new_key(share.name.container))] if new_key else self._keys(share.name)
        status = 0
        for owner, key in keys:
            url = self._temp_urls.sign(share, key, digest)
            status = self._try(share, url)
            if _is_taken(share, status):
                if share.prefix and owner == OF_CONTAINER:
                    self._tell(
                        "large files whose segments lie in another container need a key of the account"
                    )
                return Signed(url, owner)
        raise ConfigurationError(self._refusal(share, status))

    def _refuse_without_bytes(self, share: Share) -> None:
        """Raise `ConfigurationError` for the marker of a folder, and for a symbolic link.

        Whoever opens the URL would get nothing, or the path that the link names.
        """
        if share.prefix or share.method not in ("GET", "HEAD"):
            return
        with suppress(NotFound, AccessDenied):  # the URL is tried
            info = self._store.head(share.name)
            if is_marker(info):
                raise ConfigurationError(f"{share.name} {_IS_FOLDER}")
            if stat.S_ISLNK(decode_type(info.content_type)[1].mode or 0):
                raise ConfigurationError(f"{share.name} is a symbolic link: share what it points to")

    def _digest(self, share: Share) -> str:
        limits = self._store.limits()
        if not limits.temp_url_methods:
            # Also a server that cannot serve now has named nothing in its `/info`: this request fails then.
            with suppress(AccessDenied, NotFound):
                self._store.container_usage(share.name.container)
            raise ConfigurationError("the server has no TempURLs: its /info does not name tempurl")
        if share.method not in limits.temp_url_methods:
            known = ", ".join(limits.temp_url_methods)
            raise ConfigurationError(f"the server takes TempURLs for {known} only, not for {share.method}")
        for digest in DIGESTS:
            if digest in limits.temp_url_digests:
                return digest
        known = ", ".join(limits.temp_url_digests)
        raise ConfigurationError(
            f"the server takes TempURLs signed by {known} only, which swiftfs cannot make"
        )

    def _keys(self, name: ObjectName) -> Iterator[tuple[str, str]]:
        """Yield the keys; the account's first, as the container's do not reach segments elsewhere."""
        found = False
        for owner, look in (
            (OF_ACCOUNT, self._store.account_usage),
            (OF_CONTAINER, lambda: self._store.container_usage(name.container)),
        ):
            with suppress(AccessDenied):
                metadata = look().metadata
                for key in (metadata[one] for one in (KEY, SECOND_KEY) if metadata.get(one)):
                    found = True
                    yield owner, key
        if not found:
            raise ConfigurationError(
                f"no key for TempURLs: neither the account nor {name.container} has one that you may read; "
                "with --new-key the container gets one"
            )

    def _new_key(self, container: str) -> str:
        """Give the container a new key, as its first one; the first one becomes the second one."""
        known = self._store.container_usage(container).metadata
        old, ended = known.get(KEY, ""), known.get(SECOND_KEY, "")
        if ended:
            self._tell(f"URLs that were signed with the second key of {container} are not valid any more")
        else:
            self._tell(f"{container} gets a key for TempURLs; URLs that were signed before stay valid")
        key = secrets.token_urlsafe(32)
        try:
            self._store.post_container(container, {KEY: key, **({SECOND_KEY: old} if old else {})})
        except AccessDenied as error:
            raise ConfigurationError(f"you may not set a key on {container}: {error}") from None
        return key

    def _try(self, share: Share, url: str) -> int:
        # From here the server would refuse a URL for another address.
        if share.ip:
            return 0
        if share.prefix:
            return self._temp_urls.try_out(url.replace("?", f"{NOBODYS_NAME}?", 1), "HEAD")
        return self._temp_urls.try_out(url, share.method)

    def _refusal(self, share: Share, status: int) -> str:
        """Return why the server does not take a URL."""
        if status == 404:
            if self._is_folder(share.name):
                return f"{share.name} {_IS_FOLDER}"
            return f"{share.name}: no such object"
        if not share.prefix:
            with suppress(NotFound, AccessDenied):
                info = self._store.head(share.name)
                if info.is_slo or info.dlo_prefix is not None:
                    return (
                        f"{share.name} is a large object with segments in another container, which a key of "
                        "this one does not reach: set one on the account, as X-Account-Meta-Temp-URL-Key"
                    )
        if share.prefix:
            return f"the server does not take the URL ({status}): perhaps it has none for prefixes"
        return f"the server does not take the URL ({status})"

    def _is_folder(self, name: ObjectName) -> bool:
        return bool(self._store.list_page(name.container, prefix=f"{name.key}/", limit=1).rows)


def _is_taken(share: Share, status: int) -> bool:
    """Return whether an answer shows that the URL is valid; 0 if the server was not asked.

    An empty object has no first byte (416). A PUT may be for an object that does not exist yet, and a prefix
    itself is none.
    """
    if status in (0, 416) or 200 <= status < 300:
        return True
    return status == 404 and (share.method != "GET" or share.prefix)
