"""A rename onto a file that is open, or was closed a moment ago, which libfuse hides first."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from support.harness import ME, copy_live, get, harness, names, put, read, write
from support.jobs import wait_until
from support.memory_container import Container
from support.memory_store import MemoryStore
from support.stored_objects import body, keys, refuse
from swiftfs.errors import AccessDenied, QuotaExceeded
from swiftfs.journal import journal
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

OLD, NEW = b"old" * 50_000, b"new"
HIDDEN = "/dir/.fuse_hidden0000001600000002"
OPTIONS = ["settle=0.05,read_ahead=0", "settle=1000,read_ahead=0", "read_ahead=0"]
STATES = ["open", "read in part", "just closed", "written to", "never closed", "pending"]


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("box")
    for key, data in (("dir/new", NEW), ("dir/file", OLD), ("dir/other", b"other")):
        store.put(ObjectName("box", key), data, Headers("text/plain;mtime=1.000000;mode=0100644;uid=0;gid=0"))
    return store


def bring_to(state: str, filesystem: FileSystem) -> int | None:
    """Bring `/dir/file` into a state; return the handle that stays open."""
    if state == "never closed":
        filesystem.unlink("/dir/file")
        handle = filesystem.create("/dir/file", 0o644, os.O_RDWR, ME)
        put(filesystem, handle, 0, OLD)
        return handle
    if state == "pending":
        write(filesystem, "/dir/file", OLD)
    handle = filesystem.open("/dir/file", os.O_RDWR)
    if state == "just closed":
        filesystem.release(handle)
        return None
    get(filesystem, handle, 0, 10 if state == "read in part" else len(OLD))
    if state == "written to":
        put(filesystem, handle, 0, OLD[:3])
    return handle


def replace_as_libfuse(filesystem: FileSystem) -> None:
    """Rename `/dir/new` onto `/dir/file`, which libfuse counts as open."""
    filesystem.hide("/dir/file", HIDDEN)
    filesystem.rename("/dir/new", "/dir/file")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("state", STATES)
def test_a_refused_rename_leaves_both_files(
    store: MemoryStore, tmp_path: Path, state: str, options: str
) -> None:
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, options) as filesystem:
        handle = bring_to(state, filesystem)
        inode = filesystem.getattr("/dir/file").inode
        refuse(store, "copy", AccessDenied)
        with pytest.raises(AccessDenied):
            replace_as_libfuse(filesystem)
        store.hook = None
        copy_live(cache, tmp_path / "image")
        assert names(filesystem, "/dir") == ["file", "new", "other"]
        assert filesystem.getattr("/dir/file").inode == inode
        if handle is not None:
            filesystem.flush(handle)
            filesystem.release(handle)
            filesystem.unlink(HIDDEN)  # as libfuse does
        # For a second the kernel takes this name for the path's.
        assert filesystem.getattr(HIDDEN) == filesystem.getattr("/dir/file")
        assert read(filesystem, "/dir/file") == OLD
        assert read(filesystem, "/dir/new") == NEW
    assert body(store, "dir/file") == OLD
    assert keys(store) == ["dir/file", "dir/new", "dir/other"]
    if state != "never closed":
        with harness(store, tmp_path / "image", "settle=0.05") as filesystem:
            assert read(filesystem, "/dir/file") == OLD


@pytest.mark.parametrize("options", OPTIONS)
def test_after_a_refused_rename_the_open_file_is_the_one_of_its_name(
    store: MemoryStore, tmp_path: Path, options: str
) -> None:
    """libfuse calls it by the hidden name until its last close."""
    (cache := tmp_path / "cache").mkdir()
    with harness(store, cache, options) as filesystem:
        handle = filesystem.open("/dir/file", os.O_RDWR)
        refuse(store, "copy", AccessDenied)
        with pytest.raises(AccessDenied):
            replace_as_libfuse(filesystem)
        store.hook = None
        put(filesystem, handle, 0, b"NEW")
        filesystem.flush(handle)
        filesystem.chmod(HIDDEN, 0o600)
        filesystem.setxattr(HIDDEN, "user.colour", b"blue", 0)
        assert filesystem.getattr(HIDDEN) == filesystem.getattr("/dir/file")
        assert filesystem.listxattr(HIDDEN) == ["user.colour"]
        other = filesystem.open(HIDDEN, os.O_RDONLY)  # as by /proc/self/fd
        assert get(filesystem, other, 0, 6) == b"NEWold"
        filesystem.release(other)
        filesystem.truncate(HIDDEN, 6)
        filesystem.utimens(HIDDEN, None, 5_000_000_000)
        again = filesystem.open("/dir/file", os.O_RDONLY)
        filesystem.release(handle)
        filesystem.unlink(HIDDEN)  # as libfuse does, which knows `again` by another name
        assert get(filesystem, again) == b"NEWold"
        filesystem.release(again)
    assert body(store, "dir/file") == b"NEWold"
    (fresh := tmp_path / "fresh").mkdir()
    with harness(store, fresh, "settle=1000") as filesystem:
        attributes = filesystem.getattr("/dir/file")
        assert (attributes.mode & 0o777, attributes.mtime_ns) == (0o600, 5_000_000_000)
        assert filesystem.getxattr("/dir/file", "user.colour") == b"blue"


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("refusals", [0, 1])
def test_a_rename_replaces_it(
    store: MemoryStore, tmp_path: Path, refusals: int, state: str, options: str
) -> None:
    """After a refused one libfuse does not hide the file again: it counts another name as open."""
    with harness(store, tmp_path, options) as filesystem:
        handle = bring_to(state, filesystem)
        for _ in range(refusals):
            refuse(store, "copy", AccessDenied)
            with pytest.raises(AccessDenied):
                replace_as_libfuse(filesystem)
            store.hook = None
        if refusals:
            filesystem.rename("/dir/new", "/dir/file")
        else:
            replace_as_libfuse(filesystem)
        assert names(filesystem, "/dir") == ["file", "other"]
        assert read(filesystem, "/dir/file") == NEW
        if handle is not None:
            assert get(filesystem, handle, 0, len(OLD)) == OLD
            put(filesystem, handle, 0, b"lost")
            filesystem.flush(handle)
            filesystem.release(handle)
            with suppress(FileNotFoundError):
                filesystem.unlink(HIDDEN)
    assert body(store, "dir/file") == NEW
    assert keys(store) == ["dir/file", "dir/other"]


def test_a_rename_onto_an_open_file_costs_what_any_rename_costs(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "settle=0.05,read_ahead=0") as filesystem:
        assert names(filesystem, "/dir") == ["file", "new", "other"]
        handle = bring_to("open", filesystem)
        store.requests.clear()
        replace_as_libfuse(filesystem)
        wait_until(lambda: not filesystem.waiting())
        assert store.requests == [(method, "box/dir/new") for method in ("copy", "head", "delete")]
        assert handle is not None
        filesystem.release(handle)


@pytest.mark.parametrize("state", ["open", "just closed"])
def test_a_deleted_file_does_not_come_back_by_a_later_refused_rename(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(journal, "HIDDEN_SECONDS", 0.02)
    with harness(store, tmp_path, "settle=0.05") as filesystem:
        handle = bring_to(state, filesystem)
        filesystem.hide("/dir/file", HIDDEN)  # unlink(2)
        wait_until(lambda: "dir/file" not in keys(store))
        refuse(store, "copy", AccessDenied)
        with pytest.raises(AccessDenied):
            filesystem.rename("/dir/new", "/dir/file")
        store.hook = None
        assert names(filesystem, "/dir") == ["new", "other"]
        if handle is not None:
            filesystem.release(handle)


def test_what_is_closed_during_a_refused_rename_is_stored(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "settle=0.05,read_ahead=0") as filesystem:
        handle = bring_to("open", filesystem)
        assert handle is not None

        def hook(method: str, _subject: str) -> None:
            if method == "copy":
                put(filesystem, handle, 0, b"NEW")
                filesystem.flush(handle)
                raise AccessDenied("no")

        store.hook = hook
        with pytest.raises(AccessDenied):
            replace_as_libfuse(filesystem)
        wait_until(lambda: body(store, "dir/file")[:3] == b"NEW")
        filesystem.release(handle)


def test_a_rename_that_waits_for_an_upload_does_not_delete_its_target(
    store: MemoryStore, tmp_path: Path
) -> None:
    """The upload of the renamed file takes longer than a deletion waits, and is refused then."""
    with harness(store, tmp_path, "settle=0.05,read_ahead=0") as filesystem:
        handle = bring_to("open", filesystem)
        assert handle is not None

        refuse(store, "put", QuotaExceeded, about="^box/dir/new$")
        write(filesystem, "/dir/new", b"changed")
        wait_until(lambda: filesystem.waiting()[0].state == "parked")
        with pytest.raises(QuotaExceeded):
            replace_as_libfuse(filesystem)
        assert filesystem.getattr("/dir/file").size == len(OLD)
        store.hook = None
        filesystem.release(handle)
        filesystem.retry()
    assert body(store, "dir/file") == OLD
    assert body(store, "dir/new") == b"changed"


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("third", ["rename", "unlink"])
def test_what_a_file_replaced_before_its_first_close_stays_replaced(
    store: MemoryStore, tmp_path: Path, options: str, third: str
) -> None:
    """The new file leaves the name again before anything of it is stored."""
    with harness(store, tmp_path, options) as filesystem:
        write(filesystem, "/dir/file", OLD[3:])
        handle = filesystem.create("/dir/written", 0o644, os.O_WRONLY, ME)
        put(filesystem, handle, 0, b"written")
        filesystem.rename("/dir/written", "/dir/file")
        if third == "rename":
            filesystem.rename("/dir/file", "/dir/moved")
        else:
            filesystem.hide("/dir/file", HIDDEN)
        filesystem.flush(handle)
        filesystem.release(handle)
        left = ["moved"] if third == "rename" else []
        assert names(filesystem, "/dir") == sorted([*left, "new", "other"])
    assert keys(store) == sorted([*(f"dir/{name}" for name in left), "dir/new", "dir/other"])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("state", STATES)
def test_a_folder_takes_the_name_of_a_file_that_was_deleted_just_now(
    store: MemoryStore, tmp_path: Path, options: str, state: str
) -> None:
    with harness(store, tmp_path, options) as filesystem:
        filesystem.mkdir("/dir/folder", 0o755, ME)
        handle = bring_to(state, filesystem)
        filesystem.hide("/dir/file", HIDDEN)  # unlink(2)
        filesystem.rename("/dir/folder", "/dir/file")
        assert names(filesystem, "/dir") == ["file", "new", "other"]
        assert filesystem.getattr("/dir/file").is_directory
        if handle is not None:
            filesystem.release(handle)
    assert "dir/file" not in {row.key for row in store.list_page("box").rows if row.size}


KILLS = {
    "the source's new mode is stored": ("open", "post", "box/dir/new", ["new", "other"]),
    "missing bytes are downloaded": ("read in part", "get", "box/dir/file", ["new", "other"]),
    "the object is copied": ("open", "copy", "box/dir/new", ["file", "other"]),
}
"""During what the kill comes: the state of the open file, the request, and the names that are left."""


@pytest.mark.parametrize("moment", KILLS)
def test_an_unlinked_file_does_not_come_back_when_a_rename_to_its_name_is_killed(
    store: MemoryStore, tmp_path: Path, moment: str
) -> None:
    (cache := tmp_path / "cache").mkdir()
    state, *request, left = KILLS[moment]
    then: dict[str, Container] = {}

    def hook(method: str, subject: str) -> None:
        if [method, subject] == request and not then:
            then.update(
                (name, replace(one, objects={**one.objects})) for name, one in store._containers.items()
            )
            copy_live(cache, tmp_path / "image")

    with harness(store, cache, "settle=1000,read_ahead=0") as filesystem:
        filesystem.chmod("/dir/new", 0o600)
        handle = bring_to(state, filesystem)
        assert handle is not None
        filesystem.hide("/dir/file", HIDDEN)  # unlink(2)
        store.hook = hook
        filesystem.rename("/dir/new", "/dir/file")
        store.hook = None
        filesystem.release(handle)
    store._containers = then
    with harness(store, tmp_path / "image", "settle=0.05") as filesystem:
        assert names(filesystem, "/dir") == left
        assert read(filesystem, f"/dir/{left[0]}") == NEW
    assert keys(store) == [f"dir/{name}" for name in left]
