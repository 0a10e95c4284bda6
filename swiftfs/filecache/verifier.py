"""Checks in the background that the downloaded bytes are those of the object.

The MD5 of an object or segment is compared when the last of its pieces is present.
"""

import logging
from collections.abc import Callable

from swiftfs.errors import SwiftfsError
from swiftfs.filecache.base_resolver import BaseResolver
from swiftfs.filecache.block_map import BLOCK, BaseVersion, block_range
from swiftfs.filecache.checksum_ranges import ChecksumRange, is_md5
from swiftfs.filecache.file_state import Activity, FileSource, FileState
from swiftfs.filecache.sparse_file import md5_of
from swiftfs.objects import ObjectInfo

log = logging.getLogger(__name__)

MUCH = 4 * 1024 * 1024
"""Bytes of an SLO that are read before its manifest is requested: a program that reads so much reads on."""


class Verifier:
    """Checks downloaded bytes of one file, in the threads that download."""

    def __init__(
        self, state: FileState, source: FileSource, resolver: BaseResolver, activity: Activity
    ) -> None:
        self._state = state
        self._store = source.store
        self._pool = source.pool
        self._streams = source.streams
        self._resolver = resolver
        self._activity = activity

    def arrived(self, info: ObjectInfo, first: int, last: int, *, whole: bool) -> None:
        """Check what a download of some blocks, or of the `whole` object, has completed. Lock held."""
        if info.is_slo:
            self._learn_segments()
        elif whole:
            self._state.checks.done = True
            if info.dlo_prefix is None and is_md5(info.version.etag):
                self._state.blocks.verified.add(first, last)
        if info.dlo_prefix is None:
            self._begin_checks(first, last)

    def _learn_segments(self) -> None:
        """Ask for an SLO's manifest when so much was read that whole segments may be present."""
        blocks, checks = self._state.blocks, self._state.checks
        base = blocks.base
        # A manifest costs a request, which a program that only reads the beginning of a file must not cause.
        much = len(blocks.present) * BLOCK >= MUCH or blocks.is_present(0, blocks.size)
        if base is None or base.manifest or checks.asked or checks.done or not much or self._state.closed:
            return
        checks.asked = True
        self._submit(self._ask_segments, base)

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

    def _ask_segments(self, base: BaseVersion) -> None:
        state, manifest = self._state, None
        try:
            manifest = self._store.manifest(base.name)
        except SwiftfsError as error:
            log.info("%s: the segments cannot be checked: %s", base.name, error)
        finally:
            with state.changed:
                state.checks.running -= 1
                if manifest is not None and self._resolver.learn_manifest(base, manifest):
                    self._begin_checks(*block_range(0, state.blocks.size))
                state.changed.notify_all()
            self._activity.ended()

    def _begin_checks(self, first: int, last: int) -> None:
        """Compare the MD5 of the parts of the object that these blocks have completed."""
        state, info = self._state, self._resolver.last_get_info
        base = state.blocks.base
        if base is None or state.closed or not state.blocks.is_clean():
            return
        # Its ETag is the MD5 of the segments' ETags.
        if info is not None and info.is_slo and base.manifest is None:
            return
        for part in state.checks.due(base, state.blocks.present, first, last):
            part.running = self._submit(self._run_check, part, part.changes)

    def _run_check(self, part: ChecksumRange, changes: int) -> None:
        state, digest, is_wrong = self._state, "", False
        try:
            digest = md5_of(state.descriptor, part.start, part.end, lambda: state.closed)
        finally:
            with state.changed:
                if is_wrong := state.checks.learn(part, changes, digest) and not state.closed:
                    # The next read downloads them again. A reader may have had them: see docs/durability.md.
                    state.blocks.drop(*part.blocks)
                    state.checks.forget(*part.blocks)
                    self._streams.forget()
                elif part.right:
                    state.blocks.verified.add(*part.whole_blocks(state.blocks.size))
                state.changed.notify_all()
            if is_wrong:
                state.found_wrong_bytes()
            self._activity.ended()
