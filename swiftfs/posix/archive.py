"""Objects of an archive, which must be restored before they can be read: OVH's Public Cloud Archive."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from swiftfs.concurrency import new_pool
from swiftfs.errors import NotFound, Sealed
from swiftfs.objects import SEALED, UNSEALED, UNSEALING, ObjectInfo, ObjectName, Retrieval
from swiftfs.store.protocol import ObjectStore, iter_dlo_segments
from swiftfs.store.retry import PATIENT, deadline

T = TypeVar("T")

PARALLEL = 16
"""Parallel requests about the segments of a large object: each is sealed, or is not."""

_ORDER = (UNSEALED, UNSEALING, SEALED)
"""The states, the one from which an object can be read first before the others."""


class _CanBeRead(Exception):
    """Bytes have come: the object is not sealed."""


class Archive:
    """One object with its segments, of which each has a state of its own; `info` is from a HEAD."""

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store = store
        self._info = info
        self._segments: list[ObjectName] | None = None

    def state(self) -> str:
        """Return `unsealed`, `sealed`, or `unsealing` and the seconds if known; raise `StoreError`."""
        found = [self._info.retrieval, *self._heads()]
        states = [one for one in found if one is not None]
        # Any other word of the server counts as a state in which nothing can be read.
        rank = max((_rank(one) for one in states), default=0)
        seconds = max((one.seconds or 0.0 for one in states if _rank(one) == rank), default=0.0)
        return f"{_ORDER[rank]} {seconds:.0f}" if rank and seconds else _ORDER[rank]

    def ask(self) -> None:
        """Have the archive restore what is sealed, by a GET of each object; raise `StoreError`."""
        if self._info.is_slo or self._info.dlo_prefix is not None:
            self._store.check_manifest(self._info.version)  # another's objects are not thawed for it
        names = [self._info.version.name, *self._named()]
        self._in_parallel(self._ask_one, names if self._info.retrieval is not None else names[1:])
        self._info = self._store.head(self._info.version.name)

    def _ask_one(self, name: ObjectName) -> None:
        retrieval = self._store.head(name).retrieval
        if retrieval is not None and retrieval.state == SEALED:
            with suppress(Sealed, _CanBeRead):
                self._store.get(name, _refuse)

    def _heads(self) -> list[Retrieval | None]:
        names = self._named()
        if not names:
            return []
        first = self._retrieval(names[0])
        # A server without an archive sends no such header.
        if first is None and self._info.retrieval is None:
            return []
        return [first, *self._in_parallel(self._retrieval, names[1:])]

    def _retrieval(self, name: ObjectName) -> Retrieval | None:
        with suppress(NotFound):  # it cannot be thawed
            return self._store.head(name).retrieval
        return None

    def _named(self) -> list[ObjectName]:
        """Return the segments, each once; they are requested once."""
        if self._segments is None:
            self._segments = list(dict.fromkeys(segments_of(self._store, self._info)))
        return self._segments

    def _in_parallel(self, work: Callable[[ObjectName], T], names: Sequence[ObjectName]) -> list[T]:
        with new_pool("thaw", PARALLEL) as pool:
            return list(pool.map(work, names))


def segments_of(store: ObjectStore, info: ObjectInfo) -> Iterator[ObjectName]:
    """Yield the objects that a large object consists of, in its order; none for an ordinary one."""
    if info.is_slo:
        yield from (one.name for one in store.manifest(info.version.name).segments if not one.data)
    elif (prefix := info.dlo_prefix) is not None:
        with deadline(PATIENT.deadline):  # of all pages: there may be no end of them
            yield from (ObjectName(prefix.container, row.key) for row in iter_dlo_segments(store, prefix))


def _rank(retrieval: Retrieval) -> int:
    return _ORDER.index(retrieval.state) if retrieval.state in _ORDER else len(_ORDER) - 1


def _refuse(_offset: int, _data: bytes) -> None:
    raise _CanBeRead
