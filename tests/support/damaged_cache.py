"""A cache folder with a damaged journal."""

import stat
from pathlib import Path
from typing import Any

from swiftfs.attributes import Stored
from swiftfs.filecache.block_map import Blocks, FileRecord
from swiftfs.journal.database import JournalDB, Record
from swiftfs.journal.operations import Operation, PutFile
from swiftfs.maintenance.export import Export
from swiftfs.objects import ObjectName
from swiftfs.store.object_meta import ObjectMeta

OWNER = "box of memory"
MTIME = 1_700_000_000_123_456_789
DESCRIPTION = ObjectMeta("text/plain", Stored(stat.S_IFREG | 0o640, MTIME))


class Cache:
    """A cache folder whose journal says what a test wants; `lines` is what a rescue told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cache"
        self.target = folder / "out"
        self.lines: list[str] = []
        (self.folder / "content").mkdir(parents=True)
        self.intents: list[tuple[str, Operation]] = []

    def add(self, path: str, data: bytes, local: str, **saved: Any) -> None:
        """Let a file be in the journal, and `data` be what its local file has."""
        (self.folder / "content" / local).write_bytes(data)
        file = FileRecord(
            local, **{"size": len(data), "origin": None, "dirty": Blocks(), "prefix": None, **saved}
        )
        self.note(path, PutFile(ObjectName("box", path.strip("/")), file, DESCRIPTION))

    def note(self, path: str, intent: Operation) -> None:
        """Let an intent be in the journal."""
        self.intents.append((path, intent))

    def close(self) -> None:
        """Write the journal."""
        log = JournalDB(self.folder, OWNER)
        log.commit(Record(seq, *one) for seq, one in enumerate(self.intents, 1))
        log.close()

    @property
    def journal(self) -> Path:
        return self.folder / "journal.sqlite"

    def export(self) -> Export:
        rescue = Export(self.folder, self.target, self.lines.append)
        rescue.export(self.journal)
        rescue.finish()
        return rescue
