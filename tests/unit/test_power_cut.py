"""A power cut, simulated by a copy of the files that were synced to the disk."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support.deadlines import within
from support.halted_moves import Halt
from support.harness import ME, change, copy_live, harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.power_cut import Disk, refusing
from support.stored_objects import NEVER, as_of_now, body, foreign, keys
from swiftfs.cli.export import PARTIAL, Export
from swiftfs.errors import AccessDenied
from swiftfs.filecache.sparse_file import synchronize
from swiftfs.journal import database
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import PutFile
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers


def test_a_file_closed_a_second_before_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    store.create_container("box")
    cache, disk = tmp_path / "cache", tmp_path / "disk"
    cache.mkdir()
    synced: list[str] = []
    fdatasync = os.fdatasync

    def snapshot(step: str) -> None:
        shutil.rmtree(disk, ignore_errors=True)
        copy_live(cache, disk)
        synced.append(step)

    def sync_files(folder: Path) -> None:
        synchronize(folder)
        snapshot("files")

    def sync_fact(file: int) -> None:
        fdatasync(file)
        snapshot("fact")

    monkeypatch.setattr(database, "synchronize", sync_files)
    monkeypatch.setattr(os, "fdatasync", sync_fact)
    with harness(store, cache, "settle=1000") as filesystem:
        write(filesystem, "/file", b"data")
        before = len(synced)
        wait_until(lambda: synced[before:][-2:] == ["files", "fact"])
        copy_live(disk, tmp_path / "left")
    store.delete(ObjectName("box", "file"))
    monkeypatch.setattr(database, "boot_id", lambda: "another boot")
    with harness(store, tmp_path / "left", "settle=1000") as filesystem:
        assert names(filesystem, "/") == ["file"]
    assert not (tmp_path / "left" / "lost").exists()


def test_new_attributes_make_no_bytes_doubtful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that was closed long before, only the attributes changed in the last second."""
    store, go_on = MemoryStore("box"), threading.Event()
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, "settle=1000") as filesystem:
        write(filesystem, "/file", b"data")
        db = filesystem.services.journal._db
        wait_until(lambda: 0 < db._commits == db._synced)
        monkeypatch.setattr(database, "synchronize", lambda _folder: go_on.wait(within(60)))
        filesystem.chmod("/file", 0o600)
        write(filesystem, "/other", b"too late")
        copy_live(cache, tmp_path / "left")
        go_on.set()
    monkeypatch.setattr(database, "boot_id", lambda: "another boot")
    with harness(MemoryStore("box"), tmp_path / "left", "settle=1000") as filesystem:
        assert names(filesystem, "/") == ["file"]
        assert read(filesystem, "/file") == b"data"
        assert filesystem.getattr("/file").mode & 0o777 == 0o600


OLD = noise(300_000)
NEW = noise(250_000, seed=1)
PATCHED = OLD[:1000] + NEW[:200_000] + OLD[201_000:]
CUT = 140_000


def _store(filesystem: FileSystem, path: str, data: bytes) -> None:
    write(filesystem, path, data)
    handle = filesystem.open(path, os.O_RDONLY)
    filesystem.fsync(handle, False)
    filesystem.release(handle)


def _save(filesystem: FileSystem) -> None:
    write(filesystem, "/file~", NEW)
    filesystem.rename("/file~", "/file")


def _make_again(filesystem: FileSystem) -> None:
    filesystem.unlink("/file")
    write(filesystem, "/file", NEW)


def _rotate(filesystem: FileSystem) -> None:
    filesystem.rename("/file", "/file.1")
    write(filesystem, "/file", NEW)


def _save_backwards(filesystem: FileSystem) -> None:
    filesystem.rename("/file", "/file~")
    write(filesystem, "/file", NEW)
    filesystem.unlink("/file~")


def _link(filesystem: FileSystem) -> None:
    filesystem.unlink("/file")
    filesystem.symlink("elsewhere", "/file", ME)


CHANGES: dict[str, tuple[Callable[[FileSystem], object], set[bytes]]] = {
    "rewritten": (lambda filesystem: write(filesystem, "/file", NEW), {OLD}),
    "appended": (lambda filesystem: change(filesystem, "/file", len(OLD), NEW), {OLD}),
    # Within bytes that were synced a disk may have any of the newer ones.
    "patched": (lambda filesystem: change(filesystem, "/file", 1000, NEW[:200_000]), {OLD, PATCHED}),
    "cut": (lambda filesystem: filesystem.truncate("/file", CUT), {OLD, OLD[:CUT]}),
    "emptied": (lambda filesystem: filesystem.truncate("/file", 0), {OLD}),
    "saved": (_save, {OLD}),
    "deleted": (lambda filesystem: filesystem.unlink("/file"), {OLD}),
    "made again": (_make_again, {OLD}),
    "rotated": (_rotate, {OLD}),
    "saved backwards": (_save_backwards, {OLD}),
    "a link now": (_link, {OLD}),
    "renamed": (lambda filesystem: filesystem.rename("/file", "/other"), {OLD}),
    "mode": (lambda filesystem: filesystem.chmod("/file", 0o600), {OLD}),
}
"""Ways to change a file, and what it may be after a power cut that comes before the next sync."""

