"""Fetches evicted blocks back from the segments that have them."""

import logging

from swiftfs.errors import Corrupt, NotFound, PreconditionFailed
from swiftfs.filecache.block_map import BLOCK, StoredSegment, block_range
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.sparse_file import md5_of, write_all
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)


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
        offset, length = first * BLOCK, (last - first) * BLOCK
        segment = source.segment
        # A manifest may name a range of the segment: the segment's own offsets differ from those of the file.
        behind = source.start - segment.first

        def sink(offset: int, data: bytes) -> None:
            start, stop = offset + behind, offset + behind + len(data)
            with self._state.changed:
                blocks = block_range(start, stop)
                remote = self._state.blocks.remote.blocks
                # Only into blocks that are still evicted: others may have been written to since.
                for one, other in [blocks] if again else list(remote.runs(*blocks)):
                    begin, end = max(start, one * BLOCK), min(stop, other * BLOCK)
                    piece = memoryview(data)[begin - start : end - start]
                    write_all(self._state.descriptor, piece, begin)

        self._state.space.on_growth(length)
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
