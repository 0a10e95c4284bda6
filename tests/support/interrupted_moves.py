"""Moves as a process that dies leaves them in the journal, and how the next mount reports them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.harness import harness
from support.memory_store import MemoryStore
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Delete, Move, MovedObject, MoveFolder
from swiftfs.journal.queue_report import QueueReport
from swiftfs.posix.filesystem import FileSystem


def row_of(store: MemoryStore, key: str) -> MovedObject:
    """Return an object as the record of a move names it."""
    (row,) = store.list_page("box", prefix=key).rows
    return MovedObject(key, row.hash, row.last_modified)


def leave(folder: Path, operation: Delete | Move | MoveFolder, path: str = "/d") -> None:
    """Write an operation about `path` into a cache folder's journal, as a process that dies leaves it."""
    log = JournalDB(folder, "box of memory")
    log.commit([Record(1, path, operation)])
    log.close()


def refusals(filesystem: FileSystem) -> list[tuple[str, str, str, str]]:
    """Return path, kind, state and reason of each refusal that the mount reports."""
    report = QueueReport.from_json(filesystem.getxattr("/", "swift.status").decode())
    return [(one.path, one.kind, one.state, one.reason) for one in report.refusals]


def interrupted(store: MemoryStore, *, recorded: bool = True, served: bool = False) -> MoveFolder:
    """Return the move of `d` to `e` as a crash leaves it; if `recorded`, with all objects that move."""
    rows = store.list_page("box", prefix="d/").rows
    objects = tuple(MovedObject(row.key, row.hash, row.last_modified) for row in rows)
    return MoveFolder("box", "d/", "box", "e/", objects=objects if recorded else None, served=served)


@contextmanager
def remounted(
    store: MemoryStore, folder: Path, operation: Move | MoveFolder, close_error: str | None = None
) -> Iterator[FileSystem]:
    """Yield the mount that finds `operation` in its journal."""
    leave(folder, operation)
    with harness(store, folder, close_error=close_error) as filesystem:
        yield filesystem
