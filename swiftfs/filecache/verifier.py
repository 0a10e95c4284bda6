"""Which version fills a file, as Swift's answers show it, and whether the downloaded bytes are of it.

The MD5 of an object or segment is compared in the background, when the last of its pieces is present.
"""

import logging
from collections.abc import Callable

from msgspec.structs import replace

from swiftfs.attributes import decode_type
from swiftfs.errors import NotFound, SwiftfsError
from swiftfs.filecache.block_map import BLOCK, BaseVersion, block_range
from swiftfs.filecache.file_state import ChecksumRange, FileSource, FileState, is_md5
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.sparse_file import md5_of
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, Segment
from swiftfs.store.protocol import ObjectStore, find_object

log = logging.getLogger(__name__)


class BaseResolver:
    """Corrects the base version of one file by the answers of Swift.

    While the version is known from a listing only, one thread may be `_asking` Swift for it. `last_get_info`
    is what the last download said of the object.
    """

    def __init__(self, state: FileState, store: ObjectStore, uploads: SegmentUploader) -> None:
        self._state = state
        self._store = store
        self._uploads = uploads
        self._asking = False
        self.last_get_info: ObjectInfo | None = None

    def learn(self, info: ObjectInfo) -> None:
        """Record what a download said of the object. Lock held."""
        blocks = self._state.blocks
        # The ETag was unknown (a DLO, or an object of another client): the first answer decides which version
        # fills the file.
        if blocks.base is not None and not blocks.base.etag:
            blocks.base = replace(blocks.base, etag=info.version.etag)
        self.last_get_info = info

    def learn_manifest(self, base: BaseVersion, manifest: Manifest) -> bool:
        """Record the manifest of `base`; return False if another version is the base by now. Lock held.

        So it does for a manifest of another size: then a proxy has spoiled an answer.
        """
        blocks = self._state.blocks
        if blocks.base is None or manifest.etag != blocks.base.etag or not blocks.is_from(base):
            return False
        if manifest.size != base.object_size:
            return False
        blocks.base = replace(blocks.base, manifest=manifest)
        return True

    def correct(self, info: ObjectInfo) -> bool:
        """Take `info` for the base version if a listing was wrong about it; return whether it was.

        A listing shows the version of a large object by a parameter of its Content-Type. Copies keep that
        parameter, so it can be wrong for good. Where a new listing would show the right version, a new
        listing is needed instead. After the first byte of a version no other version is taken.
        """
        state = self._state
        etag, said = info.version.etag, decode_type(info.content_type)[1].slo
        is_listed = said == etag if info.is_slo else said is None
        with state.changed:
            base = state.blocks.base
            if state.is_certain or base is None or base.etag in ("", etag):
                return False
            if is_listed or info.size != base.object_size or info.version.name != base.name:
                return False
            state.blocks.base, state.is_certain = replace(base, etag=etag), True
            self.last_get_info = info
        log.info("%s: the Content-Type names another version than the object has", base.name)
        return True

    def ask(self, base: BaseVersion) -> bool:
        """Ask Swift, once, for the version that it has instead of a refused one; return whether to use it."""
        state = self._state
        with state.changed:
            # One HEAD for all readers that were refused together.
            state.changed.wait_for(lambda: not self._asking)
            if state.is_certain:
                return False
            self._asking = True
        try:
            corrected = self.correct(self._store.head(base.name))
            with state.changed:
                state.is_certain = True
        except NotFound:
            return False
        else:
            return corrected
        finally:
            with state.changed:
                self._asking = False
                state.changed.notify_all()

    def follow_upload(self, base: BaseVersion) -> bool:
        """Make what an upload of ours stored, whose answer was lost, the base version; return whether it did.

        The first refusal causes the HEAD, even if it is a reader's: the next attempt of the upload may come
        much later.
        """
        if not self._uploads.record.is_unanswered:
            return False
        info = find_object(self._store, base.name)
        if (
            info is None
            or info.version.etag == base.etag
            or not self._uploads.record.landed(info.version.etag)
        ):
            return False
        blocks = self._state.blocks
        with self._state.changed:
            if blocks.is_from(base):
                blocks.rebase(BaseVersion(base.name, info.version.etag, info.size, info.size))
        log.info("%s: an upload whose answer was lost had succeeded", base.name)
        return True


MUCH = 4 * 1024 * 1024
"""Bytes of a large object that are read before its segments are asked for: a program that reads so much reads
on."""


