"""Entries of changes that wait, packed: there may be 100,000, and few are looked at."""

import marshal
import zlib
from typing import Any
from weakref import WeakValueDictionary

from swiftfs.attributes import Stored
from swiftfs.namespace.entry import Entry
from swiftfs.objects import Attributes, ObjectName
from swiftfs.store.object_meta import ObjectMeta

_WINDOW = -12
"""Of zlib: 4 KiB, so that packing is fast; negative means without a header."""


class PackedEntry:
    """An entry in about 100 bytes instead of 500.

    INVARIANT: while anybody has the entry, `unpack` returns that object: others find it by identity.

    The namespace's lock is held for every call.
    """

    __slots__ = ("__weakref__", "_packed")

    def __init__(self, entry: Entry) -> None:
        packer = zlib.compressobj(wbits=_WINDOW, memLevel=4, zdict=_USUAL)
        self._packed = packer.compress(_to_bytes(entry)) + packer.flush()
        _living[self] = entry

    def unpack(self) -> Entry:
        """Return the entry."""
        entry = _living.get(self)
        if entry is None:
            entry = _living[self] = _from_bytes(
                zlib.decompressobj(wbits=_WINDOW, zdict=_USUAL).decompress(self._packed)
            )
        return entry


Shown = Entry | PackedEntry
"""An entry, packed or not."""


def unpacked(shown: Shown | None) -> Entry | None:
    """Return the entry of what may be packed."""
    return shown.unpack() if isinstance(shown, PackedEntry) else shown


_living: WeakValueDictionary[PackedEntry, Entry] = WeakValueDictionary()
"""The entries that somebody has, of all namespaces."""


def _to_bytes(entry: Entry) -> bytes:
    name, stat, meta = entry.object, entry.attributes, entry.meta
    values: Any = (
        (name.container, name.key) if name is not None else None,
        (stat.mode, stat.size, stat.mtime_ns, stat.uid, stat.gid, stat.inode, stat.device),
        meta.to_values() if meta is not None else None,
        (entry.etag, entry.hash, entry.last_modified, entry.media_type, entry.target),
        (entry.is_slo, entry.complete, entry.hinted, entry.missing),
        entry.name,
    )
    return marshal.dumps(values)


def _from_bytes(data: bytes) -> Entry:
    target, stat, packed_meta, texts, (is_slo, complete, hinted, missing), name = marshal.loads(data)
    meta = ObjectMeta.from_values(packed_meta) if packed_meta is not None else None
    fields = (*texts, is_slo, complete, meta, hinted, missing)
    return Entry(name, ObjectName(*target) if target is not None else None, Attributes(*stat), *fields)


_USUAL = _to_bytes(
    Entry(
        "file.txt",
        ObjectName("container", "folder/file.txt"),
        Attributes(0o100644, 100, 1_700_000_000_000_000_000, 1000, 1000, 1 << 62),
        media_type="application/octet-stream",
        is_slo=None,
        meta=ObjectMeta("text/plain", Stored(0o100644, 1_700_000_000_000_000_000, 1000, 1000)),
    )
)
"""What most entries have in common, for zlib."""
