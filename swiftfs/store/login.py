"""The requests of a login: within limits of time and size, and only to the servers that the user named.

URLs are brought into one form: the server that is compared is the one that gets the request.

Keystone says only that it refuses a password, so the likely cause is tried out: the same password is sent to
the same server, twice at most, and only at the first login of a command. Servers may lock a user out after
several refusals.

The v1 login is a GET with a user and a key, whose answer has the storage URL and a token. swiftclient's
plugin for it, `swiftclient.authv1`, loads all plugins of keystoneauth: a tenth of the time until a mount
answers.
"""

import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

import keystoneauth1.exceptions as keystone_errors
import requests
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session

from swiftfs.concurrency import Future, Rank, monotonic, new_future, new_lock, wait_all
from swiftfs.errors import ConfigurationError, TimedOut, printable
from swiftfs.store.retry import remaining
from swiftfs.store.sockets import LimitedAdapter, Limits, limited

log = logging.getLogger(__name__)


class BadUrl(ValueError):
    """A URL to which nothing can be sent; the message is one line."""


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


_STORAGE_PATH = re.compile(r"/v1(\.0)?/[A-Za-z0-9]+_[^/]+/?$")
"""How storage URLs end: with a version and the account, such as `/v1/AUTH_photos`."""


def checked_auth_url(url: str) -> str:
    """Return the URL; raise `ConfigurationError` for one to which no login can be sent."""
    parts = _parts_of("auth URL", url)
    if _STORAGE_PATH.search(parts.path):
        raise ConfigurationError(
            f"{url} is a storage URL, which the login answers with: set the auth URL, such as "
            f"{parts.scheme}://{parts.netloc}/auth/v1.0"
        )
    return url


def checked_storage_url(url: str) -> str:
    """Return the URL without slashes at its end; raise `ConfigurationError` for one that cannot be used."""
    parts = _parts_of("storage URL", url)
    if parts.query or parts.fragment or not parts.path.strip("/"):
        raise ConfigurationError(
            f"the storage URL {url!r} does not end with an account: it is like "
            f"{parts.scheme}://{parts.netloc}/v1/AUTH_photos"
        )
    return url.rstrip("/")


def _parts_of(what: str, url: str) -> SplitResult:
    """Return the parts of a URL that somebody has typed; raise `ConfigurationError`, with `what` it is."""
    # First of all: URLs are logged, and so are those that no parser understands.
    if "@" in url:
        raise ConfigurationError(f"the {what} must not contain a user or a password")
    if not url.lower().startswith(("http://", "https://")):
        raise ConfigurationError(f"the {what} {url!r} is not an http or https URL")
    # As a rule a comment behind it. requests would quote it, and the server not know the path.
    if " " in url:
        raise ConfigurationError(f"the {what} {url!r} is no valid URL: there is a blank in it")
    try:
        return urlsplit(as_sent(url))
    except BadUrl as error:
        raise ConfigurationError(f"the {what} {error}") from None


LOGIN_SECONDS = 5.0
"""Longest silence of the authentication server, and the longest time for its headers and for its body: a
mount must fail in seconds, not minutes."""

LOGIN_BYTES = 1024**2
"""The longest answer to a login. The catalog of a large cloud has 100 KB; a longer one takes memory."""


class ForeignServer(requests.RequestException):
    """The authentication server leads to another server: the credentials are not sent there."""


class NoVersions(requests.RequestException):
    """The authentication server does not tell which versions it has."""


def guard_logins(session: Session, named: Iterable[str], *, keystone: bool) -> None:
    """Let all requests of a session of keystoneauth be sent by `LoginAdapter`.

    `named` are the URLs in the user's configuration. Requests are sent only to their servers, except in a
    federated login at a `keystone`, in which servers lead to each other. Invalid URLs are ignored.
    """
    # What it warns of is in the error, too, if the login fails.
    logging.getLogger("keystoneauth.identity").setLevel(logging.ERROR)
    session.timeout = LOGIN_SECONDS
    servers = set()
    for url in named:
        with suppress(BadUrl):
            servers.add(origin(url))
    asks_versions = False
    if keystone:
        # Other logins do not need them, and they take a tenth of a start to load.
        from keystoneauth1.identity.generic import BaseGenericPlugin  # noqa: PLC0415
        from keystoneauth1.identity.v3 import FederationBaseAuth  # noqa: PLC0415

        asks_versions = isinstance(session.auth, BaseGenericPlugin)
        if isinstance(session.auth, FederationBaseAuth):
            servers = set()
    adapter = LoginAdapter(servers, asks_versions=asks_versions)
    for scheme in ("https://", "http://"):
        session.session.mount(scheme, adapter)


