"""`swiftfs export` of cache folders: files that are whole, partial, damaged, or changing."""

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from support.damaged_cache import OWNER, CacheFolder
from support.harness import harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from swiftfs.attributes import Stored
from swiftfs.cli.export import PARTIAL, Export, find_cache
from swiftfs.errors import ConfigurationError
from swiftfs.filecache.block_map import BLOCK, BaseVersion, StoredSegment
from swiftfs.filecache.block_set import Blocks
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Delete, PutFile, PutMarker, PutSpecial
from swiftfs.journal.salvage import copy_journal, salvage
from swiftfs.objects import ObjectName, Segment
from swiftfs.store.protocol import ObjectMeta

PAGE = 4096
"""Bytes in a page of SQLite."""


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path)


def test_only_the_changed_part_is_copied_of_a_file_that_needs_its_object(cache: CacheFolder) -> None:
    dirty = Blocks()
    dirty.add(1, 2)
    base = BaseVersion(ObjectName("box", "f"), "0123", 3 * BLOCK, 3 * BLOCK)
    data = b"a" * BLOCK + b"b" * BLOCK + b"c" * BLOCK
    cache.add_file("/d/f", data, "open-1", base=base, dirty=dirty)
    cache.close()
    cache.export()
    copy = cache.target / "d" / f"f{PARTIAL}"
    assert copy.read_bytes() == bytes(BLOCK) + b"b" * BLOCK + bytes(BLOCK)
    assert copy.stat().st_blocks * 512 < 2 * BLOCK
    (line,) = cache.lines
    assert line.startswith(f"/d/f: {BLOCK} of its {3 * BLOCK} bytes are copied to {copy}; ")
    assert line.endswith("the others are in the object box/f, ETag 0123")


def test_only_the_rest_is_copied_of_a_file_with_stored_segments(cache: CacheFolder) -> None:
    prefix = ObjectName("box_segments", "f/upload/")
    segment = Segment(ObjectName("box_segments", "f/upload/1"), "0123", 2 * BLOCK)
    dirty = Blocks()
    dirty.add(0, 3)
    evicted = (StoredSegment(0, segment),)
    data = bytes(2 * BLOCK) + b"c" * BLOCK
    cache.add_file("/f", data, "open-1", dirty=dirty, prefix=prefix, evicted=evicted)
    cache.close()
    cache.export()
    assert (cache.target / f"f{PARTIAL}").read_bytes() == data
    (line,) = cache.lines
    assert line.startswith(f"/f: {BLOCK} of its {3 * BLOCK} bytes are copied to ")
    assert line.endswith("; the others are in its segments below box_segments/f/upload/")


def test_holes_stay_holes_and_bytes_behind_the_end_are_not_copied(cache: CacheFolder) -> None:
    cache.add_file("/f", b"x", "open-1", size=64 * 1024 * 1024)
    with (cache.folder / "content" / "open-1").open("r+b") as file:
        file.truncate(65 * 1024 * 1024)
    cache.close()
    export = cache.export()
    assert (cache.target / "f").stat().st_size == 64 * 1024 * 1024
    assert export.tally.bytes <= 1024 * 1024
    assert cache.lines == []


def test_missing_and_cut_local_files_are_reported(cache: CacheFolder) -> None:
    cache.add_file("/gone", b"gone", "open-1")
    cache.add_file("/cut", b"cut", "open-2", size=10)
    cache.close()
    (cache.folder / "content" / "open-1").unlink()
    cache.export()
    assert cache.lines == [
        f"/cut: 7 of its 10 bytes are gone; the others are copied to {cache.target / 'cut'}{PARTIAL}",
        "/gone: its local file open-1 is gone",
    ]
    assert (cache.target / f"cut{PARTIAL}").read_bytes() == b"cut" + bytes(7)
    assert not (cache.target / "gone").exists()


