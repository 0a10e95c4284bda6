"""A power cut while, or just after, changes are sent to Swift: see `support.power_cut`."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.deadlines import within
from support.edited_file import SOON
from support.fresh_folders import frozen
from support.harness import LEFT, ME, change, harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import NEWER, noise
from support.power_cut import Disk, refusing
from support.refused_changes import flush
from support.stored_objects import NEVER, body, foreign, keys, segments
from swiftfs.errors import Unavailable
from swiftfs.posix.filesystem import FileSystem

OLD = noise(300_000)
NEW = noise(250_000, seed=1)

both = pytest.mark.parametrize("journal_is_newest", [True, False])
"""Whether the disk has the newest journal, or that of the last sync."""


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


@both
@pytest.mark.parametrize("is_pending", [True, False])
def test_a_file_that_was_moved_to_a_deleted_name_is_there(
    disk: Disk, is_pending: bool, journal_is_newest: bool
) -> None:
    """Neither the file that was deleted there, nor its deletion, comes back over it."""
    store = MemoryStore("box")
    foreign(store, "source", NEW)
    if not is_pending:
        foreign(store, "target", OLD)
    with harness(store, disk.cache, NEVER) as filesystem:
        if is_pending:
            write(filesystem, "/target", OLD)
        else:
            filesystem.unlink("/target")
        disk.sync(filesystem)
        if is_pending:
            filesystem.unlink("/target")
        filesystem.rename("/source", "/target")
        image = disk.cut(journal_is_newest=journal_is_newest)
    disk.restart()
    with harness(store, image, NEVER) as filesystem:
        assert names(filesystem, "/") == ["target"]
        assert read(filesystem, "/target") == NEW
    assert keys(store) == ["target"]
    assert body(store, "target") == NEW


@both
def test_a_folder_that_was_moved_to_a_removed_one_is_there(disk: Disk, journal_is_newest: bool) -> None:
    store = MemoryStore("box")
    foreign(store, "d/file", NEW)
    with harness(store, disk.cache, NEVER) as filesystem:
        filesystem.mkdir("/e", 0o755, ME)
        write(filesystem, "/e/file", OLD)
        disk.sync(filesystem)
        filesystem.unlink("/e/file")
        filesystem.rmdir("/e")
        filesystem.rename("/d", "/e")
        image = disk.cut(journal_is_newest=journal_is_newest)
    disk.restart()
    with harness(store, image, NEVER) as filesystem:
        assert read(filesystem, "/e/file") == NEW
    assert body(store, "e/file") == NEW


@both
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_change_of_a_file_goes_along_with_it(disk: Disk, is_folder: bool, journal_is_newest: bool) -> None:
    """The older version, which Swift has, is copied: the change must not stay at the old name."""
    store, changed = MemoryStore("box"), b"changed, and longer"
    with harness(store, disk.cache, NEVER) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, "/d/file", b"stored")
        flush(filesystem)
        change(filesystem, "/d/file", 0, changed)
        disk.sync(filesystem)
        filesystem.rename(*(("/d", "/e") if is_folder else ("/d/file", "/d/new")))
        image, store = disk.cut(journal_is_newest=journal_is_newest), frozen(store)
    disk.restart()
    with harness(store, image, NEVER) as filesystem:
        folder = names(filesystem, "/")[0]
        (name,) = names(filesystem, f"/{folder}")
        assert read(filesystem, f"/{folder}/{name}") == changed
    assert keys(store) == [folder, f"{folder}/{name}"]
    assert body(store, f"{folder}/{name}") == changed


def _append(filesystem: FileSystem, data: bytes) -> None:
    change(filesystem, "/file", filesystem.getattr("/file").size, data)


def _rewrite(filesystem: FileSystem, data: bytes) -> None:
    write(filesystem, "/file", read(filesystem, "/file") + data)


@pytest.mark.parametrize("add", [_append, _rewrite])
@pytest.mark.parametrize("synced", [1, 2, 3])
def test_the_end_of_an_upload_leaves_what_was_closed_and_synced_during_it(
    disk: Disk, add: Callable[[FileSystem, bytes], None], synced: int
) -> None:
    """The file is closed as state 1, 2 and 3; state 1 is stored after that, and `synced` is on the disk."""
    store, puts = MemoryStore("box"), [Pass(), Pass()]
    states = [OLD, OLD + b"2", OLD + b"23"]
    uploads = iter(puts)

    def hook(method: str, _subject: str) -> None:
        if method == "put" and (one := next(uploads, None)) is not None:
            one.wait()

    store.hook = hook
    with harness(store, disk.cache, SOON) as filesystem:
        write(filesystem, "/file", OLD)
        for number, data in enumerate([b"2", b"3"], 1):
            puts[0].reached.wait(within(30))
            if synced >= number:
                disk.sync(filesystem)
            add(filesystem, data)
        if synced == 3:
            disk.sync(filesystem)
        puts[0].open.set()
        assert puts[1].reached.wait(within(30))
        image = disk.cut(journal_is_newest=True)
        puts[1].open.set()
    disk.restart()
    after = MemoryStore("box")
    foreign(after, "file", OLD)
    with harness(after, image, NEVER) as filesystem:
        assert read(filesystem, "/file") in states[synced - 1 :]
    assert body(after, "file") in states[synced - 1 :]


class Pass:
    """Holds a request until `open` is set."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def wait(self) -> None:
        """Return when the request may go on."""
        self.reached.set()
        assert self.open.wait(within(30))