AGAIN: dict[str, Callable[[FileSystem], object]] = {
    "mode": lambda filesystem: filesystem.chmod("/e/file", 0o600),
    "rewritten": lambda filesystem: write(filesystem, "/e/file", NEW),
    "renamed": lambda filesystem: filesystem.rename("/e/file", "/e/other"),
    "renamed again": lambda filesystem: filesystem.rename("/e", "/f"),
}
"""Ways to change the file `/e/file` that a folder's rename has carried along."""


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


both = pytest.mark.parametrize("journal_is_newest", [True, False])
"""Whether the disk has the newest journal, or that of the last sync."""


@both
@pytest.mark.parametrize("way", CHANGES)
def test_what_was_synced_survives_a_change_in_the_last_second(
    disk: Disk, way: str, journal_is_newest: bool
) -> None:
    make, left = CHANGES[way]
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        for _ in range(2):
            with suppress(FileNotFoundError):
                filesystem.unlink("/other")
            write(filesystem, "/file", NEW)
            disk.sync(filesystem)
            write(filesystem, "/file", OLD)
            disk.sync(filesystem)
            make(filesystem)
        image = disk.cut(journal_is_newest=journal_is_newest)
    disk.restart()
    store = MemoryStore("box")
    with harness(store, image, NEVER) as filesystem:
        assert read(filesystem, "/file") in left
    assert body(store, "file") in left


def test_a_file_that_was_cut_and_grew_again_keeps_what_it_had_in_between(disk: Disk) -> None:
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        filesystem.truncate("/file", CUT)
        change(filesystem, "/file", CUT + 100, b"end")
        assert read(filesystem, "/file") == OLD[:CUT] + bytes(100) + b"end"
        image = disk.cut(journal_is_newest=True)
    disk.restart()
    with harness(MemoryStore("box"), image, NEVER) as filesystem:
        assert read(filesystem, "/file")[:CUT] == OLD[:CUT]


