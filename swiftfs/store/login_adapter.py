"""How logins are sent: within limits of time and size, and never to another server than the one named."""

import logging
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from keystoneauth1.session import Session

from swiftfs.store.retry import remaining
from swiftfs.store.sockets import LimitedAdapter, Limits, limited

LOGIN_SECONDS = 5.0
"""Longest silence of the authentication server, and the longest time for its headers and for its body: a
mount must fail in seconds, not minutes."""

LOGIN_BYTES = 1024**2
"""The longest answer to a login. The catalog of a large cloud has 100 KB; a longer one takes memory."""


class ForeignRedirect(requests.RequestException):
    """The authentication server redirects to another server: the credentials are not sent there."""


def guard_logins(session: Session) -> None:
    """Let all requests of a session of keystoneauth be sent by `LoginAdapter`."""
    # What it warns of is in the error, too, if the login fails.
    logging.getLogger("keystoneauth.identity").setLevel(logging.ERROR)
    session.timeout = LOGIN_SECONDS
    for scheme in ("https://", "http://"):
        session.session.mount(scheme, LoginAdapter())


class LoginAdapter(LimitedAdapter):
    """Sends the requests of a login, each within the deadline of the call that needs it."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        # Unpacked, an answer may be a thousand times larger.
        request.headers["Accept-Encoding"] = "identity"
        left = remaining()
        if left <= 0:
            raise requests.Timeout("no time left")
        with limited(Limits(LOGIN_SECONDS, body=LOGIN_SECONDS, total=left, most=LOGIN_BYTES)):
            response = super().send(request, *args, **options)
        if response.is_redirect:
            _keep_at_home(response)
        return response

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        resp.headers.discard("Content-Encoding")  # otherwise it is unpacked nevertheless
        return super().build_response(req, resp)


def _keep_at_home(response: requests.Response) -> None:
    """Raise `ForeignRedirect` for a redirect to another origin (RFC 6454); make the others absolute."""
    # keystoneauth sends a key or password again wherever a redirect leads, also from https to http.
    target = urljoin(str(response.url), response.headers["Location"])
    if _origin(target) != _origin(str(response.url)):
        response.close()
        parts = urlsplit(target)
        raise ForeignRedirect(
            f"it redirects to {parts.scheme}://{parts.netloc.rpartition('@')[2]}, where no credentials are "
            "sent: if that is the right server, set the auth URL to it"
        )
    response.headers["Location"] = target


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname or "", port or {"http": 80, "https": 443}.get(parts.scheme, -1)
