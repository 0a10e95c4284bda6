"""What listings do not say: HEADs, many at a time, each paid once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from swiftfs.concurrency import Future, Lock, Rank, new_lock, new_pool
from swiftfs.errors import Ghost, NotFound
from swiftfs.namespace.entry import Defaults, Entry, with_head
from swiftfs.namespace.head_cache import HeadCache, ObjectState
from swiftfs.namespace.listing import HeadQueue, Listing
from swiftfs.namespace.listing_fetcher import Listings
from swiftfs.objects import ObjectInfo
from swiftfs.paths import Folder
from swiftfs.store.protocol import ObjectStore

T = TypeVar("T")
R = TypeVar("R")

Answer = ObjectInfo | NotFound
Listener = Callable[[Answer], None]

PARALLEL = 32
"""HEADs under way at once: at 20 to 200 ms each they hide the link's latency and stay polite."""


@dataclass(slots=True)
class _Request:
    """A HEAD under way, and who is listener of its answer before the next one may be sent."""

    listeners: list[Listener]
    future: Future[ObjectInfo] = field(init=False)


def key_of(entry: Entry) -> ObjectState:
    """Return what a HEAD's answer stays true for."""
    assert entry.object is not None
    return ObjectState(entry.object.container, entry.object.key, entry.hash, entry.last_modified)


