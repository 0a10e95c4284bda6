"""Retries: an `ObjectStore` that repeats the failed requests of another one."""

import hashlib
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import may_block, monotonic, new_event
from swiftfs.errors import (
    AlreadyExists,
    Clash,
    NotFound,
    Postponed,
    StoreError,
    TimedOut,
    Unavailable,
    drop_tracebacks,
)
from swiftfs.objects import Limits, Manifest, ObjectInfo, ObjectName, ObjectVersion
from swiftfs.store.ambiguous import GONE, SMALL_BODY, Effect
from swiftfs.store.error_map import when
from swiftfs.store.protocol import Body, CopyRequest, Headers, ObjectStore
from swiftfs.store.server_state import ServerState
from swiftfs.store.throttle import busy_time

log = logging.getLogger(__name__)

_END: ContextVar[float] = ContextVar("swiftfs_deadline", default=math.inf)


class deadline:  # noqa: N801  a context, not a function, since each request has one
    """Lets every request made inside end within `seconds` from now; a nested deadline only shortens that.

    What this thread waits for the mount's own limits does not count. `end` is a `busy_time`.
    """

    def __init__(self, seconds: float) -> None:
        # A context variable, so that no layer in between has to pass it on.
        self.end = min(_END.get(), busy_time() + seconds)

    def __enter__(self) -> "deadline":
        self._token = _END.set(self.end)
        return self

    def __exit__(self, *_: object) -> None:
        _END.reset(self._token)


def remaining() -> float:
    """Return the seconds until this thread's deadline: infinity without one, never below 0."""
    return max(0.0, _END.get() - busy_time())


P = ParamSpec("P")
T = TypeVar("T")


class RetryPolicy(Struct, frozen=True):
    """How long a call is repeated; all values are in seconds.

    A call fails with its last error when `deadline` has passed, or would pass during the next pause; if the
    deadline cut the last attempt short, with the server's last answer, if there was one. Pauses grow from
    `first_pause` to `longest_pause`, each shortened at random so that clients do not return together. A pause
    is not shorter than the server's Retry-After: if that is too long, the call fails at once, with
    `Postponed`.
    """

    deadline: float
    first_pause: float = 0.25
    longest_pause: float = 5.0


PATIENT = RetryPolicy(deadline=25.0)
"""A program gets the error of an outage before its user gives up. Work in the background gets it as soon: see
"Retries" in docs/architecture.md."""


class SharedLimit:
    """The time limit that the requests of one system call share as long as none of them is answered.

    Once a request had no answer in its time, the following ones have together a fifth of that, and one
    attempt each; an answer gives all of them their time again. Several threads may send them, one after
    another.
    """

    def __init__(self) -> None:
        self._end = math.inf

    def seconds(self, most: float) -> float:
        """Return how long a request is repeated that would otherwise be for `most` seconds."""
        return min(most, max(0.0, self._end - monotonic()))

    def answered(self) -> None:
        """Record that a request was answered."""
        self._end = math.inf

    def failed(self, error: StoreError, most: float = PATIENT.deadline) -> None:
        """Record how a request ended that was repeated for up to `most` seconds."""
        if not isinstance(error, Unavailable):
            self.answered()
        elif self._end == math.inf:
            self._end = monotonic() + most / 5


_SHARED: ContextVar[SharedLimit | None] = ContextVar("swiftfs_shared_limit", default=None)
_ONCE: ContextVar[bool] = ContextVar("swiftfs_once", default=False)


def shared_limit() -> SharedLimit | None:
    """Return the limit that this thread's requests share, None if each has its own."""
    return _SHARED.get()


@contextmanager
def sharing(limit: SharedLimit | None, *, once: bool = False) -> Iterator[None]:
    """Let the requests that this thread sends inside share a limit; with `once` none is repeated."""
    shared, single = _SHARED.set(limit), _ONCE.set(once)
    try:
        yield
    finally:
        _SHARED.reset(shared)
        _ONCE.reset(single)


CLASHES_REPEATED = 4
"""How often a change is repeated that Swift refuses as older than what it has: its proxy gives each request a
new timestamp. A server that goes on refusing it means something else by its 409."""


