"""URLs as they are sent: which server a URL that somebody else has written leads to."""

import re
from urllib.parse import urlsplit

import requests

from swiftfs.errors import printable


class BadUrl(ValueError):
    """A URL to which nothing can be sent; the message says so in a line."""


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Origin = tuple[str, str, int]
"""Scheme, host and port (RFC 6454): what one server is."""


def as_sent(url: str) -> str:
    """Return a URL as requests sends it; raise `BadUrl` for one that it cannot send.

    Parsers disagree on odd URLs: in `http://a\\@b/` urllib.parse sees the host b, and urllib3 connects to a.
    In the URL that this returns, all of them see the server that gets the request.
    """
    bad = BadUrl(f"{printable(url[:100])} is no valid URL")
    if _CONTROL.search(url):  # urllib.parse removes some of them
        raise bad
    try:
        sent = requests.Request("GET", url).prepare().url or ""
        # requests leaves the URLs of other schemes unchanged.
        urlsplit(sent).port  # noqa: B018
    except ValueError:
        raise bad from None
    return sent


def origin(url: str) -> Origin:
    """Return the origin of a URL; raise `BadUrl` as `as_sent` does."""
    parts = urlsplit(as_sent(url))
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


def server_of(url: str) -> str:
    """Return the part of a URL that names its server, without a user or password, for a message."""
    parts = urlsplit(as_sent(url))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
