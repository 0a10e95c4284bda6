"""Bytes of the old version that are stored again: they are verified first.

A wrong byte that came over the network costs a reader one wrong answer. Stored again it would be wrong for
good, and every MD5 would say that it is right. So what a change keeps of the old object is either part of
something whose MD5 was right, or came twice, in two independent answers.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing

from swiftfs.errors import Corrupt, NotFound, PreconditionFailed, SwiftfsError
from swiftfs.filecache.base_resolver import BaseResolver
from swiftfs.filecache.block_map import BLOCK, BaseVersion, block_range
from swiftfs.filecache.checksum_ranges import is_md5
from swiftfs.filecache.compared_answers import PIECE, Answer
from swiftfs.filecache.downloader import Downloader
from swiftfs.filecache.downloads import Download
from swiftfs.filecache.file_state import FileState
from swiftfs.objects import Manifest, ObjectInfo
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

WHOLE = 4 * 1024 * 1024
"""A plain object up to this size is downloaded whole, for its ETag tells whether it came right; of a larger
one so much at most is compared at once."""

LARGEST_WHOLE = 64 * 1024 * 1024
"""A plain object up to this size is downloaded whole when a quarter of it or more is needed."""


class BaseVerifier:
    """Brings bytes of one file's origin that are verified, for they will be stored again."""

    def __init__(
        self, state: FileState, store: ObjectStore, resolver: BaseResolver, downloader: Downloader
    ) -> None:
        self._state = state
        self._store = store
        self._resolver = resolver
        self._downloader = downloader

    def ensure_kept(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`; verify what is the origin's.

        Raise `Corrupt` when Swift's answers differ each time.
        """
        while (fetch := self._claim_unverified(offset, end)) is not None:
            self._downloader.run(fetch)
        self._downloader.ensure(offset, end)  # what is in segments of the file's own

    def _claim_unverified(self, offset: int, end: int) -> Download | None:
        """Return a download for the caller to run; None when all is verified. Wait for those under way."""
        state, fetches = self._state, self._downloader.fetches
        with state.changed:
            while (run := next(state.blocks.unverified(*block_range(offset, end)), None)) is not None:
                if under_way := fetches.touching(*run):
                    self._downloader.wait_for(under_way)
                elif state.checks.is_looking_at(*run):
                    state.changed.wait()
                else:
                    return fetches.add(Download(*run, self._bring))
        return None

    def _bring(self, fetch: Download) -> None:
        origin = self._state.blocks.origin
        if origin is None or self._state.closed:
            return
        try:
            if not self._is_worth_all_of(origin, fetch) or not self._download_whole(origin):
                step = WHOLE // BLOCK
                for first in range(fetch.first, fetch.last, step):
                    self._download_twice(origin, first, min(first + step, fetch.last))
        except NotFound:
            raise PreconditionFailed(f"{origin.name}: the object was deleted while it was changed") from None
        except PreconditionFailed:
            if not self._resolver.ask(origin):
                raise

    def _is_worth_all_of(self, origin: BaseVersion, fetch: Download) -> bool:
        """Return whether one download of the whole object is the cheapest way to verify some blocks of it."""
        told = self._resolver.last_get_info
        if origin.manifest is not None or (told is not None and (told.is_slo or told.dlo_prefix is not None)):
            return False
        needed = (fetch.last - fetch.first) * BLOCK
        # No answer can begin before the object does, so two of its beginning are not independent.
        much = 4 * needed >= origin.object_size or fetch.first == 0
        return origin.object_size <= WHOLE or (origin.object_size <= LARGEST_WHOLE and much)

    def _download_whole(self, origin: BaseVersion) -> bool:
        """Download the object and look at its MD5; return False when its ETag is none."""
        for _ in range(2):
            with closing(self._empty_answer(0, origin.object_size)) as answer:
                info = self._get(origin, answer)
                if info.is_slo or info.dlo_prefix is not None or not is_md5(info.version.etag):
                    return False
                digest = answer.md5(0, origin.object_size)
                if digest == info.version.etag:
                    self._take(origin, answer, 0, origin.object_size, info)
                    return True
            log.info("%s: the bytes that came have the MD5 %s; they are fetched again", origin.name, digest)
        raise Corrupt(f"{origin.name}: the bytes that came have the MD5 {digest} instead of the ETag")

    def _download_twice(self, origin: BaseVersion, first: int, last: int) -> None:
        """Take for the bytes of some blocks what two answers agree on; what is here counts as one.

        Each answer begins elsewhere, so that what is always wrong at one place of a body (a proxy's fault) is
        wrong at different bytes of the object. Of whole segments one answer is enough when it has their MD5.
        """
        offset, end = first * BLOCK, min(last * BLOCK, origin.size)
        with ExitStack() as opened:
            seen = [opened.enter_context(closing(one)) for one in self._bytes_here(offset, end)]
            while len(seen) < 3:
                answer = self._empty_answer(max(0, offset - len(seen) * BLOCK), end)
                opened.enter_context(closing(answer))
                info = self._get(origin, answer)
                if any(answer.agrees(one, offset, end) for one in seen) or (
                    info.is_slo and _is_of_segments(self._manifest(origin), answer, offset, end)
                ):
                    self._take(origin, answer, offset, end, info)
                    return
                if seen:
                    log.info(
                        "%s: other bytes came from %d than before; they are fetched again",
                        origin.name,
                        offset,
                    )
                seen.append(answer)
        raise Corrupt(f"{origin.name}: the bytes from {offset} to {end} come different each time")

    def _bytes_here(self, offset: int, end: int) -> Iterator[Answer]:
        """Yield a copy of what the file holds from `offset` to `end`, if that is all here."""
        with self._state.changed:
            if not self._state.blocks.present.covers(*block_range(offset, end)):
                return
        answer = self._empty_answer(offset, end)
        for position in range(offset, end, PIECE):
            answer.write(position, os.pread(self._state.descriptor, min(PIECE, end - position), position))
        yield answer

    def _empty_answer(self, offset: int, end: int) -> Answer:
        return Answer(self._state.file.path.parent, offset, end)

    def _manifest(self, origin: BaseVersion) -> Manifest | None:
        """Return an SLO's manifest, which the upload will need; None when it cannot be had."""
        state = self._state
        with state.changed:
            now = state.blocks.origin
            if now is None or now.manifest is not None or state.checks.asked:
                return now.manifest if now is not None else None
            state.checks.asked = True
        try:
            manifest = self._store.manifest(origin.name)
        except SwiftfsError as error:
            log.info("%s: its segments cannot be checked: %s", origin.name, error)
            return None
        with state.changed:
            return manifest if self._resolver.learn_manifest(origin, manifest) else None

    def _get(self, origin: BaseVersion, answer: Answer) -> ObjectInfo:
        """Download the bytes that the answer is for."""
        size = answer.end - answer.offset
        self._state.space.on_growth(size)
        length = None if size == origin.object_size else size
        info = self._store.get(
            origin.name, answer.write, offset=answer.offset, length=length, etag=origin.etag
        )
        if info.size != origin.object_size or (origin.etag and info.version.etag != origin.etag):
            raise PreconditionFailed(f"{origin.name}: the object changed while it was changed here")
        return info

    def _take(self, origin: BaseVersion, answer: Answer, offset: int, end: int, info: ObjectInfo) -> None:
        """Write verified bytes wherever we have none of our own."""
        state, blocks = self._state, self._state.blocks
        with state.changed:
            now = blocks.origin
            if now is None or not blocks.is_from(origin) or state.closed:
                return
            end = min(end, now.size)
            for one, other in list(blocks.unverified(*block_range(offset, end))):
                position = one * BLOCK
                for piece in answer.pieces(position, min(other * BLOCK, end)):
                    os.pwrite(state.descriptor, piece, position)
                    position += len(piece)
                blocks.present.add(one, other)
                blocks.verified.add(one, other)
            state.is_certain = True
            self._resolver.learn(info)
            state.changed.notify_all()


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
