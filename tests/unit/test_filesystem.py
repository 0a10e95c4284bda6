"""The file system without a kernel: failures of the store, other clients, and the order of requests."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from support.harness import ME, get, harness, names, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import failing, keys, refuse
from swiftfs.errors import (
    AccessDenied,
    Corrupt,
    NoSpace,
    QuotaExceeded,
    StoreError,
    TimedOut,
    Unavailable,
    errno_of,
)
from swiftfs.objects import Caller, ObjectName, Usage
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem, UsageReport
from swiftfs.store.protocol import Headers

FAILURES = [
    (AccessDenied, errno.EACCES),
    (QuotaExceeded, errno.EDQUOT),
    (NoSpace, errno.ENOSPC),
    (Unavailable, errno.EIO),
    (TimedOut, errno.ETIMEDOUT),
    (Corrupt, errno.EIO),
    (requests.ConnectionError, errno.EIO),
]
"""Errors of a store, and the errno that a program gets; the last one is an unexpected exception."""

WRITES = {"put", "put_manifest", "copy", "post", "delete", "delete_many"}


@contextmanager
def fails(number: int) -> Iterator[None]:
    """Expect a failure that the binding answers with this errno."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  the errno is compared below
        yield
    assert errno.errorcode[errno_of(caught.value)] == errno.errorcode[number]


def foreign(store: MemoryStore, key: str, body: bytes, content_type: str = "text/plain") -> None:
    """Store an object as another client does."""
    store.put(ObjectName("box", key), body, Headers(content_type))


def content(store: MemoryStore, key: str) -> bytes:
    parts: list[bytes] = []
    store.get(ObjectName("box", key), lambda _, data: parts.append(data))
    return b"".join(parts)


def changes(store: MemoryStore) -> list[tuple[str, str]]:
    return [request for request in store.requests if request[0] in WRITES]


@pytest.mark.matrix(14)
@pytest.mark.parametrize(("error", "number"), FAILURES)
@pytest.mark.parametrize(
    "action",
    [
        lambda fs: names(fs, "/folder"),
        lambda fs: fs.getattr("/folder/file"),
        lambda fs: read(fs, "/file"),
        lambda fs: write(fs, "/file", b"new"),
        lambda fs: write(fs, "/fresh", b"new"),
        lambda fs: fs.mkdir("/made", 0o755, ME),
        lambda fs: fs.rename("/file", "/other"),
        lambda fs: fs.rename("/folder", "/other"),
        lambda fs: fs.symlink("target", "/link", ME),
        lambda fs: fs.chmod("/file", 0o600),
        lambda fs: fs.setxattr("/file", "user.x", b"1", 0),
        lambda fs: fs.statfs("/"),
    ],
    ids=[
        *["list", "stat", "read", "overwrite", "create", "mkdir", "rename", "rename-folder"],
        *["symlink", "chmod", "setxattr", "statfs"],
    ],
)
def test_failures_have_errnos_and_change_nothing(
    filesystem: FileSystem,
    store: MemoryStore,
    error: type[BaseException],
    number: int,
    action: Callable[[FileSystem], object],
) -> None:
    foreign(store, "file", b"old")
    foreign(store, "folder/file", b"below")
    assert names(filesystem, "/") == ["file", "folder"]
    with failing(store, "", error), fails(number):
        action(filesystem)
    assert names(filesystem, "/") == ["file", "folder"]
    assert names(filesystem, "/folder") == ["file"]
    assert read(filesystem, "/file") == b"old"
    assert read(filesystem, "/folder/file") == b"below"


@pytest.mark.parametrize("error", [StoreError, Unavailable, AccessDenied])
def test_a_failed_listing_is_not_an_empty_folder(
    filesystem: FileSystem, store: MemoryStore, error: type[StoreError]
) -> None:
    foreign(store, "folder/file", b"here")
    with failing(store, "list_page", error):
        for _ in range(2):
            with pytest.raises(error):
                names(filesystem, "/folder")
            with pytest.raises(error):
                filesystem.getattr("/folder/file")
            with pytest.raises(error):
                filesystem.rmdir("/folder")
    assert names(filesystem, "/folder") == ["file"]
    assert content(store, "folder/file") == b"here"