class LoginAdapter(LimitedAdapter):
    """Sends the requests of a login, each within the deadline of the call that needs it.

    If `servers` are given, it sends to these only. With `asks_versions`, every GET asks for Keystone's
    versions.
    """

    def __init__(self, servers: Collection[Origin], *, asks_versions: bool) -> None:
        super().__init__()
        self._servers = servers
        self._asks_versions = asks_versions

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        if self._servers and origin(str(request.url)) not in self._servers:
            # Not only redirects lead elsewhere: keystoneauth also follows URLs in the answers.
            raise _foreign(str(request.url), "leads")
        # Unpacked, an answer may be a thousand times larger.
        request.headers["Accept-Encoding"] = "identity"
        left = remaining()
        if left <= 0:
            raise requests.Timeout("no time left")
        with limited(Limits(LOGIN_SECONDS, body=LOGIN_SECONDS, total=left, most=LOGIN_BYTES)):
            response = super().send(request, *args, **options)
        # Not `is_redirect`: keystoneauth follows a 305, too.
        if 300 <= response.status_code < 400 and "Location" in response.headers:
            _check_redirect(response)
        if response.status_code == 401 and self._asks_versions and request.method == "GET":
            # keystoneauth would log in to ask again, while it logs in, and wait for its own lock for ever
            # (`discover.get_version_data`). After this error it takes the version from the URL.
            response.close()
            raise NoVersions("401 Unauthorized")
        return response

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        resp.headers.discard("Content-Encoding")  # otherwise it is unpacked nevertheless
        return super().build_response(req, resp)


def _check_redirect(response: requests.Response) -> None:
    """Raise `ForeignServer` for a redirect to another origin; make the others absolute."""
    # keystoneauth sends a key or password again wherever a redirect leads, also from https to http.
    home, location = str(response.url), response.headers["Location"]
    target = _target(home, location)
    if target is None or origin(target) != origin(home):
        response.close()
        raise _foreign(location if target is None else target, "redirects")
    # What is followed is what was compared, not what another parser sees in the header.
    response.headers["Location"] = target


def _target(home: str, location: str) -> str | None:
    """Return the absolute URL of a redirect as it would be sent, None for an invalid one."""
    try:
        return as_sent(urljoin(home, location))
    except ValueError:
        return None


def _foreign(url: str, verb: str) -> ForeignServer:
    try:
        server = server_of(url)
    except BadUrl:
        return ForeignServer(f"it {verb} to {printable(url[:100])}, which is no valid URL")
    return ForeignServer(
        f"it {verb} to {printable(server)}, where no credentials are sent: if that is the right "
        "server, set the auth URL to it"
    )


MOST_SHOWN = 5
"""How many projects a message names."""

NAVER = ("ncloudstorage.com", "gov-ncloudstorage.com")
"""The domains of NAVER's login servers."""

DEFAULT_DOMAIN = "default"
"""The id of Keystone's own domain, whose name differs in a capital only."""

_SWAPPED = {"user_domain_id": "user_domain_name", "user_domain_name": "user_domain_id"}


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """A login by a password: `user` and `domain` are keyword arguments of keystoneauth's plugin.

    `project` is what was asked for, an id or a name, for a message.
    """

    url: str
    user: Mapping[str, Any]
    domain: Mapping[str, Any]
    project: str
    password: str = field(repr=False)


def likely_cause(session: Session, login: PasswordLogin) -> str:
    """Return in words what is wrong about a login that was refused."""
    token = _unscoped_token(session, login, login.domain)
    if token:
        return _wrong_project(session, login, token)
    for kind, value in login.domain.items():
        right = _SWAPPED[kind]
        if value != DEFAULT_DOMAIN and _unscoped_token(session, login, {right: value}):
            given = kind.rpartition("_")[2]
            return f"{value!r} is not the {given} of the user's domain: set OS_{right.upper()} to it"
    return "wrong user or key, or another domain of the user" + _about_naver(login.url)


def _about_naver(url: str) -> str:
    host = urlsplit(url).hostname or ""
    if not host.endswith(NAVER):
        return ""
    # It gives no token without a project, so a wrong project looks like a wrong key.
    return ", or, at NAVER, another project or the key of a sub account"