class _Call(Struct):
    """The state of one call, which is repeated until `end`, a `busy_time`.

    `lost`: an earlier attempt may have taken effect although it failed here. Every retryable error leaves
    that open, wrong bytes in the answer too; a `Clash` does not. `may_land`: a request was sent and not
    answered, so the server may still carry it out. `answer` is the last error that was not a time-out.
    """

    end: float
    clashes_left: int = 0
    repeated: int = 0
    lost: bool = False
    may_land: bool = False
    answer: StoreError | None = None

    def repeats(self, error: BaseException) -> bool:
        """Return whether to send the request again that failed with `error`."""
        if isinstance(error, Clash):
            return self.clashes_left > 0
        return isinstance(error, StoreError) and error.retryable

    def repeat_after(self, error: BaseException) -> None:
        """Record that the request that failed with `error` is sent again."""
        self.repeated += 1
        if isinstance(error, Clash):
            self.clashes_left -= 1
        else:
            # A 503 may come from a proxy, behind which the request goes on.
            self.lost = True
        if isinstance(error, StoreError) and not isinstance(error, TimedOut):
            self.answer = error

    def has_better(self, error: StoreError) -> bool:
        """Return whether the server has answered, and `error` is only that the last attempt had no time."""
        return self.answer is not None and isinstance(error, TimedOut) and busy_time() >= self.end

    def take_answer(self) -> StoreError:
        """Return the last answer, and keep no reference to it: its traceback will refer to this call."""
        answer, self.answer = self.answer, None
        assert answer is not None
        answer.may_land = answer.may_land or self.may_land
        return answer


