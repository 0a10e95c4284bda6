"""Journals that SQLite can read, but that have lost commits."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import LEFT, ME, copy_live, harness, names, put, read, write
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, body
from swiftfs.cli.export import damaged_journals
from swiftfs.filecache import version_cache
from swiftfs.journal import database, salvage
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import PutFile
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

pytestmark = pytest.mark.mount_options(NEVER)

LEAVING = f"{NEVER},drain=0"

FILES = {f"file{number}": f"content {number}".encode() * 500 for number in range(4)}

STEP = 24 + 4096
"""Bytes of a frame in a write-ahead log."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def write_each(filesystem: FileSystem) -> None:
    """Close each of `FILES`, and sync it."""
    for name, data in FILES.items():
        write(filesystem, f"/{name}", data)
        filesystem.services.journal.sync()


@pytest.fixture
def image(store: MemoryStore, cache: Path, tmp_path: Path) -> Iterator[Path]:
    """A cache folder as a kill leaves it, with `FILES`."""
    with harness(store, cache, LEAVING, close_error=LEFT) as filesystem:
        write_each(filesystem)
        copy_live(cache, tmp_path / "image")
        yield tmp_path / "image"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def damage(image: Path, kind: str) -> None:
    """Damage the journal of a killed mount so that SQLite reads an older state, or none."""
    wal = image / "journal.sqlite-wal"
    size = wal.stat().st_size
    match kind:
        case "header":
            flip(wal, 20)
        case "first":
            flip(wal, 32 + 24 + 100)
        case "middle":
            flip(wal, size // 2)
        case "half":
            os.truncate(wal, size // 2)
        case "empty":
            os.truncate(wal, 0)
        case "no log":
            wal.unlink()
        case "nothing":
            wal.unlink()
            os.truncate(image / "journal.sqlite", 0)
        case "gone":
            wal.unlink()
            (image / "journal.sqlite").unlink()
        case "only the log":
            (image / "journal.sqlite").unlink()


DAMAGES = ["header", "first", "middle", "half", "empty", "no log", "nothing", "gone", "only the log"]
FLIPPED = ["first", "middle"]


@pytest.mark.parametrize("is_another_boot", [False, True])
@pytest.mark.parametrize("kind", DAMAGES)
def test_no_closed_file_is_deleted(
    store: MemoryStore,
    image: Path,
    kind: str,
    is_another_boot: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(image, kind)
    if is_another_boot:
        monkeypatch.setattr(database, "boot_id", lambda: "another boot")
    assert damaged_journals(image) or kind in ("gone", "only the log")
    with caplog.at_level(logging.ERROR), harness(store, image) as filesystem:
        assert names(filesystem, "/") == []
    assert "journal.sqlite is " in caplog.text
    assert sorted(path.read_bytes() for path in (image / "lost").iterdir()) == sorted(FILES.values())
    count = len(damaged_journals(image))
    assert count == (kind != "gone")
    # The new journal is an ordinary one.
    with harness(store, image) as filesystem:
        write(filesystem, "/new", b"new")
    assert body(store, "new") == b"new"
    assert len(damaged_journals(image)) == count


@pytest.mark.parametrize("kind", FLIPPED)
def test_recover_reads_what_is_behind_a_damaged_frame(store: MemoryStore, image: Path, kind: str) -> None:
    damage(image, kind)
    with harness(store, image):
        pass
    (journal,) = damaged_journals(image)
    found = [one.operation for one in salvage.salvage(journal).found]
    files = {one.name.key: one.file.file for one in found if isinstance(one, PutFile)}
    assert {key: (image / "lost" / file).read_bytes() for key, file in files.items()} == FILES


def test_an_older_copy_of_the_journal_is_not_used(store: MemoryStore, cache: Path, tmp_path: Path) -> None:
    with harness(store, cache) as filesystem:
        write(filesystem, "/old", b"old")
    shutil.copy(cache / "journal.sqlite", tmp_path / "older")
    with harness(store, cache, LEAVING, close_error=LEFT) as filesystem:
        write_each(filesystem)
    shutil.copy(tmp_path / "older", cache / "journal.sqlite")
    with harness(store, cache):
        pass
    assert sorted(path.read_bytes() for path in (cache / "lost").iterdir()) == sorted(FILES.values())


def test_a_process_that_dies_before_it_has_moved_the_files_deletes_none(
    store: MemoryStore, image: Path
) -> None:
    damage(image, "first")
    JournalDB(image, "box of memory").close()
    with harness(store, image):
        pass
    assert sorted(path.read_bytes() for path in (image / "lost").iterdir()) == sorted(FILES.values())


def test_an_ordinary_kill_loses_nothing_and_keeps_nothing_else(store: MemoryStore, image: Path) -> None:
    (image / "content" / "open-never-closed").write_bytes(b"not closed")
    with harness(store, image) as filesystem:
        assert {name: read(filesystem, f"/{name}") for name in names(filesystem, "/")} == FILES
    assert not (image / "lost").exists()
    assert damaged_journals(image) == []


@pytest.mark.parametrize("kept", [0, 1, STEP - 1])
def test_a_write_that_a_kill_has_cut_off_is_no_damage(store: MemoryStore, image: Path, kept: int) -> None:
    wal = image / "journal.sqlite-wal"
    data = wal.read_bytes()
    frame = bytearray(data[-STEP:])
    frame[4:8] = bytes(4)  # the first of two frames
    wal.write_bytes(data + bytes(frame) + bytes(frame)[:kept])
    with harness(store, image) as filesystem:
        assert set(names(filesystem, "/")) == set(FILES)
    assert not (image / "lost").exists()


def test_the_last_second_before_a_kill_is_not_lost(store: MemoryStore, cache: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with harness(store, cache, LEAVING, close_error=LEFT) as filesystem:
        write_each(filesystem)
        synced = (cache / "journal.sqlite-wal").stat().st_size
        write(filesystem, "/later", b"later")
        copy_live(cache, image)
    flip(image / "journal.sqlite-wal", synced + 1000)
    with harness(store, image):
        pass
    left = sorted(path.read_bytes() for path in (image / "lost").iterdir())
    assert left == sorted([*FILES.values(), b"later"])


def test_a_power_cut_may_take_what_was_not_synced(
    store: MemoryStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with harness(store, cache, LEAVING, close_error=LEFT) as filesystem:
        write_each(filesystem)
        synced = (cache / "journal.sqlite-wal").stat().st_size
        write(filesystem, "/later", b"later")
        write(filesystem, "/last", b"last")
        copy_live(cache, tmp_path / "image")
    flip(tmp_path / "image" / "journal.sqlite-wal", synced + 1000)
    monkeypatch.setattr(database, "boot_id", lambda: "another boot")
    with harness(store, tmp_path / "image") as filesystem:
        assert set(names(filesystem, "/")) == set(FILES)
    assert damaged_journals(tmp_path / "image") == []


@pytest.mark.parametrize("delay", [0.0, 3600.0])
def test_files_are_kept_if_log_and_mark_are_replaced_by_older_copies(
    store: MemoryStore,
    cache: Path,
    tmp_path: Path,
    delay: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A backup of the cache folder may have been restored in part. A file that was only open is not kept."""
    monkeypatch.setattr(version_cache, "UNSYNCED_SECONDS", delay)
    replaced, backup = ("journal.sqlite-wal", "journal.sqlite-synced"), tmp_path / "backup"
    backup.mkdir()
    with harness(store, cache, LEAVING, close_error=LEFT) as filesystem:
        write(filesystem, "/first", b"first")
        filesystem.services.journal.sync()
        for name in replaced:
            shutil.copy2(cache / name, backup / name)
        write_each(filesystem)
        never_closed = filesystem.create("/open", 0o644, os.O_WRONLY, ME)
        put(filesystem, never_closed, 0, b"never closed")
        write(filesystem, "/stored", b"stored")
        filesystem.services.journal.flush([ObjectName("box", "stored")])
        stored = filesystem.open("/stored", os.O_RDWR)
        put(filesystem, stored, 0, b"S")
        copy_live(cache, tmp_path / "image")
        filesystem.release(never_closed)
        filesystem.release(stored)
    for name in replaced:
        shutil.copy2(backup / name, tmp_path / "image" / name)
    with harness(store, tmp_path / "image", LEAVING, close_error=LEFT) as filesystem:
        assert read(filesystem, "/first") == b"first"
    lost = [path.read_bytes() for path in (tmp_path / "image").glob("lost/*")]
    assert sorted(lost) == ([] if delay else sorted(FILES.values()))
    if not delay:
        assert f"{len(FILES)} local files that the journal may have named" in caplog.text


def test_nothing_is_kept_after_a_kill(
    image: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_cache, "UNSYNCED_SECONDS", 0.0)
    with harness(store, image, LEAVING, close_error=LEFT) as filesystem:
        assert {*names(filesystem, "/")} >= {*FILES}
    assert not (image / "lost").exists()
