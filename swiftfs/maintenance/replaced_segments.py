"""Frees the segments of large objects that `swiftfs cp` replaces, by the rules of the journal.

Without a mount there is no journal: a private one in a temporary folder has what must be deleted. If the
process dies first, `swiftfs gc` finds the segments.
"""

import tempfile
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from pathlib import Path

from swiftfs.concurrency import sleep
from swiftfs.errors import ConfigurationError, StoreError
from swiftfs.journal import resting_segments
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_ownership import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectStore


class ReplacedSegments:
    """Deletes the segments of replaced versions; `choice` is the option `segments`.

    `needed` returns the names and prefixes of segments that the mounts on this machine may need.
    """

    def __init__(self, store: ObjectStore, choice: str, needed: Callable[[], Iterable[ObjectName]]) -> None:
        self._store = store
        self._choice = choice
        self._needed = needed
        self._stack = ExitStack()
        self._removal: SegmentRemoval | None = None
        self._kept: tuple[ObjectName, ...] = ()

    def open(self) -> None:
        """Make the private journal, if there is none yet; not from several threads at once.

        Raise `ConfigurationError` if that cannot be, or the journals of mounts cannot be read.
        """
        try:
            self._open()
        except OSError as error:
            raise ConfigurationError(f"{tempfile.gettempdir()}: {error.strerror}") from None

    def _open(self) -> None:
        if self._removal is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="swiftfs-cp-"))
            database = JournalDB(Path(folder), "swiftfs cp")
            self._stack.callback(database.close)
            self._kept = tuple(self._needed())
            self._removal = SegmentRemoval(self._store, database, SegmentOwnership(database, self._choice))

    def of(self, name: ObjectName) -> set[ObjectName]:
        """Return the segments to delete when `name` has been replaced; raise the store's errors."""
        if self._removal is None:
            return set()
        own = self._removal.segments_of(name, is_slo=None)
        return {one for one in own if not any(_lies_below(one, prefix) for prefix in self._kept)}

    def replaced(self, name: ObjectName, segments: Collection[ObjectName], *, is_slo: bool) -> None:
        """Let the segments be deleted soon: the object now at `name` does not name them."""
        if self._removal is not None and segments:
            self._removal.discard(name, segments, is_slo=is_slo)

    def finish(self) -> None:
        """Delete what was replaced, after its rest; what fails is left to `swiftfs gc`."""
        if self._removal is not None and self._removal.leftovers.all():
            sleep(resting_segments.REST_SECONDS)
            try:
                self._removal.end_rests(at_once=True)
            except StoreError:
                return

    def close(self) -> None:
        """Remove the private journal."""
        self._stack.close()


def _lies_below(name: ObjectName, prefix: ObjectName) -> bool:
    return name.container == prefix.container and name.key.startswith(prefix.key)
