"""Connect to an account. The first login ends in time, whatever hangs in it."""

from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial

from msgspec import Struct, field
from msgspec.structs import replace

from swiftfs.concurrency import Future, new_future, new_thread, wait_all
from swiftfs.errors import AccessDenied, ConfigurationError, LoginRefused, NotSwift, StoreError, Unavailable
from swiftfs.objects import Limits
from swiftfs.store.account_settings import DEFAULT_SETTINGS, AccountSettings
from swiftfs.store.auth import Account, open_account
from swiftfs.store.foreign_manifests import MayRead
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.retry import PATIENT, RetryingStore, RetryPolicy, deadline
from swiftfs.store.server_state import ServerState
from swiftfs.store.swift_store import SwiftStore
from swiftfs.store.temp_url import TempUrls
from swiftfs.store.throttle import Throttle

LOGIN_SECONDS = 12.0
"""The longest time for all requests of the login together: it may have redirects and several steps."""

HANG_SECONDS = 15.0
"""After this time a login fails that hangs outside of a request: in the resolver, or in a library's lock."""

BRIEF = RetryPolicy(deadline=8.0)
"""For looks whether the server is back: the next one comes soon."""


class ConnectedAccount(Struct, frozen=True):
    """One account: its store, which repeats failed requests, and the state of the server."""

    store: ObjectStore
    label: str
    """The auth URL and the user, for messages."""
    state: ServerState = field(default_factory=ServerState)
    place: str = ""
    """Tells the account from others of the same user, see `Account.place`; empty is unknown."""
    known_limits: Callable[[], Limits | None] = lambda: None
    """Returns the limits that the server has reported, None before that; sends no request."""
    reconnect: Callable[[], "ConnectedAccount"] | None = None
    """Logs in again while the server is away; errors as in `connect`. The store of what it returns asks the
    server itself, with few repetitions, and needs no `close`."""
    temp_urls: TempUrls | None = None
    """Signs TempURLs; None only in tests without a server."""

    def close(self) -> None:
        """End every pause and close every connection."""
        self.store.close()


def explained(error: StoreError, label: str, subject: str = "", verb: str = "use") -> ConfigurationError:
    """Return the failure of a request as a line for who has typed a command; `label` names the account.

    `subject` is what the user has named to `verb` it; without it the line says what the request was about.
    """
    if isinstance(error, LoginRefused) or (not subject and str(error).startswith(label)):
        return ConfigurationError(str(error))
    named, reason = subject or error.subject, reason_of(error)
    if named and isinstance(error, AccessDenied):
        return ConfigurationError(
            f"{label} may not {verb} {named}: check the user's rights and the project ({reason})"
        )
    if named and isinstance(error, Unavailable) and not isinstance(error, NotSwift):
        return ConfigurationError(f"{label}: the server cannot serve {named} now, {reason}: try again later")
    return ConfigurationError(
        f"{label}: {subject} cannot be listed: {reason}" if subject else f"{label}: {error}"
    )


def reason_of(error: StoreError) -> str:
    """Return the message of an error without the class of its request, which is a word of the counters."""
    _, found, reason = str(error).partition(f" {error.subject}: ")
    return reason if error.subject and found else str(error)


def connect(
    environment: Mapping[str, str],
    settings: AccountSettings = DEFAULT_SETTINGS,
    *,
    may_read: MayRead | None = None,
    policy: RetryPolicy = PATIENT,
    may_be_away: bool = False,
    throttle: Throttle | None = None,
) -> ConnectedAccount:
    """Return the store of the account that `environment` and `settings` describe.

    Objects whose bytes lie elsewhere are only read where `may_read` allows it. `throttle` has the limits of
    the mount.

    Log in at once and without retries: wrong credentials are reported within seconds, and a login that hangs
    fails after 15 seconds. Raise `ConfigurationError` for missing variables and insecure storage,
    `LoginRefused` for a wrong key, `Unavailable` when the server is down; each message names the auth URL and
    the user. If the server `may_be_away`, `Unavailable` is the state of the server's `presence` instead.
    """
    account = open_account(environment, cloud=settings.cloud, storage=settings.storage)
    state = ServerState.limited_by(throttle or Throttle())
    try:
        log_in(account, insecure_storage=settings.insecure_storage)
    except BaseException as error:
        if not (may_be_away and isinstance(error, Unavailable)):
            account.close()
            raise
        state.presence.leave(str(error))
    direct = SwiftStore(account, settings.storage_policy, may_read=may_read, state=state)
    connected = ConnectedAccount(
        RetryingStore(direct, policy, state),
        account.label,
        state,
        place="" if state.presence.away is not None else account.place(),
        known_limits=direct.known_limits,
        temp_urls=TempUrls(account),
    )
    return replace(connected, reconnect=partial(_reconnect, connected, account, settings, direct))


def _reconnect(
    connected: ConnectedAccount, account: Account, settings: AccountSettings, direct: SwiftStore
) -> ConnectedAccount:
    log_in(account, insecure_storage=settings.insecure_storage)
    # With a presence of its own, by which the server is not away.
    state = ServerState(reading=connected.state.reading)
    return replace(connected, store=RetryingStore(direct, BRIEF, state, owns=False), place=account.place())


def log_in(account: Account, *, insecure_storage: bool) -> None:
    """Log in, and check the storage URL as `check_storage` does; raise `Unavailable` after `HANG_SECONDS`."""
    done: Future[None] = new_future()
    # In the caller's context: its deadline counts, too. A daemon: what hangs must not keep the process.
    arguments = (_log_in, account, insecure_storage, done)
    thread = new_thread(copy_context().run, "login", arguments, daemon=True)
    thread.start()
    if not wait_all([done], HANG_SECONDS):
        raise Unavailable(
            f"{account.label}: no login within {HANG_SECONDS:.0f} seconds: "
            "check the network and its name servers"
        )
    thread.join()
    done.result()


def _log_in(account: Account, insecure_storage: bool, done: Future[None]) -> None:
    try:
        with deadline(LOGIN_SECONDS):
            try:
                account.check_storage(insecure=insecure_storage)
                account.token()
            except LoginRefused as refusal:
                raise account.explain(refusal) from None
        done.set_result(None)
    except BaseException as error:  # noqa: BLE001  whoever waits raises it
        done.set_exception(error)
