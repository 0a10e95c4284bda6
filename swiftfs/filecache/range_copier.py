"""Copies of bytes of an object into a file, made by the server: no byte of them comes to this machine.

They become segments of the file, as those that were uploaded and evicted before the file is stored. So the
file does not need the object any more: another client may replace or delete it at any time.
"""

import logging
from collections.abc import Iterator, Sequence

from msgspec import Struct

from swiftfs.concurrency import new_pool, wait_all
from swiftfs.errors import StoreError
from swiftfs.filecache.block_map import BLOCK, BaseVersion
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.segment_storer import CopyPart, SegmentPut
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import md5_of
from swiftfs.objects import Manifest, ObjectName, ObjectVersion, Segment
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

PARALLEL = 16
"""Segments copied at once, and by one call: the server does the work."""

MOST = 2 * 1024**3
"""Bytes that one call copies at most: nobody can interrupt it, and the answer to the kernel has 32 bits."""


class CopySource(Struct, frozen=True):
    """A version that may be copied; `manifest` is that of an SLO, None of a plain object."""

    version: ObjectVersion
    size: int
    manifest: Manifest | None


def plan_copies(
    source: CopySource, layout: SegmentLayout, offset_in: int, offset: int, length: int
) -> list[CopyPart]:
    """Return the copies that give a file `length` bytes from `offset` on, in order, or the first of them.

    They are those of the source from `offset_in` on. None are copied unless a segment of the file's layout
    begins at `offset`, and none behind the last complete one, unless they are the end of a copy of the file:
    what comes behind a shorter one would need its bytes here.
    """
    parts: list[CopyPart] = []
    for start, end in _segments(layout, offset, offset + length):
        first, last = start - offset + offset_in, end - offset + offset_in
        is_end = last == source.size and offset_in == offset
        if not (layout.is_segment(start, end) or is_end):
            break
        if len(parts) == PARALLEL or end - offset > MOST:
            break
        parts.append(_part(source, start, end, first, last))
    return parts


