"""Operations as text, for the database, and back."""

import base64
import json
import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cattrs import Converter

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

_ENCODER = json.JSONEncoder(separators=(",", ":"))
"""`json.dumps` would make another one for each record."""

_REPEATED = {ObjectName: "container", ObjectMeta: "media_type"}
"""Fields with the same text in most records: one string serves all."""


class Unreadable(ValueError):
    """A text is not a record of this journal."""


def load() -> None:
    """Load what records need, so that the first `close()` need not wait a tenth of a second for it."""
    _converter()


@cache
def _converter() -> "Converter":
    from cattrs import Converter  # noqa: PLC0415  with the converter a tenth of the time of a start
    from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override  # noqa: PLC0415
    from cattrs.strategies import configure_tagged_union  # noqa: PLC0415

    # Without the position of a fault in a record, a mount with many changes starts sooner.
    # An unknown key is refused: the record would be executed without what that key means.
    converter = Converter(omit_if_default=True, forbid_extra_keys=True, detailed_validation=False)
    converter.register_unstructure_hook(Blocks, lambda blocks: base64.b64encode(blocks.to_bytes()).decode())
    converter.register_structure_hook(Blocks, lambda text, _: _read_blocks(text))
    converter.register_unstructure_hook(bytes, lambda data: base64.b64encode(data).decode())
    converter.register_structure_hook(bytes, lambda text, _: base64.b64decode(text, validate=True))
    converter.register_unstructure_hook(MappingProxyType, dict)
    converter.register_unstructure_hook_func(lambda kind: kind == Mapping[str, str], dict)
    converter.register_structure_hook_func(lambda kind: kind == Mapping[str, str], _read_mapping)
    for kind, keys in _KEYS.items():
        named: dict[str, Any] = {field: override(rename=key) for field, key in keys.items()}
        if kind is ObjectMeta:  # every release has written it, empty too
            named["stored"] = override(omit_if_default=False)
        if kind in _REPEATED:
            named[_REPEATED[kind]] = override(struct_hook=lambda text, _: sys.intern(str(text)))
        converter.register_unstructure_hook(
            kind, make_dict_unstructure_fn(kind, converter, _cattrs_omit_if_default=True, **named)
        )
        converter.register_structure_hook(
            kind, make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, **named)
        )
    configure_tagged_union(Operation, converter, tag_generator=lambda kind: KINDS[kind], tag_name="kind")
    return converter


# Most small files have the same blocks, all of them: one set serves all.
@lru_cache(maxsize=256)
def _read_blocks(text: str) -> Blocks:
    return Blocks.from_bytes(base64.b64decode(text, validate=True))


def _read_mapping(value: Any, _kind: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(text, str) for pair in value.items() for text in pair
    ):
        raise Unreadable(f"{value!r} is not a mapping of texts")
    return value


def encode(operation: Operation) -> str:
    """Return the operation as a line of JSON."""
    return _write(operation, Operation)


def decode(text: str) -> Operation:
    """Return the operation that `encode` wrote; raise `Unreadable` for anything else."""
    operation: Operation = _read(text, Operation, "an operation")
    return operation


def encode_ambiguity(found: Ambiguity) -> str:
    """Return the record of lost requests as one line of JSON."""
    return _write(found, Ambiguity)


def decode_ambiguity(text: str) -> Ambiguity:
    """Return what `encode_ambiguity` wrote; raise `Unreadable` for anything else."""
    ambiguity: Ambiguity = _read(text, Ambiguity, "a record of lost requests")
    return ambiguity


def encode_entry(entry: Entry) -> str:
    """Return an entry as one line of JSON."""
    return _write(entry, Entry)


def decode_entry(text: str) -> Entry:
    """Return what `encode_entry` wrote; raise `Unreadable` for anything else."""
    entry: Entry = _read(text, Entry, "an entry")
    return entry


def _write(value: object, kind: Any) -> str:
    return _ENCODER.encode(_converter().unstructure(value, kind))


def _read(text: str, kind: Any, what: str) -> Any:
    converter = _converter()
    from cattrs.errors import CattrsError  # noqa: PLC0415  loaded with the converter

    try:
        return converter.structure(json.loads(text), kind)
    except (CattrsError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unreadable(f"not {what}: {text[:200]!r}") from error
