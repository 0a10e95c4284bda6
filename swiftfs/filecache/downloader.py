"""Downloads the blocks that a local file lacks: of its base version, or of its own segments.

Blocks that are present are right; others are downloaded before a read is answered. Every request names the
version, and raises `PreconditionFailed` when that version is gone.
"""

import logging
from collections.abc import Collection
from functools import partial

from swiftfs.concurrency import Executor
from swiftfs.errors import Corrupt, NotFound, PreconditionFailed, SwiftfsError, is_disk_full
from swiftfs.filecache.block_map import BLOCK, BaseVersion, StoredSegment, block_range
from swiftfs.filecache.file_state import Activity, Download, FileSource, FileState, GivenUp
from swiftfs.filecache.read_ahead import Stream
from swiftfs.filecache.sparse_file import md5_of, write_all
from swiftfs.filecache.verifier import BaseResolver, Verifier
from swiftfs.objects import ObjectInfo
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.throttle import busy_time

log = logging.getLogger(__name__)

QUEUE_SECONDS = 0.25
"""For so long a reader waits for a thread of the pool before it downloads a piece itself."""


class SegmentFetcher:
    """Downloads evicted blocks of one file from its own segments."""

    def __init__(self, state: FileState, store: ObjectStore) -> None:
        self._state = state
        self._store = store

    def fetch_back(self, source: StoredSegment, first: int, last: int) -> None:
        """Download evicted blocks from their segment; leave those that are not evicted any more."""
        if self._state.closed:
            return
        self._get(source, first, last)
        self._verify(source, first, last)
        blocks = self._state.blocks
        with self._state.changed:
            for run in list(blocks.remote.blocks.runs(first, last)):
                blocks.present.add(*run)
            blocks.remote.discard(first, last)

    def _get(self, source: StoredSegment, first: int, last: int, *, again: bool = False) -> None:
        """Fill evicted blocks from their segment; with `again` also those that were fetched back before."""
        offset, length = first * BLOCK, min(last * BLOCK, source.end) - first * BLOCK
        segment = source.segment
        # A manifest may name a range of the segment: the segment's own offsets differ from those of the file.
        behind = source.start - segment.first

        def store_bytes(start: int, data: bytes) -> None:
            stop = start + len(data)
            with self._state.changed:
                blocks = block_range(start, stop)
                remote = self._state.blocks.remote.blocks
                # Only into blocks that are still evicted: others may have been written to since.
                for one, other in [blocks] if again else list(remote.runs(*blocks)):
                    begin, end = max(start, one * BLOCK), min(stop, other * BLOCK)
                    piece = memoryview(data)[begin - start : end - start]
                    write_all(self._state.descriptor, piece, begin)

        def sink(offset: int, data: bytes) -> None:
            self._state.space.with_room(len(data), partial(store_bytes, offset + behind, data))

        self._state.space.grow(length)
        try:
            self._store.get(segment.name, sink, offset=offset - behind, length=length, etag=segment.etag)
        except NotFound:
            raise PreconditionFailed(
                f"{segment.name}: the segment was deleted before a manifest named it"
            ) from None

    def _verify(self, source: StoredSegment, first: int, last: int) -> None:
        """Check the MD5 of a segment when the last of its blocks is back, before any writer changes it.

        Wrong bytes are downloaded once more.
        """
        state, segment = self._state, source.segment
        with state.changed:
            left = state.blocks.remote.blocks.copy()
            left.discard(first, last)
            # The ETag is the MD5 of the whole segment only, and that of a nested SLO is not an MD5 of bytes.
            if left.touches(*source.blocks) or segment.nested or segment.length is not None:
                return
        for is_last in (False, True):
            digest = md5_of(state.descriptor, source.start, source.end, lambda: state.closed)
            if digest == segment.etag or state.closed:
                if is_last:
                    state.found_wrong_bytes()
                return
            message = f"{segment.name}: the downloaded bytes have the MD5 {digest} instead of {segment.etag}"
            if is_last:
                raise Corrupt(message)
            log.info("%s; they are downloaded again", message)
            self._get(source, *source.blocks, again=True)