def test_a_local_file_that_ended_while_the_disk_refused_its_record_is_not_needed(disk: Disk) -> None:
    """The upload of a file fails that was deleted meanwhile: its deletion, which fails too, takes over."""
    store, upload = MemoryStore("box"), Pass()

    def hook(method: str, _subject: str) -> None:
        if method == "put":
            upload.wait()
        raise Unavailable("no")

    with harness(store, disk.cache, SOON) as filesystem:
        write(filesystem, "/first", OLD)
        wait_until(lambda: not filesystem.waiting())
        store.hook = hook
        write(filesystem, "/file", OLD)
        assert upload.reached.wait(within(30))
        disk.sync(filesystem)
        filesystem.unlink("/file")
        with refusing(filesystem.services.journal._db):
            upload.open.set()
            wait_until(lambda: [one.kind for one in filesystem.waiting()] == ["Delete"])
        try:
            write(filesystem, "/other", NEW)
        finally:
            store.hook = None
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
        disk.sync(filesystem)
        # Not before the disk has taken the end of its record.
        wait_until(
            lambda: not any(file.name.startswith("open-") for file in (disk.cache / "content").iterdir())
        )
    assert keys(store) == ["first", "other"]


@pytest.mark.parametrize("journal_is_newest", [True, False])
def test_a_file_that_was_stored_just_before_is_not_parked(disk: Disk, journal_is_newest: bool) -> None:
    """Its local file has become a copy for reading, which the journal on the disk does not know."""
    store, upload = MemoryStore("box"), Pass()
    store.hook = lambda method, _subject: upload.wait() if method == "put" else None
    with harness(store, disk.cache, SOON) as filesystem:
        write(filesystem, "/file", OLD)
        assert upload.reached.wait(within(30))
        disk.sync(filesystem)
        upload.open.set()
        wait_until(lambda: not filesystem.waiting())
        wait_until(lambda: not list((disk.cache / "content").glob("open-*")))
        image = disk.cut(journal_is_newest=journal_is_newest)
    disk.restart()
    with harness(store, image, NEVER) as filesystem:
        assert read(filesystem, "/file") == OLD
        assert not filesystem.waiting()