def _unscoped_token(session: Session, login: PasswordLogin, domain: Mapping[str, Any]) -> str:
    """Return a token without a project, empty if that is refused too."""
    from keystoneauth1.identity import v3  # noqa: PLC0415  as in `guard_logins`

    plugin = v3.Password(
        auth_url=login.url, password=login.password, unscoped=True, **{**login.user, **domain}
    )
    try:
        return str(session.get_token(plugin) or "")
    except keystone_errors.ClientException as error:
        log.debug("a login without a project: %s", type(error).__name__)
    except (ValueError, LookupError, TypeError, AttributeError):  # as in `Account._ask`
        log.debug("the answer to a login without a project makes no sense")
    return ""


def _wrong_project(session: Session, login: PasswordLogin, token: str) -> str:
    wrong = f"user and key are right, but not the project {printable(login.project)!r}"
    names = _projects(session, login.url, token)
    if names is None:
        return wrong
    if not names:
        return f"{wrong}: the user has no role in any project"
    more = "" if len(names) <= MOST_SHOWN else f" and {len(names) - MOST_SHOWN} others"
    return f"{wrong}: the user may use {', '.join(names[:MOST_SHOWN])}{more}"


def _projects(session: Session, url: str, token: str) -> list[str] | None:
    """Return the names and ids of the projects in which the user has a role; None if they are not told."""
    headers = {"X-Auth-Token": token}
    try:
        answer: Any = session.get(f"{url}/auth/projects", headers=headers, authenticated=False).json()
        found = [(str(one["name"])[:80], str(one["id"])[:80]) for one in answer["projects"]]
    except (keystone_errors.ClientException, ValueError, LookupError, TypeError):
        return None
    return [printable(f"{name} ({number})") for name, number in found]


RENEWED_SECONDS = 120.0
"""A token that is valid for a shorter time is renewed, as keystoneauth does it."""


class Access(NamedTuple):
    """What a login has answered; the token is used until `renewal` (monotonic seconds)."""

    token: str
    storage_url: str
    renewal: float


class V1Login(BaseAuthPlugin):
    """Logs in when a token or the storage URL is asked for. One thread logs in, the others wait for it.

    `get_token` and `get_endpoint` raise what the session raises, and `InvalidResponse` for an answer that is
    none of a login.
    """

    def __init__(self, url: str, user: str, key: str) -> None:
        super().__init__()
        self.auth_url = url
        self._headers = {"X-Auth-User": user, "X-Auth-Key": key}
        self._lock = new_lock(Rank.RENEWALS)
        self._access: Access | None = None
        self._login: Future[Access] | None = None

    def get_token(self, session: Session, **_: Any) -> str:
        """Return a token."""
        return self._logged_in(session).token

    def get_endpoint(self, session: Session, **_: Any) -> str:
        """Return the storage URL: there is only one."""
        return self._logged_in(session).storage_url

    def invalidate(self) -> bool:
        """Forget the token; return whether there was one."""
        with self._lock:
            known, self._access = self._access, None
        return known is not None

    def _logged_in(self, session: Session) -> Access:
        with self._lock:
            if self._access is not None and monotonic() < self._access.renewal:
                return self._access
            mine: Future[Access] | None = None
            login = self._login
            if login is None:
                mine = login = self._login = new_future()
        if mine is not None:
            self._log_in(session, mine)
        left = remaining()
        if not wait_all([login], None if left == math.inf else left):
            raise TimedOut(f"{self.auth_url}: no new token in time", may_land=False)
        return login.result()

    def _log_in(self, session: Session, login: Future[Access]) -> None:
        access = None
        try:
            access = self._ask(session)
            login.set_result(access)
        except BaseException as error:  # noqa: BLE001  every thread that waits raises it
            login.set_exception(error)
        finally:
            with self._lock:
                self._access, self._login = access, None

    def _ask(self, session: Session) -> Access:
        # Without `log`: the headers have the key.
        answer: Any = session.get(self.auth_url, headers=self._headers, authenticated=False, log=False)
        headers = answer.headers
        token = headers.get("X-Storage-Token", headers.get("X-Auth-Token"))
        if answer.status_code // 100 != 2 or token is None or "X-Storage-Url" not in headers:
            raise keystone_errors.InvalidResponse(response=answer)
        try:
            renewal = monotonic() + float(headers["X-Auth-Token-Expires"]) - RENEWED_SECONDS
        except (KeyError, ValueError):
            renewal = math.inf
        return Access(token, headers["X-Storage-Url"], renewal)