def test_a_passing_failure_is_not_told(filesystem: FileSystem, store: MemoryStore) -> None:
    left = 2

    def fail_twice(method: str, subject: str) -> None:
        nonlocal left
        if method == "put" and left:
            left -= 1
            raise Unavailable(subject)

    store.hook = fail_twice
    write(filesystem, "/file", b"third time lucky")
    assert content(store, "file") == b"third time lucky"
    assert [method for method, _ in changes(store)] == ["put"] * 3


def test_a_failed_close_keeps_the_bytes_for_the_next(filesystem: FileSystem, store: MemoryStore) -> None:
    handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"precious")
    with failing(store, "put", Unavailable):
        for attempt in (filesystem.flush, lambda number: filesystem.fsync(number, False)):
            with pytest.raises(Unavailable):
                attempt(handle)
    assert get(filesystem, handle) == b"precious"
    filesystem.flush(handle)
    filesystem.release(handle)
    assert content(store, "file") == b"precious"


def test_what_cannot_be_stored_at_last_is_named(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, close_error="/file") as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        put(filesystem, handle, 0, b"x")
        refuse(store, "put", AccessDenied)


def test_an_overwrite_is_one_put(filesystem: FileSystem, store: MemoryStore) -> None:
    write(filesystem, "/file", b"old")
    before = len(changes(store))
    handle = filesystem.open("/file", os.O_WRONLY | os.O_TRUNC)
    put(filesystem, handle, 0, b"new")
    assert content(store, "file") == b"old"
    filesystem.flush(handle)
    filesystem.flush(handle)
    filesystem.release(handle)
    assert changes(store)[before:] == [("put", "box/file")]
    assert content(store, "file") == b"new"


def test_a_rename_copies_before_it_deletes(filesystem: FileSystem, store: MemoryStore) -> None:
    write(filesystem, "/old", b"wins")
    write(filesystem, "/new", b"loses")
    before = len(changes(store))
    filesystem.rename("/old", "/new")
    assert changes(store)[before:] == [("copy", "box/old"), ("delete", "box/old")]
    assert content(store, "new") == b"wins"


def test_a_rename_that_cannot_copy_leaves_both(filesystem: FileSystem, store: MemoryStore) -> None:
    write(filesystem, "/old", b"wins")
    write(filesystem, "/new", b"loses")
    with failing(store, "copy", QuotaExceeded), pytest.raises(QuotaExceeded):
        filesystem.rename("/old", "/new")
    assert (read(filesystem, "/old"), read(filesystem, "/new")) == (b"wins", b"loses")
    assert names(filesystem, "/") == ["new", "old"]


def test_a_reader_never_sees_two_versions(filesystem: FileSystem, store: MemoryStore) -> None:
    foreign(store, "file", b"a" * 10_000_000)
    handle = filesystem.open("/file", os.O_RDONLY)
    assert get(filesystem, handle, 0, 10) == b"a" * 10
    foreign(store, "file", b"b" * 10_000_000)
    with fails(errno.ESTALE):
        for offset in range(0, 10_000_000, 131_072):
            assert set(get(filesystem, handle, offset, 131_072)) == {ord("a")}
    filesystem.release(handle)
    assert read(filesystem, "/file") == b"b" * 10_000_000


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_name_can_be_a_folder_right_after_it_was_removed(
    store: MemoryStore, tmp_path: Path, kind: str
) -> None:
    with harness(store, tmp_path) as filesystem:
        if kind == "folder":
            filesystem.mkdir("/name", 0o755, ME)
            filesystem.rmdir("/name")
        else:
            write(filesystem, "/name", b"x")
            filesystem.unlink("/name")
        filesystem.mkdir("/name", 0o700, ME)
        write(filesystem, "/name/child", b"y")
    rows = store.list_page("box").rows
    assert [(row.key, row.size) for row in rows] == [("name", 0), ("name/child", 1)]


