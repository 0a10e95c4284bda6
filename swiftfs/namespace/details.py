"""What listings do not say: HEADs, many at a time, each paid once."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from swiftfs.concurrency import Future, Rank, new_lock, new_pool
from swiftfs.errors import Ghost, NotFound
from swiftfs.model import ObjectInfo
from swiftfs.namespace.entry import Entry
from swiftfs.namespace.memory import HeadMemory, State
from swiftfs.store.protocol import ObjectStore

T = TypeVar("T")
R = TypeVar("R")

PARALLEL = 32
"""HEADs under way at once: at 20 to 200 ms each they hide the link's latency and stay polite."""


def key_of(entry: Entry) -> State:
    """Return what a HEAD's answer stays true for."""
    assert entry.object is not None
    return State(entry.object.container, entry.object.key, entry.hash, entry.last_modified)


class Details:
    """Asks the store about single objects and remembers what it said."""

    def __init__(self, store: ObjectStore, memory: HeadMemory) -> None:
        self._store = store
        self._memory = memory
        self._pool = new_pool("details", PARALLEL)
        self._lock = new_lock(Rank.DETAILS)
        self._flights: dict[State, Future[ObjectInfo]] = {}

    def recall(self, entry: Entry) -> ObjectInfo | None:
        """Return what an earlier HEAD said of this state of the object, if there was one."""
        return next(iter(self.recall_many([entry]).values()), None)

    def recall_many(self, entries: Iterable[Entry]) -> dict[State, ObjectInfo]:
        """Return what earlier HEADs said of these states, by `key_of` the entry: one query for all."""
        return self._memory.recall_many(
            key_of(entry) for entry in entries if entry.object is not None and entry.last_modified
        )

    def remember(self, entry: Entry, info: ObjectInfo) -> None:
        """Take note of what an answer said of the entry's object."""
        if entry.last_modified and _stays_true(entry, info):
            self._memory.remember(key_of(entry), info)

    def ask(self, entry: Entry) -> Future[ObjectInfo]:
        """Begin to ask what HEAD says of the entry's object, or join whoever asks already.

        The future raises what the store raises, `NotFound` included, and that as `Ghost` where Swift lists
        the object; a failure is not remembered.
        """
        key = key_of(entry)
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = self._pool.submit(self._head, entry, key)
            return flight

    def side_by_side(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return what `call`, which asks the store, returns for each item; raise what the first raises."""
        return list(self._pool.map(call, items))

    def room(self) -> int:
        """Return how many more HEADs can be under way at once."""
        with self._lock:
            return max(0, PARALLEL - len(self._flights))

    def close(self) -> None:
        """Wait for the HEADs under way, end the threads and close the memory."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._memory.close()

    def _head(self, entry: Entry, key: State) -> ObjectInfo:
        try:
            assert entry.object is not None
            info = self._store.head(entry.object)
        except NotFound:
            if self._is_listed(entry):
                raise Ghost(f"{entry.object} is listed, and Swift does not have it") from None
            raise
        else:
            self.remember(entry, info)
            return info
        finally:
            with self._lock:
                self._flights.pop(key, None)

    def _is_listed(self, entry: Entry) -> bool:
        """Say whether Swift still lists what a listing has shown."""
        name = entry.object
        if name is None or not entry.last_modified:
            return False
        rows = self._store.list_page(name.container, prefix=name.key, limit=1).rows
        return any(row.key == name.key for row in rows)


def _stays_true(entry: Entry, info: ObjectInfo) -> bool:
    """Say whether the answer holds as long as the listing's row stays as it is.

    It does not when the object changed since it was listed. Nor does it for a DLO, which grows with its
    segments, or for one of Swift's own symlinks, whose HEAD is its target's: their rows stay the same.
    """
    if info.dlo_prefix is not None or _essence(info.content_type) != _essence(entry.media_type):
        return False
    return info.version.etag == entry.hash or (info.is_slo and info.size == entry.attributes.size)


def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip()
