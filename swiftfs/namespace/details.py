"""What listings do not say: HEADs, many at a time, each paid once."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from cachetools import LRUCache

from swiftfs.model import ObjectInfo
from swiftfs.namespace.entry import Entry
from swiftfs.store.protocol import ObjectStore

PARALLEL = 32
"""HEADs under way at once: at 20 to 200 ms each they hide the link's latency and stay polite."""

_REMEMBERED = 200_000

Key = tuple[str, str, str, str]


def key_of(entry: Entry) -> Key:
    """Return what a HEAD's answer stays true for: every PUT and POST changes the row's `last_modified`."""
    assert entry.object is not None
    return entry.object.container, entry.object.key, entry.hash, entry.last_modified


class Details:
    """Asks the store about single objects and remembers what it said."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="details")
        self._lock = threading.Lock()
        self._remembered: LRUCache[Key, ObjectInfo] = LRUCache(_REMEMBERED)
        self._flights: dict[Key, Future[ObjectInfo]] = {}

    def recall(self, entry: Entry) -> ObjectInfo | None:
        """Return what an earlier HEAD said of this state of the object, if there was one."""
        if entry.object is None or not entry.last_modified:
            return None
        with self._lock:
            return self._remembered.get(key_of(entry))

    def ask(self, entry: Entry) -> Future[ObjectInfo]:
        """Begin to ask what HEAD says of the entry's object, or join whoever asks already.

        The future raises what the store raises, `NotFound` included; a failure is not remembered.
        """
        key = key_of(entry)
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = self._pool.submit(self._head, entry, key)
            return flight

    def room(self) -> int:
        """Return how many more HEADs can be under way at once."""
        with self._lock:
            return max(0, PARALLEL - len(self._flights))

    def close(self) -> None:
        """Wait for the HEADs under way and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _head(self, entry: Entry, key: Key) -> ObjectInfo:
        try:
            assert entry.object is not None
            info = self._store.head(entry.object)
            with self._lock:
                if entry.last_modified:
                    self._remembered[key] = info
            return info
        finally:
            with self._lock:
                self._flights.pop(key, None)