@pytest.mark.parametrize("text", ["{}", 7])
def test_a_row_that_cannot_be_read_is_told_and_the_others_are_read(cache: CacheFolder, text: object) -> None:
    for number in (1, 2):
        cache.add_file(f"/f{number}", b"data", f"open-{number}")
    cache.close()
    with closing(sqlite3.connect(cache.journal)) as database:
        database.execute("UPDATE intents SET intent = ? WHERE path = '/f1'", (text,))
        database.commit()
    salvaged = salvage(cache.journal)
    assert [one.path for one in salvaged.found] == ["/f2"]
    assert [one.partition(" (")[0] for one in salvaged.problems] == ["/f1: the change cannot be read"]


def test_rows_on_both_sides_of_a_damaged_page_are_read(cache: CacheFolder) -> None:
    for number in range(100):
        cache.add_file(f"/f{number:03}", b"data", f"open-{number}")
    cache.close()
    data = cache.journal.read_bytes()
    page = data.index(b"/f050") // PAGE
    cache.journal.write_bytes(data[: page * PAGE] + bytes(PAGE) + data[(page + 1) * PAGE :])
    sure = [one.path for one in salvage(cache.journal).found if not one.doubt]
    assert (sure[0], sure[-1]) == ("/f000", "/f099")
    assert "/f050" not in sure


def test_a_file_is_found_in_the_bytes_of_a_journal_that_is_no_database_any_more(cache: CacheFolder) -> None:
    cache.add_file("/f", b"data", "open-1")
    cache.close()
    with cache.journal.open("r+b") as file:
        file.write(bytes(100))
    (found,) = salvage(cache.journal).found
    assert (found.path, found.doubt) == ("/f", "found in the rest of a damaged journal")
    assert isinstance(found.operation, PutFile)
    assert found.operation.file.file == "open-1"


def test_a_file_that_is_stored_while_it_is_copied(cache: CacheFolder) -> None:
    cache.add_file("/f", b"data", "open-1")
    cache.close()
    before = salvage(cache.journal)
    (cache.folder / "content" / "open-1").unlink()
    log = JournalDB(cache.folder, OWNER)
    log.commit(drop=[1])
    log.close()
    export = cache.begin_export()
    export.take(before, lambda: salvage(cache.journal))
    assert cache.lines == []
    assert list(cache.target.iterdir()) == []


def test_no_copy_is_kept_of_a_file_that_was_stored_and_evicted_meanwhile(cache: CacheFolder) -> None:
    cache.add_file("/stored", b"data", "open-1")
    cache.add_file("/changed", b"data", "open-2")
    cache.add_file("/waits", b"data", "open-3")
    cache.close()
    before = salvage(cache.journal)
    for local in ("open-1", "open-2"):  # stored, then evicted
        (cache.folder / "content" / local).write_bytes(bytes(4))
    later = CacheFolder(cache.folder.parent / "later")
    later.add_file("/changed", b"newer", "open-4")
    shutil.copyfile(later.folder / "content" / "open-4", cache.folder / "content" / "open-4")
    log = JournalDB(cache.folder, OWNER)
    log.commit([Record(4, *later.operations[0])], drop=[1, 2])
    log.close()
    export = cache.begin_export()
    export.take(before, lambda: salvage(cache.journal))
    export.finish()
    assert cache.lines == []
    assert {path.name: path.read_bytes() for path in cache.target.iterdir()} == {
        "changed": b"newer",
        "waits": b"data",
    }
    assert (export.tally.files, export.tally.bytes) == (2, 9)


