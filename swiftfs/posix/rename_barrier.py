"""Excludes changes during renames of the folders above them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from swiftfs.concurrency import Rank, new_condition, thread_id
from swiftfs.paths import is_below


class RenameBarrier:
    """Makes changes wait while a folder above them moves, and a folder's rename while changes below it run.

    A change passes with its paths: until it ends, no folder above them begins to move. Its thread may make
    further changes within it. The rename of a folder waits for the changes that have begun below its two
    paths; later ones wait for its end. Readers never wait.

    LOCK ORDER: a thread that waits here holds no open file's lock, because a rename takes the locks of the
    files below the folder.
    """

    def __init__(self) -> None:
        self._changed = new_condition(Rank.BARRIER)
        self._moving: dict[int, tuple[str, str]] = {}
        self._passing: dict[int, tuple[str, ...]] = {}

    @contextmanager
    def passing(self, paths: Callable[[], tuple[str, ...]]) -> Iterator[bool]:
        """Make a change about `paths`, which is called again after a wait; yield whether it had to wait."""
        thread = thread_id()
        waited = False
        with self._changed:
            # A call within a change (`truncate` opens, flushes and closes) would wait for a rename that waits
            # for it.
            inner = thread in self._passing or thread in self._moving
            if not inner:
                while self._is_moving(paths()):
                    waited = True
                    self._changed.wait()
                # Called again: an open file has a new path after its folder has moved.
                self._passing[thread] = paths()
        try:
            yield waited
        finally:
            if not inner:
                with self._changed:
                    del self._passing[thread]
                    self._changed.notify_all()

    @contextmanager
    def closed(self, old: str, new: str) -> Iterator[None]:
        """Rename a folder: wait for the changes below the two paths, and block others meanwhile."""
        thread = thread_id()
        with self._changed:
            self._changed.wait_for(lambda: not self._overlaps(old, new))
            # Before the changes that have begun are waited for: otherwise new ones could come for ever.
            self._moving[thread] = old, new
            self._changed.wait_for(
                lambda: not any(_lies_below(paths, (old, new)) for paths in self._passing.values())
            )
        try:
            yield
        finally:
            with self._changed:
                del self._moving[thread]
                self._changed.notify_all()

    def wait(self, path: Callable[[], str]) -> None:
        """Wait until no folder above `path` is moving."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_moving((path(),)))

    def _is_moving(self, paths: tuple[str, ...]) -> bool:
        return any(_lies_below(paths, pair) for pair in self._moving.values())

    def _overlaps(self, old: str, new: str) -> bool:
        return any(
            is_below(one, other) or is_below(other, one)
            for pair in self._moving.values()
            for one in pair
            for other in (old, new)
        )


def _lies_below(paths: tuple[str, ...], folders: tuple[str, str]) -> bool:
    return any(is_below(path, folder) for path in paths for folder in folders)
