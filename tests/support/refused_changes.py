"""Changes that Swift refuses."""

from collections.abc import Callable, Mapping
from pathlib import Path

from support.harness import harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import NEVER
from swiftfs.errors import AccessDenied, StoreError, SwiftfsError
from swiftfs.journal.queue_report import QueueReport
from swiftfs.posix.filesystem import FileSystem


def refuse(store: MemoryStore, error: type[StoreError], *methods: str) -> None:
    """Let the store's requests of these methods fail with `error`."""

    def hook(called: str, _subject: str) -> None:
        if called in methods:
            raise error("no")

    store.hook = hook


def report(filesystem: FileSystem) -> QueueReport:
    """Return what a status shows of the changes."""
    return QueueReport.from_json(filesystem.getxattr("/", "swift.status").decode())


def flush(filesystem: FileSystem) -> QueueReport:
    """Try all changes once, as `swiftfs flush` does; return what a status shows then."""
    filesystem.setxattr("/", "swift.flush", b"1", 0)
    wait_until(lambda: not report(filesystem).flushing)
    return report(filesystem)


def ended(store: MemoryStore, cache: Path, job: Callable[[FileSystem], None], options: str = NEVER) -> str:
    """Return the message of the error with which a mount ends after a job; fail if there is none."""
    try:
        with harness(store, cache, options) as filesystem:
            job(filesystem)
    except SwiftfsError as error:
        return str(error)
    raise AssertionError("the mount ended without an error")


def leave_refused_files(store: MemoryStore, cache: Path, files: Mapping[str, bytes]) -> Path:
    """Make a cache folder, and leave in it pending files that the store has refused; return the folder."""

    def fill(filesystem: FileSystem) -> None:
        for path, data in files.items():
            write(filesystem, path, data)

    cache.mkdir()
    refuse(store, AccessDenied, "put")
    ended(store, cache, fill)
    store.hook = None
    return cache
