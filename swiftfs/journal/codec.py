"""Operations as text, for the database, and back."""

import base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from swiftfs.filecache.block_map import BaseVersion, FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.journal.operations import (
    KINDS,
    Delete,
    Move,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    SetAttributes,
)
from swiftfs.json_values import JsonValues
from swiftfs.namespace.entry import Entry
from swiftfs.objects import ObjectName
from swiftfs.store.ambiguous import Ambiguity
from swiftfs.store.object_meta import ObjectMeta
from swiftfs.store.protocol import Headers

_KEYS: Mapping[type, Mapping[str, str]] = {
    ObjectName: {},
    Headers: {"preserved_headers": "kept"},
    ObjectMeta: {"preserved_headers": "kept"},
    BaseVersion: {"object_size": "whole"},
    FileRecord: {"base": "origin"},
    PutFile: {
        "meta": "description",
        "creates": "fresh",
        "foreign_headers_unknown": "inherit",
        "superseded_segments": "garbage",
    },
    PutSpecial: {"meta": "description", "creates": "fresh"},
    PutMarker: {"creates": "fresh"},
    SetAttributes: {"meta": "description", "is_slo": "large"},
    Delete: {"is_slo": "large"},
    Move: {"is_slo": "large"},
}
"""Keys on disk of fields with another name in the code. INVARIANT: a key never changes."""


class Unreadable(ValueError):
    """A text is not a record of this journal."""


# Most small files have the same blocks, all of them: one set serves all.
@lru_cache(maxsize=256)
def _read_blocks(text: str) -> Blocks:
    return Blocks.from_bytes(base64.b64decode(text, validate=True))


_VALUES = JsonValues(
    keys=_KEYS,
    kinds=KINDS,
    others={Blocks: (lambda blocks: f'"{base64.b64encode(blocks.to_bytes()).decode()}"', _read_blocks)},
    always={ObjectMeta: "stored"},  # every release has written it, empty too
    repeated={ObjectName: "container", ObjectMeta: "media_type"},
)
"""An unknown key is refused: the record would be executed without what that key means."""


def encode(operation: Operation) -> str:
    """Return the operation as a line of JSON."""
    return _VALUES.write(operation, Operation)


def decode(text: str) -> Operation:
    """Return the operation that `encode` wrote; raise `Unreadable` for anything else."""
    operation: Operation = _read(text, Operation, "an operation")
    return operation


def encode_ambiguity(found: Ambiguity) -> str:
    """Return the record of lost requests as one line of JSON."""
    return _VALUES.write(found, Ambiguity)


def decode_ambiguity(text: str) -> Ambiguity:
    """Return what `encode_ambiguity` wrote; raise `Unreadable` for anything else."""
    ambiguity: Ambiguity = _read(text, Ambiguity, "a record of lost requests")
    return ambiguity


def encode_entry(entry: Entry) -> str:
    """Return an entry as one line of JSON."""
    return _VALUES.write(entry, Entry)


def decode_entry(text: str) -> Entry:
    """Return what `encode_entry` wrote; raise `Unreadable` for anything else."""
    entry: Entry = _read(text, Entry, "an entry")
    return entry


def _read(text: str, kind: Any, what: str) -> Any:
    try:
        return _VALUES.read(text, kind)
    except ValueError as error:
        raise Unreadable(f"not {what}: {text[:200]!r}") from error