def test_a_cut_file_that_grows_after_the_sync_has_zeros_behind_the_cut(disk: Disk) -> None:
    store = MemoryStore("box")
    with harness(store, disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        filesystem.truncate("/file", CUT)
        disk.sync(filesystem)
        filesystem.truncate("/file", len(OLD))
        assert read(filesystem, "/file") == OLD[:CUT] + bytes(len(OLD) - CUT)
    assert body(store, "file") == OLD[:CUT] + bytes(len(OLD) - CUT)


def _use(cache: Path) -> int:
    """Return how many bytes of disk the local files take."""
    return sum(file.stat().st_blocks * 512 for file in (cache / "content").iterdir())


@pytest.mark.parametrize("way", CHANGES)
def test_what_the_next_sync_makes_needless_is_freed(disk: Disk, way: str) -> None:
    make, _ = CHANGES[way]
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        make(filesystem)
        disk.sync(filesystem)
        db = filesystem.services.journal._db
        named = {one.file.file: one.file.size for one in puts(db)}
        assert {file.name for file in (disk.cache / "content").iterdir()} == named.keys()
        assert _use(disk.cache) <= sum(size + 2 * 4096 for size in named.values())
        assert db.rows("older") == []


def puts(db: JournalDB) -> list[PutFile]:
    """Return the files that the records name."""
    return [one.operation for one in db.records() if isinstance(one.operation, PutFile)]


def test_a_change_that_was_never_synced_is_not_kept(disk: Disk) -> None:
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        write(filesystem, "/file", NEW)
        assert filesystem.services.journal._db.rows("older") == []
        assert len(list((disk.cache / "content").iterdir())) == 1


@both
def test_a_change_during_a_sync_leaves_what_that_sync_brings_to_the_disk(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, journal_is_newest: bool
) -> None:
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", NEW)
        disk.sync(filesystem)
        write(filesystem, "/file", OLD)
        during = [lambda: write(filesystem, "/file", b"too late")]

        def sync_files(folder: Path) -> None:
            synchronize(folder)
            while during:
                during.pop()()

        monkeypatch.setattr(database, "synchronize", sync_files)
        disk.sync(filesystem)
        image = disk.cut(journal_is_newest=journal_is_newest)
    disk.restart()
    with harness(MemoryStore("box"), image, NEVER) as filesystem:
        assert read(filesystem, "/file") == OLD


def test_a_sync_that_fails_leaves_what_the_last_one_has_brought_to_the_disk(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        with monkeypatch.context() as broken:
            broken.setattr(database, "synchronize", fail)
            for _ in range(3):
                write(filesystem, "/file", NEW)
                with pytest.raises(OSError, match="Input/output error"):
                    filesystem.services.journal.sync()
        image = disk.cut(journal_is_newest=True)
        filesystem.services.journal.sync()
        assert len(list((disk.cache / "content").iterdir())) == 1
    disk.restart()
    with harness(MemoryStore("box"), image, NEVER) as filesystem:
        assert read(filesystem, "/file") == OLD


@pytest.mark.usefixtures("no_retries")
def test_a_power_cut_soon_after_a_kill_leaves_what_was_synced_before(disk: Disk, tmp_path: Path) -> None:
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        filesystem.rename("/file", "/other")
        write(filesystem, "/file", NEW)
        copy_live(disk.cache, tmp_path / "killed")
        disk.cache = tmp_path / "killed"
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        assert (read(filesystem, "/other"), read(filesystem, "/file")) == (OLD, NEW)
        filesystem.unlink("/other")
        image = disk.cut(journal_is_newest=True)
        disk.sync(filesystem)
        assert len(list((disk.cache / "content").iterdir())) == 1
    disk.restart()
    with harness(MemoryStore("box"), image, NEVER) as filesystem:
        assert names(filesystem, "/") == ["file"]
        assert read(filesystem, "/file") == OLD


@pytest.mark.parametrize("way", ["rewritten", "appended", "patched", "cut", "saved"])
def test_what_an_fsync_has_stored_is_not_overwritten_by_an_older_state(disk: Disk, way: str) -> None:
    """The disk has the older one at the time of the fsync, and no sync comes after it."""
    make, _ = CHANGES[way]
    store = MemoryStore("box")
    with harness(store, disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        make(filesystem)
        handle = filesystem.open("/file", os.O_RDWR)
        filesystem.fsync(handle, False)
        filesystem.release(handle)
        stored = body(store, "file")
        assert stored != OLD
        image = disk.cut(journal_is_newest=False)
    disk.restart()
    with harness(store, image, NEVER) as filesystem:
        assert read(filesystem, "/file") == stored
        assert not filesystem.waiting()
    assert body(store, "file") == stored


def test_what_an_fsync_has_stored_is_not_stored_again_over_another_client_s_version(disk: Disk) -> None:
    store = MemoryStore("box")
    with harness(store, disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        handle = filesystem.open("/file", os.O_RDWR)
        filesystem.fsync(handle, False)
        filesystem.release(handle)
        image = disk.cut(journal_is_newest=False)
    foreign(store, "file", b"theirs")
    disk.restart()
    with harness(store, image, NEVER) as filesystem:
        assert not filesystem.waiting()
    assert body(store, "file") == b"theirs"


def test_export_copies_what_was_synced_and_what_may_be_damaged(disk: Disk, tmp_path: Path) -> None:
    lines: list[str] = []
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        write(filesystem, "/deleted", OLD)
        disk.sync(filesystem)
        write(filesystem, "/file", NEW)
        filesystem.unlink("/deleted")
        image = disk.cut(journal_is_newest=True)
    Export(image, tmp_path / "same boot", lines.append).export(image / "journal.sqlite")
    assert [path.name for path in (tmp_path / "same boot").iterdir()] == [f"file{PARTIAL}"]
    disk.restart()
    lines.clear()
    Export(image, tmp_path / "out", lines.append).export(image / "journal.sqlite")
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == {"file": OLD, "deleted": OLD, f"file{PARTIAL}": bytes(len(NEW))}
    assert len(lines) == 1
    assert lines[0].startswith(f"/file: {len(NEW)} of its {len(NEW)} bytes are gone")


def test_a_state_without_its_bytes_is_set_aside(disk: Disk) -> None:
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        (local,) = (disk.cache / "content").iterdir()
        write(filesystem, "/file", NEW)
        image = disk.cut(journal_is_newest=True)
    disk.restart()
    os.truncate(image / "content" / local.name, 1)
    with harness(MemoryStore("box"), image, NEVER) as filesystem:
        assert names(filesystem, "/") == []
        assert len(list((image / "lost").glob("intent-*.json"))) == 2
        assert (image / "lost" / local.name).exists()


def test_a_power_cut_after_a_refused_rename_onto_an_open_file_leaves_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion that libfuse makes of it is synced while the rename waits."""
    store, disk = MemoryStore("box"), Disk(tmp_path, monkeypatch)
    foreign(store, "new", b"new")
    foreign(store, "old", b"old")

    def refuse(method: str, _subject: str) -> None:
        if method == "post":
            disk.sync(filesystem)
            raise AccessDenied("no")

    with harness(store, disk.cache, NEVER) as filesystem:
        handle = filesystem.open("/new", os.O_RDONLY)
        filesystem.chmod("/old", 0o600)
        store.hook = refuse
        filesystem.hide("/new", "/.fuse_hidden0000000100000001")
        with pytest.raises(AccessDenied):
            filesystem.rename("/old", "/new")
        store.hook = None
        left = disk.cut(journal_is_newest=False)
        filesystem.release(handle)
    disk.restart()
    with harness(store, left, NEVER) as filesystem:
        assert names(filesystem, "/") == ["new", "old"]


def test_a_file_that_was_synced_is_shown_in_a_folder_that_was_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has the deletion of the folder, and not yet that it was made again."""
    store, disk = MemoryStore("box"), Disk(tmp_path, monkeypatch)
    store.put(ObjectName("box", "d"), b"", Headers("application/directory"))
    with harness(store, disk.cache, NEVER) as filesystem:
        filesystem.rmdir("/d")
        disk.sync(filesystem)
        filesystem.mkdir("/d", 0o755, ME)
        _store(filesystem, "/d/file", b"data")
        assert body(store, "d/file") == b"data"
        left = disk.cut(journal_is_newest=False)
    disk.restart()
    with harness(store, left, NEVER) as filesystem:
        assert names(filesystem, "/") == ["d"]
        assert read(filesystem, "/d/file") == b"data"


@both
@pytest.mark.parametrize("objects", [0, 1])
@pytest.mark.parametrize("is_rewritten", [False, True])
def test_a_change_that_a_folders_rename_carried_along_comes_back_at_its_new_name(
    disk: Disk, objects: int, is_rewritten: bool, journal_is_newest: bool
) -> None:
    """The file's state at the last sync counts, and so does the rename, which has sent requests."""
    store = MemoryStore("box")
    with harness(store, disk.cache, f"{NEVER},background_rename={objects}") as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        for name in ("file", "other"):
            _store(filesystem, f"/d/{name}", name.encode())
        write(filesystem, "/d/file", OLD)
        disk.sync(filesystem)
        if is_rewritten:
            write(filesystem, "/d/file", NEW)
        halt = Halt(store, "copy") if objects else None
        filesystem.rename("/d", "/e")
        assert halt is None or halt.reached.wait(within(20))  # no sync is under way then
        image, twin = disk.cut(journal_is_newest=journal_is_newest), as_of_now(store)
        if halt is not None:
            halt.go_on()
    disk.restart()
    with harness(twin, image, NEVER) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert names(filesystem, "/e") == ["file", "other"]
        assert read(filesystem, "/e/file") == OLD
    assert body(twin, "e/file") == OLD
    assert keys(twin) == ["e", "e/file", "e/other"]


@both
@pytest.mark.parametrize("way", ["mode", "rewritten", "renamed", "renamed again"])
def test_it_does_although_the_disk_refuses_to_record_that_and_it_changes_again(
    disk: Disk, way: str, journal_is_newest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = JournalDB.finish

    def refuse(self: JournalDB, *change: Any, **how: Any) -> bool:
        with refusing(self):
            return finish(self, *change, **how)

    store = MemoryStore("box")
    with harness(store, disk.cache, NEVER) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        for name in ("file", "other"):
            _store(filesystem, f"/d/{name}", name.encode())
        write(filesystem, "/d/file", OLD)
        disk.sync(filesystem)
        with monkeypatch.context() as full:
            full.setattr(JournalDB, "finish", refuse)
            filesystem.rename("/d", "/e")
        AGAIN[way](filesystem)
        image, twin = disk.cut(journal_is_newest=journal_is_newest), as_of_now(store)
    disk.restart()
    new = "f" if way == "renamed again" else "e"  # Swift has moved it there
    with harness(twin, image, NEVER) as filesystem:
        assert names(filesystem, "/") == [new]
        assert read(filesystem, f"/{new}/file") == OLD
    assert body(twin, f"{new}/file") == OLD
    assert keys(twin) == [new, f"{new}/file", f"{new}/other"]
