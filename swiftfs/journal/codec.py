"""Operations as text, for the database, and back."""

import base64
from functools import lru_cache
from typing import Any, TypeVar

from msgspec.json import Decoder, Encoder

from swiftfs.filecache.block_set import Blocks
from swiftfs.journal.operations import Operation
from swiftfs.namespace.entry import Entry
from swiftfs.store.ambiguous import Ambiguity

Value = TypeVar("Value")


class Unreadable(ValueError):
    """A text is not a record of this journal."""


# Most small files have the same blocks, all of them: one set serves all.
@lru_cache(maxsize=256)
def _read_blocks(text: str) -> Blocks:
    return Blocks.from_bytes(base64.b64decode(text, validate=True))


def _read_other(_kind: type, value: Any) -> Blocks:
    return _read_blocks(value)


def _write_other(value: Any) -> object:
    """Return blocks or a read-only mapping as what JSON has."""
    return base64.b64encode(value.to_bytes()).decode() if isinstance(value, Blocks) else dict(value)


_ENCODER = Encoder(enc_hook=_write_other)
_OPERATIONS: Decoder[Operation] = Decoder(Operation, dec_hook=_read_other)
_AMBIGUITIES = Decoder(Ambiguity)
_ENTRIES = Decoder(Entry)


def encode(operation: Operation) -> str:
    """Return the operation as a line of JSON."""
    return _ENCODER.encode(operation).decode()


def decode(text: str) -> Operation:
    """Return the operation that `encode` wrote; raise `Unreadable` for anything else."""
    return _read(text, _OPERATIONS, "an operation")


def encode_ambiguity(found: Ambiguity) -> str:
    """Return the record of lost requests as one line of JSON."""
    return _ENCODER.encode(found).decode()


def decode_ambiguity(text: str) -> Ambiguity:
    """Return what `encode_ambiguity` wrote; raise `Unreadable` for anything else."""
    return _read(text, _AMBIGUITIES, "a record of lost requests")


def encode_entry(entry: Entry) -> str:
    """Return an entry as one line of JSON."""
    return _ENCODER.encode(entry).decode()


def decode_entry(text: str) -> Entry:
    """Return what `encode_entry` wrote; raise `Unreadable` for anything else."""
    return _read(text, _ENTRIES, "an entry")


def _read(text: str, decoder: Decoder[Value], what: str) -> Value:
    try:
        return decoder.decode(text)
    except ValueError as error:
        raise Unreadable(f"not {what}: {text[:200]!r}") from error
