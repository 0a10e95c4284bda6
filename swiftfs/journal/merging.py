"""Which intents about one name become one: what nobody would see is not sent."""

from collections.abc import Iterable
from dataclasses import replace

from swiftfs.journal.database import Record
from swiftfs.journal.operations import (
    Delete,
    Describe,
    Intent,
    PutFile,
    PutMarker,
    PutSmall,
    SetHeaders,
)


def coalesce(earlier: Intent, later: Intent) -> tuple[Intent, ...] | None:
    """Return what stands for both intents, nothing or one; None when both must be executed in their order.

    `earlier` waits for its execution and is the last of its name, which `later` has too.
    """
    merged: Intent | None
    match earlier, later:
        case PutMarker(), Delete():
            merged = None if earlier.fresh else later
        case (PutFile() | PutSmall(), Delete()):
            merged = None
            if not earlier.fresh:
                merged = Delete(earlier.name, earlier.replaces_large, earlier.replaces_etag)
        case (PutFile() | PutSmall(), PutFile() | PutSmall()):
            merged = replace(
                later,
                replaces_large=earlier.replaces_large,
                replaces_etag=earlier.replaces_etag,
                fresh=earlier.fresh,
            )
            if isinstance(merged, PutFile) and isinstance(earlier, PutFile):
                merged = replace(merged, garbage=earlier.garbage, sent=earlier.sent)
        case PutFile(), Describe():
            merged = replace(earlier, description=later.description, inherit=False)
        case PutSmall(), Describe():
            merged = replace(earlier, description=later.description)
        case (PutMarker(), SetHeaders()):
            merged = replace(earlier, headers=later.headers)
        case (Delete(), PutFile() | PutSmall()):
            merged = replace(later, replaces_large=earlier.large, replaces_etag=earlier.etag, fresh=False)
        case (Describe() | SetHeaders(), Describe() | SetHeaders() | Delete() | PutFile()):
            merged = later
        case _:
            return None
    return (merged,) if merged is not None else ()


def merge_hand_in(earlier: PutFile, later: PutFile) -> PutFile:
    """Return what stores a newer hand-in of a file in place of an earlier one."""
    merged = coalesce(earlier, later)
    assert merged is not None
    assert isinstance(merged[0], PutFile)
    return merged[0]


def one_a_file(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Return what stands for records in their order, with one of each local file, and those it replaces.

    The newest hand-in of a file counts. What an older record says that the local file holds, it holds still.
    """
    kept: dict[str, Record] = {}
    replaced: list[Record] = []
    found: dict[int, Record] = {}
    for record in records:
        newest = record
        if isinstance(record.intent, PutFile):
            older = kept.get(file := record.intent.file.file)
            if older is not None:
                replaced.append(found.pop(older.seq))
                newest = _with_older(record, record.intent, attempted(older.intent))
            kept[file] = newest
        found[newest.seq] = newest
    return list(found.values()), replaced


def _with_older(record: Record, intent: PutFile, older: Intent) -> Record:
    assert isinstance(older, PutFile)
    intent = replace(intent, file=intent.file.with_blocks_of(older.file))
    return replace(record, intent=merge_hand_in(older, intent))


def attempted(intent: Intent) -> Intent:
    """Return the intent as it is after an attempt: it may stand in Swift, whatever the answer was."""
    if isinstance(intent, PutFile | PutSmall) and not intent.replaces_large:
        return replace(intent, fresh=False, replaces_large=None)
    return replace(intent, fresh=False) if isinstance(intent, PutMarker) else intent
