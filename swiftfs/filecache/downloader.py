"""Downloads the blocks that a local file lacks: of its base version, or of its own segments.

Blocks that are present are right; others are downloaded before a read is answered. Every request names the
version, and raises `PreconditionFailed` when that version is gone.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from functools import partial

from swiftfs.concurrency import Executor
from swiftfs.errors import Corrupt, NotFound, PreconditionFailed, SwiftfsError, is_disk_full
from swiftfs.filecache.block_map import BLOCK, BaseVersion, StoredSegment, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.eviction import SegmentFetcher
from swiftfs.filecache.file_state import FileSource, FileState
from swiftfs.filecache.read_ahead import Stream
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import write_all
from swiftfs.filecache.verifier import BaseResolver, Verifier
from swiftfs.objects import ObjectInfo
from swiftfs.store.throttle import busy_time

log = logging.getLogger(__name__)

QUEUE_SECONDS = 0.25
"""For so long a reader waits for a thread of the pool before it downloads a piece itself."""


class Unwanted(Exception):
    """Nobody wants the bytes of a download any more."""


class Download:
    """A download of the blocks from `first` to one before `last`; `error` is raised in all who wait for them.

    A `queued` download has not begun and may be cancelled; it was begun `in_advance`. One that runs `ahead`
    of a stream may be stopped while nobody is `waiting` for one of its blocks; it is `unwanted` then.
    `execute` carries it out. All blocks come from one `source`: a segment of the file's own, or the base
    version if it is None.
    """

    def __init__(
        self,
        first: int,
        last: int,
        execute: "Callable[[Download], None]",
        source: StoredSegment | None = None,
        *,
        queued: bool = False,
        ahead: Stream | None = None,
    ) -> None:
        self.first = first
        self.last = last
        self.execute = execute
        self.source = source
        self.queued = self.in_advance = queued
        self.ahead = ahead
        self.waiting: list[int] = []
        self.unwanted = False
        self.error: BaseException | None = None

    def is_awaited(self, first: int, last: int) -> bool:
        """Return whether anybody waits for a block of the range."""
        return any(first <= block < last for block in self.waiting)

    def refuse_unwanted(self) -> None:
        """Raise `Unwanted` if nobody wants the bytes any more."""
        if self.unwanted:
            raise Unwanted


class Downloads:
    """The downloads of one file that have not ended. Guarded by the file's lock."""

    def __init__(self) -> None:
        self._under_way: list[Download] = []

    def add(self, download: Download) -> Download:
        """Record a new download and return it."""
        self._under_way.append(download)
        return download

    def begin(self, download: Download) -> bool:
        """Record that a queued download begins; return False if it was cancelled, or has begun."""
        # Neither can take it out of the pool, where it waits for a thread.
        is_wanted = download.queued and download in self._under_way
        download.queued = False
        return is_wanted

    def end(self, download: Download) -> None:
        """Record that a download has ended."""
        self._under_way.remove(download)

    def cancel(self, streams: Collection[Stream] | None = None) -> None:
        """Cancel the downloads that have not begun, and stop those that run ahead and nobody waits for.

        With `streams` only those that run ahead of them.
        """
        left = [
            download
            for download in self._under_way
            if streams is None or any(download.ahead is stream for stream in streams)
        ]
        self._under_way = [
            download for download in self._under_way if not (download.queued and download in left)
        ]
        for download in left:
            download.unwanted = download.unwanted or (download.ahead is not None and not download.waiting)

    def free(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that nobody downloads."""
        taken = Blocks()
        for download in self.touching(first, last):
            taken.add(download.first, download.last)
        return taken.missing(first, last)

    def covers(self, first: int, last: int) -> bool:
        """Return whether every block of the range is being downloaded."""
        return not any(True for _ in self.free(first, last))

    def touching(self, first: int, last: int) -> list[Download]:
        """Return the downloads that have a block of the range."""
        return [
            download
            for download in self._under_way
            # An unwanted one still runs, but gives up at its next bytes: whoever needs them begins another.
            if download.first < last and first < download.last and not download.unwanted
        ]

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of blocks that are being downloaded."""
        return [(download.first, download.last) for download in self._under_way]

    def __bool__(self) -> bool:
        return bool(self._under_way)


class Activity:
    """The running downloads, checks and uploads of one file, and who waits for their end.

    Each part calls `ended` after each of its steps, without the lock. The parts know this object, and it
    knows none of them but the uploads: a cycle of references would keep a closed file in memory.
    """

    def __init__(self, state: FileState, uploads: SegmentUploader) -> None:
        self._state = state
        self._uploads = uploads
        self._idle: Callable[[], None] | None = None
        self.downloads = Downloads()

    def is_idle(self) -> bool:
        """Return whether nothing is under way. Lock held."""
        return not (self.downloads or self._state.checks.running or self._uploads.is_busy)

    def ended(self) -> None:
        """Wake those who wait; call `idle` of `when_idle` if nothing is under way any more."""
        with self._state.changed:
            self._state.changed.notify_all()
            # Taken with the lock, so that one thread of several that end at once calls it.
            idle = self._idle if self.is_idle() else None
            if idle is not None:
                self._idle = None
        # Without the lock: it takes that of the cache.
        if idle is not None:
            idle()

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Cancel the downloads and uploads that nobody needs; call `idle` when the others have ended.

        It is called in any thread, and at once when nothing is under way.
        """
        with self._state.changed:
            is_idle = self.is_idle()
            self._idle = None if is_idle else idle
        if is_idle:  # mostly, such as a file that was just stored
            idle()
            return
        self.cancel_queued()
        self.ended()

    def cancel_queued(self) -> None:
        """Cancel what nobody needs and has not begun; uploads that continue will call `ended`."""
        with self._state.changed:
            self.downloads.cancel()
        for upload in self._uploads.cancel_queued():
            upload.stored.add_done_callback(lambda _: self.ended())


class Downloader:
    """Downloads the blocks of one file; `downloads` are the downloads that have not ended."""

    def __init__(
        self, state: FileState, source: FileSource, resolver: BaseResolver, activity: Activity
    ) -> None:
        self._state = state
        self._store = source.store
        self._pool = source.pool
        self._streams = source.streams
        self._resolver = resolver
        self._verifier = Verifier(state, source, resolver, activity.ended)
        self._segments = SegmentFetcher(state, source.store)
        self._activity = activity
        self.downloads = activity.downloads

    def ensure(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`, or wait for those who do."""
        # One run of missing blocks at a time, since others may fetch the next one meanwhile.
        while (download := self._claim(offset, end)) is not None:
            self.run(download)

    def ensure_read(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes that are read; begin to download what comes next.

        What is here is not evicted: the caller has seen to that.
        """
        state = self._state
        blocks = state.blocks
        with state.changed:
            # Of a file that is here no reader needs a plan.
            if blocks.is_complete or state.closed:
                return
            missing = list(blocks.missing(*block_range(offset, end)))
            is_coming = all(self.downloads.covers(*run) for run in missing)
            # Without looking at the handle: several handles may read one stream, and one handle several.
            stream, left = self._streams.join(offset, is_coming=is_coming)
            # Whoever waits for a cancelled download must look again, and fetch the bytes itself.
            if left:
                self.downloads.cancel(left)
                state.changed.notify_all()
            if stream is not None:
                self._plan(stream, offset, end)
            elif not missing:
                return
        try:
            if missing:
                self.ensure(offset, end)
        finally:
            if stream is not None:
                with state.changed:
                    self._streams.ended(stream)

    def set_read_ahead(self, limit: int) -> None:
        """Change how many bytes are downloaded ahead at most."""
        with self._state.changed:
            self._streams.set_limit(limit)

    def _plan(self, stream: Stream, offset: int, end: int) -> None:
        """Begin to download what will be read after this. Lock held."""
        blocks = self._state.blocks
        for start, stop in self._streams.plan(stream, offset, end, blocks.size):
            missing = list(blocks.missing(*block_range(start, stop)))
            # A list: `free` and `missing` must not see what the loop adds.
            for run in [free for one in missing for free in self.downloads.free(*one)]:
                self._pool.submit(self._run_queued, self._add(*run, queued=True, ahead=stream))

    def begin(self, pool: Executor) -> None:
        """Begin to download, in a thread of `pool`, what is missing, unless a download is under way."""
        with self._state.changed:
            run = self._state.blocks.first_missing(0, self._state.blocks.size)
            if run is not None and not self.downloads:
                pool.submit(self._run_queued, self._add(*run, queued=True))

    def run(self, download: Download) -> None:
        """Carry out a download; raise its error."""
        self._run(download)
        if download.error is not None:
            raise download.error

    def wait_for(self, under_way: Collection[Download], block: int) -> Download | None:
        """Wait until blocks change, above all `block`; raise the error of any of the downloads. Lock held.

        Return a download that the caller is to run: it had to wait for a thread for `QUEUE_SECONDS`.
        """
        for download in under_way:
            download.waiting.append(block)
        try:
            # Any change wakes it, not only the end of a download: blocks count as they arrive.
            limit = QUEUE_SECONDS if any(download.queued for download in under_way) else None
            is_changed = self._state.changed.wait(limit)
        finally:
            for download in under_way:
                download.waiting.remove(block)
        for download in under_way:
            if download.error is not None:
                raise download.error
        # All threads of the pool may be held up by downloads that stall.
        queued = None if is_changed else next((one for one in under_way if one.queued), None)
        return queued if queued is not None and self.downloads.begin(queued) else None

    def _claim(self, offset: int, end: int) -> Download | None:
        """Return a download for the caller to run, None when all is present; wait for those under way.

        Of a file that is closed nobody reads anything any more.
        """
        state = self._state
        with state.changed:
            while not state.closed and (run := state.blocks.first_missing(offset, end)) is not None:
                # The MD5 of these bytes was wrong twice: another download would not help.
                if failure := state.checks.failure(*run):
                    raise Corrupt(failure)
                under_way = self.downloads.touching(*run)
                if not under_way:
                    return self._add(*run)
                if queued := self.wait_for(under_way, run[0]):
                    return queued
        return None

    def _add(self, first: int, last: int, *, queued: bool = False, ahead: Stream | None = None) -> Download:
        source = self._state.blocks.remote.source(first)
        return self.downloads.add(Download(first, last, self._execute, source, queued=queued, ahead=ahead))

    def _run_queued(self, download: Download) -> None:
        with self._state.changed:
            if not self.downloads.begin(download):
                return
        self._run(download)

    def _run(self, download: Download) -> None:
        base, began, took = self._state.blocks.base, busy_time(), None
        try:
            # Without the lock, in the thread of the caller or of the pool.
            download.execute(download)
            # Without what a `bwlimit` took: to read further ahead does not make it faster, and wastes more.
            took = busy_time() - began
        except Unwanted:
            pass
        except BaseException as error:  # noqa: BLE001  whoever waits raises it
            download.error = self._failure_of(download, base, error)
        finally:
            with self._state.changed:
                # Before the waiters are woken: they must find no download of their blocks, or the error in
                # it.
                self.downloads.end(download)
                if took is not None:
                    self._streams.link.came(took)
                self._state.changed.notify_all()
            self._activity.ended()

    def _failure_of(
        self, download: Download, base: BaseVersion | None, error: BaseException
    ) -> BaseException | None:
        """Return why a download from `base` failed; None if whoever waits for it should look again.

        Another version may be the base version now. What was downloaded in advance may not fit on the disk,
        and what is read now still fit.
        """
        if download.in_advance and is_disk_full(error):
            return None
        if not isinstance(error, PreconditionFailed) or base is None:
            return error
        blocks = self._state.blocks
        if not blocks.is_from(base):
            return None  # our own upload or rename has replaced the version
        try:
            # A segment of our own has no other version.
            is_other = download.source is None and (
                self._resolver.ask(base) or self._resolver.follow_upload(base)
            )
        except SwiftfsError as failure:
            return failure
        # The answer to our upload may have come while the server was asked.
        return None if is_other or not blocks.is_from(base) else error

    def _execute(self, download: Download) -> None:
        if download.source is None:
            self._download(download)
        else:
            self._segments.fetch_back(download.source, download.first, download.last)

    def _download(self, download: Download) -> None:
        state = self._state
        base = state.blocks.base
        if base is None or state.closed:
            return
        offset = download.first * BLOCK
        # `base.size` is less than the object's after a truncation: what was cut off must not come back.
        length = min(download.last * BLOCK, base.size) - offset
        if length <= 0:
            return
        state.space.grow(length)
        whole = offset == 0 and length == base.object_size
        # Bytes of a known version may be read as they come; those of a whole object are verified first.
        as_they_come = bool(base.etag) and not whole
        start, began = offset, busy_time()

        def arrived(offset: int, data: bytes) -> None:
            if offset == start:
                self._streams.link.answered(busy_time() - began)
            # In the sink, which is the only place where a running request can be given up.
            download.refuse_unwanted()
            if state.closed:  # its last user has ended, and the end of a mount waits for this
                raise Unwanted
            if not state.is_certain:
                with state.changed:
                    state.is_certain = True
            write = partial(self._store_bytes, download, offset, data, present=as_they_come)
            state.space.with_room(len(data), write, is_ahead=download.in_advance)

        try:
            info = self._store.get(
                base.name,
                arrived,
                offset=offset,
                length=None if whole else length,
                etag=base.etag,
                size=base.object_size,
            )
        except NotFound:
            raise PreconditionFailed(f"{base.name}: the object was deleted while it was read") from None
        _refuse_other(info, base)
        with state.changed:
            state.blocks.present.add(download.first, download.last)
            self._resolver.learn(info)
            self._verifier.arrived(info, download.first, download.last, whole=whole)

    def _store_bytes(self, download: Download, offset: int, data: bytes, *, present: bool) -> None:
        """Write downloaded bytes to the blocks that are not present; with `present` make these present."""
        state = self._state
        blocks = state.blocks
        with state.changed:
            if blocks.base is None:
                return
            end = min(offset + len(data), blocks.base.size)
            # A block that is present by now may have been written to: the downloaded bytes are the older
            # ones.
            for first, last in list(blocks.present.missing(*block_range(offset, end))):
                start, stop = max(offset, first * BLOCK), min(end, last * BLOCK)
                write_all(state.descriptor, memoryview(data)[start - offset : stop - offset], start)
                blocks.verified.discard(first, last)
            if present:
                # The last block of a chunk is complete with the next chunk, or at the end of the object.
                last = end // BLOCK if end < blocks.base.size else -(-end // BLOCK)
                # The first block is complete: a download begins at a block, and its chunks come in order.
                blocks.present.add(offset // BLOCK, last)
                # Not those who wait for other blocks: there may be one for each connection.
                if download.is_awaited(offset // BLOCK, last):
                    state.changed.notify_all()


def _refuse_other(info: ObjectInfo, base: BaseVersion) -> None:
    """Raise `PreconditionFailed` if an answer is of another version than the base."""
    if info.size != base.object_size or (base.etag and info.version.etag != base.etag):
        raise PreconditionFailed(f"{base.name}: the object changed while it was read")
