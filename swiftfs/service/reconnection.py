"""Watches whether the server of a mount with `offline` is away, and connects again when it is back."""

import logging
from collections.abc import Callable

from msgspec.structs import replace

from swiftfs.concurrency import new_event, new_thread, unix_time
from swiftfs.errors import (
    Postponed,
    StoreError,
    SwiftfsError,
    Unavailable,
    in_words,
    printable,
)
from swiftfs.objects import Usage
from swiftfs.service.first_requests import FoundSource, check_policy, look_up, may_write
from swiftfs.store.connect import ConnectedAccount

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two attempts to connect: at first, and at most unless the server asks for more."""

_AWAY = "offline, the server is away: %s"

STOP_SECONDS = 2.0
"""How long the end of the mount waits for an attempt that is under way."""

REFUSED_PAUSE = 60.0
"""Seconds after a refusal, which somebody has to put right."""


class NotAsBefore(SwiftfsError):
    """The server answers again, but what is mounted cannot go on with it; the message says what is wrong."""


class Reconnection:
    """The thread that looks for the server: when a call has failed, and now and then while it is away.

    It watches only if the mount may be offline. `waiting` returns the number of pending changes; `back` is
    called with the answer about the source and the account's place when the server is back.
    """

    def __init__(
        self,
        source: FoundSource,
        account: ConnectedAccount,
        waiting: Callable[[], int],
        back: Callable[[Usage, str], None],
    ) -> None:
        self._request = source.request
        self._place = source.memory.place if source.memory is not None else ""
        self._account = account
        self._waiting = waiting
        self._back = back
        self._presence = account.state.presence
        self._ended = new_event()
        self._said = ""
        # A daemon: a login that hangs must not keep the process.
        self._thread = new_thread(self._run, "reconnection", daemon=True)

    def start(self) -> None:
        """Begin to watch, if the mount may be offline."""
        if not self._request.options.offline:
            return
        if (away := self._presence.away) is not None:
            log.warning(_AWAY, away.reason)
        self._presence.watches = True
        self._thread.start()

    def stop(self) -> None:
        """End the thread; it is waited for a moment only, as an attempt may take long."""
        self._presence.watches = False
        self._ended.set()
        self._presence.wake()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._ended.is_set():
            if self._presence.away is None:
                pause = FIRST_PAUSE
                self._presence.suspicion().wait()
                self._look()
            elif not self._ended.wait(pause):
                pause = self._come_back(pause)

    def _look(self) -> None:
        """Find out whether the server is away: a call has failed."""
        if self._ended.is_set():
            return
        try:
            self._connect_again()
        except Postponed:
            return
        except Unavailable as error:
            self._presence.leave(str(error))
            log.warning(_AWAY, error)
        except Exception as error:  # noqa: BLE001  a refusal: the calls report it
            log.debug("%r", error)

    def _come_back(self, pause: float) -> float:
        """Try to connect again; return how long to wait after a failure, in seconds."""
        try:
            usage, place = self._checked()
        except Unavailable as error:
            self._presence.leave(str(error))
            return max(min(2 * pause, LONGEST_PAUSE), error.retry_after or 0.0)
        except Exception as error:  # noqa: BLE001  whatever it is, the thread must try again
            reason = str(error) if isinstance(error, SwiftfsError) else printable(repr(error))
            self._presence.leave(reason, answers=True)
            if reason != self._said:
                self._said = reason
                log.error("still offline, and every change is kept: %s", reason)
            return REFUSED_PAUSE
        if self._ended.is_set():
            return FIRST_PAUSE
        away, self._said = self._presence.away, ""
        self._presence.come_back()
        if away is not None:
            log.info("the server is back, after %s", in_words(unix_time() - away.since))
        self._back(usage, place)
        return FIRST_PAUSE

    def _connect_again(self) -> ConnectedAccount:
        """Log in, and make sure that the server answers; raise `Unavailable` if it does not."""
        assert self._account.reconnect is not None
        account = self._account.reconnect()
        source = self._request.source
        try:
            if source.is_account:
                account.store.account_usage()
            else:
                account.store.container_usage(source.container)
        except Unavailable:
            raise
        except StoreError as error:  # the server is there; `look_up` says in words what it refuses
            log.debug("%s", error)
        return account

    def _checked(self) -> tuple[Usage, str]:
        """Log in, and check what the start of a mount does; return Swift's answer and the account's place."""
        request, account = self._request, self._connect_again()
        if self._place and account.place not in ("", self._place):
            raise NotAsBefore(f"{account.label} leads to account {account.place} now, and was {self._place}")
        check_policy(request.options.storage_policy, account)
        # A container that is gone must not come back empty.
        usage = look_up(replace(request, options=replace(request.options, create=False)), account)
        has_changes = not request.options.ro and self._waiting()
        if has_changes and not may_write(account.store, request.source, usage.history):
            raise NotAsBefore(f"{account.label} may not write to {request.source} any more")
        return usage, account.place
