"""The v1 login: a GET with a user and a key, whose answer has the storage URL and a token.

swiftclient's plugin for it, `swiftclient.authv1`, loads all plugins of keystoneauth: a tenth of the time
until a mount answers.
"""

import math
from typing import Any, NamedTuple

import keystoneauth1.exceptions as keystone_errors
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session

from swiftfs.concurrency import Future, Rank, monotonic, new_future, new_lock, wait_all
from swiftfs.errors import TimedOut
from swiftfs.store.retry import remaining

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
