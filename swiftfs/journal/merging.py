"""Merging of operations about one name: intermediate states are not sent."""

from collections.abc import Iterable

from msgspec.structs import replace

from swiftfs.journal.commits import Record
from swiftfs.journal.operations import (
    Delete,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    Replaced,
    ReplaceHeaders,
    SetAttributes,
    over,
)


def coalesce(earlier: Operation, later: Operation) -> tuple[Operation, ...] | None:
    """Return the operations that replace both, none or one; None if both must be executed in order.

    `earlier` is pending and is the last operation about its name, which `later` has too.
    """
    merged: Operation | None
    match earlier, later:
        case PutMarker(), Delete():
            # Swift has no such object, so nothing is sent at all.
            merged = None if earlier.creates else later
        case (PutFile() | PutSpecial(), Delete()):
            merged = None
            if not earlier.creates:
                merged = _deletion_instead(earlier, later)
        case (PutFile() | PutSpecial(), PutFile() | PutSpecial()):
            merged = _later_file(earlier, later)
        case PutFile(), SetAttributes():
            changed = earlier.expiry_changed or later.expiry_changed
            merged = replace(earlier, meta=later.meta, foreign_headers_unknown=False, expiry_changed=changed)
        case PutSpecial(), SetAttributes():
            merged = replace(earlier, meta=later.meta)
        case (PutMarker(), ReplaceHeaders()):
            merged = replace(earlier, headers=later.headers)
        case (Delete(), PutFile() | PutSpecial()):
            merged = _file_instead(earlier, later)
        case SetAttributes(expiry_changed=True), SetAttributes() | PutFile():
            merged = replace(later, expiry_changed=True)
        case (SetAttributes() | ReplaceHeaders(), SetAttributes() | ReplaceHeaders() | Delete() | PutFile()):
            merged = later
        case _:
            return None
    return (merged,) if merged is not None else ()


def _later_file(earlier: PutFile | PutSpecial, later: PutFile | PutSpecial) -> PutFile | PutSpecial:
    """Return the later file, which replaces in Swift what the earlier one was to: that was never sent."""
    trash = "" if earlier.creates else earlier.trash or later.trash
    merged = over(later, Replaced(earlier.replaces_large, earlier.replaces_etag, earlier.creates, trash))
    if not (isinstance(merged, PutFile) and isinstance(earlier, PutFile)):
        return merged
    return replace(
        merged,
        superseded_segments=earlier.superseded_segments,
        sent=_both(earlier.sent, merged.sent),
        expiry_changed=earlier.expiry_changed or merged.expiry_changed,
    )


def _file_instead(deletion: Delete, put: PutFile | PutSpecial) -> PutFile | PutSpecial:
    """Return the file, which replaces the object that the deletion was for.

    A marker after a deletion is not merged so: its PUT has `If-None-Match: *` and would find the object.
    """
    merged = over(put, Replaced(deletion.is_slo, deletion.etag, trash=deletion.trash or put.trash))
    if isinstance(merged, PutFile):
        sent = _both(deletion.sent, merged.sent)
        merged = replace(merged, superseded_segments=deletion.superseded_segments, sent=sent)
    return merged


def _deletion_instead(put: PutFile | PutSpecial, later: Delete) -> Delete:
    """Return the deletion of the object that a file was to replace, which Swift still has.

    Only `put` knows whether that object has segments to delete.
    """
    # The first key: an attempt may have copied the object there already.
    trash = put.trash or later.trash
    deletion = Delete(put.name, put.replaces_large, put.replaces_etag, trash=trash)
    if not isinstance(put, PutFile):
        return deletion
    return replace(deletion, sent=put.sent, superseded_segments=put.superseded_segments)


def _both(earlier: tuple[str, ...], later: tuple[str, ...]) -> tuple[str, ...]:
    """Return what identifies the versions that either operation knows as sent."""
    return (*earlier, *(one for one in later if one not in earlier)) if later else earlier


def merge_hand_in(earlier: PutFile, later: PutFile) -> PutFile:
    """Return the operation that stores a newer hand-in of a file instead of an earlier one."""
    merged = coalesce(earlier, later)
    assert merged is not None
    assert isinstance(merged[0], PutFile)
    return merged[0]


def merge_while_running(earlier: PutFile, later: PutFile) -> PutFile:
    """Return the same while the earlier hand-in is being uploaded; `running` tells the next process of it."""
    return replace(merge_hand_in(earlier, later), running=earlier.meta)


def one_a_file(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Return the records in order with one for each local file, and the records that were replaced.

    The newest hand-in of a file counts. The blocks of an older record are in the local file too.
    """
    kept: dict[str, Record] = {}
    replaced: list[Record] = []
    found: dict[int, Record] = {}
    for record in records:
        newest = record
        if isinstance(record.operation, PutFile):
            older = kept.get(file := record.operation.file.file)
            if older is not None:
                replaced.append(found.pop(older.seq))
                newest = _with_older(record, record.operation, attempted(older.operation))
            kept[file] = newest
        found[newest.seq] = newest
    return list(found.values()), replaced


def _with_older(record: Record, operation: PutFile, older: Operation) -> Record:
    assert isinstance(older, PutFile)
    # Blocks that only the older record names would count as those of the base version, and a read would
    # download them over the bytes that somebody closed.
    operation = replace(operation, file=operation.file.with_blocks_of(older.file))
    return replace(record, operation=merge_hand_in(older, operation))


def attempted(operation: Operation) -> Operation:
    """Return the operation as it is after an attempt: Swift may have executed it in spite of its answer."""
    if isinstance(operation, PutFile | PutSpecial) and not operation.replaces_large:
        # Swift may have the file itself by now, perhaps as an SLO: a deletion must be sent, and must ask for
        # segments.
        return replace(operation, creates=False, replaces_large=None)
    return replace(operation, creates=False) if isinstance(operation, PutMarker) else operation
