"""Checks of what is given to log in with: variables, URLs, a token. Each raises `ConfigurationError`."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from swiftfs.errors import ConfigurationError
from swiftfs.store.login_adapter import BadUrl, as_sent

_STORAGE_PATH = re.compile(r"/v1(\.0)?/[A-Za-z0-9]+_[^/]+/?$")
"""How storage URLs end: with a version and the account, such as `/v1/AUTH_photos`."""


def require(environment: Mapping[str, str], *names: str) -> None:
    """Require values of all these variables."""
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise ConfigurationError(f"incomplete credentials: set {', '.join(missing)}")


def checked_url(url: str) -> str:
    """Return an auth URL that can be used."""
    # First of all: URLs are logged, and so are those that no parser understands.
    if "@" in url:
        raise ConfigurationError("the auth URL must not contain a user or a password")
    if not url.lower().startswith(("http://", "https://")):
        raise ConfigurationError(f"the auth URL {url!r} is not an http or https URL")
    try:
        parts = urlsplit(as_sent(url))
    except BadUrl as error:
        raise ConfigurationError(f"the auth URL {error}") from None
    if _STORAGE_PATH.search(parts.path):
        raise ConfigurationError(
            f"{url} is a storage URL, which the login answers with: set the auth URL, such as "
            f"{parts.scheme}://{parts.netloc}/auth/v1.0"
        )
    return url


def checked_storage_url(url: str) -> str:
    """Return a storage URL that can be used, without slashes at its end."""
    # First of all: URLs are logged.
    if "@" in url:
        raise ConfigurationError("the storage URL must not contain a user or a password")
    if not url.lower().startswith(("http://", "https://")):
        raise ConfigurationError(f"the storage URL {url!r} is not an http or https URL")
    try:
        parts = urlsplit(as_sent(url))
    except BadUrl as error:
        raise ConfigurationError(f"the storage URL {error}") from None
    if parts.query or parts.fragment or not parts.path.strip("/"):
        raise ConfigurationError(
            f"the storage URL {url!r} does not end with an account: it is like "
            f"{parts.scheme}://{parts.netloc}/v1/AUTH_photos"
        )
    return url.rstrip("/")


def checked_token(token: str) -> str:
    """Return a token that a header can carry; the error does not show it."""
    # The library requests would show the whole token in its error.
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigurationError("OS_AUTH_TOKEN is no token: it has blanks, or letters that no token has")
    return token


def versioned(url: str) -> str:
    """Return the Keystone URL with its version, which is often missing in `OS_AUTH_URL`."""
    base = url.rstrip("/")
    last = urlsplit(base).path.rsplit("/", 1)[-1]
    if last in ("v2.0", "v2"):
        raise ConfigurationError(f"{url} is Keystone v2; only v3 is supported")
    return base if last == "v3" else f"{base}/v3"
