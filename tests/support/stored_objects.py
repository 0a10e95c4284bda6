"""Objects of a store in memory: what it holds, and what it refuses."""

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from support.memory_store import MemoryStore
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import LATE_SECONDS, SegmentRemoval
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import CopyRequest, Headers

Failure = BaseException | type[BaseException]

NEVER = "settle=1000"
"""Mount option: nothing is uploaded before a flush."""


def keys(store: MemoryStore, container: str = "box") -> list[str]:
    """Return the keys in a container."""
    return [row.key for row in store.list_page(container).rows]


def segments(store: MemoryStore, container: str = "box_segments") -> set[str]:
    """Return the keys of all segments."""
    return set(keys(store, container))


def named_segments(store: MemoryStore, key: str) -> set[str]:
    """Return the keys of the segments that the SLO's manifest names; raise `BadRequest` if it is no SLO."""
    return {one.name.key for one in store.manifest(ObjectName("box", key)).segments}


def segments_of(store: MemoryStore, key: str = "file") -> set[str]:
    """Return the keys of the segments that an object's manifest names, none if it is no SLO."""
    return named_segments(store, key) if store.head(ObjectName("box", key)).is_slo else set()


def body(store: MemoryStore, key: str, offset: int = 0, length: int | None = None) -> bytes:
    """Return the bytes of an object in `box`, or of a part of it."""
    parts: list[bytes] = []
    name = ObjectName("box", key)
    store.get(name, lambda _offset, data: parts.append(data), offset=offset, length=length)
    return b"".join(parts)


def refuse(store: MemoryStore, methods: str, error: Failure, about: str = "") -> None:
    """Let the store's requests of these methods, separated by blanks, fail with `error`; all of them for "".

    `about` is a regular expression for their subjects.
    """

    def hook(method: str, subject: str) -> None:
        if (not methods or method in methods.split()) and re.search(about, subject):
            raise error if isinstance(error, BaseException) else error("no")

    store.hook = hook


@contextmanager
def failing(store: MemoryStore, methods: str, error: Failure) -> Iterator[None]:
    """Do the same as `refuse` until the block ends."""
    refuse(store, methods, error)
    try:
        yield
    finally:
        store.hook = None


def foreign(store: MemoryStore, key: str, data: bytes, container: str = "box") -> None:
    """Store an object as another client does."""
    store.put(ObjectName(container, key), data, Headers("text/plain"))


def contents(store: MemoryStore) -> dict[str, bytes]:
    """Return the bytes of all objects in `box`."""
    return {key: body(store, key) for key in keys(store)}


def copy(store: MemoryStore, source: str, target: str) -> None:
    """Copy an object in `box`, of a large one the manifest."""
    store.copy(CopyRequest(ObjectName("box", source), ObjectName("box", target), manifest_only=True))


def delete(store: MemoryStore, key: str) -> None:
    """Delete an object in `box`."""
    store.delete(ObjectName("box", key))


def put_all(store: MemoryStore, *names: str) -> None:
    """Store objects whose bytes are their names."""
    for name in names:
        foreign(store, name, name.encode())


def as_of_now(store: MemoryStore) -> MemoryStore:
    """Return a store with the same objects, which no request of a killed mount reaches."""
    twin = MemoryStore(*store._containers)
    for name, container in store._containers.items():
        twin._containers[name].objects.update(container.objects)
    return twin


def ten_minutes_later(store: MemoryStore, cache: Path) -> None:
    """Look again at what the mounts of that cache folder left, when its time is over."""
    with closing(JournalDB(cache, "box of memory")) as log:
        later = time.time() + LATE_SECONDS + 1
        removal = SegmentRemoval(store, log, SegmentOwnership(log), lambda: later)
        removal.look_again()
        assert not removal.leftovers.all()
