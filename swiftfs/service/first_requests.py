"""The first requests of a mount: whether its source exists and what may be done with it.

The answers are kept for a start without the server. Then, and when the server was away, they are sent again.
"""

import json
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import asdict, replace

from swiftfs.concurrency import new_event, new_thread, unix_time
from swiftfs.config.cache_dir import SOURCE, write_whole
from swiftfs.errors import (
    AccessDenied,
    ConfigurationError,
    LoginRefused,
    NotFound,
    Postponed,
    StoreError,
    SwiftfsError,
    Unavailable,
    command_line,
    in_words,
    printable,
)
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import History, ObjectName, Usage
from swiftfs.paths import Source
from swiftfs.service.monitoring import TOLD
from swiftfs.service.mountpoint import MountRequest
from swiftfs.store.connect import ConnectedAccount, explained
from swiftfs.store.protocol import Headers, ObjectStore
from swiftfs.store.retry import deadline

if TYPE_CHECKING:
    from swiftfs.posix.filesystem import FileSystem

log = logging.getLogger(__name__)


def may_write(store: ObjectStore, source: Source, history: History) -> bool:
    """Return whether objects of `source` may be changed: by one DELETE of a name that does not exist.

    Swift checks the permission before it looks for the object, so it answers 403 to readers and 404 to
    writers. In a container with versioning it would record that DELETE as a version: there it is a POST.
    Unknown cases (a whole account, an outage) count as allowed: the failing operation will report it.
    """
    if source.is_account:
        return True
    name = ObjectName(source.container, f"{source.prefix}.swiftfs-{uuid.uuid4().hex}")
    try:
        if history is History.NONE:
            store.delete(name)
        else:
            store.post(name, Headers("application/octet-stream"))
    except LoginRefused as error:
        log.debug("%s", error)  # it says nothing about the source, and the next request fails for it
    except AccessDenied as error:
        log.debug("%s may only be read: %s", source, error)
        return False
    except StoreError as error:
        log.debug("cannot find out whether %s is writable: %s", source, error)
    return True


WRITE_SECONDS = 4.0
"""How long it may take to find out whether the source is writable: whoever mounts waits for it."""

SOURCE_SECONDS = 8.0
"""How long it may take to find the source: whoever mounts waits for it."""

LOOK_SECONDS = 4.0
"""How long it may take to find out whether a prefix is empty."""


def as_allowed(request: MountRequest, account: ConnectedAccount, usage: Usage) -> MountRequest:
    """Return the request, which is read-only if Swift refuses changes; it has said `usage` of the source."""
    if request.options.ro:
        return request
    with deadline(WRITE_SECONDS):
        allowed = may_write(account.store, request.source, usage.history)
    # Otherwise close() would succeed, and the change be refused later, when nobody sees it.
    return request if allowed else request.as_refused()


def look_up_if_there(request: MountRequest, account: ConnectedAccount) -> Usage | None:
    """Return what `look_up` does; None if the server is away, and the mount may begin without it."""
    presence = account.state.presence
    if request.options.offline and presence.away is None:
        try:
            _usage(request, account)
        except Unavailable as error:
            presence.leave(str(error))
        except StoreError as error:
            log.debug("%s", error)
    return look_up(request, account) if presence.away is None else None


def check_policy(policy: str, account: ConnectedAccount) -> None:
    """Refuse a storage policy that the server does not have, if it lists them; names are case-insensitive."""
    policies = account.store.limits().policies if policy else ()
    if policies and policy.lower() not in map(str.lower, policies):
        raise ConfigurationError(f"option storage_policy={policy}: the server has {', '.join(policies)}")


def look_up(request: MountRequest, account: ConnectedAccount) -> Usage:
    """Return Swift's answer about the source, made if missing with `create`; raise `ConfigurationError`."""
    try:
        try:
            return _usage(request, account)
        except NotFound:
            if not request.options.create:
                raise
        account.store.create_container(request.source.container)
        return _usage(request, account)
    except StoreError as error:
        raise _failure(error, request, account.label) from None


def _usage(request: MountRequest, account: ConnectedAccount) -> Usage:
    source, store = request.source, account.store
    with deadline(SOURCE_SECONDS):
        return store.account_usage() if source.is_account else store.container_usage(source.container)


