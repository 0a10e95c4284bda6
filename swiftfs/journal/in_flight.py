"""Requests that a process may have sent for an operation before it died: they may be carried out late."""

from collections.abc import Iterator
from hashlib import md5

from swiftfs.journal.operations import (
    Delete,
    Move,
    MoveFolder,
    MoveObject,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
)
from swiftfs.objects import ObjectName
from swiftfs.store.ambiguous import GONE, SMALL_BODY, Effect
from swiftfs.store.protocol import Headers

Request = tuple[ObjectName, Effect]


def requests_of(operation: Operation) -> Iterator[Request]:
    """Yield what an operation from the journal may have sent, each with its object.

    The ETag of a file is not known before its bytes are read.
    """
    match operation:
        case PutFile():
            for meta in filter(None, (operation.running, operation.meta)):
                yield operation.name, Effect("put", headers=meta.headers())
        case PutSpecial():
            yield operation.name, _put(operation.body, operation.meta.headers())
        case PutMarker():
            yield operation.name, _put(b"", operation.headers, if_absent=True)
        case SetAttributes():
            yield operation.name, Effect("post", headers=operation.meta.headers())
        case ReplaceHeaders():
            yield operation.name, Effect("post", headers=operation.headers)
        case Delete():
            yield operation.name, GONE
        case Move() | MoveObject():
            yield from _moving(operation.source, operation.target)
        case MoveFolder():
            yield from _moving_folder(operation)


def _moving_folder(operation: MoveFolder) -> Iterator[Request]:
    """Yield nothing if the objects are not recorded: that happens before the first request."""
    if operation.objects is None:
        return
    for source, target in (*operation.markers, *operation.copies()):
        yield from _moving(source, target)
        # Its copies were being deleted again: both the COPY and the DELETE of a target may come late.
        if operation.undone:
            yield target, GONE


def _moving(source: ObjectName, target: ObjectName) -> Iterator[Request]:
    yield target, Effect("copy", source=source)
    yield source, GONE


def _put(body: bytes, headers: Headers, *, if_absent: bool = False) -> Effect:
    small = body if len(body) <= SMALL_BODY else None
    return Effect(
        "put", md5(body, usedforsecurity=False).hexdigest(), headers, body=small, if_absent=if_absent
    )
