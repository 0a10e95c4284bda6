"""A second mount of the container: then the other client of a history has a journal of its own."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simulation.adversary import Adversary
from simulation.model import MISSING
from simulation.mount import detach, mount, stored_tree, tree_of
from simulation.plan import History
from simulation.scheduler import Scheduler
from support import harness
from swiftfs.errors import SwiftfsError
from swiftfs.posix.filesystem import FileSystem


class SecondMount:
    """A mount in whose threads every request counts as another client's. It has the options of the first."""

    def __init__(self, scheduler: Scheduler, store: Adversary, cache: Path, history: History) -> None:
        self._scheduler = scheduler
        self._store = store
        self._cache = cache
        self._history = history
        self._filesystem: FileSystem | None = None
        cache.mkdir()

    @contextmanager
    def _as_other(self) -> Iterator[None]:
        """Let the requests of this thread, and of threads that it begins, be another client's."""
        thread = self._scheduler.running
        before, thread.is_other = thread.is_other, True
        try:
            yield
        finally:
            thread.is_other = before

    def begin(self) -> None:
        """Mount; raise `SwiftfsError` while the server does not answer."""
        with self._as_other():
            self._filesystem = mount(self._store, self._cache, self._history.options)

    def killed(self) -> None:
        """Leave the cache folder as a kill does."""
        detach(self._cache)
        self._filesystem = None

    def end(self) -> None:
        """Unmount."""
        with self._as_other(), suppress(SwiftfsError):
            self._mounted.close()

    @property
    def _mounted(self) -> FileSystem:
        assert self._filesystem is not None
        return self._filesystem

    def call(self, call: Callable[[FileSystem], object]) -> None:
        """Let a program work in this mount; it does not mind errors."""
        with self._as_other(), suppress(OSError, SwiftfsError):
            call(self._mounted)

    def write(self, path: str, body: bytes) -> None:
        """Make a file, or replace one."""
        self.call(lambda filesystem: harness.write(filesystem, path, body))

    def patch(self, path: str, offset: int, body: bytes) -> None:
        """Change a file in place, and return when that is stored."""
        self.call(lambda filesystem: harness.change(filesystem, path, offset, body))
        self.call(lambda filesystem: _fsync(filesystem, path))

    def is_idle(self) -> bool:
        """Return whether it has stored everything."""
        late = self._mounted.services.journal.late
        return not self._mounted.waiting() and not late.counts().watched

    def retry(self) -> None:
        """Try again what waits."""
        with self._as_other():
            self._mounted.services.journal.retry()

    def differences(self) -> list[str]:
        """Return the paths at which it shows something else than the server has, when all is quiet.

        What waits for a person is shown beside the server's state.
        """
        self._scheduler.sleep(self._history.lag)
        with self._as_other():
            self._mounted.refresh()
            shown = tree_of(self._mounted, mixed=True)
        stored = stored_tree(self._store)
        if self._mounted.waiting() or any("%" in path for path in shown):  # a file and a folder of one name
            return []
        return sorted(
            path for path in {*shown, *stored} if shown.get(path, MISSING) != stored.get(path, MISSING)
        )


def _fsync(filesystem: FileSystem, path: str) -> None:
    handle = filesystem.open(path, os.O_RDWR)
    try:
        filesystem.fsync(handle, False)
    finally:
        filesystem.release(handle)
