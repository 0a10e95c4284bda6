"""Bulk-delete: its body, the verdict in the answer's body, and how many names a request should have.

Swift itself always answers 200 and says in the body what became of the names. But a gateway before it, or a
server that names bulk-delete in `/info` and has none, refuses the request: then nothing is deleted.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from swiftfs.concurrency import Rank, monotonic, new_lock
from swiftfs.errors import BadName, BadRequest, Corrupt, NotFound, QuotaExceeded, StoreError, Unavailable
from swiftfs.objects import NOTHING, ObjectName
from swiftfs.store.error_map import status_error
from swiftfs.store.request import WORK_SECONDS, Request, quoted_path

log = logging.getLogger(__name__)

MAX_LINE = 2 * (1024 + 256)
"""Longer lines are refused: Swift's bulk.py takes twice the longest path, quoted as long as it may be."""


FIRST_BATCH = 1000
"""Names in a request while nobody knows how long the server takes."""

BATCH_SECONDS = 20.0
"""How long a request should take. Swift deletes two names at once: 10,000 may take it 20 minutes, and when
the connection breaks nobody knows which of them are gone."""

UNREADABLE = 2
"""After so many answers in a row without a verdict the server is not asked again."""


def fits_in_bulk(name: ObjectName) -> bool:
    """Say whether bulk-delete takes the name; `%` quoting makes three bytes of one."""
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
    )


class BulkRefused(StoreError):
    """The server deleted nothing and will not: single DELETEs may. `remembered` says to ask it no more."""

    def __init__(self, error: StoreError, *, remembered: bool = True) -> None:
        super().__init__(str(error))
        self.remembered = remembered


class BulkTooLarge(StoreError):
    """The server deleted nothing: it takes fewer names in a request."""


class NoVerdict(Corrupt):
    """The answer came whole and is no verdict."""


@dataclass(slots=True)
class Outcome:
    """What became of the names of a request.

    `single` are those that it did not take and that can be deleted one by one. With `outage` the answer was
    lost: the next request would fare no better. With `none_found` the server says that none was there.
    """

    failures: dict[ObjectName, StoreError] = field(default_factory=dict)
    single: list[ObjectName] = field(default_factory=list)
    refused: BulkRefused | None = None
    too_large: bool = False
    outage: StoreError | None = None
    none_found: bool = False


