"""Deletes many objects: by bulk delete if the server has it, else by parallel DELETEs.

Swift always answers 200 to a bulk delete, and reports the result for the names in the body. A gateway in
front of it, or a server that has bulk delete only in `/info`, refuses the request: nothing was deleted then.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

from msgspec import Struct

from swiftfs.concurrency import Executor, Rank, new_lock, new_pool
from swiftfs.errors import BadName, BadRequest, Corrupt, NotFound, QuotaExceeded, StoreError, Unavailable
from swiftfs.objects import NOTHING, ObjectName
from swiftfs.store.error_map import status_error
from swiftfs.store.request import WORK_SECONDS, Request, quoted_path
from swiftfs.store.throttle import busy_time
from swiftfs.store.wire.json_stream import parse_small

MAX_LINE = 2 * (1024 + 256)
"""The longest line, in bytes: Swift's bulk.py accepts twice the length of the longest path."""

VALUES, VALUES_PER_NAME = 1000, 64
"""The most values in a verdict: two for each name, and more where names with commas are not quoted."""


def fits_in_bulk(name: ObjectName) -> bool:
    """Return whether bulk delete takes the name; percent-encoding makes three bytes of one."""
    return len(quote(f"/{name}", errors="replace")) <= MAX_LINE


def bulk_delete_request(names: Sequence[ObjectName]) -> Request:
    """Return the request that deletes `names`; raise `BadName` for a name that no object can have."""
    return Request(
        "delete_many",
        "POST",
        query="bulk-delete",
        headers={"Content-Type": "text/plain", "Accept": "application/json"},
        body="\n".join(quoted_path(name) for name in names).encode(),
        meaning={501: BadRequest},
        read_timeout=WORK_SECONDS,
        long_running=True,
        has_verdict=True,
    )


class BulkRefused(StoreError):
    """The server deleted nothing. Single DELETEs may work; if `remembered`, send no bulk delete again."""

    def __init__(self, error: StoreError, *, remembered: bool = True) -> None:
        super().__init__(str(error))
        self.remembered = remembered


class BulkTooLarge(StoreError):
    """The server deleted nothing, because it takes fewer names in a request."""


class NoVerdict(Corrupt):
    """The answer is complete, but not a verdict on the names."""


class Outcome(Struct, frozen=True):
    """The result for the names in a bulk delete.

    `single` are names that it did not accept; they can be deleted one by one. With `none_found` the server
    reports that no name existed.
    """

    failures: Mapping[ObjectName, StoreError]
    single: Sequence[ObjectName] = ()
    none_found: bool = False


def bulk_outcome(names: Sequence[ObjectName], body: bytes) -> Outcome:
    """Return which of `names` failed, and as `single` those reached after the token had expired.

    An absent name is no failure. A server that gave up half-way does not report which names it reached, so
    each name without a status may still exist. Raise `NoVerdict` for an answer that cannot be read,
    `BulkRefused` or `BulkTooLarge` for one that refuses the whole request.
    """
    verdict = _verdict(body, VALUES + VALUES_PER_NAME * len(names))
    _check_refusal(verdict)
    by_path = {f"/{name}": name for name in names}
    statuses = {}
    for path, status in verdict["Errors"]:
        # Swift quotes the names in its answer; their first slash may be missing.
        name = by_path.get("/" + unquote(path).removeprefix("/"))
        if name is not None:
            statuses[name] = status
    unauthorized = [name for name, status in statuses.items() if _number(status) == 401]
    failures = {name: _error(name, status) for name, status in statuses.items() if name not in unauthorized}
    done = verdict["Number Deleted"] + verdict["Number Not Found"]
    # Swift's bulk middleware gives up after `max_failed_deletes` failures (1000).
    if done + len(statuses) < len(by_path):
        status = verdict["Response Status"]
        for name in by_path.values():
            if name not in statuses:
                failures[name] = Unavailable(f"delete_many {name}: the server gave up, {status}")
    failures = {name: one for name, one in failures.items() if not isinstance(one, NotFound)}
    none_found = not (verdict["Number Deleted"] or failures or unauthorized)
    return Outcome(failures, unauthorized, none_found)


