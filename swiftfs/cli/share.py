"""`swiftfs share`: print a URL that anybody can use for a time."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import click

from swiftfs.cli.connection import account_options, connected, container_of
from swiftfs.cli.wording import complain
from swiftfs.concurrency import unix_time
from swiftfs.config.options import parse_age, parse_date
from swiftfs.control.places import Place, find_place
from swiftfs.errors import ConfigurationError
from swiftfs.maintenance.sharing import Sharing
from swiftfs.objects import ObjectName
from swiftfs.store.temp_url import Share


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
