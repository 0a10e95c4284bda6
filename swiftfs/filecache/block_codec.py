"""Encodes sets of blocks as bytes, for the journal and the index.

A set is a sequence of records, then a zero byte. A record begins with a number: seven bits in each byte, the
least significant first. The lowest two bits of the number are the record's kind, the others are the number of
blocks it describes; these follow those of the record before. `_ABSENT` and `_PRESENT` are runs. `_BITMAP` is
followed by one bit for each block, the least significant first, padded to a byte. Blocks after the last
record are absent.

A set of a single bitmap is written as that bitmap alone, as release 0.1 wrote every set. Its last byte is
never zero, which distinguishes the two forms.
"""

from collections.abc import Iterable, Iterator

from swiftfs.filecache.block_tree import ALL, LEAF_SIZE, NONE

_ABSENT, _PRESENT, _BITMAP = range(3)
_KIND_BITS = 2
_KIND_MASK = (1 << _KIND_BITS) - 1
_MOST = 1 << 53
"""No file has so many blocks."""


def pack(pieces: Iterable[tuple[int, int, int]]) -> bytes:
    """Encode a set that consists of these pieces, which begin at block 0; see `block_tree.pieces`."""
    records: list[bytes] = []
    kind, length = _ABSENT, 0  # of the run that is not written yet
    for start, stop, bits in pieces:
        if bits not in (NONE, ALL):
            size = bits.bit_length()
            records += [*_run(kind, length), _number(size << _KIND_BITS | _BITMAP)]
            records.append(bits.to_bytes(-(-size // 8), "little"))
            kind, length = _ABSENT, stop - start - size
        elif (bits == ALL) == (kind == _PRESENT):
            length += stop - start
        else:
            records += _run(kind, length)
            kind, length = (_PRESENT if bits == ALL else _ABSENT), stop - start
    if kind == _PRESENT:
        records += _run(kind, length)
    if not records:
        return b""
    is_bitmap = len(records) == 2 and records[0][0] & _KIND_MASK == _BITMAP
    return records[1] if is_bitmap else b"".join([*records, b"\0"])


def unpack(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the pieces of an encoded set, without absent ones; raise `ValueError` for anything else."""
    if not data:
        return
    if data[-1]:
        yield from _bitmap(0, data)
        return
    position = start = 0
    while position < len(data) - 1:
        number, position = _read_number(data, position)
        kind, length = number & _KIND_MASK, number >> _KIND_BITS
        if start + length > _MOST:
            raise ValueError("a set of blocks beyond the largest file")
        if kind == _PRESENT:
            yield start, start + length, ALL
        elif kind == _BITMAP:
            end = position + -(-length // 8)
            if end >= len(data):
                raise ValueError("a truncated set of blocks")
            yield from _bitmap(start, data[position:end])
            position = end
        elif kind != _ABSENT:
            raise ValueError("a set of blocks of another release")
        start += length


def _run(kind: int, length: int) -> list[bytes]:
    return [_number(length << _KIND_BITS | kind)] if length else []


def _bitmap(start: int, data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield a bitmap in pieces of at most a leaf."""
    for offset in range(0, len(data), LEAF_SIZE // 8):
        part = data[offset : offset + LEAF_SIZE // 8]
        first = start + offset * 8
        yield first, first + len(part) * 8, int.from_bytes(part, "little")


def _number(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_number(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    number = shift = 0
    while shift < 64:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
    raise ValueError("a set of blocks of another release")
