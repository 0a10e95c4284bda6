"""HEADs for attributes that listings lack: many in parallel, none twice; their answers go into listings."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from swiftfs.attributes import decode_metadata, parse_last_modified
from swiftfs.concurrency import Future, Rank, new_future, new_lock, new_pool
from swiftfs.errors import Corrupt, Ghost, NotFound, Offline
from swiftfs.namespace.entry import Defaults, Entry, ForeignTimes, with_head
from swiftfs.namespace.head_cache import HeadCache, ObjectState
from swiftfs.namespace.listing import HeadQueue, Listing
from swiftfs.namespace.overlay import RecentChange, RecentStore
from swiftfs.namespace.pending_change import SharedState
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.paths import Folder
from swiftfs.store.protocol import ObjectStore

T = TypeVar("T")
R = TypeVar("R")

Answer = ObjectInfo | NotFound
Listener = Callable[[Answer], None]

PARALLEL = 32
"""Parallel HEADs: enough to hide a latency of 20 to 200 ms, but not too many for the server."""


class _Request(Struct):
    """A running HEAD, and the listeners to call with its answer before another may be sent.

    The answer to one that `is_outdated` may be of before a change by this mount.
    """

    listeners: list[Listener]
    is_outdated: bool = False
    future: Future[ObjectInfo] = field(default_factory=new_future)


def key_of(entry: Entry) -> ObjectState:
    """Return the state of the entry's object; while it is the same, a HEAD's answer is valid."""
    assert entry.object is not None
    return ObjectState(entry.object.container, entry.object.key, entry.hash, entry.last_modified)


class HeadFetcher:
    """Sends HEADs and keeps their answers.

    The lock guards the requests under way. Listeners are called without it: they take the namespace's lock,
    which comes first.
    """

    def __init__(self, store: ObjectStore, cache: HeadCache) -> None:
        self._store = store
        self._cache = cache
        self._pool = new_pool("HEADs", PARALLEL)
        self._lock = new_lock(Rank.HEAD_FETCHES)
        self._requests: dict[ObjectState, _Request] = {}

    def recall(self, entry: Entry) -> ObjectInfo | None:
        """Return the answer of an earlier HEAD of this state of the object, or None."""
        return next(iter(self.recall_many([entry]).values()), None)

    def recall_many(self, entries: Iterable[Entry]) -> dict[ObjectState, ObjectInfo]:
        """Return the answers of earlier HEADs by `key_of` the entries, with one query for all."""
        states = {key_of(one): one for one in entries if one.object is not None and one.last_modified}
        found = self._cache.recall_many(states)
        return {state: info for state, info in found.items() if has_listed_size(states[state], info)}

    def had_times(self, entries: Iterable[Entry]) -> set[ObjectState]:
        """Return the keys (`key_of`) of the entries whose objects had an mtime in an earlier state."""
        older = self._cache.recall_older(map(key_of, entries))
        return {state for state, info in older.items() if decode_metadata(info.metadata).mtime_ns is not None}

    def remember(self, entry: Entry, info: ObjectInfo) -> None:
        """Keep an answer about the entry's object, if it stays valid as long as the listing row."""
        if entry.last_modified and _is_cacheable(entry, info):
            self._cache.remember(key_of(entry), info)

    def forget(self, name: ObjectName) -> None:
        """Drop all answers about an object that this mount has changed.

        The row of before, with which they were kept, is shown by listings that lag.
        """
        with self._lock:
            running = [key for key in self._requests if ObjectName(key.container, key.key) == name]
            for key in running:
                self._requests.pop(key).is_outdated = True
            self._cache.forget(name)

    def ask(self, entry: Entry, listener: Listener | None = None) -> Future[ObjectInfo]:
        """Send a HEAD of the entry's object, or join a running one; return its future.

        The future raises the errors of the store. `NotFound` is raised as `Ghost` if Swift lists the object.
        An error is not kept. Another thread calls `listener` with the answer (`NotFound` is one) before
        another HEAD of the object can be sent: a caller that stores the answer in its listener, and looks for
        a stored answer first, never asks twice.
        """
        key = key_of(entry)
        with self._lock:
            request = self._requests.get(key)
            if request is None:
                request = self._requests[key] = _Request([])
                request.future = self._pool.submit(self._run, request, entry, key)
            # With the lock, so that the answer cannot come before the listener is in the list.
            if listener is not None:
                request.listeners.append(listener)
            return request.future

    def map(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Call `call`, which sends requests, for all items in parallel; raise what the first raises."""
        return list(self._pool.map(call, items))

    def free_slots(self) -> int:
        """Return how many more HEADs can run at once."""
        with self._lock:
            return max(0, PARALLEL - len(self._requests))

    def close(self) -> None:
        """Wait for the running HEADs, end the threads and close the cache."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cache.close()

    def _run(self, request: _Request, entry: Entry, key: ObjectState) -> ObjectInfo:
        try:
            try:
                info = self._head(entry)
            except NotFound as error:
                self._notify(request, key, error)
                raise
            with self._lock:
                if not request.is_outdated:
                    self.remember(entry, info)
            self._notify(request, key, info)
            return info
        finally:
            self._remove(request, key)

    def _notify(self, request: _Request, key: ObjectState, answer: Answer) -> None:
        """Call all listeners, those who join meanwhile too; nobody joins after the last was called."""
        while True:
            with self._lock:
                listeners, request.listeners = request.listeners, []
                if not listeners:
                    if self._requests.get(key) is request:  # not one that was begun since
                        del self._requests[key]
                    return
            # Without the lock, because a listener takes the namespace's, which comes first.
            for listener in listeners:
                listener(answer)

    def _remove(self, request: _Request, key: ObjectState) -> None:
        with self._lock:
            if self._requests.get(key) is request:  # not one that was begun since
                del self._requests[key]

    def _head(self, entry: Entry) -> ObjectInfo:
        assert entry.object is not None
        try:
            info = head_as_listed(self._store, entry)
        except NotFound:
            if self._is_listed(entry):
                raise Ghost(f"{entry.object} is listed, but Swift does not have it") from None
            raise
        return info

    def _is_listed(self, entry: Entry) -> bool:
        """Return whether Swift still lists the object of an entry."""
        name = entry.object
        if name is None or not entry.last_modified:
            return False
        # Another client may have deleted the object since the listing that the entry is from.
        rows = self._store.list_page(name.container, prefix=name.key, limit=1).rows
        return any(row.key == name.key for row in rows)


class OutdatedHeads:
    """A `RecentStore` that also drops the answers about what is stored with new headers.

    A listing that lags shows the row of before, as of an object that has not changed. Not locked: the
    namespace's lock guards it.
    """

    def __init__(self, recent: RecentStore | None, head_fetcher: HeadFetcher) -> None:
        self._recent = recent
        self._head_fetcher = head_fetcher

    def recall(self) -> Mapping[Folder, Iterator[RecentChange]]:
        return self._recent.recall() if self._recent is not None else {}

    def keep(self, folder: Folder, change: RecentChange) -> None:
        # What a rename has moved has none: listings have no row of before.
        if change.entry is not None and change.entry.meta is not None and change.entry.object is not None:
            self._head_fetcher.forget(change.entry.object)
        if self._recent is not None:
            self._recent.keep(folder, change)

    def forget_below(self, folder: Folder) -> None:
        if self._recent is not None:
            self._recent.forget_below(folder)


def head_as_listed(store: ObjectStore, entry: Entry) -> ObjectInfo:
    """Return the answer of a HEAD of the entry's object.

    Raise `Corrupt` if it has another size than the listing shows of the same version, twice.
    """
    assert entry.object is not None
    for _ in range(2):
        info = store.head(entry.object)
        if has_listed_size(entry, info):
            return info
    size = entry.attributes.size
    raise Corrupt(f"head {entry.object}: the answer says {info.size} bytes, and the listing {size}")


def has_listed_size(entry: Entry, info: ObjectInfo) -> bool:
    """Return whether `info` does not contradict the listing's row that the entry is of.

    The row of a plain object has its ETag. That of an SLO has another one, but the time of the same change.
    The rows of a DLO and of a symlink of Swift have a size that is not that of the bytes. A complete entry
    has the size of an earlier HEAD.
    """
    is_of_row = not entry.complete or entry.hinted
    if entry.is_directory or not (is_of_row and entry.hash and entry.last_modified):
        return True
    if info.dlo_prefix is not None or info.is_symlink or info.size == entry.attributes.size:
        return True
    if info.is_slo:
        return parse_last_modified(entry.last_modified) != info.last_modified_ns
    return info.version.etag != entry.hash


def _is_cacheable(entry: Entry, info: ObjectInfo) -> bool:
    """Return whether the answer stays true as long as the listing's row stays the same.

    It does not if the object has changed since it was listed. Nor does it for a DLO or a symlink of Swift:
    their rows stay the same when a segment is added, or the target changes.
    """
    if (
        info.dlo_prefix is not None
        or info.is_symlink
        or (entry.media_type and _media_type(info.content_type) != _media_type(entry.media_type))
    ):
        return False
    # Of an SLO the row's hash is not the ETag, so the size must do.
    return info.version.etag == entry.hash or (info.is_slo and info.size == entry.attributes.size)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip()


class EntryCompleter:
    """Puts the answers of HEADs into listings. The lock of `shared` is the namespace's."""

    def __init__(self, head_fetcher: HeadFetcher, defaults: Defaults, shared: SharedState) -> None:
        self._head_fetcher = head_fetcher
        self._defaults = defaults
        self._lock, _, self._listings = shared

    def recall(self, listings: Mapping[Folder, Listing], head_queue: HeadQueue) -> None:
        """Put the answers of earlier HEADs into new listings, for rows that have not changed since."""
        with self._lock:
            known = {
                where: entry
                for where in head_queue
                if where[0] in listings
                and (entry := listings[where[0]].known(where[1])) is not None
                and not entry.complete  # else a local change overrides the listing
            }
        if not known:
            return
        found = self._remembered(list(known.values()))
        with self._lock:
            for (where, entry), better in zip(known.items(), found, strict=True):
                if better is not None:
                    listings[where[0]].refine(entry, better)
                    head_queue.pop(where, None)

    def _remembered(self, entries: Sequence[Entry]) -> list[Entry | None]:
        """Return each entry as complete as it is without a request; None if it needs a HEAD."""
        infos = self._head_fetcher.recall_many(entries)
        undated: set[ObjectState] = set()
        if self._defaults.times is ForeignTimes.AUTO:
            unknown = [one for one in entries if one.has_listed_time and key_of(one) not in infos]
            undated = set(map(key_of, unknown)) - self._head_fetcher.had_times(unknown)
        found: list[Entry | None] = []
        for entry in entries:
            key = key_of(entry) if entry.object is not None else None
            if key in infos:
                found.append(with_head(entry, infos[key], self._defaults))
            else:
                found.append(replace(entry, complete=True) if key in undated else None)
        return found

    def complete(self, listing: Listing, entry: Entry) -> Entry | None:
        """Return `entry` with a HEAD's answer, None when it is gone; send HEADs for the next entries too."""
        # Of a huge folder the blocks were not completed from memory before.
        if self._defaults.times is ForeignTimes.AUTO and (better := self._remembered([entry])[0]) is not None:
            with self._lock:
                listing.refine(entry, better)
            return better
        wanted = self._ask(listing, entry)
        queued = self._next_queued(listing)
        if self._defaults.times is ForeignTimes.AUTO:
            known = self._remembered([sibling for _, sibling in queued])
            queued = [one for one, better in zip(queued, known, strict=True) if better is None]
        for other, sibling in queued:
            self._ask(other, sibling)
        if isinstance(wanted, Entry):
            return wanted
        try:
            return self._with_answer(entry, wanted.result())
        except NotFound as error:
            return self._with_answer(entry, error)
        except Offline:
            # What the listing shows is true. But an object of 0 bytes may be a DLO, whose size it hides.
            if entry.is_directory or entry.attributes.size:
                return entry
            raise

    def _next_queued(self, listing: Listing) -> list[tuple[Listing, Entry]]:
        with self._lock:
            count = min(self._head_fetcher.free_slots(), len(listing.head_queue))
            # In the order of the listing, in which most programs ask.
            places = [listing.head_queue.popitem(last=False)[0] for _ in range(count)]
            found = [
                (other, other.known(name)) for folder, name in places if (other := self._listings.get(folder))
            ]
        return [(other, entry) for other, entry in found if entry is not None and not entry.complete]

    def _ask(self, listing: Listing, entry: Entry) -> Future[ObjectInfo] | Entry:
        """Send a HEAD for an entry; return the listing's entry instead if that is complete by now."""

        def refine(answer: Answer) -> None:
            better = self._with_answer(entry, answer)
            with self._lock:
                listing.refine(entry, better)

        with self._lock:  # so that no answer arrives between the look and the request
            current = listing.known(entry.name)
            if current is not None and current.complete:
                return current
            return self._head_fetcher.ask(entry, refine)

    def _with_answer(self, entry: Entry, answer: Answer) -> Entry | None:
        if not isinstance(answer, NotFound):
            return with_head(entry, answer, self._defaults)
        if isinstance(answer, Ghost):  # it stays visible, so that it can be deleted
            return replace(entry, complete=True, missing=True)
        # A folder without its marker may still exist by what is in it.
        return replace(entry, object=None, complete=True) if entry.is_directory else None