class Verifier:
    """Checks downloaded bytes of one file, in the threads that download; calls `ended` after each step."""

    def __init__(
        self, state: FileState, source: FileSource, resolver: BaseResolver, ended: Callable[[], None]
    ) -> None:
        self._state = state
        self._store = source.store
        self._pool = source.pool
        self._streams = source.streams
        self._resolver = resolver
        self._ended = ended

    def arrived(self, info: ObjectInfo, first: int, last: int, *, whole: bool) -> None:
        """Check what a download of some blocks, or of the `whole` object, has completed. Lock held."""
        if _is_large(info):
            self._learn_segments(info.dlo_prefix)
        elif whole:
            self._state.checks.done = True
            if is_md5(info.version.etag):
                self._state.blocks.verified.add(first, last)
        self._begin_checks(first, last)

    def _learn_segments(self, dlo_prefix: ObjectName | None) -> None:
        """Ask for a large object's segments when so much was read that whole ones may be present."""
        blocks, checks = self._state.blocks, self._state.checks
        base = blocks.base
        # They cost a request, which a program that only reads the beginning of a file must not cause.
        much = len(blocks.present) * BLOCK >= MUCH or blocks.is_present(0, blocks.size)
        if base is None or base.manifest or checks.asked or checks.done or not much or self._state.closed:
            return
        checks.asked = True
        self._submit(self._ask_segments, base, dlo_prefix)

    def _submit(self, step: Callable[..., None], *arguments: object) -> bool:
        """Run a step of the check in a thread; return False if the pool has been shut down."""
        # Counted before it is submitted: the file is not idle, so it is not closed meanwhile.
        self._state.checks.running += 1
        try:
            self._pool.submit(step, *arguments)
        except RuntimeError:
            self._state.checks.running -= 1
            return False
        return True

    def _ask_segments(self, base: BaseVersion, dlo_prefix: ObjectName | None) -> None:
        state, manifest = self._state, None
        try:
            if dlo_prefix is None:
                manifest = self._store.manifest(base.name)
            else:
                manifest = self._listed(base, dlo_prefix)
        except SwiftfsError as error:
            log.info("%s: the segments cannot be checked: %s", base.name, error)
        finally:
            with state.changed:
                state.checks.running -= 1
                if manifest is not None and self._learn(base, manifest, is_dlo=dlo_prefix is not None):
                    self._begin_checks(*block_range(0, state.blocks.size))
                state.changed.notify_all()
            self._ended()

    def _listed(self, base: BaseVersion, dlo_prefix: ObjectName) -> Manifest | None:
        """Return a DLO's segments; None if a listing does not prove that they are the version's.

        Swift makes its ETag of theirs, unless they fill more than a page.
        """
        page = self._store.list_page(dlo_prefix.container, prefix=dlo_prefix.key)
        manifest = Manifest(
            tuple(Segment(ObjectName(dlo_prefix.container, row.key), row.hash, row.size) for row in page.rows)
        )
        is_proved = page.last and (manifest.etag, manifest.size) == (base.etag, base.object_size)
        return manifest if is_proved else None

    def _learn(self, base: BaseVersion, manifest: Manifest, *, is_dlo: bool) -> bool:
        """Record the segments of `base`; return False if another version is the base by now. Lock held."""
        if not is_dlo:
            return self._resolver.learn_manifest(base, manifest)
        if not self._state.blocks.is_from(base):
            return False
        # Not in the base: no manifest of ours may name them, as they are another client's.
        self._state.checks.dlo = manifest
        return True

    def _begin_checks(self, first: int, last: int) -> None:
        """Compare the MD5 of the parts of the object that these blocks have completed."""
        state, info = self._state, self._resolver.last_get_info
        base = state.blocks.base
        if base is None or state.closed or not state.blocks.is_clean():
            return
        # Its ETag is the MD5 of the segments' ETags.
        if info is not None and _is_large(info) and base.manifest is None and state.checks.dlo is None:
            return
        for part in state.checks.due(base, state.blocks.present, first, last):
            part.running = self._submit(self._run_check, part, part.changes)

    def _run_check(self, part: ChecksumRange, changes: int) -> None:
        state, digest, is_wrong, is_checkable = self._state, "", False, True
        try:
            digest = md5_of(state.descriptor, part.start, part.end, lambda: state.closed)
            is_checkable = digest == part.etag or state.checks.dlo is None or self._is_plain(part)
        finally:
            with state.changed:
                if not is_checkable:
                    state.checks.leave_out(part)
                if is_wrong := state.checks.learn(part, changes, digest) and not state.closed:
                    # The next read downloads them again. A reader may have had them: see docs/durability.md.
                    state.blocks.drop(*part.blocks)
                    state.checks.forget(*part.blocks, evicted=False)
                    self._streams.forget()
                elif part.right:
                    state.blocks.verified.add(*part.whole_blocks(state.blocks.size))
                elif is_checkable:
                    self._begin_checks(*part.blocks)  # of bytes that came during this check
                state.changed.notify_all()
            if is_wrong:
                state.found_wrong_bytes()
            self._ended()

    def _is_plain(self, part: ChecksumRange) -> bool:
        """Return whether the ETag of a DLO's segment is the MD5 of its bytes: it is not of an SLO."""
        try:
            info = self._store.head(part.name)
        except SwiftfsError as error:
            log.info("%s cannot be checked: %s", part.name, error)
            return False
        return not _is_large(info) and info.version.etag == part.etag


def _is_large(info: ObjectInfo) -> bool:
    return info.is_slo or info.dlo_prefix is not None