def _check_refusal(verdict: dict[str, Any]) -> None:
    """Raise `BulkRefused` or `BulkTooLarge` for a verdict on the request, not on names."""
    if verdict["Number Deleted"] or verdict["Number Not Found"] or verdict["Errors"]:
        return
    number = _number(verdict["Response Status"])
    if 200 <= number < 300:
        # A success for names of which none was deleted and none was missing: the server has not read them.
        raise BulkRefused(StoreError("delete_many the account: the server did nothing"))
    request = Request("delete_many", "POST", meaning={501: BadRequest})
    error = status_error(request, number, NOTHING, verdict["Response Body"])
    if number == 413:
        raise BulkTooLarge(str(error))
    if not error.retryable:
        raise BulkRefused(error, remembered=number != 401)  # an expired token will be renewed


def _verdict(body: bytes, most_values: int) -> dict[str, Any]:
    try:
        verdict = parse_small(body, most_values)
        for field in ("Number Deleted", "Number Not Found"):
            verdict[field] = int(verdict[field])
        verdict["Errors"] = [(str(path), str(status)) for path, status in verdict["Errors"]]
        verdict["Response Status"] = str(verdict["Response Status"])
        verdict["Response Body"] = str(verdict.get("Response Body", ""))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise NoVerdict(f"delete_many: no verdict in {body[:80]!r}") from None
    return dict(verdict)


def _error(name: ObjectName, status: str) -> StoreError:
    request = Request("delete_many", "DELETE", name.container, name.key)
    return status_error(request, _number(status), NOTHING)


def _number(status: str) -> int:
    number = status.split(" ", 1)[0]
    return int(number) if number.isdecimal() and len(number) == 3 else 500


log = logging.getLogger(__name__)

PARALLEL_DELETES = 8
"""Parallel DELETEs if the server has no bulk delete."""

SINGLE_BATCH = 1000
"""Most DELETEs queued at a time."""

FIRST_BATCH = 1000
"""Names in a bulk delete until it is known how long the server takes."""

BATCH_SECONDS = 20.0
"""How long a bulk delete should take. Swift deletes two names at a time, so 10,000 may take 20 minutes, and
if the connection breaks it is unknown which of them are gone."""

MAX_UNREADABLE = 2
"""After so many unreadable answers in a row no bulk delete is sent any more."""