def test_a_file_that_changes_while_it_is_copied_is_copied_again(
    cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.add_file("/f", b"data", "open-1")
    cache.close()
    local = cache.folder / "content" / "open-1"
    pread, times = os.pread, iter([b"more"])

    def changing(descriptor: int, size: int, offset: int) -> bytes:
        data = pread(descriptor, size, offset)
        if change := next(times, b""):
            local.write_bytes(change)
        return data

    monkeypatch.setattr(os, "pread", changing)
    export = cache.export()
    assert (cache.target / "f").read_bytes() == b"more"
    assert export.tally.files == 1
    assert cache.lines == []


def test_no_path_leads_out_of_the_folder(cache: CacheFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = ObjectMeta("inode/symlink", Stored(stat.S_IFLNK | 0o777))
    cache.add_operation("/a", PutSpecial(ObjectName("box", "a"), str(outside).encode(), link))
    cache.add_file("/a/b", b"behind a link", "open-1")
    cache.add_file("/../../outside/up", b"up", "open-2")
    cache.add_file("//x/./y", b"odd", "open-3")
    cache.add_file("/c", b"a file", "open-4")
    cache.add_file("/c/d", b"in a file", "open-5")
    cache.add_operation("/" + "n" * 300, PutMarker(ObjectName("box", "n" * 300)))
    cache.add_operation(
        "/fifo", PutSpecial(ObjectName("box", "fifo"), b"", ObjectMeta("inode/fifo", Stored(0o10600)))
    )
    cache.add_operation("/c", Delete(ObjectName("box", "c"), is_slo=False))
    cache.close()
    export = cache.export()
    assert list(outside.iterdir()) == []
    found = {str(path.relative_to(cache.target)) for path in cache.target.rglob("*") if not path.is_dir()}
    assert found >= {"a/b", "%dotdot/%dotdot/outside/up", "x/%dot/y", "c", "c.2/d", "fifo"}
    assert stat.S_ISFIFO((cache.target / "fifo").lstat().st_mode)
    assert (cache.target / "a.2").readlink() == outside
    assert export.tally.files == 5
    assert any(line.startswith("/c/d: copied as ") for line in cache.lines)


def test_a_journal_that_others_write_to_is_copied_whole(cache: CacheFolder, tmp_path: Path) -> None:
    cache.close()
    log = JournalDB(cache.folder, OWNER)
    for seq in range(1, 50):
        log.commit([Record(seq, f"/{seq}", Delete(ObjectName("box", str(seq)), is_slo=None))])
        folder = tmp_path / f"copy{seq}"
        folder.mkdir()
        copy_journal(cache.journal, folder)
        assert len(salvage(cache.journal).found) == seq
        if seq % 7 == 0:
            log._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    log.close()
    assert salvage(cache.journal).problems == []


def test_files_that_a_power_cut_may_have_damaged_are_reported(
    cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.add_file("/f", b"data", "open-1")
    cache.close()
    log = JournalDB(cache.folder, OWNER)
    log._database.execute("UPDATE facts SET value = '0' WHERE name = 'synced'")
    log._database.commit()
    log._synced = log._commits
    log.close()
    monkeypatch.setattr("swiftfs.journal.salvage.boot_id", lambda: "another boot")
    cache.export()
    assert cache.lines == [
        f"/f: the machine stopped before it was written to the disk: check {cache.target / 'f'}"
    ]


def test_an_unusable_target_is_refused(cache: CacheFolder, tmp_path: Path) -> None:
    cache.close()
    (tmp_path / "file").touch()
    for target in (tmp_path / "file", tmp_path / "no" / "where"):
        with pytest.raises(ConfigurationError):
            Export(cache.folder, target, cache.lines.append)
    assert find_cache(cache.folder) == cache.folder


@pytest.mark.usual
def test_export_while_files_are_uploaded_copies_each_whole(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    lines: list[str] = []
    seen: set[str] = set()
    with harness(MemoryStore("box"), tmp_path / "cache", "settle=0.1") as filesystem:
        for number in range(300):
            write(filesystem, f"/{number}", str(number).encode() * 5000)
            if number % 20 == 19:
                export = Export(tmp_path / "cache", tmp_path / f"out{number}", lines.append)
                export.export(tmp_path / "cache" / "journal.sqlite")
                for copy in (tmp_path / f"out{number}").iterdir():
                    assert copy.read_bytes() == copy.name.encode() * 5000
                    seen.add(copy.name)
        wait_until(lambda: not filesystem.waiting())
    assert lines == []
    assert seen
