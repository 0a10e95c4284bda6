"""Bulk delete: the request with its list of names, and the verdict in the body of the answer.

Swift always answers 200 and reports the result for the names in the body. A gateway in front of it, or a
server that has bulk delete only in `/info`, refuses the request: then nothing was deleted.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from msgspec import Struct, field

from swiftfs.errors import BadRequest, Corrupt, NotFound, StoreError, Unavailable
from swiftfs.objects import NOTHING, ObjectName
from swiftfs.store.error_map import status_error
from swiftfs.store.request import WORK_SECONDS, Request, quoted_path
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


class Outcome(Struct):
    """The result for the names in a bulk delete.

    `single` are names that it did not accept; they can be deleted one by one. With `outage` the answer was
    lost, and the next request would fail too. With `none_found` the server reports that no name existed.
    """

    failures: dict[ObjectName, StoreError] = field(default_factory=dict)
    single: list[ObjectName] = field(default_factory=list)
    refused: BulkRefused | None = None
    too_large: bool = False
    outage: StoreError | None = None
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
    return Outcome(failures, unauthorized, none_found=none_found)


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