class Deletion:
    """The deletions of one account, from any thread.

    `send` returns the body of an answer within 2xx, `delete` sends one DELETE, and `limit` returns how many
    names the server takes in a bulk delete, 0 for none.
    """

    def __init__(
        self, send: Callable[[Request], bytes], delete: Callable[[ObjectName], None], limit: Callable[[], int]
    ) -> None:
        self._delete = delete
        self._limit = limit
        self._bulk = BulkDeletes(send)
        self._lock = new_lock(Rank.STORE)
        self._deleters: Executor | None = None

    @property
    def bulk_refused(self) -> bool:
        """Whether the server takes no bulk delete, whatever `/info` says."""
        return self._bulk.refused

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete each; return the failures, as `ObjectStore.delete_many` does."""
        remaining = iter(dict.fromkeys(names))
        failures: dict[ObjectName, StoreError] = {}
        while chunk := list(islice(remaining, self._batch() or SINGLE_BATCH)):
            failed, outage = self._delete_chunk(chunk)
            failures |= failed
            if outage is not None:  # the next request would wait as long and fail too
                failures |= dict.fromkeys(remaining, outage)
        return failures

    def close(self) -> None:
        """Wait for the running DELETEs, and end their threads."""
        with self._lock:
            deleters, self._deleters = self._deleters, None
        if deleters is not None:
            deleters.shutdown()

    def _batch(self) -> int:
        return self._bulk.batch(self._limit())

    def _delete_chunk(
        self, chunk: Sequence[ObjectName]
    ) -> tuple[dict[ObjectName, StoreError], StoreError | None]:
        """Delete some names; return what failed, and the error of an outage."""
        in_bulk = [name for name in chunk if fits_in_bulk(name)] if self._batch() else []
        if not in_bulk:
            return self._delete_in_parallel(chunk), None
        try:
            outcome = self._bulk.delete(in_bulk)
            if outcome.none_found:
                self._check_none_found(in_bulk[0])
        except BulkTooLarge:
            return self._delete_halves(chunk)
        except BulkRefused as refusal:
            failures = self._delete_in_parallel(chunk)
            # Single DELETEs work, so it was the bulk delete that was refused, and not the user.
            if len(failures) < len(chunk):
                self._bulk.remember_refusal(refusal)
            return failures, None
        except StoreError as outage:
            return dict.fromkeys(chunk, outage), outage
        taken = {*in_bulk} - {*outcome.single}
        single = [name for name in chunk if name not in taken]
        return {**outcome.failures, **(self._delete_in_parallel(single) if single else {})}, None

    def _check_none_found(self, first: ObjectName) -> None:
        """Check an answer that no name existed by a DELETE of the first: such a server may do nothing.

        Raise `BulkRefused` if it may, and a retryable error, as for an answer that was lost.
        """
        try:
            self._delete(first)
        except NotFound:
            return
        except StoreError as error:
            if error.retryable:
                raise
            raise BulkRefused(error, remembered=False) from None
        raise BulkRefused(StoreError(f"delete_many: the server did not find {first}, which existed"))

    def _delete_halves(
        self, chunk: Sequence[ObjectName]
    ) -> tuple[dict[ObjectName, StoreError], StoreError | None]:
        middle = len(chunk) // 2
        failures, outage = self._delete_chunk(chunk[:middle])
        if outage is not None:
            return failures | dict.fromkeys(chunk[middle:], outage), outage
        rest, outage = self._delete_chunk(chunk[middle:])
        return failures | rest, outage

    def _delete_in_parallel(self, names: Sequence[ObjectName]) -> dict[ObjectName, StoreError]:
        with self._lock:
            if self._deleters is None:
                self._deleters = new_pool("delete", PARALLEL_DELETES)
            running = self._deleters.map(self._try_delete, names)
        results = zip(names, running, strict=True)
        return {name: error for name, error in results if error is not None}

    def _try_delete(self, name: ObjectName) -> StoreError | None:
        try:
            self._delete(name)
        except NotFound:
            return None
        except StoreError as error:
            return error
        return None


class BulkDeletes:
    """Sends bulk deletes, and adapts their size to how many names the server deletes in `BATCH_SECONDS`.

    The lock guards the size and the refusal; it is not held during a request.
    """

    def __init__(self, send: Callable[[Request], bytes]) -> None:
        self._send = send
        self._lock = new_lock(Rank.BULK)
        self._size = FIRST_BATCH
        self._unreadable = 0
        self._refused = False

    def batch(self, limit: int) -> int:
        """Return how many names the next request may have, at most `limit`; 0 for no bulk delete."""
        with self._lock:
            return 0 if self._refused else min(self._size, limit)

    @property
    def refused(self) -> bool:
        """Whether the server takes no bulk delete, whatever `/info` says."""
        return self._refused

    def remember_refusal(self, refusal: BulkRefused) -> None:
        """Send no more bulk deletes; the caller has seen that the server takes single DELETEs."""
        with self._lock:
            if self._refused or not refusal.remembered:
                return
            self._refused = True
        log.info("the server refuses bulk deletes, so objects are deleted one by one: %s", refusal)

    def delete(self, names: Sequence[ObjectName]) -> Outcome:
        """Delete `names` by one request.

        Raise `BulkRefused`, `BulkTooLarge`, and the retryable error of a request whose answer was lost.
        """
        try:
            request = bulk_delete_request(names)
        except BadName:  # single DELETEs report which name is the bad one
            return Outcome({}, names)
        begun = busy_time()
        try:
            outcome = bulk_outcome(names, self._send(request))
        except (BulkTooLarge, QuotaExceeded) as error:  # 413
            raise self._too_large(len(names), error) from None
        except NoVerdict as error:
            with self._lock:
                self._unreadable += 1
                often = self._unreadable >= MAX_UNREADABLE  # one answer may be an accident
            raise BulkRefused(error, remembered=often) from None
        except BulkRefused:
            raise
        except StoreError as error:
            if not error.retryable:
                raise BulkRefused(error) from None
            self._took(len(names), busy_time() - begun, answered=False)
            raise
        with self._lock:
            self._unreadable = 0
        self._took(len(names), busy_time() - begun, answered=True)
        return outcome

    def _too_large(self, count: int, error: StoreError) -> BulkRefused | BulkTooLarge:
        """Send fewer names from now on; return the error. A request of one name cannot be made smaller."""
        if count == 1:
            return BulkRefused(error)
        with self._lock:
            # `min`: another thread may have made it smaller meanwhile.
            self._size = max(1, min(self._size, count // 2))
        return BulkTooLarge(str(error))

    def _took(self, count: int, seconds: float, *, answered: bool) -> None:
        with self._lock:
            if seconds > BATCH_SECONDS:
                self._size = max(1, min(self._size, count // 2))
            # Not after a lost answer: nobody knows how many of the names were deleted in that time.
            elif answered and seconds < BATCH_SECONDS / 2 and count >= self._size:
                self._size *= 2
