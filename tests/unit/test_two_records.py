"""Two records of one file, as an earlier release left them, become one at the start."""

from pathlib import Path

import pytest

from support.edited_file import CHANGES, SOON, Edited, Gate
from support.harness import LEFT, harness, read, write
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, body
from swiftfs.attributes import Stored
from swiftfs.errors import AccessDenied
from swiftfs.filecache.block_map import BLOCK, BaseVersion, FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.merging import one_a_file
from swiftfs.journal.operations import PutFile
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectMeta

pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


def dirty(*blocks: int) -> Blocks:
    found = Blocks()
    for block in blocks:
        found.add(block, block + 1)
    return found


def saved(size: int, blocks: Blocks, base: BaseVersion | None = None) -> PutFile:
    file = FileRecord("open-one", size, base, blocks, None)
    return PutFile(ObjectName("box", "file"), file, ObjectMeta("text/plain", Stored()), True, "etag")


def test_the_newest_of_two_records_counts() -> None:
    base = BaseVersion(ObjectName("box", "file"), "etag", 5 * BLOCK, 5 * BLOCK)
    older = Record(3, "/file", saved(5 * BLOCK, dirty(0, 1, 4), base))
    file = FileRecord("open-two", 1, None, dirty(0), None)
    other = Record(4, "/other", PutFile(ObjectName("box", "other"), file, ObjectMeta("", Stored())))
    newest = Record(5, "/file", saved(4 * BLOCK, dirty(2), base))
    records, replaced = one_a_file([older, other, newest])
    assert [record.seq for record in records] == [4, 5]
    assert [record.seq for record in replaced] == [3]
    merged = records[1].operation
    assert isinstance(merged, PutFile)
    assert merged.file.size == 4 * BLOCK
    assert list(merged.file.dirty.runs(0, 9)) == [(0, 3)]


def test_blocks_of_an_older_version_are_no_changes_of_the_newer() -> None:
    name = ObjectName("box", "file")
    older = Record(3, "/file", saved(5 * BLOCK, dirty(0, 1), BaseVersion(name, "1", 5 * BLOCK, 5 * BLOCK)))
    newest = Record(5, "/file", saved(5 * BLOCK, dirty(2), BaseVersion(name, "2", 5 * BLOCK, 5 * BLOCK)))
    (record,), _ = one_a_file([older, newest])
    assert isinstance(record.operation, PutFile)
    assert list(record.operation.file.dirty.runs(0, 9)) == [(2, 3)]


@pytest.mark.parametrize("change", ["append", "append much", "grow", "cut and grow"])
def test_two_records_of_an_earlier_release(store: MemoryStore, tmp_path: Path, change: str) -> None:
    with harness(store, tmp_path, NEVER, close_error=LEFT) as filesystem:
        write(filesystem, "/file", b"first" * 5000)
        file = Edited(filesystem, bytearray(b"first" * 5000))
        journal = filesystem.services.journal
        with journal._changed:
            older = journal._queue.awake()[0].record()
        CHANGES[change](file, 2)
        CHANGES[change](file, 3)
        Gate(store, AccessDenied("no")).open.set()
    log = JournalDB(tmp_path, "box of memory")
    (newest,) = log.records()
    log.commit([older, Record(newest.seq + 1, newest.path, newest.operation)])
    log.close()
    store.hook = None
    with harness(store, tmp_path, SOON) as filesystem:
        assert [one.bytes for one in filesystem.waiting()] in ([len(file.model)], [])
        assert read(filesystem, "/file") == file.model
    assert body(store, "file") == file.model