def begin(
    filesystem: "FileSystem", request: MountRequest, account: ConnectedAccount, usage: Usage | None
) -> None:
    """Begin to use the source, about which Swift has said `usage`; tell the user what is not as expected.

    Raise `ConfigurationError` if the source cannot be used.
    """
    if account.state.presence.away is not None:
        _begin_offline(filesystem, request, account, usage)
        return
    try:
        filesystem.begin(usage)
    except StoreError as error:
        raise _failure(error, request, account.label) from None
    if request.refused:
        log.info("%s is mounted read-only: %s may not write there", request.source, account.label, extra=TOLD)
    if request.options.expire and filesystem.services.histories.known_versioned(request.source.container):
        log.warning(
            "%s: no file expires by the rules of 'expire': Swift takes no X-Delete-At in a container with "
            "versioning",
            request.source,
        )
    if not request.options.create and _is_empty_prefix(filesystem, request, account):
        _refuse_file(request.source, account.store)
        log.info("%s is mounted, but empty: its name may be a typo", request.source, extra=TOLD)


def _begin_offline(
    filesystem: "FileSystem", request: MountRequest, account: ConnectedAccount, usage: Usage | None
) -> None:
    away, source = account.state.presence.away, request.source
    reason = "" if away is None else away.reason
    if usage is None or not filesystem.begin_offline(usage):
        raise ConfigurationError(
            f"{reason}; and {source} was never listed with this cache folder, so that it cannot be "
            "shown offline"
        )
    log.info("%s is mounted offline: %s", source, reason, extra=TOLD)


def _failure(error: StoreError, request: MountRequest, label: str) -> ConfigurationError:
    source = request.source
    if not isinstance(error, NotFound):
        return explained(error, label, str(source), "read")
    command = command_line("mount --create", source, request.mountpoint)
    makes = "the option 'create'" if request.is_fixed else command
    return ConfigurationError(
        f"no container {source.container!r} at {label}: check its name; "
        f"{makes} makes it, and so does mkdir in a mount of /"
    )


def _is_empty_prefix(filesystem: "FileSystem", request: MountRequest, account: ConnectedAccount) -> bool:
    """Return whether a prefix is mounted that has no marker, no object and no pending change."""
    source, services = request.source, filesystem.services
    if not source.prefix or services.namespace.lookup("/").object is not None:
        return False
    try:
        with deadline(LOOK_SECONDS):
            page = account.store.list_page(source.container, prefix=source.prefix, limit=1)
    except StoreError as error:
        log.debug("cannot find out whether %s is empty: %s", source, error)
        return False
    return not page.rows and not services.journal.report().total


def _refuse_file(source: Source, store: ObjectStore) -> None:
    """Raise `ConfigurationError` if the source, below which nothing is, is a file."""
    key = source.prefix.rstrip("/")
    try:
        with deadline(LOOK_SECONDS):
            info = store.head(ObjectName(source.container, key))
    except StoreError as error:
        log.debug("cannot find out whether %s is a file: %s", source, error)
        return
    if not is_marker(info):
        folder = "/".join([source.container, *key.split("/")[:-1]])
        raise ConfigurationError(f"{source} is a file: mount the folder that it is in, {folder}")


class SourceMemory(Struct, frozen=True):
    """The last answers about the source `identity`.

    `place` is as in `Account.place`; `refused` is whether the user might not write there.
    """

    identity: str
    place: str
    refused: bool
    usage: Usage

    @classmethod
    def load(cls, cache: Path, identity: str) -> "SourceMemory | None":
        """Return what is known of the source, None if nothing is."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            values = json.loads((cache / SOURCE).read_text())
            usage = values.pop("usage")
            usage["history"] = History[usage["history"]]
            known = cls(**values, usage=Usage(**usage))
            return known if known.identity == identity else None
        return None

    def save(self, cache: Path) -> None:
        """Write it to the cache folder; a disk that refuses it is only reported."""
        try:
            usage = asdict(self.usage)
            usage |= {"metadata": dict(self.usage.metadata), "history": self.usage.history.name}
            values = {"identity": self.identity, "place": self.place, "refused": self.refused, "usage": usage}
            write_whole(cache / SOURCE, json.dumps(values))
        except OSError as error:
            log.warning("%s cannot be written: %s", cache / SOURCE, error.strerror)


class FoundSource(Struct, frozen=True):
    """What is known of the source when a mount begins: from the server, or from `memory` while it is away."""

    request: MountRequest
    usage: Usage | None
    memory: SourceMemory | None


def find_source(request: MountRequest, account: ConnectedAccount, cache: Path) -> FoundSource:
    """Ask the server, or, if it is away and may be, the cache folder; raise `ConfigurationError`."""
    usage = look_up_if_there(request, account)
    if usage is not None:
        request = as_allowed(request, account, usage)
    if not request.options.offline:
        return FoundSource(request, usage, None)
    identity = request.source.identity(account.label)
    if usage is not None:
        memory = SourceMemory(identity, account.place, request.refused, usage)
        return FoundSource(request, usage, memory)
    known = SourceMemory.load(cache, identity)
    if known is None:
        return FoundSource(request, None, None)
    return FoundSource(request.as_refused() if known.refused else request, known.usage, known)


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
