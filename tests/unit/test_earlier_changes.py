"""What a mount knows of an earlier one: what was never sent, and what a power cut would bring back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import LEFT, ME, copy_live, harness, names, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import NEW, OLD
from support.power_cut import Disk
from support.stored_objects import NEVER, body, keys, refuse
from swiftfs.errors import AccessDenied, ConfigurationError, Unavailable
from swiftfs.posix.filesystem import FileSystem


def make(filesystem: FileSystem) -> None:
    filesystem.mkdir("/d", 0o755, ME)
    write(filesystem, "/d/a", b"a")
    write(filesystem, "/b", b"b")


def renames(filesystem: FileSystem) -> None:
    filesystem.rename("/d", "/e")
    filesystem.rename("/b", "/c")


@contextmanager
def next_mount(store: MemoryStore, cache: Path) -> Iterator[FileSystem]:
    store.hook = None
    with harness(store, cache, NEVER) as filesystem:
        store.requests.clear()
        yield filesystem
        filesystem.services.journal.flush_all()
        wait_until(lambda: not filesystem.waiting())


def sent(store: MemoryStore) -> list[tuple[str, str]]:
    """Return the requests but listings, which the lookups of names need."""
    return sorted(one for one in store.requests if one[0] != "list_page")


STORED = [("put", "box/c"), ("put", "box/e"), ("put", "box/e/a")]


@pytest.mark.parametrize("is_parked", [False, True])
def test_what_was_not_stored_is_renamed_in_the_journal(
    store: MemoryStore, tmp_path: Path, is_parked: bool
) -> None:
    with harness(store, tmp_path, NEVER, close_error=LEFT) as filesystem:
        make(filesystem)
        refuse(store, "put", AccessDenied)  # at the end, or before
        if is_parked:
            filesystem.services.journal.flush_all()
            wait_until(lambda: all(change.attempts for change in filesystem.waiting()))
    with next_mount(store, tmp_path) as filesystem:
        renames(filesystem)
        assert sent(store) == []
        assert names(filesystem, "/") == ["c", "e"]
        assert read(filesystem, "/e/a") == b"a"
    assert sent(store) == STORED
    assert keys(store) == ["c", "e", "e/a"]


def test_what_got_no_answer_is_not(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        make(filesystem)
        refuse(store, "put", Unavailable, "box/b")
        filesystem.services.journal.flush_all()
        wait_until(lambda: [change.path for change in filesystem.waiting() if change.attempts] == ["/b"])
    store.hook = None
    with next_mount(store, tmp_path) as filesystem:
        filesystem.rename("/b", "/c")
        assert ("put", "box/b") in sent(store)
    assert body(store, "c") == b"b"


def test_nobody_knows_what_a_killed_mount_has_sent(store: MemoryStore, tmp_path: Path) -> None:
    first, image = tmp_path / "first", tmp_path / "image"
    first.mkdir()
    refuse(store, "put", AccessDenied)
    with harness(store, first, NEVER, close_error=LEFT) as filesystem:
        make(filesystem)
    with harness(store, first, NEVER, close_error=LEFT):
        copy_live(first, image)
    with next_mount(store, image):
        pass
    assert ("head", "box/b") in sent(store)


def test_a_mount_that_cannot_begin_leaves_the_journal_to_another_attempt(
    store: MemoryStore, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "content"
    in_the_way.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="File exists") as failure, harness(store, tmp_path):
        pass
    in_the_way.unlink()
    with harness(store, tmp_path) as filesystem:
        write(filesystem, "/a", b"a")
    assert body(store, "a") == b"a"
    assert failure.tb is not None  # kept until here, with all that the first attempt had open


def test_a_mount_after_a_kill_keeps_what_a_power_cut_brings_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path / "disk", monkeypatch)
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        write(filesystem, "/file", OLD)
        disk.sync(filesystem)
        filesystem.unlink("/file")
        write(filesystem, "/file", NEW)
        copy_live(disk.cache, tmp_path / "killed")
        disk.cache = tmp_path / "killed"
    with harness(MemoryStore("box"), disk.cache, NEVER) as filesystem:
        assert read(filesystem, "/file") == NEW
        image = disk.cut(journal_is_newest=True)
    disk.restart()
    with harness(MemoryStore("box"), image, NEVER) as filesystem:
        assert read(filesystem, "/file") == OLD