class BulkDeletes:
    """Sends bulk-deletes, and learns from the answers how many names the server deletes in `seconds`.

    The lock guards what was learned; it is not held during a request.
    """

    def __init__(self, send: Callable[[Request], bytes], seconds: float = BATCH_SECONDS) -> None:
        self._send = send
        self._seconds = seconds
        self._lock = new_lock(Rank.BULK)
        self._size = FIRST_BATCH
        self._unreadable = 0
        self._refused = False

    def batch(self, most: int) -> int:
        """Return how many names the next request may have, of `most` by the server's limits; 0 for none."""
        with self._lock:
            return 0 if self._refused else min(self._size, most)

    @property
    def refused(self) -> bool:
        """Whether the server takes no bulk-delete, whatever `/info` says."""
        return self._refused

    def remember_refusal(self, refusal: BulkRefused) -> None:
        """Send no more bulk-deletes; the caller knows that the server takes single DELETEs."""
        with self._lock:
            if self._refused or not refusal.remembered:
                return
            self._refused = True
        log.info("the server refuses bulk-delete, so objects are deleted one by one: %s", refusal)

    def delete(self, names: Sequence[ObjectName]) -> Outcome:
        """Delete `names` by one request."""
        try:
            request = bulk_delete_request(names)
        except BadName:  # of which of them, a single DELETE says
            return Outcome(single=list(names))
        begun = monotonic()
        try:
            outcome = bulk_outcome(names, self._send(request))
        except (BulkTooLarge, QuotaExceeded) as error:  # 413
            return self._too_large(names, error)
        except NoVerdict as error:
            return self._no_verdict(names, error)
        except StoreError as error:
            if error.retryable:
                self._took(len(names), monotonic() - begun, answered=False)
                return Outcome(dict.fromkeys(names, error), outage=error)
            refusal = error if isinstance(error, BulkRefused) else BulkRefused(error)
            return Outcome(single=list(names), refused=refusal)
        with self._lock:
            self._unreadable = 0
        self._took(len(names), monotonic() - begun, answered=True)
        return outcome

    def _too_large(self, names: Sequence[ObjectName], error: StoreError) -> Outcome:
        if len(names) == 1:
            return Outcome(single=list(names), refused=BulkRefused(error))
        with self._lock:
            self._size = max(1, min(self._size, len(names) // 2))
        return Outcome(single=list(names), too_large=True)

    def _no_verdict(self, names: Sequence[ObjectName], error: NoVerdict) -> Outcome:
        """One such answer may have been damaged on its way; single DELETEs are right in any case."""
        with self._lock:
            self._unreadable += 1
            often = self._unreadable >= UNREADABLE
        return Outcome(single=list(names), refused=BulkRefused(error, remembered=often))

    def _took(self, count: int, seconds: float, *, answered: bool) -> None:
        with self._lock:
            if seconds > self._seconds:
                self._size = max(1, min(self._size, count // 2))
            elif answered and seconds < self._seconds / 2 and count >= self._size:
                self._size *= 2


def bulk_outcome(names: Sequence[ObjectName], body: bytes) -> Outcome:
    """Return what failed of `names`, and as `single` those for which the token had expired meanwhile.

    A name that was absent did not fail. A server that gave up half-way does not say which names it reached:
    then each may still exist. Raise `NoVerdict`, or `BulkRefused` and `BulkTooLarge` for one that refuses the
    whole request.
    """
    verdict = _verdict(body)
    _check_refusal(verdict)
    by_path = {f"/{name}": name for name in names}
    statuses = {}
    for path, status in verdict["Errors"]:
        name = by_path.get("/" + unquote(path).removeprefix("/"))
        if name is not None:
            statuses[name] = status
    unauthorized = [name for name, status in statuses.items() if _number(status) == 401]
    failures = {name: _error(name, status) for name, status in statuses.items() if name not in unauthorized}
    done = verdict["Number Deleted"] + verdict["Number Not Found"]
    if done + len(statuses) < len(by_path):
        status = verdict["Response Status"]
        for name in by_path.values():
            if name not in statuses:
                failures[name] = Unavailable(f"delete_many {name}: given up by the server, {status}")
    failures = {name: one for name, one in failures.items() if not isinstance(one, NotFound)}
    none_found = not (verdict["Number Deleted"] or failures or unauthorized)
    return Outcome(failures, unauthorized, none_found=none_found)


def _check_refusal(verdict: dict[str, Any]) -> None:
    """Raise `BulkRefused` or `BulkTooLarge` for a verdict on the request, not on names."""
    if verdict["Number Deleted"] or verdict["Number Not Found"] or verdict["Errors"]:
        return
    number = _number(verdict["Response Status"])
    if 200 <= number < 300:
        raise BulkRefused(StoreError("delete_many the account: nothing was done"))
    request = Request("delete_many", "POST", meaning={501: BadRequest})
    error = status_error(request, number, NOTHING, verdict["Response Body"])
    if number == 413:
        raise BulkTooLarge(str(error))
    if not error.retryable:
        raise BulkRefused(error, remembered=number != 401)  # a token that expired is no reason


def _verdict(body: bytes) -> dict[str, Any]:
    try:
        verdict = json.loads(body)
        for field in ("Number Deleted", "Number Not Found"):
            verdict[field] = int(verdict[field])
        verdict["Errors"] = [(str(path), str(status)) for path, status in verdict["Errors"]]
        verdict["Response Status"] = str(verdict["Response Status"])
        verdict["Response Body"] = str(verdict.get("Response Body", ""))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NoVerdict(f"delete_many: no verdict in {body[:80]!r}") from None
    return dict(verdict)


def _error(name: ObjectName, status: str) -> StoreError:
    request = Request("delete_many", "DELETE", name.container, name.key)
    return status_error(request, _number(status), NOTHING)


def _number(status: str) -> int:
    number = status.split(" ", 1)[0]
    return int(number) if number.isdecimal() and len(number) == 3 else 500