class HeadFetcher:
    """Asks the store about single objects and remembers what it said."""

    def __init__(self, store: ObjectStore, cache: HeadCache) -> None:
        self._store = store
        self._cache = cache
        self._pool = new_pool("details", PARALLEL)
        self._lock = new_lock(Rank.DETAILS)
        self._requests: dict[ObjectState, _Request] = {}

    def recall(self, entry: Entry) -> ObjectInfo | None:
        """Return what an earlier HEAD said of this state of the object, if there was one."""
        return next(iter(self.recall_many([entry]).values()), None)

    def recall_many(self, entries: Iterable[Entry]) -> dict[ObjectState, ObjectInfo]:
        """Return what earlier HEADs said of these states, by `key_of` the entry: one query for all."""
        return self._cache.recall_many(
            key_of(entry) for entry in entries if entry.object is not None and entry.last_modified
        )

    def remember(self, entry: Entry, info: ObjectInfo) -> None:
        """Take note of what an answer said of the entry's object."""
        if entry.last_modified and _is_cacheable(entry, info):
            self._cache.remember(key_of(entry), info)

    def ask(self, entry: Entry, listener: Listener | None = None) -> Future[ObjectInfo]:
        """Begin to ask what HEAD says of the entry's object, or join whoever asks already.

        The future raises what the store raises, `NotFound` included, and that as `Ghost` where Swift lists
        the object; a failure is not remembered. `listener` is called with an answer by another thread, before
        anybody can ask again: who takes the answer in there, and looks there first, never asks twice.
        """
        key = key_of(entry)
        with self._lock:
            request = self._requests.get(key)
            if request is None:
                request = self._requests[key] = _Request([])
                request.future = self._pool.submit(self._run, request, entry, key)
            if listener is not None:
                request.listeners.append(listener)
            return request.future

    def map(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return what `call`, which asks the store, returns for each item; raise what the first raises."""
        return list(self._pool.map(call, items))

    def free_slots(self) -> int:
        """Return how many more HEADs can be under way at once."""
        with self._lock:
            return max(0, PARALLEL - len(self._requests))

    def close(self) -> None:
        """Wait for the HEADs under way, end the threads and close the memory."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cache.close()

    def _run(self, request: _Request, entry: Entry, key: ObjectState) -> ObjectInfo:
        try:
            try:
                info = self._head(entry)
            except NotFound as error:
                self._notify(request, key, error)
                raise
            self._notify(request, key, info)
            return info
        finally:
            self._remove(request, key)

    def _notify(self, request: _Request, key: ObjectState, answer: Answer) -> None:
        """Tell all who listen, also those who join meanwhile; nobody joins after the last."""
        while True:
            with self._lock:
                listeners, request.listeners = request.listeners, []
                if not listeners:
                    del self._requests[key]
                    return
            for listener in listeners:
                listener(answer)

    def _remove(self, request: _Request, key: ObjectState) -> None:
        with self._lock:
            if self._requests.get(key) is request:  # not one that was begun since
                del self._requests[key]

    def _head(self, entry: Entry) -> ObjectInfo:
        assert entry.object is not None
        try:
            info = self._store.head(entry.object)
        except NotFound:
            if self._is_listed(entry):
                raise Ghost(f"{entry.object} is listed, and Swift does not have it") from None
            raise
        self.remember(entry, info)
        return info

    def _is_listed(self, entry: Entry) -> bool:
        """Say whether Swift still lists what a listing has shown."""
        name = entry.object
        if name is None or not entry.last_modified:
            return False
        rows = self._store.list_page(name.container, prefix=name.key, limit=1).rows
        return any(row.key == name.key for row in rows)


def _is_cacheable(entry: Entry, info: ObjectInfo) -> bool:
    """Say whether the answer holds as long as the listing's row stays as it is.

    It does not when the object changed since it was listed. Nor does it for a DLO, which grows with its
    segments, or for one of Swift's own symlinks, whose HEAD is its target's: their rows stay the same.
    """
    if info.dlo_prefix is not None or _media_type(info.content_type) != _media_type(entry.media_type):
        return False
    return info.version.etag == entry.hash or (info.is_slo and info.size == entry.attributes.size)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip()


class EntryCompleter:
    """Puts what HEADs say into the listings. `lock` is the namespace's, and guards the listings."""

    def __init__(
        self,
        head_fetcher: HeadFetcher,
        defaults: Defaults,
        lock: Lock,
        listings: Listings,
    ) -> None:
        self._head_fetcher = head_fetcher
        self._defaults = defaults
        self._lock = lock
        self._listings = listings

    def recall(self, listings: Mapping[Folder, Listing], head_queue: HeadQueue) -> None:
        """Add what earlier HEADs said; it is still true where the listing's row is the same."""
        with self._lock:
            known = {
                where: entry
                for where in head_queue
                if where[0] in listings
                and (entry := listings[where[0]].known(where[1])) is not None
                and not entry.complete  # our own change lies over what the listing said
            }
        if not known:
            return
        infos = self._head_fetcher.recall_many(list(known.values()))
        with self._lock:
            for where, entry in known.items():
                if (info := infos.get(key_of(entry))) is not None:
                    listings[where[0]].refine(entry, with_head(entry, info, self._defaults))
                    head_queue.pop(where, None)

    def complete(self, listing: Listing, entry: Entry) -> Entry | None:
        """Return `entry` with what a HEAD says, None when it is gone; begin to ask for those that follow."""
        wanted = self._ask(listing, entry)
        for other, sibling in self._next_queued(listing):
            self._ask(other, sibling)
        if isinstance(wanted, Entry):
            return wanted
        try:
            return self._with_answer(entry, wanted.result())
        except NotFound as error:
            return self._with_answer(entry, error)

    def _next_queued(self, listing: Listing) -> list[tuple[Listing, Entry]]:
        with self._lock:
            count = min(self._head_fetcher.free_slots(), len(listing.head_queue))
            places = [listing.head_queue.popitem(last=False)[0] for _ in range(count)]
            found = [
                (other, other.known(name)) for folder, name in places if (other := self._listings.get(folder))
            ]
        return [(other, entry) for other, entry in found if entry is not None and not entry.complete]

    def _ask(self, listing: Listing, entry: Entry) -> Future[ObjectInfo] | Entry:
        """Begin to ask about an entry; return what the listing knows by now where an answer has come."""

        def refine(answer: Answer) -> None:
            better = self._with_answer(entry, answer)
            with self._lock:
                listing.refine(entry, better)

        with self._lock:  # between this look and the question no answer can be taken in
            current = listing.known(entry.name)
            if current is not None and current.complete:
                return current
            return self._head_fetcher.ask(entry, refine)

    def _with_answer(self, entry: Entry, answer: Answer) -> Entry | None:
        if not isinstance(answer, NotFound):
            return with_head(entry, answer, self._defaults)
        if isinstance(answer, Ghost):  # it must be found, or nobody can delete it
            return replace(entry, complete=True, missing=True)
        return replace(entry, object=None, complete=True) if entry.is_directory else None