class Downloader:
    """Downloads the blocks of one file; `fetches` are the downloads that have not ended."""

    def __init__(
        self, state: FileState, source: FileSource, resolver: BaseResolver, activity: Activity
    ) -> None:
        self._state = state
        self._store = source.store
        self._pool = source.pool
        self._streams = source.streams
        self._resolver = resolver
        self._verifier = Verifier(state, source, resolver, activity)
        self._segments = SegmentFetcher(state, source.store)
        self._activity = activity
        self.fetches = activity.fetches

    def ensure(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`, or wait for those who do."""
        # One run of missing blocks at a time, since others may fetch the next one meanwhile.
        while (fetch := self._claim(offset, end)) is not None:
            self.run(fetch)

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
            is_coming = all(self.fetches.covers(*run) for run in missing)
            # Without looking at the handle: several handles may read one stream, and one handle several.
            stream, left = self._streams.join(offset, is_coming=is_coming)
            # Whoever waits for a cancelled download must look again, and fetch the bytes itself.
            if left:
                self.fetches.cancel(left)
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
            for run in [free for one in missing for free in self.fetches.free(*one)]:
                self._pool.submit(self._run_queued, self._add(*run, queued=True, ahead=stream))

    def begin(self, pool: Executor) -> None:
        """Begin to download, in a thread of `pool`, what is missing, unless a download is under way."""
        with self._state.changed:
            run = self._state.blocks.first_missing(0, self._state.blocks.size)
            if run is not None and not self.fetches:
                pool.submit(self._run_queued, self._add(*run, queued=True))

    def run(self, fetch: Download) -> None:
        """Carry out a download; raise its error."""
        self._run(fetch)
        if fetch.error is not None:
            raise fetch.error

    def wait_for(self, under_way: Collection[Download], block: int) -> Download | None:
        """Wait until blocks change, above all `block`; raise the error of any of the downloads. Lock held.

        Return a download that the caller is to run: it had to wait for a thread for `QUEUE_SECONDS`.
        """
        for fetch in under_way:
            fetch.waiting.append(block)
        try:
            # Any change wakes it, not only the end of a download: blocks count as they arrive.
            limit = QUEUE_SECONDS if any(fetch.queued for fetch in under_way) else None
            is_changed = self._state.changed.wait(limit)
        finally:
            for fetch in under_way:
                fetch.waiting.remove(block)
        for fetch in under_way:
            if fetch.error is not None:
                raise fetch.error
        # All threads of the pool may be held up by downloads that stall.
        queued = None if is_changed else next((one for one in under_way if one.queued), None)
        return queued if queued is not None and self.fetches.begin(queued) else None

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
                under_way = self.fetches.touching(*run)
                if not under_way:
                    return self._add(*run)
                if queued := self.wait_for(under_way, run[0]):
                    return queued
        return None

    def _add(self, first: int, last: int, *, queued: bool = False, ahead: Stream | None = None) -> Download:
        source = self._state.blocks.remote.source(first)
        return self.fetches.add(Download(first, last, self._execute, source, queued=queued, ahead=ahead))

    def _run_queued(self, fetch: Download) -> None:
        with self._state.changed:
            if not self.fetches.begin(fetch):
                return
        self._run(fetch)

    def _run(self, fetch: Download) -> None:
        base, began, took = self._state.blocks.base, busy_time(), None
        try:
            # Without the lock, in the thread of the caller or of the pool.
            fetch.execute(fetch)
            # Without what a `bwlimit` took: to read further ahead does not make it faster, and wastes more.
            took = busy_time() - began
        except GivenUp:
            pass
        except BaseException as error:  # noqa: BLE001  whoever waits raises it
            fetch.error = self._failure_of(fetch, base, error)
        finally:
            with self._state.changed:
                # Before the waiters are woken: they must find no download of their blocks, or the error in
                # it.
                self.fetches.end(fetch)
                if took is not None:
                    self._streams.link.came(took)
                self._state.changed.notify_all()
            self._activity.ended()

    def _failure_of(
        self, fetch: Download, base: BaseVersion | None, error: BaseException
    ) -> BaseException | None:
        """Return why a download from `base` failed; None if whoever waits for it should look again.

        Another version may be the base version now. What was downloaded in advance may not fit on the disk,
        and what is read now still fit.
        """
        if fetch.in_advance and is_disk_full(error):
            return None
        if not isinstance(error, PreconditionFailed) or base is None:
            return error
        blocks = self._state.blocks
        if not blocks.is_from(base):
            return None  # our own upload or rename has replaced the version
        try:
            # A segment of our own has no other version.
            is_other = fetch.source is None and (
                self._resolver.ask(base) or self._resolver.follow_upload(base)
            )
        except SwiftfsError as failure:
            return failure
        # The answer to our upload may have come while the server was asked.
        return None if is_other or not blocks.is_from(base) else error

    def _execute(self, fetch: Download) -> None:
        if fetch.source is None:
            self._download(fetch)
        else:
            self._segments.fetch_back(fetch.source, fetch.first, fetch.last)

    def _download(self, fetch: Download) -> None:
        state = self._state
        base = state.blocks.base
        if base is None or state.closed:
            return
        offset = fetch.first * BLOCK
        # `base.size` is less than the object's after a truncation: what was cut off must not come back.
        length = min(fetch.last * BLOCK, base.size) - offset
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
            fetch.refuse_unwanted()
            if state.closed:  # its last user has ended, and the end of a mount waits for this
                raise GivenUp
            if not state.is_certain:
                with state.changed:
                    state.is_certain = True
            write = partial(self._store_bytes, fetch, offset, data, present=as_they_come)
            state.space.with_room(len(data), write, is_ahead=fetch.in_advance)

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
            state.blocks.present.add(fetch.first, fetch.last)
            self._resolver.learn(info)
            self._verifier.arrived(info, fetch.first, fetch.last, whole=whole)

    def _store_bytes(self, fetch: Download, offset: int, data: bytes, *, present: bool) -> None:
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
                if fetch.is_awaited(offset // BLOCK, last):
                    state.changed.notify_all()


def _refuse_other(info: ObjectInfo, base: BaseVersion) -> None:
    """Raise `PreconditionFailed` if an answer is of another version than the base."""
    if info.size != base.object_size or (base.etag and info.version.etag != base.etag):
        raise PreconditionFailed(f"{base.name}: the object changed while it was read")
