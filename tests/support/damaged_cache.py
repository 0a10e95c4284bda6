"""A cache folder with a journal that a test composes, as a dead mount may leave it."""

import stat
from pathlib import Path
from typing import Any

from swiftfs.attributes import Stored
from swiftfs.cli.export import Export
from swiftfs.filecache.block_map import FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Operation, PutFile
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectMeta

OWNER = "box of memory"
MTIME = 1_700_000_000_123_456_789
DESCRIPTION = ObjectMeta("text/plain", Stored(stat.S_IFREG | 0o640, MTIME))


class CacheFolder:
    """A cache folder with a journal of the given `operations`; `lines` is what `export` reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cache"
        self.target = folder / "out"
        self.lines: list[str] = []
        self.folder.mkdir(parents=True)
        JournalDB(self.folder, OWNER).close()  # without one, local files count as those of a lost journal
        (self.folder / "content").mkdir()
        self.operations: list[tuple[str, Operation]] = []

    def add_file(self, path: str, data: bytes, local: str, **fields: Any) -> None:
        """Add a PutFile, with a local file that holds `data`; `fields` are those of its record."""
        (self.folder / "content" / local).write_bytes(data)
        file = FileRecord(
            local, **{"size": len(data), "base": None, "dirty": Blocks(), "prefix": None, **fields}
        )
        self.add_operation(path, PutFile(ObjectName("box", path.strip("/")), file, DESCRIPTION))

    def add_operation(self, path: str, operation: Operation) -> None:
        """Add an operation on a path to the journal."""
        self.operations.append((path, operation))

    def close(self) -> None:
        """Write the journal."""
        log = JournalDB(self.folder, OWNER)
        log.commit(Record(seq, *one) for seq, one in enumerate(self.operations, 1))
        log.close()

    @property
    def journal(self) -> Path:
        """The path of the journal."""
        return self.folder / "journal.sqlite"

    def begin_export(self) -> Export:
        """Return an export to `target` that has copied nothing yet."""
        return Export(self.folder, self.target, self.lines.append)

    def export(self) -> Export:
        """Copy all files to `target`; return the finished export."""
        export = self.begin_export()
        export.export(self.journal)
        export.finish()
        return export