class RetryingStore:
    """An `ObjectStore` that repeats calls with retryable errors until a deadline, and clashes a few times.

    An attempt may have taken effect although its answer was lost. Then the next attempt counts as successful:
    a DELETE that finds nothing, and a PUT with `if_absent` if a HEAD finds the same bytes; a POST makes sure
    that they are listed. `close` ends every pause, and with it the call, at once; it closes the store beneath
    only if this one `owns` it.

    Every attempt whose answer was lost is recorded in the `ambiguous` requests of `state`, even if a later
    attempt is answered: the server may carry out the lost one after it. When its `reading` has ended, nothing
    is repeated. Its `load` learns of each attempt of a PUT. While the server is away by its `presence`,
    nothing is sent.
    """

    def __init__(
        self,
        store: ObjectStore,
        policy: RetryPolicy = PATIENT,
        state: ServerState | None = None,
        *,
        owns: bool = True,
    ) -> None:
        self._store = store
        self._policy = policy
        self._state = state or ServerState()
        self._ambiguous = self._state.ambiguous
        self._owns = owns
        self._closing = new_event()
        # Requests that change nothing, or do the same again, are repeated as they are.
        self.list_containers = self._repeating(store.list_containers)
        self.account_usage = self._repeating(store.account_usage)
        self.container_usage = self._repeating(store.container_usage)
        self.post_container = self._repeating(store.post_container)
        self.list_page = self._repeating(store.list_page)
        self.list_versions = self._repeating(store.list_versions)
        self.head = self._repeating(store.head)
        self.get = self._repeating(store.get)
        self.manifest = self._repeating(store.manifest)
        self.check_manifest = self._repeating(store.check_manifest)

    def limits(self) -> Limits:
        """Return the server's limits; while it is away, the last ones, or those of most servers."""
        if self._state.presence.away is None:
            self._state.presence.limits = self._repeat(lambda _call: self._store.limits())
        return self._state.presence.limits

    def create_container(self, container: str, *, storage_policy: str = "") -> bool:
        """Create the container; one that exists after a lost answer counts as created by this call."""
        # A lost attempt may have made it, so that this one finds it there. That another client made it in
        # between is less likely, and mkdir(2) would fail for no reason.
        return self._repeat(
            lambda call: self._store.create_container(container, storage_policy=storage_policy) or call.lost
        )

    def delete_container(self, container: str) -> None:
        self._repeat(lambda call: _delete_once(call, lambda: self._store.delete_container(container)))

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        size = len(memoryview(body).cast("B"))

        def attempt(call: _Call) -> ObjectInfo:
            try:
                with self._state.load.put(size, is_repeated=bool(call.repeated)):
                    return self._store.put(name, body, headers, if_absent=if_absent, etag=etag)
            except AlreadyExists:
                found = self._store.head(name) if call.lost else None
                if found is None or found.version.etag != (etag or _md5(body)):
                    raise
                if _media_type(found) != _media_type(headers):  # all empty objects have one ETag
                    raise
                self._store.post(name, Headers.of(found))  # lists it, if the server died before it did
                return found

        def effect(stored: str) -> Effect:
            small = bytes(body) if size <= SMALL_BODY else None
            return Effect("put", stored, headers, body=small, if_absent=if_absent)

        try:
            info = self._change(name, attempt, lambda error: effect(etag or error.etag or _md5(body)))
        except AlreadyExists:  # maybe by a lost request of our own: that result is now the wanted one
            self._ambiguous.done(name, lambda: effect(etag or _md5(body)))
            raise
        # Recorded also after an answer: a lost attempt before it may still come.
        self._ambiguous.done(name, lambda: effect(info.version.etag))
        return info

    def put_manifest(
        self, name: ObjectName, manifest: Manifest, headers: Headers, *, if_absent: bool = False
    ) -> ObjectInfo:
        def attempt(call: _Call) -> ObjectInfo:
            try:
                return self._store.put_manifest(name, manifest, headers, if_absent=if_absent)
            except AlreadyExists:
                found = self._store.head(name) if call.lost else None
                if found is None or not found.is_slo or found.version.etag != manifest.etag:
                    raise
                return found

        def effect(etag: str) -> Effect:
            return Effect("put", etag, headers, manifest, if_absent=if_absent)

        info = self._change(name, attempt, lambda _error: effect(manifest.etag))
        self._ambiguous.done(name, lambda: effect(info.version.etag))
        return info

    def copy(self, request: CopyRequest) -> ObjectVersion:
        source, target, headers, etag = request.source, request.target, request.headers, request.etag
        is_part = request.span is not None
        # A copy of known bytes with given headers does what a PUT of them does, whatever the source is then.
        is_known = headers is not None and etag and not is_part
        # Nobody else makes an object of the name of a part, and the version that is copied is given.
        sent = (
            Effect("put", etag, headers) if is_known else Effect("copy", source=None if is_part else source)
        )
        version = self._change(target, lambda _call: self._store.copy(request), lambda _error: sent)
        if is_part:
            sent, is_known = Effect("put", version.etag, headers), True
        self._ambiguous.done(target, lambda: sent if is_known else self._effect_of_copy(version, source))
        return version

    def _effect_of_copy(self, version: ObjectVersion, source: ObjectName) -> Effect:
        """Return the effect of a copy after a lost answer. Its own answer has only the ETag: send a HEAD.

        No HEAD is sent where only copies were lost: an interrupted rename may have left thousands of them.
        """
        effect = Effect("put", version.etag, source=source)
        if not self._ambiguous.needs_headers(version.name):
            return effect
        with suppress(StoreError):
            info = self._store.head(version.name)
            if info.version.etag == version.etag:
                effect = replace(effect, headers=Headers.of(info))
                if info.is_slo:
                    effect = replace(effect, manifest=self._store.manifest(version.name))
        return effect

    def post(self, name: ObjectName, headers: Headers) -> None:
        effect = Effect("post", headers=headers)
        self._change(name, lambda _call: self._store.post(name, headers), lambda _error: effect)
        self._ambiguous.done(name, lambda: effect)

    def delete(self, name: ObjectName) -> None:
        try:
            self._change(
                name, lambda call: _delete_once(call, lambda: self._store.delete(name)), lambda _error: GONE
            )
        except NotFound:
            self._ambiguous.done(name, lambda: GONE)
            raise
        self._ambiguous.done(name, lambda: GONE)

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete the objects; only the names whose failures may pass are sent again."""
        pending = list(names)
        final: dict[ObjectName, StoreError] = {}

        def attempt(call: _Call) -> dict[ObjectName, StoreError]:
            try:
                failures = self._store.delete_many(pending)
            except StoreError as error:
                # Any of them may be deleted late.
                self._record_deleted(pending, dict.fromkeys(pending, error))
                raise
            self._record_deleted(pending, failures)
            # In place: the next attempt is this function again.
            pending[:] = [name for name, error in failures.items() if call.repeats(error)]
            final.update((name, error) for name, error in failures.items() if not call.repeats(error))
            if pending:
                call.clashes_left -= any(isinstance(failures[name], Clash) for name in pending)
                raise _Unfinished({name: failures[name] for name in pending})
            return final

        try:
            return self._repeat(attempt, CLASHES_REPEATED)
        except _Unfinished as rest:
            return {**final, **rest.failures}

    def _record_deleted(self, names: Iterable[ObjectName], failures: Mapping[ObjectName, StoreError]) -> None:
        for name in names:
            error = failures.get(name)
            if error is None:
                self._ambiguous.done(name, lambda: GONE)
            elif error.may_land:
                self._ambiguous.lost(name, GONE)

    def _change(
        self, name: ObjectName, attempt: Callable[[_Call], T], effect: Callable[[StoreError], Effect]
    ) -> T:
        """Repeat a request that changes `name`, and record the `effect` of each attempt that was lost."""

        def recorded(call: _Call) -> T:
            try:
                return attempt(call)
            except StoreError as error:
                if error.may_land:
                    self._ambiguous.lost(name, effect(error))
                    call.may_land = True
                error.may_land = call.may_land  # whatever the answer to this attempt says
                raise

        return self._repeat(recorded, CLASHES_REPEATED)

    def close(self) -> None:
        """End every pause, let each later call fail, and close the store if it is owned."""
        self._closing.set()
        if self._owns:
            self._store.close()

    def _repeating(self, request: Callable[P, T]) -> Callable[P, T]:
        """Return a function that sends a request until it is answered."""

        def send(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._repeat(lambda _call: request(*args, **kwargs))

        return send

    def _repeat(self, attempt: Callable[[_Call], T], clashes: int = 0) -> T:
        """Return what `attempt` returns in the end; raise its last error.

        The loop of a library would need the same clock, pauses, conditions and end, and be longer with them.
        """
        self._state.presence.check()
        if self._closing.is_set():
            raise TimedOut("the mount ends", may_land=False)
        most, shared = self._policy.deadline, _SHARED.get()
        with deadline(most if shared is None else shared.seconds(most)) as limit:
            call = _Call(limit.end, clashes)
            while True:
                try:
                    answer = attempt(call)
                except StoreError as error:
                    pause = self._pause_after(error, call)
                    if pause is None or not self._has_time_after(pause, call):
                        if shared is not None:
                            shared.failed(error, most)
                        if call.has_better(error):
                            raise call.take_answer() from None
                        raise  # here: in a frame with the error it would be a cycle, see `drop_tracebacks`
                else:
                    if shared is not None:
                        shared.answered()
                    return answer

    def _has_time_after(self, pause: float, call: _Call) -> bool:
        """Wait; return whether another attempt can begin: on a busy machine a pause may take longer."""
        may_block("waits to repeat a request")
        # An event instead of a sleep: `close` ends all pauses, and an unmount does not wait for them.
        self._closing.wait(pause)
        return busy_time() < call.end

    def _pause_after(self, error: StoreError, call: _Call) -> float | None:
        """Return the seconds to wait until the next attempt, None if there is none. Raise `Postponed`."""
        # Its traceback would keep what the callers use, such as the descriptor of a deleted file.
        drop_tracebacks(error)
        self._state.presence.suspect(error)
        asked = error.retry_after or 0.0
        longest = min(self._policy.first_pause * 2.0 ** min(call.repeated, 32), self._policy.longest_pause)
        # A random pause, since many clients lose a server at one moment and would all come back at one.
        pause = max(asked, random.uniform(0.0, longest))
        # A pause that would reach beyond the deadline is not begun: the error is there now.
        if not call.repeats(error) or _ONCE.get() or self._has_ended() or busy_time() + pause >= call.end:
            if asked and type(error) is Unavailable and busy_time() + asked >= call.end:
                raise _postponed(error, asked) from None
            return None
        call.repeat_after(error)
        log.info("%s; again in %.1f s", error, pause)
        return pause

    def _has_ended(self) -> bool:
        """Return whether nothing is sent any more."""
        return (
            self._closing.is_set() or self._state.presence.away is not None or self._state.reading.has_ended()
        )


class _Unfinished(StoreError):
    """Some deletions failed with retryable errors."""

    retryable = True

    def __init__(self, failures: dict[ObjectName, StoreError]) -> None:
        pauses = [error.retry_after for error in failures.values() if error.retry_after]
        super().__init__(f"{len(failures)} names left", retry_after=max(pauses, default=None))
        self.failures = failures


def _postponed(error: StoreError, asked: float) -> Postponed:
    """Return the error of a call that has no time for the pause of `asked` seconds that the server wants."""
    text = f"{error}; the server asks for a pause of {when(asked)}"
    postponed = Postponed(text, retry_after=asked, may_land=error.may_land)
    postponed.subject = error.subject
    return postponed


def _delete_once(call: _Call, delete: Callable[[], None]) -> None:
    """Delete; `NotFound` after a lost answer counts as done."""
    try:
        delete()
    except NotFound:
        if not call.lost:
            raise


def _media_type(stored: Headers | ObjectInfo) -> str:
    return stored.content_type.partition(";")[0].strip().lower()


def _md5(body: Body) -> str:
    return hashlib.md5(memoryview(body).cast("B"), usedforsecurity=False).hexdigest()
