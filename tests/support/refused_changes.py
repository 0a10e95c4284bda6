"""Changes that Swift refuses."""

from collections.abc import Mapping
from pathlib import Path

from support.harness import LEFT, harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, refuse
from swiftfs.errors import AccessDenied
from swiftfs.journal.queue_report import QueueReport
from swiftfs.posix.filesystem import FileSystem


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
    refuse(store, "put", AccessDenied)
    with harness(store, cache, NEVER, close_error=LEFT) as filesystem:
        for path, data in files.items():
            write(filesystem, path, data)
    store.hook = None
    return cache
