"""Makes cached files, and owns the threads that download and upload for all of them."""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from swiftfs.concurrency import Executor, Future, Rank, new_future, new_lock, new_pool
from swiftfs.filecache.block_map import BaseVersion, BlockMap, FileRecord
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.file_state import FileSource, FileState, WrongBytesCall, ignore_wrong_bytes
from swiftfs.filecache.memory_reader import AHEAD
from swiftfs.filecache.read_ahead import Link, Streams
from swiftfs.filecache.segment_container import AUTO, SegmentContainerChooser
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.space import UNLIMITED, Space
from swiftfs.filecache.sparse_file import CachedVersion, MemoryFile
from swiftfs.filecache.upload_record import SharedUploads, UnreferencedPrefix, write_no_row
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.server_state import FIRST_SEGMENTS, MOST, ParallelLimit


class UploadPool(Executor):
    """Runs calls in their order, at most `most` at once, and no more than `limit` allows now.

    `most` may be changed: it counts from the next upload that begins or ends.
    `_waiting` are those that have not begun, with their futures, which can still be cancelled.
    """

    def __init__(self, limit: ParallelLimit, most: int) -> None:
        self._limit = limit
        self.most = most
        self._threads = new_pool("upload", MOST)  # a thread is only made when it is needed
        self._lock = new_lock(Rank.UPLOADS)
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = new_future()
        with self._lock:
            self._waiting.append((future, partial(call, *args, **options)))
            self._begin()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Return when the calls that run have ended; the others are cancelled, whatever is asked for."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            future.cancel()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)

    def _begin(self) -> None:
        """Begin as many calls as may run. Lock held."""
        while self._waiting and self._running < min(self._limit.now, self.most):
            self._running += 1
            self._threads.submit(self._work, *self._waiting.popleft())

    def _work(self, future: Future[Any], call: Callable[[], Any]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                _fulfil(future, call)
        finally:
            with self._lock:
                self._running -= 1
                self._begin()


def _fulfil(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001  whoever waits raises it
        future.set_exception(error)
    else:
        future.set_result(result)


class CachedFileFactory:
    """Makes cached files, which share `connections` threads for downloads and for uploads of segments.

    At most `uploads` segments are uploaded at once, and no more than `limit` allows.

    `segments` says which container the segments go to; see `SegmentContainerChooser`. For `on_first_put`,
    `on_put` and `journal` see `SharedUploads`, for `on_wrong_bytes` `FileState`. `recalled` has what an
    earlier process recorded of its uploads, by their prefix. A full segment of a file that is being written
    is uploaded `settle_seconds` after its writer has left it. `read_ahead` and `settle_seconds` may be
    changed: files that are made later get the new value. `rate` returns how many bytes a second may be
    downloaded.
    """

    def __init__(
        self,
        store: ObjectStore,
        layout: SegmentLayout,
        on_first_put: Callable[[UnreferencedPrefix], None],
        *,
        connections: int,
        uploads: int,
        read_ahead: int,
        segments: str = AUTO,
        settle_seconds: float = 0.0,
        journal: str = "",
        on_put: Callable[[UnreferencedPrefix], None] = write_no_row,
        on_wrong_bytes: WrongBytesCall = ignore_wrong_bytes,
        limit: ParallelLimit | None = None,
        rate: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._link = Link(rate)
        self.read_ahead = read_ahead
        self._store = store
        self._layout = layout
        self.settle_seconds = settle_seconds
        self._on_wrong_bytes = on_wrong_bytes
        self.places = SegmentContainerChooser(store, segments)
        self.recalled: dict[ObjectName, UnreferencedPrefix] = {}
        self._downloads = new_pool("download", connections)
        self._uploads = UploadPool(limit or ParallelLimit(uploads), uploads)
        self._shared = SharedUploads(store, self.places, self._uploads, layout, on_first_put, on_put, journal)

    def make(
        self,
        folder: Path,
        name: ObjectName,
        base: BaseVersion | None,
        cached: CachedVersion | None,
        space: Space = UNLIMITED,
    ) -> CachedFile:
        """Return a new cached file, which is to be stored as `name`; `cached` has blocks of `base`."""
        state = FileState.create(folder, base, cached, space, self._on_wrong_bytes)
        return self._compose(state, self._segments(state, name, None))

    def restore(
        self, folder: Path, name: ObjectName, record: FileRecord, space: Space = UNLIMITED
    ) -> CachedFile:
        """Return the file of a record; raise `OSError` when its local file has been changed or is gone."""
        state = FileState.restore(folder, record, space, self._on_wrong_bytes)
        uploads = self._segments(state, name, record.prefix)
        uploads.restore(record.evicted)
        if record.prefix is not None and (recalled := self.recalled.get(record.prefix)) is not None:
            uploads.record.recall(recalled)
        return self._compose(state, uploads)

    def space_needed(self, size: int) -> int:
        """Return how many bytes of disk the writer of a file of `size` bytes needs.

        A segment is uploaded when it is whole, while the next ones are written.
        """
        start, end = self._layout.bounds(self._layout.index(max(size - 1, 0)))
        return max(
            (min(self._uploads.most, FIRST_SEGMENTS) + 1) * self._layout.segment_size, 2 * (end - start)
        )

    def set_uploads(self, uploads: int) -> None:
        """Change how many segments are uploaded at once at most."""
        self._uploads.most = uploads

    def close(self) -> None:
        """End the threads when the requests under way have ended; cancel the uploads that have not begun."""
        self._uploads.shutdown(cancel_futures=True)
        self._downloads.shutdown()

    def _compose(self, state: FileState, uploads: SegmentUploader) -> CachedFile:
        return CachedFile(state, self._source(self.read_ahead), uploads, self._make_in_memory)

    def _make_in_memory(self, of: FileState, base: BaseVersion) -> CachedFile:
        """Return a file of the version `base` that takes no disk, to read the file `of`."""
        state = FileState(
            MemoryFile(of.file),
            BlockMap(base),
            UNLIMITED,
            is_certain=bool(base.etag),
            on_wrong_bytes=self._on_wrong_bytes,
        )
        state.extend(base.size)
        source = self._source(AHEAD if self.read_ahead else 0)
        return CachedFile(state, source, self._segments(state, base.name, None), self._make_in_memory)

    def _source(self, read_ahead: int) -> FileSource:
        return FileSource(self._store, self._downloads, Streams(read_ahead, self._link))

    def _segments(self, state: FileState, name: ObjectName, prefix: ObjectName | None) -> SegmentUploader:
        return SegmentUploader(
            self._shared,
            state.descriptor,
            state.changed,
            name,
            prefix,
            file=state.file.name,
            settle_seconds=self.settle_seconds,
            on_stored=state.space.progress,
        )