def _segments(layout: SegmentLayout, offset: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the segments of a range of bytes, the last one cut at its end.

    None come if the range does not begin with one, or if one shares a block with others.
    """
    index, at = layout.index(offset), offset
    while at < end and layout.bounds(index)[0] == at and at % BLOCK == 0:
        stop = min(layout.bounds(index)[1], end)
        yield at, stop
        index, at = index + 1, stop


def _part(source: CopySource, start: int, end: int, first: int, last: int) -> CopyPart:
    """Return the copy of the source's bytes from `first` to `last`: of one segment of it, if possible."""
    name, etag = source.version.name, source.version.etag
    if source.manifest is None:
        span = None if (first, last) == (0, source.size) else (first, last)
        return CopyPart(start, end, name, etag, span)
    position = 0
    for segment in source.manifest.segments:
        if position <= first and last <= position + segment.span and not (segment.nested or segment.data):
            begin = segment.first + first - position
            whole = (begin, last - first) == (0, segment.size)
            return CopyPart(
                start, end, segment.name, segment.etag, None if whole else (begin, begin + last - first)
            )
        position += segment.span
    # Swift puts the range of a large object together; the ETag is no MD5, so even all of it is a range.
    return CopyPart(start, end, name, etag, (first, last))


class RangeCopier:
    """Copies ranges into one file, and says what of the file can be copied."""

    def __init__(self, state: FileState, store: ObjectStore, uploads: SegmentUploader) -> None:
        self._state = state
        self._store = store
        self._uploads = uploads
        self._source: CopySource | None = None

    def source(self, *, is_slo: bool | None) -> CopySource | None:
        """Return the version that the file is, None if it is no stored version, or may not be copied.

        `is_slo` None is unknown. Raise what the store raises.
        """
        with self._state.changed:
            base = self._state.blocks.base if self._state.blocks.is_clean() else None
        if base is None:
            return None
        version = ObjectVersion(base.name, base.etag)
        if self._source is None or self._source.version != version:
            self._source = self._ask(base, version, is_slo)
        return self._source

    def _ask(self, base: BaseVersion, version: ObjectVersion, is_slo: bool | None) -> CopySource | None:
        if base.manifest is None and is_slo is None:
            info = self._store.head(base.name)
            is_slo = info.is_slo
            is_other = (info.version.etag, info.size) != (base.etag, base.object_size)
            # The server would copy a DLO's bytes, but its ETag says nothing of them.
            if is_other or info.dlo_prefix is not None or info.is_symlink:
                return None
        manifest = base.manifest
        if manifest is None and is_slo:
            # The first call also makes sure that its bytes may be read.
            manifest = self._store.check_manifest(version) or self._store.manifest(base.name)
        if manifest is not None and manifest.etag != base.etag:
            return None
        return CopySource(version, base.object_size, manifest)

    def is_present(self, offset: int, end: int) -> bool:
        """Return whether bytes are in the local file."""
        with self._state.changed:
            return self._state.blocks.is_present(offset, end)

    def md5(self) -> str:
        """Return the MD5 of all bytes: of a copy that of its segment, else of what is in the local file."""
        if (segment := self._uploads.whole_copy(self._state.blocks.size)) is not None:
            return segment.etag
        return md5_of(self._state.descriptor, 0, self._state.blocks.size, bool)

    def copy(self, source: CopySource, offset_in: int, offset: int, length: int) -> int:
        """Append bytes of a version, from `offset` on, where a segment of the file begins; return how many.

        The caller excludes writers. None are appended if the file's end is not before them, if an upload of
        the file runs, or if the server refuses it: then nothing has changed.
        """
        parts = plan_copies(source, self._uploads.layout, offset_in, offset, length)
        with self._state.changed:
            if not parts or not self._may_append(offset):
                return 0
        with new_pool("segment copy", min(PARALLEL, len(parts))) as pool:
            copies = self._uploads.begin_copies(parts, pool)
            wait_all([copy.stored for copy in copies])
            # All others have the ETag of what was copied, or have failed.
            ranged = [copy for part, copy in zip(parts, copies, strict=True) if part.span is not None]
            list(pool.map(self._check, self._unproven([copy for copy in ranged if copy.is_good(copy.end)])))
        self._log_failure(source, copies)
        with self._state.changed:
            if not self._may_append(offset):
                for copy in copies:
                    copy.superseded = True
            stored = self._uploads.end_copies(copies)
            for one in stored:
                self._state.extend(one.end)
                self._state.blocks.copied(one)
            if stored:
                self._state.begin_change()
            return stored[-1].end - offset if stored else 0

    def _may_append(self, offset: int) -> bool:
        """Return whether the file may grow from `offset` on. Lock held.

        Not while it is uploaded: when that ends, its segments are those of the stored version.
        """
        state = self._state
        busy = state.closed or state.keeps_all or state.blocks.snapshot is not None
        return not busy and state.blocks.size <= offset

    def _log_failure(self, source: CopySource, copies: Sequence[SegmentPut]) -> None:
        for copy in copies:
            if not copy.stored.cancelled() and (error := copy.stored.exception()) is not None:
                log.info("%s is not copied by the server: %s", source.version.name, error)
                return

    def _unproven(self, copies: Sequence[SegmentPut]) -> list[SegmentPut]:
        """Return the copies that a listing does not show, or shows with another size or ETag. One request."""
        if not copies:
            return []
        stored = {copy.stored.result().name: copy for copy in copies}
        first = min(stored, key=lambda name: name.key)
        try:
            # Their names are never used again, so what a listing shows of them is true, however old it is.
            page = self._store.list_page(
                first.container,
                prefix=self._uploads.record.prefix.key,
                marker=first.key[:-1],
                limit=2 * PARALLEL,
            )
        except StoreError as error:
            log.info("copies of ranges are not listed: %s", error)
            return list(copies)
        listed = {Segment(ObjectName(first.container, row.key), row.hash, row.size) for row in page.rows}
        return [copy for copy in copies if copy.stored.result() not in listed]

    def _check(self, copy: SegmentPut) -> None:
        """Correct the ETag of a copy by a HEAD; do not use one that is gone or has another size.

        A server may ignore the range of a large object, which no ETag shows.
        """
        segment = copy.stored.result()
        try:
            found = self._store.head(segment.name)
        except StoreError as error:
            log.info("%s: a copy cannot be checked: %s", segment.name, error)
            copy.superseded = True
            return
        copy.superseded = copy.superseded or found.size != segment.size
        if found.version.etag != segment.etag:
            log.info("%s: the server said a wrong ETag of the copy", segment.name)
            with self._state.changed:
                copy.correct(found.version.etag)
