"""Bulk-delete: its body, and the verdict in the answer's body. The HTTP status is always 200."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from swiftfs.errors import Corrupt, StoreError, Unavailable
from swiftfs.model import NOTHING, ObjectName
from swiftfs.store.failures import status_error
from swiftfs.store.request import WORK_SECONDS, Request, quoted_path

MAX_LINE = 2 * (1024 + 256)
"""Longer lines are refused: Swift's bulk.py takes twice the longest path, quoted as long as it may be."""


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
        patience=WORK_SECONDS,
        works=True,
    )


def bulk_failures(names: Sequence[ObjectName], body: bytes) -> dict[ObjectName, StoreError]:
    """Return what failed of `names`; a name that was absent did not. Raise `Corrupt` for no verdict.

    A server that gave up half-way does not say which names it reached: then each may still exist.
    """
    verdict = _verdict(body)
    by_path = {f"/{name}": name for name in names}
    failures = {}
    for path, status in verdict["Errors"]:
        name = by_path.get("/" + unquote(path).removeprefix("/"))
        if name is not None:
            failures[name] = _error(name, status)
    done = verdict["Number Deleted"] + verdict["Number Not Found"]
    if done + len(failures) < len(by_path):
        status = verdict["Response Status"]
        for name in by_path.values():
            failures.setdefault(name, Unavailable(f"delete_many {name}: given up by the server, {status}"))
    return failures


def _verdict(body: bytes) -> dict[str, Any]:
    try:
        verdict = json.loads(body)
        for field in ("Number Deleted", "Number Not Found"):
            verdict[field] = int(verdict[field])
        verdict["Errors"] = [(str(path), str(status)) for path, status in verdict["Errors"]]
        str(verdict["Response Status"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Corrupt(f"delete_many: no verdict in {body[:80]!r}") from None
    return dict(verdict)


def _error(name: ObjectName, status: str) -> StoreError:
    number = status.split(" ", 1)[0]
    request = Request("delete_many", "DELETE", name.container, name.key)
    return status_error(request, int(number) if number.isdecimal() else 500, NOTHING)
