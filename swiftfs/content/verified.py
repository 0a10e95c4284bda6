"""Bytes of the old version that are stored again: they are verified first.

A wrong byte that came over the network costs a reader one wrong answer. Stored again it would be wrong for
good, and every MD5 would say that it is right. So what a change keeps of the old object is either part of
something whose MD5 was right, or came twice, in two independent answers.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace

from swiftfs.content.blocks import BLOCK, Blocks, block_range, missing_of_all
from swiftfs.content.check import is_md5
from swiftfs.content.fetches import Fetch
from swiftfs.content.filled import FilledFile
from swiftfs.content.localfile import md5_of
from swiftfs.content.origin import Origin
from swiftfs.content.saved import Placed
from swiftfs.errors import Corrupt, NotFound, PreconditionFailed, SwiftfsError
from swiftfs.model import Manifest, ObjectInfo

log = logging.getLogger(__name__)

WHOLE = 4 * 1024 * 1024
"""A plain object up to this size is downloaded whole, for its ETag tells whether it came right; of a larger
one so much at most is compared at once."""

LARGEST_WHOLE = 64 * 1024 * 1024
"""A plain object up to this size is downloaded whole when a quarter of it or more is needed."""

Answer = tuple[bytearray, ObjectInfo]


class VerifiedFile(FilledFile):
    """A local file whose bytes of the origin can be verified before they are stored again."""

    def ensure_kept(self, offset: int, end: int) -> None:
        """Download what is missing of the bytes from `offset` to `end`; verify what is the origin's.

        Raise `Corrupt` when Swift's answers differ each time.
        """
        while (fetch := self._claim_unverified(offset, end)) is not None:
            self._run(fetch)
            if fetch.error is not None:
                raise fetch.error
        self.ensure(offset, end)  # what is in segments of the file's own

    def _is_kept(self, offset: int, end: int) -> bool:
        """Say whether the bytes are here and verified, as far as they are the origin's."""
        blocks = block_range(offset, end)
        return next(self._unverified(*blocks), None) is None and next(self._missing(*blocks), None) is None

    def _unverified(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of a range of blocks whose bytes are the origin's, and may be wrong."""
        known = (*self._changed_blocks(), self._verified, self._away.blocks)
        return missing_of_all(known, first, min(last, self._filled))

    def _changed_blocks(self) -> tuple[Blocks, ...]:
        """Return sets of the blocks that differ from the origin's."""
        return (self._dirty,)

    def _claim_unverified(self, offset: int, end: int) -> Fetch | None:
        """Return a download for the caller to run; None when all is verified. Wait for those under way."""
        with self._changed:
            while (run := next(self._unverified(*block_range(offset, end)), None)) is not None:
                if under_way := self._fetches.touching(*run):
                    self._wait_for(under_way)
                elif self._check.is_looking_at(*run):
                    self._changed.wait()
                else:
                    return self._fetches.add(Fetch(*run, None, queued=False, ahead=None, verified=True))
        return None

    def _download(self, fetch: Fetch) -> None:
        origin = self._origin
        if not fetch.verified or origin is None or self._closed:
            super()._download(fetch)
            return
        try:
            if not self._is_worth_all_of(origin, fetch) or not self._download_whole(origin):
                step = WHOLE // BLOCK
                for first in range(fetch.first, fetch.last, step):
                    self._download_twice(origin, first, min(first + step, fetch.last))
        except NotFound:
            raise PreconditionFailed(f"{origin.name}: the object was deleted while it was changed") from None
        except PreconditionFailed:
            if not self._correct(origin):
                raise

    def _is_worth_all_of(self, origin: Origin, fetch: Fetch) -> bool:
        """Say whether one download of the whole object is the cheapest way to verify some blocks of it."""
        told = self.told
        if origin.manifest is not None or (told is not None and (told.is_slo or told.dlo_prefix is not None)):
            return False
        needed = (fetch.last - fetch.first) * BLOCK
        # No answer can begin before the object does, so two of its beginning are not independent.
        much = 4 * needed >= origin.whole or fetch.first == 0
        return origin.whole <= WHOLE or (origin.whole <= LARGEST_WHOLE and much)

    def _download_whole(self, origin: Origin) -> bool:
        """Download the object and look at its MD5; return False when its ETag is none."""
        for _ in range(2):
            body, info = self._get(origin, 0, origin.whole)
            if info.is_slo or info.dlo_prefix is not None or not is_md5(info.version.etag):
                return False
            digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
            if digest == info.version.etag:
                self._take(origin, 0, body, info)
                return True
            log.info("%s: the bytes that came have the MD5 %s; they are fetched again", origin.name, digest)
        raise Corrupt(f"{origin.name}: the bytes that came have the MD5 {digest} instead of the ETag")

    def _download_twice(self, origin: Origin, first: int, last: int) -> None:
        """Take for the bytes of some blocks what two answers agree on; what is here counts as one.

        Each answer begins elsewhere, so that what is always wrong at one place of a body (a proxy's fault) is
        wrong at different bytes of the object. Of whole segments one answer is enough when it has their MD5.
        """
        offset, end = first * BLOCK, min(last * BLOCK, origin.size)
        with self._changed:
            is_here = self._present.covers(first, last)
        seen: list[bytes | bytearray] = [os.pread(self.descriptor, end - offset, offset)] if is_here else []
        while len(seen) < 3:
            begin = max(0, offset - len(seen) * BLOCK)
            answer, info = self._get(origin, begin, end)
            body = answer[offset - begin :]
            if body in seen or (info.is_slo and _is_of_segments(self._manifest(origin), offset, body)):
                self._take(origin, first, body, info)
                return
            if seen:
                log.info(
                    "%s: other bytes came from %d than before; they are fetched again", origin.name, offset
                )
            seen.append(body)
        raise Corrupt(f"{origin.name}: the bytes from {offset} to {end} come different each time")

    def _manifest(self, origin: Origin) -> Manifest | None:
        """Return an SLO's manifest, which the upload will need; None when it cannot be had."""
        with self._changed:
            now = self._origin
            if now is None or now.manifest is not None or self._check.asked:
                return now.manifest if now is not None else None
            self._check.asked = True
        try:
            manifest = self._store.manifest(origin.name)
        except SwiftfsError as error:
            log.info("%s: its segments cannot be checked: %s", origin.name, error)
            return None
        with self._changed:
            if self._origin is None or manifest.etag != self._origin.etag or not self._is_from(origin):
                return None
            self._origin = replace(self._origin, manifest=manifest)
        return manifest

    def _verify_evicted(self, fetch: Fetch, source: Placed) -> None:
        """Look at the MD5 of a segment when the last of its blocks comes back, before any writer changes it.

        What is wrong is fetched again.
        """
        segment = source.segment
        with self._changed:
            left = self._away.blocks.copy()
            left.discard(fetch.first, fetch.last)
            if left.touches(*source.blocks) or segment.nested or segment.length is not None:
                return
        for is_last in (False, True):
            digest = md5_of(self.descriptor, source.start, source.end, lambda: self._closed)
            if digest == segment.etag or self._closed:
                return
            said = f"{segment.name}: the bytes that came have the MD5 {digest} instead of {segment.etag}"
            if is_last:
                raise Corrupt(said)
            log.info("%s; they are fetched again", said)
            self._get_evicted(source, *source.blocks, again=True)

    def _get(self, origin: Origin, offset: int, end: int) -> Answer:
        body = bytearray(end - offset)

        def sink(position: int, data: bytes) -> None:
            body[position - offset : position - offset + len(data)] = data

        self.grew(end - offset)
        length = None if end - offset == origin.whole else end - offset
        info = self._store.get(origin.name, sink, offset=offset, length=length, etag=origin.etag)
        if info.size != origin.whole or (origin.etag and info.version.etag != origin.etag):
            raise PreconditionFailed(f"{origin.name}: the object changed while it was changed here")
        return body, info

    def _take(self, origin: Origin, first: int, body: bytes | bytearray, info: ObjectInfo) -> None:
        """Write verified bytes wherever we have none of our own."""
        with self._changed:
            now = self._origin
            if now is None or not self._is_from(origin) or self._closed:
                return
            end = min(first * BLOCK + len(body), now.size)
            for one, other in list(self._unverified(*block_range(first * BLOCK, end))):
                start, stop = one * BLOCK, min(other * BLOCK, end)
                os.pwrite(
                    self.descriptor, memoryview(body)[start - first * BLOCK : stop - first * BLOCK], start
                )
                self._present.add(one, other)
                self._verified.add(one, other)
            self._certain = True
            self._learn(info)
            self._changed.notify_all()


def _is_of_segments(manifest: Manifest | None, offset: int, body: bytes | bytearray) -> bool:
    """Say whether `body`, from `offset` in the object, is made of whole segments and has their MD5s."""
    start, verified = 0, 0
    for segment in manifest.segments if manifest is not None else ():
        behind = start - offset
        start += segment.span
        if not 0 <= behind < len(body) or segment.length is not None or segment.nested:
            continue
        part = memoryview(body)[behind : behind + segment.span]
        if hashlib.md5(part, usedforsecurity=False).hexdigest() == segment.etag:
            verified += len(part)
    return verified == len(body)