def test_an_unmount_deletes_the_segments_of_a_file_that_was_deleted_just_before(disk: Disk) -> None:
    store = MemoryStore("box", "box_segments")
    with harness(store, disk.cache, f"{NEVER},segment_size=1M") as filesystem:
        write(filesystem, "/file", noise(2_500_000))
        wait_until(lambda: len(segments(store)) == 3)
        disk.sync(filesystem)
        filesystem.unlink("/file")
        assert len(segments(store)) == 3
    assert not segments(store)
    assert not list((disk.cache / "content").iterdir())


SEGMENTED = SOON
"""Mount options: uploads begin at once, and a large file has segments of 1 MiB."""


@both
@pytest.mark.parametrize("folder", [True, False])
def test_a_rename_that_has_copied_a_large_file_is_finished(
    disk: Disk, folder: bool, journal_is_newest: bool
) -> None:
    """Half of it would be two files with the same segments, which a change of one destroys."""
    store, images = MemoryStore("box", "box_segments"), list[Path]()

    def hook(method: str, subject: str) -> None:
        if method in ("delete", "delete_many", "head") and keys(store)[-1].startswith("e") and not images:
            images.append(disk.cut(journal_is_newest=journal_is_newest))
        if images:
            raise Unavailable("no answer")

    with harness(store, disk.cache, f"{SEGMENTED},drain=0", close_error=LEFT) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, "/d/file", NEWER)
        wait_until(lambda: not filesystem.waiting())
        disk.sync(filesystem)
        store.hook = hook
        filesystem.rename(*(("/d", "/e") if folder else ("/d/file", "/e")))
    store.hook = None
    disk.restart()
    new, old = ("e/file", "/d/file") if folder else ("e", "/d/file")
    with harness(store, images[0], SEGMENTED) as filesystem:
        assert read(filesystem, f"/{new}") == NEWER
        if folder:
            filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, old, b"written anew")
    assert body(store, new) == NEWER


@both
@pytest.mark.parametrize("size", [200_000, 3_000_000])
def test_a_patch_that_was_stored_just_before_is_readable(
    disk: Disk, size: int, journal_is_newest: bool
) -> None:
    """Its synced record lacks bytes of the version that it has replaced."""
    store, data = MemoryStore("box", "box_segments"), bytearray(noise(size))
    foreign(store, "file", bytes(data))
    with harness(store, disk.cache, f"{SEGMENTED},settle=1000") as filesystem:
        change(filesystem, "/file", 10, b"patched")
        data[10:17] = b"patched"
        handle = filesystem.open("/file", os.O_RDONLY)  # its local file stays
        disk.sync(filesystem)
        filesystem.services.journal.flush_all()
        wait_until(lambda: not filesystem.waiting())
        image = disk.cut(journal_is_newest=journal_is_newest)
        filesystem.release(handle)
    disk.restart()
    with harness(store, image, SEGMENTED) as filesystem:
        assert read(filesystem, "/file") == data
    assert body(store, "file") == data


def test_a_deletion_that_was_executed_just_before_leaves_no_change_without_its_base(disk: Disk) -> None:
    store = MemoryStore("box", "box_segments")
    foreign(store, "file", NEWER)
    with harness(store, disk.cache, f"{SEGMENTED},settle=1000") as filesystem:
        change(filesystem, "/file", 10, b"patched")
        disk.sync(filesystem)
        filesystem.unlink("/file")
        filesystem.services.journal.flush_all()
        wait_until(lambda: not filesystem.waiting())
        image = disk.cut(journal_is_newest=False)
    disk.restart()
    with harness(store, image, SEGMENTED) as filesystem:
        assert names(filesystem, "/") == []
    assert keys(store) == []


def test_the_older_local_file_is_freed_when_the_newer_one_is_stored(disk: Disk) -> None:
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        write(filesystem, "/file", NEW)
        assert len(list((disk.cache / "content").iterdir())) == 2
        handle = filesystem.open("/file", os.O_RDWR)
        filesystem.fsync(handle, False)
        filesystem.release(handle)
        assert len(list((disk.cache / "content").iterdir())) == 1
