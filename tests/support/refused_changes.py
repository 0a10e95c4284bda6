"""Changes that Swift refuses."""

from collections.abc import Mapping
from pathlib import Path

from support.harness import LEFT, harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import NEVER
from swiftfs.errors import AccessDenied, StoreError
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


def leave_refused_files(store: MemoryStore, cache: Path, files: Mapping[str, bytes]) -> Path:
    """Make a cache folder, and leave in it pending files that the store has refused; return the folder."""
    cache.mkdir()
    refuse(store, AccessDenied, "put")
    with harness(store, cache, NEVER, close_error=LEFT) as filesystem:
        for path, data in files.items():
            write(filesystem, path, data)
    store.hook = None
    return cache