def test_a_link_in_the_place_of_a_large_file_leaves_no_segments(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        write(filesystem, "/name", bytes(2_500_000))
        assert len(store.list_page("box_segments").rows) == 3
        filesystem.unlink("/name")
        filesystem.symlink("target", "/name", ME)
        assert filesystem.readlink("/name") == "target"
    assert store.list_page("box_segments").rows == ()


def test_a_large_file_overwritten_or_unlinked_leaves_no_segments(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        for body in (bytes(2_500_000), os.urandom(1_500_000), b"small"):
            write(filesystem, "/name", body)
            assert content(store, "name") == body
        assert store.list_page("box_segments").rows == ()
        write(filesystem, "/name", bytes(2_500_000))
        filesystem.unlink("/name")
    assert store.list_page("box_segments").rows == ()
    assert store.list_page("box").rows == ()


def test_a_failed_segment_leaves_the_old_file(store: MemoryStore, tmp_path: Path) -> None:
    store.create_container("box_segments")
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        write(filesystem, "/name", b"old")
        with failing(store, "put", QuotaExceeded), pytest.raises(QuotaExceeded):
            write(filesystem, "/name", bytes(2_500_000))
        assert content(store, "name") == b"old"
        assert read(filesystem, "/name") == b"old"
    assert store.list_page("box_segments").rows == ()


def test_both_markers_of_a_folder_go(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "d", b"", "application/directory")
    foreign(store, "d/", b"", "application/directory")
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/d") == []
        filesystem.rmdir("/d")
    assert store.list_page("box").rows == ()


def test_a_device_is_made_by_root_alone(filesystem: FileSystem, store: MemoryStore) -> None:
    with fails(errno.EPERM):
        filesystem.mknod("/device", stat.S_IFCHR | 0o600, os.makedev(1, 3), Caller(1000, 1000))
    assert changes(store) == []


def test_an_account_has_containers_on_top(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, source="/") as filesystem:
        assert names(filesystem, "/") == ["box"]
        filesystem.mkdir("/second", 0o755, ME)
        write(filesystem, "/second/file", b"x")
        assert read(filesystem, "/second/file") == b"x"
        with fails(errno.EPERM):
            write(filesystem, "/file", b"x")
        with fails(errno.ENOTEMPTY):
            filesystem.rmdir("/second")
        filesystem.rmdir("/box")
        assert names(filesystem, "/") == ["second"]


def test_an_open_file_is_renamed_to_what_only_looks_like_libfuses_name(filesystem: FileSystem) -> None:
    name = ".fuse_hidden0000001a00000002"
    handle = filesystem.create(f"/.{name}.Xy12", 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"kept")
    filesystem.flush(handle)
    filesystem.rename(f"/.{name}.Xy12", f"/{name}")
    filesystem.release(handle)
    assert names(filesystem, "/") == [name]
    assert read(filesystem, f"/{name}") == b"kept"


def test_a_file_that_was_just_closed_is_replaced_at_once(store: MemoryStore, filesystem: FileSystem) -> None:
    """Libfuse, for which it is still open, hides it before the rename: Swift must never be without it."""
    write(filesystem, "/old", b"wins")
    write(filesystem, "/new", b"loses")
    store.requests.clear()
    filesystem.hide("/new", "/.fuse_hidden0000001a00000002")
    filesystem.rename("/old", "/new")
    assert changes(store) == [("copy", "box/old"), ("delete", "box/old")]
    assert names(filesystem, "/") == ["new"]
    assert read(filesystem, "/new") == b"wins"


def test_a_file_that_was_just_closed_is_deleted(store: MemoryStore, filesystem: FileSystem) -> None:
    """As a deletion, libfuse hides it too."""
    write(filesystem, "/file", b"text")
    filesystem.hide("/file", "/.fuse_hidden0000001a00000002")
    assert names(filesystem, "/") == []
    wait_until(lambda: keys(store) == [])


def test_a_file_that_was_closed_while_libfuse_decided_to_hide_it_is_deleted(
    store: MemoryStore, filesystem: FileSystem
) -> None:
    """That may take long on a slow server. Nobody deletes the hidden name if the file is closed by then."""
    foreign(store, "file", b"text")  # no handle has been released for long
    store.requests.clear()
    filesystem.hide("/file", "/.fuse_hidden0000001a00000002")
    assert names(filesystem, "/") == []
    wait_until(lambda: keys(store) == [])
    assert changes(store) == [("delete", "box/file")]


def test_the_tighter_quota_limits_the_free_space(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.set_quota("box", size=1000, objects=10)
    monkeypatch.setattr(store, "account_usage", lambda: Usage(100, 3, quota_bytes=500, quota_objects=5))
    usage = UsageReport(store, Source("box")).of("/")
    assert (usage.free_bytes, usage.free_objects) == (400, 2)
