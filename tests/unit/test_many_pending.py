"""A mount that starts with thousands of pending changes of an earlier one."""

import os
import stat
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.deadlines import within
from support.halted_moves import Halt
from support.harness import LEFT, harness, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, foreign, keys, refuse
from swiftfs.attributes import Stored
from swiftfs.errors import AccessDenied, Unavailable
from swiftfs.journal import recovery
from swiftfs.namespace.entry import Defaults, file_entry
from swiftfs.objects import ObjectName, Row
from swiftfs.posix.pending import unstored_entry
from swiftfs.store.protocol import ObjectMeta

FOLDERS = 300


def leave_attribute_changes(store: MemoryStore, cache: Path) -> None:
    """Leave a pending change of attributes in each of many folders to the next mount."""
    for number in range(FOLDERS):
        foreign(store, f"d{number}/file", b"x")
    with harness(store, cache, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        for number in range(FOLDERS):
            filesystem.chmod(f"/d{number}/file", 0o600)
        refuse(store, "post", Unavailable)
    store.hook = None
    store.requests.clear()


@pytest.mark.usual
def test_pending_attributes_do_not_cost_a_listing_each_before_the_start(
    store: MemoryStore, tmp_path: Path
) -> None:
    leave_attribute_changes(store, tmp_path)
    with harness(store, tmp_path, NEVER) as filesystem:
        counted = Counter(method for method, _ in store.requests)
        assert counted["list_page"] <= 2
        assert counted["head"] == 0
        filesystem.services.journal.flush_all()
        wait_until(lambda: not filesystem.waiting())
        modes = {stat.S_IMODE(filesystem.getattr(f"/d{number}/file").mode) for number in range(FOLDERS)}
        assert modes == {0o600}


@pytest.mark.usual
def test_pending_attributes_are_shown(store: MemoryStore, tmp_path: Path) -> None:
    leave_attribute_changes(store, tmp_path)
    refuse(store, "post", Unavailable)
    with harness(store, tmp_path, NEVER) as filesystem:
        modes = {stat.S_IMODE(filesystem.getattr(f"/d{number}/file").mode) for number in range(FOLDERS)}
        assert modes == {0o600}
        assert len(filesystem.waiting()) == FOLDERS
        store.hook = None


def test_what_an_earlier_mount_wrote_and_described_has_both(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks at the file before both changes are in Swift."""
    monkeypatch.setattr(recovery, "RECOVERY_SECONDS", 0.0)
    halt = Halt(store, "put", Unavailable)
    with harness(store, tmp_path, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        write(filesystem, "/file", b"data")
        filesystem.services.journal.flush_all()
        assert halt.reached.wait(within(20))
        filesystem.chmod("/file", 0o600)
        assert [one.kind for one in filesystem.waiting()] == ["PutFile", "Describe"]
        halt.go_on()
    store.hook = None
    with harness(store, tmp_path, "settle=0.01") as filesystem:
        wait_until(lambda: not filesystem.waiting())
        assert stat.S_IMODE(filesystem.getattr("/file").mode) == 0o600


@pytest.mark.parametrize("change", ["describe", "append"])
def test_a_large_file_that_an_earlier_mount_described_keeps_that_when_it_is_opened(
    store: MemoryStore, tmp_path: Path, change: str
) -> None:
    """Its true version is asked for when it is opened, before the attributes are in Swift."""
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        write(filesystem, "/file", bytes(3 * 1024 * 1024))
    with harness(store, tmp_path, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        filesystem.setxattr("/file", "user.one", b"1", 0)
        refuse(store, "post", Unavailable)
    store.hook = None
    (tmp_path / "heads.sqlite").unlink(missing_ok=True)
    with harness(store, tmp_path, NEVER) as filesystem:
        if change == "append":
            write(filesystem, "/file", b"x", os.O_WRONLY | os.O_APPEND)
        else:
            read(filesystem, "/file")
            filesystem.setxattr("/file", "user.two", b"2", 0)
        assert "user.one" in filesystem.listxattr("/file")
    assert "one" in store.head(ObjectName("box", "file")).metadata


@pytest.mark.usual
def test_nothing_is_stored_before_the_mount_has_started(store: MemoryStore, tmp_path: Path) -> None:
    """Thousands of uploads would make the start slow; a flush begins them at once."""
    with harness(store, tmp_path, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        refuse(store, "put", AccessDenied)
        for number in range(50):
            write(filesystem, f"/file{number}", b"x")
    store.hook = None
    store.requests.clear()
    with harness(store, tmp_path, NEVER) as filesystem:
        assert not any(method == "put" for method, _ in store.requests)
        handle = filesystem.open("/file1", os.O_RDONLY)
        filesystem.fsync(handle, False)
        filesystem.release(handle)
        assert "file1" in keys(store)
        wait_until(lambda: not filesystem.waiting())
    assert len(keys(store)) == 50


@pytest.mark.parametrize("media_type", ["text/plain", "text/plain;charset=utf-8", "a/b; mode=0100600;x"])
@pytest.mark.parametrize(
    "stored",
    [
        Stored(0o100640, 1_500_000_000, 7, 8),
        Stored(0o100640, -1, 0, 0),
        Stored(0o120777, 5, 1, 1, target="a b"),
        Stored(0o120777, 5, 1, 1, target="x" * 3000),
        Stored(0o020600, 5, 1, 1, device=os.makedev(8, 1)),
        Stored(),
    ],
)
def test_a_pending_entry_equals_its_later_listing(media_type: str, stored: Stored) -> None:
    name = ObjectName("box", "d/file")
    meta = ObjectMeta(media_type, stored, {"colour": "red"})
    defaults = Defaults(uid=1, gid=2)
    promised = unstored_entry("/d/file", name, 7, meta, defaults)
    row = Row(name.key, 7, "", meta.headers().content_type, "")
    listed = file_entry("file", name.container, row, defaults)
    assert promised.meta is not None
    assert promised == replace(listed, etag="", is_slo=None, complete=True, meta=promised.meta)
