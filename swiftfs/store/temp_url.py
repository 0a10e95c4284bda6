"""TempURLs: URLs that allow one method on one object, or below a prefix, until a time, without a login.

Source: swift/common/middleware/tempurl.py. The signature is made here, from a key that the container or the
account has in its metadata; no request is needed for it.
"""

from urllib.parse import quote, urlsplit

import requests
from msgspec import Struct
from swiftclient.utils import generate_temp_url

from swiftfs.errors import Unavailable
from swiftfs.objects import ObjectName
from swiftfs.store.auth import Account
from swiftfs.store.error_map import NETWORK_ERRORS
from swiftfs.store.request import ANSWER_SECONDS, escape_dots, quoted_container, quoted_path

DIGESTS = ("sha256", "sha512", "sha1")
"""The best one first: what takes SHA-512 takes SHA-256 too, whose URLs are shorter."""


class Share(Struct, frozen=True):
    """What a TempURL allows: `method` on the object `name` until `expires` (Unix seconds).

    With `prefix` it is for all objects whose names begin so. `ip` limits it to an address or a network.
    `filename` is the name under which a browser stores the bytes.
    """

    name: ObjectName
    method: str
    expires: int
    prefix: bool = False
    ip: str = ""
    filename: str = ""


class TempUrls:
    """Signs TempURLs of one account, and tries them."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def sign(self, share: Share, key: str, digest: str) -> str:
        """Return the URL, signed with `key`, which appears neither in it nor in any log."""
        endpoint = urlsplit(self._account.endpoint())
        signed = generate_temp_url(
            f"{endpoint.path.rstrip('/')}/{share.name}",
            share.expires,
            key,
            share.method,
            absolute=True,
            prefix=share.prefix,
            ip_range=share.ip or None,
            digest=digest,
        )
        # The server compares names that are not quoted; a URL has them quoted.
        query = signed.rpartition("?temp_url_sig=")[2].partition("&temp_url_prefix=")[0]
        name = share.name
        path = quoted_path(name) if name.key else f"/{quoted_container(name.container)}/"
        url = f"{endpoint.scheme}://{endpoint.netloc}{endpoint.path.rstrip('/')}{path}?temp_url_sig={query}"
        if share.prefix:
            url += f"&temp_url_prefix={quote(share.name.key, safe='')}"
        return escape_dots(url + (f"&filename={quote(share.filename, safe='')}" if share.filename else ""))

    def try_out(self, url: str, method: str) -> int:
        """Return the status with which the server answers the URL; raise `Unavailable` without an answer.

        A GET asks for one byte: only that shows whether the URL reaches the segments of a large object.
        """
        session = self._account.session
        try:
            with requests.Session() as plain:
                # Otherwise requests would also send the password that ~/.netrc has for the host.
                plain.trust_env = False
                plain.proxies = requests.utils.get_environ_proxies(url)
                answer = plain.request(
                    "GET" if method == "GET" else "HEAD",
                    url,
                    headers={"Range": "bytes=0-0"} if method == "GET" else {},
                    timeout=ANSWER_SECONDS,
                    verify=session.verify,
                    cert=session.cert,
                    allow_redirects=False,
                    stream=True,
                )
                with answer:
                    return answer.status_code
        except NETWORK_ERRORS as error:
            # The signature is in the error's text.
            raise Unavailable(f"the server does not answer the URL ({type(error).__name__})") from None
