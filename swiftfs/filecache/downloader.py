"""A local file that fills itself from one version of an object.

What is `present` in it is right; the rest is fetched before it is answered. Every fetch names the version,
and a version that is gone is `PreconditionFailed`.
"""

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import chain
from math import inf
from pathlib import Path

from swiftfs.attributes import decode_type
from swiftfs.concurrency import Executor, Rank, monotonic, new_condition
from swiftfs.errors import Corrupt, NotFound, PreconditionFailed, SwiftfsError
from swiftfs.filecache.block_map import BLOCK, BaseVersion, BlockMap, Blocks, StoredSegment, block_range
from swiftfs.filecache.downloads import Download, Downloads, GivenUp
from swiftfs.filecache.read_ahead import ReadAhead, Streams
from swiftfs.filecache.sparse_file import CachedVersion, SparseFile, md5_of, punch_hole
from swiftfs.filecache.verifier import ChecksumRange, Verifier, is_md5
from swiftfs.objects import ObjectInfo
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

MUCH = 4 * 1024 * 1024
"""Bytes of an SLO after which its segments are asked for: whoever reads so much reads on."""


def _ignore(_size: int) -> None:
    """Let a file grow as it likes."""


class FilledFile:
    """A local file, the version that fills it, and the map of what is in it.

    INVARIANT: no block is given back to the disk that an answer to the kernel still points to.
    The lock guards every field and each change of the local file; it is not held across the network.

    With `_certain` the origin's ETag has been in an answer of Swift, or nothing else can take its place; else
    only a listing has told it, and one thread may be `_asking`.
    `on_growth` is called with the number of bytes that are about to be added, while the lock is not held.
    `last_get_info` is what the last download said of the object.
    """

    def __init__(
        self,
        store: ObjectStore,
        pool: Executor,
        directory: Path,
        origin: BaseVersion | None,
        read_ahead: int,
        kept: CachedVersion | None = None,
    ) -> None:
        self._store = store
        self._pool = pool
        self._file = kept.file if kept else SparseFile.create(directory)
        self.descriptor = self._file.descriptor
        self._blocks = BlockMap(
            origin, kept.present if kept else None, verified=kept is not None and kept.checked
        )
        self._fetches = Downloads()
        self._changed = new_condition(Rank.CONTENT)
        self._streams = Streams(read_ahead)
        self._answers: dict[int, tuple[int, int]] = {}
        self._pinned = False
        self._check = Verifier(done=kept is not None and kept.checked)
        self._certain = kept is not None
        self._asking = False
        self._idle: Callable[[], None] | None = None
        self._closed = False
        self.on_growth: Callable[[int], None] = _ignore
        self.last_get_info: ObjectInfo | None = None
        self._base_seen = -inf
        self._grow(self._blocks.size)

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self._blocks.size

    @property
    def origin(self) -> BaseVersion | None:
        """Return the version that fills the file, None for a new file."""
        return self._blocks.origin

    def allocated(self) -> int:
        """Return how many bytes of disk the file takes."""
        with self._changed:
            return 0 if self._closed else self._file.allocated()

    def ensure(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`, or wait for whoever does."""
        while (fetch := self._claim(offset, end)) is not None:
            self._run(fetch)
            if fetch.error is not None:
                raise fetch.error

    def begin(self, pool: Executor) -> None:
        """Begin to download what is missing in a thread of `pool`, if nobody does."""
        with self._changed:
            run = self._blocks.first_missing(0, self._blocks.size)
            if run is not None and not self._fetches:
                pool.submit(self._run_queued, self._fetch(*run, queued=True))

    def is_complete(self) -> bool:
        """Say whether nothing is left to download."""
        with self._changed:
            return self._blocks.first_missing(0, self._blocks.size) is None

    def is_untouched(self) -> bool:
        """Say whether Swift has never sent a byte of the origin."""
        with self._changed:
            return not self._blocks.present and not self._blocks.dirty

    def pin(self) -> None:
        """Give nothing back to the disk before the next `adopt`: the origin may go, or an upload maps it."""
        with self._changed:
            self._pinned = True

    def evict(self, size: int, *, held: bool = False) -> int:
        """Give about `size` bytes back to the disk, of what can be downloaded again; return how many it were.

        What lies furthest behind the last reader goes first. A file that the journal has `held` keeps what
        the journal has no other place for.
        """
        with self._changed:
            if self._closed or self._pinned:
                return 0
            position, last = self._streams.position // BLOCK, block_range(0, self._blocks.size)[1]
            loose = self._evictable(held=held)
            ahead = [block_range(*needed) for needed in self._streams.needed()]
            for needed in [*ahead, *self._fetches.ranges(), *self._answers.values()]:
                loose.discard(*needed)
            freed = 0
            for first, end in chain(loose.runs(position, last), loose.runs(0, position)):
                if freed >= size:
                    break
                stop = min(end, first + block_range(0, size - freed)[1])
                self._blocks.present.discard(first, stop)
                self._given_back(first, stop)
                self._check.forget(first, stop)
                self._blocks.verified.discard(first, stop)
                punch_hole(self.descriptor, first * BLOCK, (stop - first) * BLOCK)
                freed += (stop - first) * BLOCK
            return freed

    def _evictable(self, *, held: bool) -> Blocks:
        """Return the blocks that can be downloaded again."""
        return self._blocks.present.copy() if self._blocks.is_clean() and not held else Blocks()

    def _given_back(self, first: int, last: int) -> None:
        """Take note that blocks are given back to the disk now."""

    def _is_idle(self) -> bool:
        return not self._fetches and not self._check.running

    def _claim(self, offset: int, end: int) -> Download | None:
        """Return a download for the caller to run, None when all is present; wait for those under way."""
        with self._changed:
            while (run := self._blocks.first_missing(offset, end)) is not None:
                if failure := self._check.failure(*run):
                    raise Corrupt(failure)
                under_way = self._fetches.touching(*run)
                if not under_way:
                    return self._fetch(*run)
                self._wait_for(under_way)
        return None

    def _wait_for(self, under_way: Collection[Download]) -> None:
        """Wait for a change of what is here; raise what any of the downloads has raised."""
        for fetch in under_way:
            fetch.waiters += 1
        try:
            self._changed.wait()
        finally:
            for fetch in under_way:
                fetch.waiters -= 1
        for fetch in under_way:
            if fetch.error is not None:
                raise fetch.error

    def _fetch(
        self, first: int, last: int, *, queued: bool = False, ahead: ReadAhead | None = None
    ) -> Download:
        return self._fetches.add(
            Download(first, last, self._blocks.remote.source(first), queued=queued, ahead=ahead)
        )

    def ensure_read(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes that are read, and what the reader will want next."""
        with self._changed:
            if (self._blocks.origin is None and not self._blocks.remote) or self._closed:
                return
            stream, left = self._streams.join(offset)
            if left:
                self._fetches.cancel(left)
                self._changed.notify_all()
            for start, stop in self._streams.plan(stream, offset, end, self._blocks.size):
                missing = list(self._blocks.missing(*block_range(start, stop)))
                for run in [free for one in missing for free in self._fetches.free(*one)]:
                    self._pool.submit(self._run_queued, self._fetch(*run, queued=True, ahead=stream))
        try:
            self.ensure(offset, end)
        finally:
            with self._changed:
                self._streams.ended(stream)

    def _run_queued(self, fetch: Download) -> None:
        with self._changed:
            if not self._fetches.begin(fetch):
                return
        self._run(fetch)

    def _run(self, fetch: Download) -> None:
        origin = self._blocks.origin
        try:
            if fetch.source is None:
                self._download(fetch)
            else:
                self._fetch_back(fetch, fetch.source)
        except GivenUp:
            pass
        except BaseException as error:  # noqa: BLE001  whoever waits raises it
            fetch.error = self._failure_of(fetch, origin, error)
        finally:
            with self._changed:
                self._fetches.end(fetch)
                self._changed.notify_all()
            self._tell_idle()

    def _failure_of(
        self, fetch: Download, origin: BaseVersion | None, error: BaseException
    ) -> BaseException | None:
        """Return why a download from `origin` failed; None when there is another version to ask for now."""
        if not isinstance(error, PreconditionFailed) or origin is None:
            return error
        if not self._blocks.is_from(origin):
            return None  # our own upload or rename made the old version vanish
        try:
            is_other = fetch.source is None and (self._correct(origin) or self._follow_upload(origin))
        except SwiftfsError as failure:
            return failure
        # The answer to our upload may have come while the server was asked.
        return None if is_other or not self._blocks.is_from(origin) else error

    def _follow_upload(self, _origin: BaseVersion) -> bool:
        """Take for the origin what an upload of ours has put in its place; say whether one has."""
        return False

    def _tell_idle(self) -> None:
        with self._changed:
            self._changed.notify_all()
            idle = self._idle if self._is_idle() else None
            if idle is not None:
                self._idle = None
        if idle is not None:
            idle()

    def _download(self, fetch: Download) -> None:
        origin = self._blocks.origin
        if origin is None or self._closed:
            return
        offset = fetch.first * BLOCK
        length = min(fetch.last * BLOCK, origin.size) - offset
        if length <= 0:
            return
        self.on_growth(length)
        whole = offset == 0 and length == origin.object_size
        # Bytes of a known version may be answered as they come; a whole object's are verified first.
        as_they_come = bool(origin.etag) and not whole

        def arrived(offset: int, data: bytes) -> None:
            fetch.refuse_unwanted()
            self._certain = True
            self._store_bytes(offset, data, present=as_they_come)

        try:
            info = self._store.get(
                origin.name, arrived, offset=offset, length=None if whole else length, etag=origin.etag
            )
        except NotFound:
            raise PreconditionFailed(f"{origin.name}: the object was deleted while it was read") from None
        if info.size != origin.object_size or (origin.etag and info.version.etag != origin.etag):
            raise PreconditionFailed(f"{origin.name}: the object changed while it was read")
        with self._changed:
            self._blocks.present.add(fetch.first, fetch.last)
            self._learn(info)
            if info.is_slo:
                self._learn_segments()
            elif whole:
                self._check.done = True
                if info.dlo_prefix is None and is_md5(info.version.etag):
                    self._blocks.verified.add(fetch.first, fetch.last)
            if info.dlo_prefix is None:
                self._begin_checks(fetch.first, fetch.last)

    def _correct(self, origin: BaseVersion) -> bool:
        """Ask, once, which version there is instead of a refused one; say whether to go on with that."""
        with self._changed:
            self._changed.wait_for(lambda: not self._asking)
            if self._certain:
                return False
            self._asking = True
        try:
            corrected = self.correct(self._store.head(origin.name))
            self._certain = True
        except NotFound:
            return False
        else:
            return corrected
        finally:
            with self._changed:
                self._asking = False
                self._changed.notify_all()

    def correct(self, info: ObjectInfo) -> bool:
        """Take the version `info` in place of the one that a listing told wrongly; say whether that was so.

        A listing tells the version of a large object by a parameter of its Content-Type, which travels with
        copies and can be wrong for ever. Where a new listing would tell the right one, it is to be made; and
        when a byte of a version has come, no other follows.
        """
        etag, said = info.version.etag, decode_type(info.content_type)[1].slo
        is_told = said == etag if info.is_slo else said is None
        with self._changed:
            origin = self._blocks.origin
            if self._certain or origin is None or origin.etag in ("", etag):
                return False
            if is_told or info.size != origin.object_size or info.version.name != origin.name:
                return False
            self._blocks.origin, self.last_get_info, self._certain = replace(origin, etag=etag), info, True
        log.info("%s: its Content-Type names another version than it has", origin.name)
        return True

    def _learn(self, info: ObjectInfo) -> None:
        """Take note of what a download told of the object."""
        if self._blocks.origin is not None and not self._blocks.origin.etag:
            self._blocks.origin = replace(self._blocks.origin, etag=info.version.etag)
        self.last_get_info, self._base_seen = info, monotonic()

    def was_base_seen(self, seconds: float) -> bool:
        """Return whether Swift has shown the base version since the last change, and within these seconds."""
        with self._changed:
            return monotonic() - self._base_seen < seconds

    def _fetch_back(self, fetch: Download, source: StoredSegment) -> None:
        """Download evicted blocks from their segment; what is not evicted any more stays as it is."""
        if self._closed:
            return
        self._get_evicted(source, fetch.first, fetch.last)
        self._verify_evicted(fetch, source)
        with self._changed:
            for run in list(self._blocks.remote.blocks.runs(fetch.first, fetch.last)):
                self._blocks.present.add(*run)
            self._blocks.remote.discard(fetch.first, fetch.last)

    def _get_evicted(self, source: StoredSegment, first: int, last: int, *, again: bool = False) -> None:
        """Fill evicted blocks from their segment, or `again` those too that were brought back before."""
        offset, length = first * BLOCK, (last - first) * BLOCK
        segment = source.segment
        behind = source.start - segment.first

        def sink(offset: int, data: bytes) -> None:
            start, stop = offset + behind, offset + behind + len(data)
            with self._changed:
                blocks = block_range(start, stop)
                for one, other in [blocks] if again else list(self._blocks.remote.blocks.runs(*blocks)):
                    begin, end = max(start, one * BLOCK), min(stop, other * BLOCK)
                    os.pwrite(self.descriptor, memoryview(data)[begin - start : end - start], begin)

        self.on_growth(length)
        try:
            self._store.get(segment.name, sink, offset=offset - behind, length=length, etag=segment.etag)
        except NotFound:
            raise PreconditionFailed(f"{segment.name}: the segment was deleted before it was used") from None

    def _verify_evicted(self, fetch: Download, source: StoredSegment) -> None:
        """Verify a segment that a download brings back."""

    def _learn_segments(self) -> None:
        """Ask for an SLO's segments when so much of it is read that whole ones may be here."""
        origin, check = self._blocks.origin, self._check
        much = (
            len(self._blocks.present) * BLOCK >= MUCH
            or self._blocks.first_missing(0, self._blocks.size) is None
        )
        if origin is None or origin.manifest or check.asked or check.done or not much or self._closed:
            return
        check.asked = True
        self._look(self._ask_segments, origin)

    def _look(self, step: Callable[..., None], *arguments: object) -> bool:
        """Run a step of the check in a thread; return False when there are none any more."""
        self._check.running += 1
        try:
            self._pool.submit(step, *arguments)
        except RuntimeError:
            self._check.running -= 1
            return False
        return True

    def _ask_segments(self, origin: BaseVersion) -> None:
        manifest = None
        try:
            manifest = self._store.manifest(origin.name)
        except SwiftfsError as error:
            log.info("%s: its segments cannot be checked: %s", origin.name, error)
        finally:
            with self._changed:
                self._check.running -= 1
                is_its = (
                    manifest is not None and manifest.etag == origin.etag and self._blocks.is_from(origin)
                )
                if is_its and self._blocks.origin is not None:
                    self._blocks.origin = replace(self._blocks.origin, manifest=manifest)
                    self._begin_checks(*block_range(0, self._blocks.size))
                self._changed.notify_all()
            self._tell_idle()

    def _begin_checks(self, first: int, last: int) -> None:
        """Look at the parts of the object that are whole now that the blocks of this range are here."""
        origin, told = self._blocks.origin, self.last_get_info
        if origin is None or self._closed or not self._blocks.is_clean():
            return
        if told is not None and told.is_slo and origin.manifest is None:
            return
        for part in self._check.due(origin, self._blocks.present, first, last):
            part.running = self._look(self._run_check, part, part.changes)

    def _run_check(self, part: ChecksumRange, changes: int) -> None:
        digest = ""
        try:
            digest = md5_of(self.descriptor, part.start, part.end, lambda: self._closed)
        finally:
            with self._changed:
                if self._check.learn(part, changes, digest) and not self._closed:
                    self._blocks.drop(*part.blocks)
                    self._check.forget(*part.blocks)
                    self._streams.forget()
                elif part.right:
                    self._blocks.verified.add(*part.whole_blocks(self._blocks.size))
                self._changed.notify_all()
            self._tell_idle()

    def _store_bytes(self, offset: int, data: bytes, *, present: bool) -> None:
        """Write downloaded bytes wherever we have none of our own; with `present` they may be read."""
        with self._changed:
            if self._blocks.origin is None:
                return
            end = min(offset + len(data), self._blocks.origin.size)
            for first, last in list(self._blocks.present.missing(*block_range(offset, end))):
                start, stop = max(offset, first * BLOCK), min(end, last * BLOCK)
                os.pwrite(self.descriptor, memoryview(data)[start - offset : stop - offset], start)
                self._blocks.verified.discard(first, last)
            if present:
                last = end // BLOCK if end < self._blocks.origin.size else -(-end // BLOCK)
                # The first block is whole because a fetch begins at a block and its chunks come in order.
                self._blocks.present.add(offset // BLOCK, last)
                self._changed.notify_all()

    def _grow(self, size: int) -> None:
        os.ftruncate(self.descriptor, max(size, os.fstat(self.descriptor).st_size))
