"""Entries of changes that wait, packed: there may be 100,000, and few are looked at."""

import struct
from collections.abc import Hashable
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

from swiftfs.namespace.entry import Entry
from swiftfs.objects import Attributes, ObjectName
from swiftfs.store.object_meta import ObjectMeta

_NUMBERS = struct.Struct("<QqQ")
"""What differs from file to file: the size, the mtime, the inode number."""


class PackedEntry:
    """An entry in about 130 bytes instead of 500: files of one folder have most in common.

    INVARIANT: while anybody has the entry, `unpack` returns that object: others find it by identity.

    The namespace's lock is held for every call.
    """

    __slots__ = ("__weakref__", "_common", "_name", "_numbers")

    def __init__(self, entry: Entry) -> None:
        stat = entry.attributes
        self._name = entry.name
        self._numbers = _NUMBERS.pack(stat.size, stat.mtime_ns, stat.inode)
        self._common = _shared(
            (
                _to_folder(entry),
                (stat.mode, stat.uid, stat.gid, stat.device),
                (entry.etag, entry.hash, entry.last_modified, entry.media_type, entry.target),
                (entry.is_slo, entry.complete),
                entry.meta.to_values(stat.mtime_ns) if entry.meta is not None else None,
                (entry.hinted, entry.missing),
            )
        )
        _living[self] = entry

    def unpack(self) -> Entry:
        """Return the entry."""
        entry = _living.get(self)
        if entry is None:
            entry = _living[self] = self._unpack()
        return entry

    def _unpack(self) -> Entry:
        folder, (mode, uid, gid, device), texts, states, values, flags = self._common
        size, mtime_ns, inode = _NUMBERS.unpack(self._numbers)
        attributes = Attributes(mode, size, mtime_ns, uid, gid, inode, device)
        meta = ObjectMeta.from_values(values, mtime_ns) if values is not None else None
        fields = (*texts, *states, meta, *flags)
        return Entry(self._name, _from_folder(folder, self._name), attributes, *fields)


Shown = Entry | PackedEntry
"""An entry, packed or not."""


def packed(entry: Entry) -> Shown:
    """Return the entry packed, unless it has numbers that no file has: another client may store anything."""
    try:
        return PackedEntry(entry)
    except struct.error:
        return entry


def unpacked(shown: Shown | None) -> Entry | None:
    """Return the entry of what may be packed."""
    return shown.unpack() if isinstance(shown, PackedEntry) else shown


_living: WeakValueDictionary[PackedEntry, Entry] = WeakValueDictionary()
"""The entries that somebody has, of all namespaces."""


@lru_cache(maxsize=1024)
def _shared(values: Hashable) -> Any:
    """Return equal values as one object."""
    return values


def _to_folder(entry: Entry) -> tuple[str, str, bool] | None:
    """Return the container and the key of an entry's object, the latter without the name if it ends so."""
    if entry.object is None:
        return None
    key, ends = entry.object.key, entry.object.key.endswith(entry.name)
    return entry.object.container, key[: len(key) - len(entry.name)] if ends else key, ends


def _from_folder(folder: tuple[str, str, bool] | None, name: str) -> ObjectName | None:
    if folder is None:
        return None
    container, key, ends = folder
    return ObjectName(container, key + name if ends else key)
