"""What an upload sends of a file that Swift has an older version of, or that changes all the time.

`BaseVerifier` verifies bytes of the base version before they are stored again. A wrong byte from the network
costs a reader one wrong answer. Stored again it would be wrong for good, with an MD5 that matches. So the
bytes that a change keeps of the old object are either part of something whose MD5 was right, or came equal in
two independent answers. `FrozenCopier` copies a file that has changed during each of its last uploads.
"""

import errno
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from swiftfs.errors import Corrupt, NotFound, PreconditionFailed, SwiftfsError, os_error
from swiftfs.filecache.block_map import BLOCK, BaseVersion, Snapshot, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.downloader import Download, Downloader
from swiftfs.filecache.file_state import FileState, is_md5
from swiftfs.filecache.segment_layout import PIECE, piece_of
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import FrozenCopy, write_all
from swiftfs.filecache.verifier import BaseResolver
from swiftfs.objects import Manifest, ObjectInfo
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

ANSWER_PIECE = 1024 * 1024
"""Bytes of an answer that are in memory at a time, however large the answer is."""


class Answer:
    """Bytes from `offset` to `end` of an object; above `ANSWER_PIECE` in an unnamed file in `folder`.

    One thread uses it. All offsets are those of the object.
    """

    def __init__(self, folder: Path, offset: int, end: int) -> None:
        self.offset, self.end = offset, end
        self.is_on_disk = end - offset > ANSWER_PIECE
        self._file: IO[bytes] = TemporaryFile(dir=folder) if self.is_on_disk else BytesIO()  # noqa: SIM115

    def write(self, position: int, data: bytes) -> None:
        """Store bytes of the answer; raise `OSError` when the disk is full."""
        self._file.seek(position - self.offset)
        self._file.write(data)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `end` in order, at most `ANSWER_PIECE` at a time."""
        for position in range(start, end, ANSWER_PIECE):
            self._file.seek(position - self.offset)
            yield self._file.read(min(ANSWER_PIECE, end - position))

    def md5(self, start: int, end: int) -> str:
        """Return the MD5 of the bytes from `start` to `end` in hex."""
        digest = hashlib.md5(usedforsecurity=False)
        for piece in self.pieces(start, end):
            digest.update(piece)
        return digest.hexdigest()

    def agrees(self, other: "Answer", start: int, end: int) -> bool:
        """Return whether both have the same bytes from `start` to `end`."""
        both = zip(self.pieces(start, end), other.pieces(start, end), strict=True)
        return all(one == another for one, another in both)

    def close(self) -> None:
        """Free the memory or the disk."""
        self._file.close()


WHOLE = 4 * 1024 * 1024
"""Bytes. A plain object up to this size is downloaded whole, since its ETag is the MD5 of all its bytes; of a
larger object at most this much is compared at once."""

LARGEST_WHOLE = 64 * 1024 * 1024
"""A plain object up to this size is downloaded whole when a quarter of it or more is needed."""


class BaseVerifier:
    """Downloads and verifies bytes of one file's base version."""

    def __init__(
        self, state: FileState, store: ObjectStore, resolver: BaseResolver, downloader: Downloader
    ) -> None:
        self._state = state
        self._store = store
        self._resolver = resolver
        self._downloader = downloader

    def ensure_verified(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`; verify those of the base version.

        Raise `Corrupt` when all of Swift's answers differ.
        """
        while (download := self._claim_unverified(offset, end)) is not None:
            self._downloader.run(download)
        self._downloader.ensure(offset, end)  # the blocks in the file's own segments

    def _claim_unverified(self, offset: int, end: int) -> Download | None:
        """Return a download for the caller to run, None when all is verified; wait for those under way."""
        state, downloads = self._state, self._downloader.downloads
        with state.changed:
            while (run := next(state.blocks.unverified(*block_range(offset, end)), None)) is not None:
                if under_way := downloads.touching(*run):
                    if queued := self._downloader.wait_for(under_way, run[0]):
                        return queued
                # The result may save the request.
                elif state.checks.is_checking(*run):
                    state.changed.wait()
                else:
                    return downloads.add(Download(*run, self._execute))
        return None

    def _execute(self, download: Download) -> None:
        base = self._state.blocks.base
        if base is None or self._state.closed:
            return
        try:
            if not self._is_whole_cheaper(base, download) or not self._download_whole(base):
                step = WHOLE // BLOCK
                for first in range(download.first, download.last, step):
                    self._download_twice(base, first, min(first + step, download.last))
        except NotFound:
            if not self._take_local(base, download):
                raise PreconditionFailed(
                    f"{base.name}: another client deleted it while it was changed here"
                ) from None
        except PreconditionFailed:
            if not self._resolver.ask(base):
                raise

    def _take_local(self, base: BaseVersion, download: Download) -> bool:
        """Accept the local bytes of blocks as verified: their object is gone, so they are the only copy.

        Return False if not all of them are here.
        """
        state, blocks = self._state, self._state.blocks
        with state.changed:
            if not blocks.is_from(base) or not blocks.present.covers(download.first, download.last):
                return False
            blocks.verified.add(download.first, download.last)
            state.changed.notify_all()
        log.info("%s is gone: the local bytes are stored as they are", base.name)
        return True

    def _is_whole_cheaper(self, base: BaseVersion, download: Download) -> bool:
        """Return whether to verify blocks by one download of the whole object, not by two of a part of it."""
        info = self._resolver.last_get_info
        # The ETag of a large object is no MD5 of its bytes.
        if base.manifest is not None or (info is not None and (info.is_slo or info.dlo_prefix is not None)):
            return False
        needed = (download.last - download.first) * BLOCK
        # Two answers with the object's first bytes begin at one offset, so they are not independent.
        much = 4 * needed >= base.object_size or download.first == 0
        return base.object_size <= WHOLE or (base.object_size <= LARGEST_WHOLE and much)

    def _download_whole(self, base: BaseVersion) -> bool:
        """Download the object and compare its MD5; return False when its ETag is not an MD5."""
        # Once more, in case that the network was at fault.
        for _ in range(2):
            with closing(self._empty_answer(0, base.object_size)) as answer:
                info = self._get(base, answer)
                if info.is_slo or info.dlo_prefix is not None or not is_md5(info.version.etag):
                    return False
                digest = answer.md5(0, base.object_size)
                if digest == info.version.etag:
                    self._take_all(base, answer, 0, base.object_size, info)
                    return True
            log.info("%s: the downloaded bytes have the MD5 %s; they are downloaded again", base.name, digest)
        raise Corrupt(f"{base.name}: the downloaded bytes have the MD5 {digest}, which is not the ETag")

    def _download_twice(self, base: BaseVersion, first: int, last: int) -> None:
        """Download some blocks until two answers agree; the bytes in the local file count as one answer.

        Each answer begins at another offset: a fault that always hits one place of a body (a proxy's) then
        hits different bytes of the object. For whole segments one answer is enough if it has their MD5s.
        """
        offset, end = first * BLOCK, min(last * BLOCK, base.size)
        with ExitStack() as opened:
            seen = [opened.enter_context(closing(one)) for one in self._bytes_here(offset, end)]
            # At most three: where no two of them agree, more would not help.
            while len(seen) < 3:
                answer = self._empty_answer(max(0, offset - len(seen) * BLOCK), end)
                opened.enter_context(closing(answer))
                info = self._get(base, answer)
                if any(answer.agrees(one, offset, end) for one in seen) or (
                    info.is_slo and _is_of_segments(self._manifest(base), answer, offset, end)
                ):
                    self._take_all(base, answer, offset, end, info)
                    return
                if seen:
                    log.info(
                        "%s: two answers differ in the bytes from %d on; they are downloaded again",
                        base.name,
                        offset,
                    )
                seen.append(answer)
        raise Corrupt(f"{base.name}: all answers differ in the bytes from {offset} to {end}")

    def _bytes_here(self, offset: int, end: int) -> Iterator[Answer]:
        """Yield a copy of the local file's bytes from `offset` to `end`, if all of them are present."""
        with self._state.changed:
            if not self._state.blocks.present.covers(*block_range(offset, end)):
                return
        answer = self._empty_answer(offset, end)
        for position in range(offset, end, ANSWER_PIECE):
            self._write(
                answer,
                position,
                os.pread(self._state.descriptor, min(ANSWER_PIECE, end - position), position),
            )
        yield answer

    def _empty_answer(self, offset: int, end: int) -> Answer:
        return Answer(self._state.file.folder, offset, end)

    def _write(self, answer: Answer, position: int, data: bytes) -> None:
        if answer.is_on_disk:
            self._state.space.with_room(len(data), partial(answer.write, position, data))
        else:
            answer.write(position, data)

    def _manifest(self, base: BaseVersion) -> Manifest | None:
        """Return an SLO's manifest, which the upload will need too; None when Swift does not give it."""
        state = self._state
        with state.changed:
            now = state.blocks.base
            if now is None or now.manifest is not None or state.checks.asked:
                return now.manifest if now is not None else None
            # At most one request for it, whatever the answer: the upload of the file asks again if it must.
            state.checks.asked = True
        try:
            manifest = self._store.manifest(base.name)
        except SwiftfsError as error:
            log.info("%s: the segments cannot be checked: %s", base.name, error)
            return None
        with state.changed:
            return manifest if self._resolver.learn_manifest(base, manifest) else None

    def _get(self, base: BaseVersion, answer: Answer) -> ObjectInfo:
        """Download the bytes of an answer."""
        length = answer.end - answer.offset
        self._state.space.grow(length)
        info = self._store.get(
            base.name,
            partial(self._write, answer),
            offset=answer.offset,
            length=None if length == base.object_size else length,
            etag=base.etag,
            size=base.object_size,
        )
        if info.size != base.object_size or (base.etag and info.version.etag != base.etag):
            raise PreconditionFailed(f"{base.name}: another client changed it while it was changed here")
        return info

    def _take_all(self, base: BaseVersion, answer: Answer, offset: int, end: int, info: ObjectInfo) -> None:
        """Write verified bytes as `_take` does, and make room for them on a full disk."""
        self._state.space.with_room(end - offset, lambda: self._take(base, answer, offset, end, info))

    def _take(self, base: BaseVersion, answer: Answer, offset: int, end: int, info: ObjectInfo) -> None:
        """Write verified bytes to the blocks that are neither changed nor verified."""
        state, blocks = self._state, self._state.blocks
        with state.changed:
            now, wrong = blocks.base, False
            # Our own upload or rename may have replaced the version while its bytes came.
            if now is None or not blocks.is_from(base) or state.closed:
                return
            end = min(end, now.size)
            # Not over blocks that a writer has changed since.
            for one, other in list(blocks.unverified(*block_range(offset, end))):
                position = one * BLOCK
                for piece in answer.pieces(position, min(other * BLOCK, end)):
                    # Bytes that are not present are not compared: nobody has read them.
                    wrong |= self._differs(piece, position)
                    write_all(state.descriptor, piece, position)
                    position += len(piece)
                blocks.present.add(one, other)
                blocks.verified.add(one, other)
            state.is_certain = True
            self._resolver.learn(info)
            state.changed.notify_all()
        if wrong:
            state.found_wrong_bytes()

    def _differs(self, piece: bytes, position: int) -> bool:
        """Return whether a reader may have had other bytes than the verified ones. Lock held."""
        here = self._state.blocks.present
        if not here.touches(*block_range(position, position + len(piece))):
            return False
        return os.pread(self._state.descriptor, len(piece), position) != piece


def _is_of_segments(manifest: Manifest | None, answer: Answer, offset: int, end: int) -> bool:
    """Return whether the bytes from `offset` to `end` are made of whole segments and have their MD5s."""
    start, verified = 0, 0
    for segment in manifest.segments if manifest is not None else ():
        begin, start = start, start + segment.span
        if begin < offset or start > end or segment.length is not None or segment.nested:
            continue
        if answer.md5(begin, start) == segment.etag:
            verified += segment.span
    return verified == end - offset


OFTEN = 3
"""Uploads in a row during which the file changed, after which the next one sends a copy."""


class FrozenCopier:
    """Makes the copy of one file that an upload reads: `frozen`, guarded by the file's lock.

    `changed_uploads` counts the uploads in a row that failed because the file changed. `_touched` has the
    blocks that have changed since a copy was begun, None while none is being made.
    """

    def __init__(self, state: FileState, uploads: SegmentUploader, downloader: Downloader) -> None:
        self._state = state
        self._uploads = uploads
        self._downloader = downloader
        self.changed_uploads = 0
        self._touched: Blocks | None = None
        self.frozen: FrozenCopy | None = None

    def begin(self) -> FrozenCopy | None:
        """Copy what the next upload reads, while writers continue.

        Return None if no copy is needed yet, or if none can be made.
        """
        # A copy costs disk space and time, and most files come to rest.
        if self.changed_uploads < OFTEN:
            return None
        state = self._state
        folder = state.file.folder
        try:
            state.keep_all()
            with state.changed:
                # From here on writers are recorded in `_touched`; what they change is copied again by `end`.
                wanted, size = self._hot(), state.blocks.size
                self._touched = Blocks()
            frozen = FrozenCopy(folder)
            if not (is_clone := frozen.clone(state.descriptor)):
                state.space.grow(len(wanted) * BLOCK)
                if not state.space.has_spare(len(wanted) * BLOCK):
                    raise os_error(errno.ENOSPC, str(folder))
            for first, last in wanted.runs(*block_range(0, size)):
                # Now, because it needs requests: `end` holds the lock.
                self._downloader.ensure(first * BLOCK, min(last * BLOCK, size))
            if not is_clone:
                frozen.copy(state.descriptor, wanted, size)
                frozen.blocks = wanted
        except (OSError, SwiftfsError) as error:
            log.info("%s: it is uploaded without a copy: %s", state.file.name, error)
            with state.changed:
                self._touched = None
            return None
        return frozen

    def end(self, frozen: FrozenCopy) -> FrozenCopy | None:
        """Copy what has changed since `begin`; return None if that fails. Lock held, so no writer runs."""
        state = self._state
        size = state.blocks.size
        touched, self._touched = self._touched or Blocks(), None
        wanted = self._hot()
        # Neighbours of what has changed since `begin` were not downloaded, so no copy can have them.
        for run in list(state.blocks.missing(*block_range(0, size))):
            wanted.discard(*run)
        try:
            # A clone takes so little time that a new one, of this moment, replaces the first.
            if frozen.clone(state.descriptor):
                frozen.blocks = wanted
                return frozen
            frozen.blocks.subtract(touched)
            todo = wanted.copy()
            todo.subtract(frozen.blocks)
            frozen.copy(state.descriptor, todo, size)
            frozen.blocks.update(todo)
        except OSError as error:
            log.info("%s: it is uploaded without a copy: %s", state.file.name, error)
            return None
        return frozen

    def touch(self, offset: int, end: int) -> None:
        """Record that the bytes from `offset` to `end` have changed. Lock held."""
        if self._touched is not None:
            self._touched.add(*block_range(offset, end))

    def stored(self, taken: Snapshot) -> None:
        """Record that a snapshot is stored. Lock held."""
        self.frozen = None
        if not taken.changed:
            self.changed_uploads = 0

    def covers(self, size: int) -> bool:
        """Return whether the upload reads its first `size` bytes from a copy. Lock held."""
        return self.frozen is not None and self.frozen.covers(0, size)

    def _hot(self) -> Blocks:
        """Return the blocks that an upload reads and a writer may change. Lock held.

        A patch reads the pieces that have changed, and sometimes their neighbours. After `2 * OFTEN` failed
        uploads all blocks count. Stored segments and evicted blocks are not read.
        """
        blocks = self._state.blocks
        size = blocks.size
        hot = Blocks()
        if blocks.base is None or self.changed_uploads >= 2 * OFTEN:
            hot.add(*block_range(0, size))
        else:
            for first, last in blocks.dirty.runs(*block_range(0, size)):
                start = piece_of(max(0, piece_of(first * BLOCK) - PIECE))
                hot.add(*block_range(start, min(piece_of(last * BLOCK - 1) + 2 * PIECE, size)))
        if blocks.base is None:
            for stored in self._uploads.stored(protected=False):
                hot.discard(*stored.blocks)
        hot.subtract(blocks.remote.blocks)
        return hot
