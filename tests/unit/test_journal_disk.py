"""The journal's database on a disk that refuses a commit for a while: what it was to record is not lost."""

import errno
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.harness import ME, copy_live, harness, names, put, read
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.power_cut import refusing
from support.stored_objects import NEVER, foreign, keys
from swiftfs.config.cache_dir import JOURNAL_RESERVE
from swiftfs.journal import database
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Delete, decode
from swiftfs.objects import ObjectName

NAMES = {number: ObjectName("box", f"file{number}") for number in range(10)}


def record(number: int, name: int | None = None) -> Record:
    """Return a record with a `number`, about the file of that number or about another one."""
    return Record(number, f"/file{number}", Delete(NAMES[number if name is None else name], is_slo=False))


def recorded(log: JournalDB) -> list[tuple[int, ObjectName]]:
    """Return the numbers and names of what the database holds."""
    found = []
    for number, _path, text, *_ in sorted(log.rows("intents")):
        operation = decode(text)
        assert isinstance(operation, Delete)
        found.append((number, operation.name))
    return found


@pytest.fixture
def log(tmp_path: Path) -> Iterator[JournalDB]:
    (tmp_path / "cache").mkdir()
    with closing(JournalDB(tmp_path / "cache", "me")) as log:
        yield log


def test_records_that_the_disk_refused_are_written_with_the_next_commit(log: JournalDB) -> None:
    """The end of a rename puts the deletions of old names that it could not delete."""
    log.commit([record(1)])
    with refusing(log):
        log.finish([record(2), record(3)], [1])
    assert recorded(log) == [(1, NAMES[1])]
    log.commit([record(4)])
    assert recorded(log) == [(number, NAMES[number]) for number in (2, 3, 4)]


def test_records_that_the_disk_refused_are_written_without_another_commit(log: JournalDB) -> None:
    with refusing(log):
        log.finish([record(1)])
        with pytest.raises(OSError, match="journal"):
            log.sync()
    log.sync()
    assert recorded(log) == [(1, NAMES[1])]


@pytest.mark.parametrize(("reason", "is_kept"), [("the disk is full", False), ("it fails", True)])
def test_only_a_full_disk_takes_the_reserve(
    log: JournalDB, tmp_path: Path, *, reason: str, is_kept: bool
) -> None:
    log._database.execute(
        f"CREATE TEMP TRIGGER refuse BEFORE INSERT ON intents BEGIN SELECT RAISE(ABORT, '{reason}'); END"
    )
    with pytest.raises(OSError, match="journal"):
        log.commit([record(1)])
    assert (tmp_path / "cache" / JOURNAL_RESERVE).exists() == is_kept


def test_of_two_refused_records_the_later_counts(log: JournalDB) -> None:
    with refusing(log):
        log.finish([record(1), record(2)])
        log.finish([record(2, name=5)], [1])
    log.commit([record(3)])
    assert recorded(log) == [(2, NAMES[5]), (3, NAMES[3])]


@pytest.mark.parametrize(("carried", "commits"), [(None, 1), (7, 3)])
def test_what_the_disk_refuses_for_hours_is_one_commit_but_for_a_folder_s_move(
    log: JournalDB, carried: int | None, commits: int
) -> None:
    before = log.last_commit()
    with refusing(log):
        log.finish([record(1)])
        log.finish([replace(record(2), carried=carried)])
        log.finish([record(3)])
    log.commit([record(4)])
    assert recorded(log) == [(number, NAMES[number]) for number in (1, 2, 3, 4)]
    assert log.last_commit() == before + commits + 1


def test_a_refused_record_that_ended_or_changed_meanwhile_does_not_come_back(log: JournalDB) -> None:
    with refusing(log):
        log.finish([record(1), record(2)])
    log.commit([record(2, name=5)], drop=[1])
    log.commit([record(3)])
    assert recorded(log) == [(2, NAMES[5]), (3, NAMES[3])]


def test_a_commit_that_fails_takes_nothing_from_a_refused_record(log: JournalDB) -> None:
    with refusing(log):
        log.finish([record(1)])
        with pytest.raises(OSError, match="journal"):
            log.commit(drop=[1])
    log.commit([record(2)])
    assert recorded(log) == [(1, NAMES[1]), (2, NAMES[2])]


def test_a_synced_state_that_could_not_be_recorded_is_recorded_later(
    tmp_path: Path, log: JournalDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut sets aside changes that are on the disk."""
    log.commit([record(1)])
    with refusing(log), pytest.raises(OSError, match="journal"):
        log.sync()
    log.sync()
    copy_live(tmp_path / "cache", tmp_path / "left")
    monkeypatch.setattr(database, "boot_id", lambda: "another boot")
    with closing(JournalDB(tmp_path / "left", "me")) as after:
        assert [one.seq for one in after.records()] == [1]


def test_a_synced_state_that_did_not_reach_the_disk_is_synced_again(
    log: JournalDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    fdatasync = os.fdatasync

    def fail_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    log.commit([record(1)])
    with pytest.raises(OSError, match="Input/output error"):
        log.sync()
    log.sync()
    assert len(calls) == 2


def test_a_file_whose_record_the_disk_refuses_to_delete_is_there_for_the_next_mount(tmp_path: Path) -> None:
    """It is in Swift, but a process that dies then leaves the record, which names the local file."""
    store, cache, image = MemoryStore("box"), tmp_path / "cache", tmp_path / "image"
    cache.mkdir()
    with harness(store, cache, NEVER) as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        put(filesystem, handle, 0, b"bytes")
        filesystem.flush(handle)
        with refusing(filesystem.services.journal._db):
            with suppress(OSError):  # nor can the disk take the end of an fsync
                filesystem.fsync(handle, False)
            filesystem.release(handle)
            wait_until(lambda: keys(store) == ["file"])
            wait_until(lambda: not filesystem.waiting())
            copy_live(cache, image)
    with harness(store, image) as filesystem:
        assert read(filesystem, "/file") == b"bytes"
        wait_until(lambda: not filesystem.waiting())


def test_a_file_that_was_deleted_while_it_was_open_is_deleted_though_the_disk_is_full(tmp_path: Path) -> None:
    """The record of a deletion that waits a moment cannot be merged with others then."""
    store = MemoryStore("box")
    foreign(store, "file", b"data")
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, "settle=0.05") as filesystem:
        handle = filesystem.open("/file", os.O_RDWR)
        filesystem.hide("/file", "/.fuse_hidden0000000100000001")
        with refusing(filesystem.services.journal._db):
            filesystem.release(handle)
            wait_until(lambda: keys(store) == [])
        filesystem.refresh()
        assert names(filesystem, "/") == []
    with harness(store, cache) as filesystem:
        assert names(filesystem, "/") == []
