"""Single operations on a real mount: results for programs, objects in Swift, and errnos."""

import errno
import mmap
import os
import random
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from swiftclient import Connection

from support.found_objects import body, keys
from support.libfuse import is_libfuse3
from support.mounts import Mount
from support.system_calls import NOREPLACE, fails, renameat2
from swiftfs.demo.server import SwiftServer

EXACT = 1_600_000_000_123_456_789


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def listed(path: Path) -> list[str]:
    return [child.name for child in path.iterdir()]


def seen(swift: SwiftServer, container: str, method: str = "") -> list[tuple[str, str]]:
    """Return method and key of the requests for objects of the container."""
    found = [(one.method, one.path.partition(f"/{container}/")[2]) for one in swift.requests()]
    return [(name, key) for name, key in found if key and method in ("", name)]


def test_a_file_is_an_object(mounted: Mount, connection: Connection, container: str) -> None:
    file = mounted.path / "text.txt"
    file.write_bytes(b"hello\n")
    assert file.read_bytes() == b"hello\n"
    headers, content = connection.get_object(container, "text.txt")
    assert content == b"hello\n"
    assert headers["content-type"].startswith("text/plain;mtime=")


def test_overwrite_append_and_write_anywhere(mounted: Mount, connection: Connection, container: str) -> None:
    file = mounted.path / "file"
    dice = random.Random(5)
    model = bytearray(dice.randbytes(700_001))
    file.write_bytes(model)
    with file.open("r+b") as stream:
        for _ in range(50):
            place, data = dice.randrange(len(model) - 5000), dice.randbytes(dice.randrange(1, 5000))
            stream.seek(place)
            stream.write(data)
            model[place : place + len(data)] = data
    with file.open("ab") as stream:
        stream.write(b"tail")
    model += b"tail"
    assert body(connection, container, "file") == model
    mounted.remount()
    with file.open("r+b") as stream:
        stream.seek(300_000)
        stream.write(b"middle")
    model[300_000:300_006] = b"middle"
    assert file.read_bytes() == model
    assert body(connection, container, "file") == model


def test_truncate(mounted: Mount, connection: Connection, container: str) -> None:
    file = mounted.path / "file"
    file.write_bytes(b"0123456789")
    os.truncate(file, 4)
    assert (file.stat().st_size, body(connection, container, "file")) == (4, b"0123")
    os.truncate(file, 6)
    assert (file.stat().st_size, body(connection, container, "file")) == (6, b"0123\0\0")
    with file.open("r+b") as stream:
        stream.truncate(2)
        assert file.stat().st_size == 2
    assert body(connection, container, "file") == b"01"


def test_two_appenders_do_not_overwrite(mounted: Mount) -> None:
    file = mounted.path / "log"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with opened(file, flags) as one, opened(file, flags) as other:
        for number in range(20):
            os.write(one if number % 2 else other, b"%02d\n" % number)
    assert file.read_bytes() == b"".join(b"%02d\n" % number for number in range(20))


def test_exclusive_creation(mounted: Mount) -> None:
    file = mounted.path / "file"
    exclusive = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with opened(file, exclusive), fails(errno.EEXIST), opened(file, exclusive):
        pass
    with fails(errno.EEXIST), opened(file, exclusive):
        pass


def test_a_truncating_writer_shows_the_server_no_empty_object(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    file = mounted.path / "file"
    file.write_bytes(b"old")
    swift.reset_requests()
    with opened(file, os.O_WRONLY | os.O_TRUNC) as descriptor:
        assert body(connection, container, "file") == b"old"
        os.write(descriptor, b"new content")
        assert body(connection, container, "file") == b"old"
    assert body(connection, container, "file") == b"new content"
    assert seen(swift, container, "PUT") == [("PUT", "file")]
    assert not seen(swift, container, "DELETE")


def test_a_file_being_written_shows_its_size(mounted: Mount) -> None:
    file = mounted.path / "growing"
    with opened(file, os.O_WRONLY | os.O_CREAT) as descriptor:
        assert [entry.name for entry in os.scandir(mounted.path)] == ["growing"]
        for size in (1000, 2000, 3000):
            os.write(descriptor, bytes(1000))
            assert (file.stat().st_size, os.fstat(descriptor).st_size) == (size, size)
    assert file.stat().st_size == 3000


def test_two_handles_agree(mounted: Mount) -> None:
    file = mounted.path / "file"
    file.write_bytes(b"....")
    with opened(file, os.O_RDWR) as one, opened(file, os.O_RDONLY) as other:
        os.pwrite(one, b"ab", 1)
        assert os.pread(other, 10, 0) == b".ab."
        os.ftruncate(one, 2)
        assert os.pread(other, 10, 0) == b".a"
        assert os.fstat(other).st_size == 2


def test_a_mapped_write_is_stored(mounted: Mount, connection: Connection, container: str) -> None:
    file = mounted.path / "mapped"
    file.write_bytes(b"x" * 10_000)
    with opened(file, os.O_RDWR) as descriptor, mmap.mmap(descriptor, 10_000) as mapping:
        mapping[5000:5003] = b"abc"
        mapping.flush()
        os.fsync(descriptor)
        assert body(connection, container, "mapped")[4999:5004] == b"xabcx"
    assert file.read_bytes()[4999:5004] == b"xabcx"


def test_an_unlinked_file_stays_readable_while_open(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    file = mounted.path / "file"
    content = random.Random(3).randbytes(3_000_000)
    file.write_bytes(content)
    mounted.remount()
    with file.open("rb") as stream:
        assert stream.read(10) == content[:10]
        file.unlink()
        assert not file.exists()
        assert list(mounted.path.iterdir()) == []
        stream.seek(0)
        assert stream.read() == content
        assert os.fstat(stream.fileno()).st_size == len(content)
    mounted.stop()
    assert keys(connection, container) == []
    assert not [key for _, key in seen(swift, container) if "fuse_hidden" in key]
    mounted.start()


def test_an_unlinked_new_file_never_reaches_swift(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    file = mounted.path / "temporary"
    with file.open("w+b") as stream:
        stream.write(b"scratch")
        stream.flush()
        file.unlink()
        stream.write(b" and more")
        stream.seek(0)
        assert stream.read() == b"scratch and more"
    assert list(mounted.path.iterdir()) == []
    mounted.stop()
    assert keys(connection, container) == []
    assert not seen(swift, container, "PUT")
    mounted.start()


def test_rename_replaces_a_file(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    old, new = mounted.path / "old", mounted.path / "new"
    old.write_bytes(b"wins")
    new.write_bytes(b"loses")
    swift.reset_requests()
    old.rename(new)
    assert new.read_bytes() == b"wins"
    assert not old.exists()
    assert keys(connection, container) == ["new"]
    assert seen(swift, container, "DELETE") == [("DELETE", "old")]


def test_rename_over_an_open_file_keeps_its_readers(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    old, new = mounted.path / "old", mounted.path / "new"
    old.write_bytes(b"wins" * 100)
    new.write_bytes(b"loses" * 100_000)
    mounted.remount()
    with new.open("rb") as reader:
        assert reader.read(5) == b"loses"
        swift.reset_requests()
        old.rename(new)
        assert new.read_bytes() == b"wins" * 100
        reader.seek(0)
        assert reader.read() == b"loses" * 100_000
    changes = [one for one in seen(swift, container) if one[0] in {"COPY", "PUT", "DELETE", "POST"}]
    assert changes == [("COPY", "old"), ("DELETE", "old")]
    assert body(connection, container, "new") == b"wins" * 100


def test_a_file_renamed_while_open_is_stored_under_the_new_name(
    mounted: Mount, connection: Connection, container: str
) -> None:
    old, new = mounted.path / "old", mounted.path / "new"
    with old.open("wb") as stream:
        stream.write(b"before ")
        stream.flush()
        old.rename(new)
        stream.write(b"after")
    assert keys(connection, container) == ["new"]
    assert (new.read_bytes(), body(connection, container, "new")) == (b"before after", b"before after")


def test_a_renamed_folder_keeps_its_contents(mounted: Mount, connection: Connection, container: str) -> None:
    tree = mounted.path / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    (tree / "sub" / "deep.txt").write_bytes(b"deep")
    (tree / "top.txt").write_bytes(b"top")
    moved = mounted.path / "moved"
    with (tree / "open.txt").open("wb") as stream, (tree / "top.txt").open("rb") as reader:
        stream.write(b"one ")
        tree.rename(moved)
        stream.write(b"two")
        assert reader.read() == b"top"
    assert sorted(keys(connection, container)) == [
        "moved",
        "moved/open.txt",
        "moved/sub",
        "moved/sub/deep.txt",
        "moved/sub/empty",
        "moved/top.txt",
    ]
    assert (moved / "open.txt").read_bytes() == b"one two"
    assert (moved / "sub" / "deep.txt").read_bytes() == b"deep"
    assert not tree.exists()
    with fails(errno.EINVAL):
        moved.rename(moved / "sub" / "inside")


DEEP = "/".join(["d" * 250] * 4)
"""A folder with a name of 1003 bytes."""


@pytest.mark.matrix(4)
@pytest.mark.parametrize(
    ("action", "number"),
    [
        (lambda at: (at / "folder").rmdir(), errno.ENOTEMPTY),
        (lambda at: (at / "file").rmdir(), errno.ENOTDIR),
        (lambda at: (at / "none").rmdir(), errno.ENOENT),
        (lambda at: (at / "folder").mkdir(), errno.EEXIST),
        (lambda at: (at / "file").mkdir(), errno.EEXIST),
        (lambda at: (at / "none" / "below").mkdir(), errno.ENOENT),
        (lambda at: (at / "file" / "below").mkdir(), errno.ENOTDIR),
        (lambda at: (at / "file" / "below").read_bytes(), errno.ENOTDIR),
        (lambda at: (at / "none").read_bytes(), errno.ENOENT),
        (lambda at: (at / "folder").write_bytes(b""), errno.EISDIR),
        (lambda at: (at / "folder").unlink(), errno.EISDIR),
        (lambda at: (at / "file").rename(at / "folder"), errno.EISDIR),
        (lambda at: (at / "empty").rename(at / "file"), errno.ENOTDIR),
        (lambda at: (at / "empty").rename(at / "folder"), errno.ENOTEMPTY),
        (lambda at: (at / "none").rename(at / "other"), errno.ENOENT),
        (lambda at: os.link(at / "file", at / "hard"), errno.EPERM),
        (lambda at: (at / "file").readlink(), errno.EINVAL),
        (lambda at: listed(at / "file"), errno.ENOTDIR),
        (lambda at: (at / ("n" * 1025)).touch(), errno.ENAMETOOLONG),
        (lambda at: (at / ("é" * 128)).touch(), errno.ENAMETOOLONG),
        (lambda at: (at / DEEP / ("n" * 250)).touch(), errno.ENAMETOOLONG),
        (lambda at: (at / DEEP / ("n" * 250)).mkdir(), errno.ENAMETOOLONG),
    ],
)
def test_errnos(mounted: Mount, action: Callable[[Path], object], number: int) -> None:
    for folder in ("folder", "empty", DEEP):
        (mounted.path / folder).mkdir(parents=True)
    for file in ("file", "folder/child"):
        (mounted.path / file).write_bytes(b"x")
    with fails(number):
        action(mounted.path)
    assert (mounted.path / "folder" / "child").read_bytes() == b"x"


def test_a_rename_that_must_not_replace(mounted: Mount) -> None:
    old, new = mounted.path / "old", mounted.path / "new"
    old.write_bytes(b"old")
    if not is_libfuse3():  # it does not pass flags
        with fails(errno.EINVAL):
            renameat2(old, new, NOREPLACE)
        return
    renameat2(old, new, NOREPLACE)
    old.write_bytes(b"another")
    with fails(errno.EEXIST):
        renameat2(old, new, NOREPLACE)
    assert (old.read_bytes(), new.read_bytes()) == (b"another", b"old")


@pytest.mark.mount_options("special")
def test_modes_and_times_are_kept(mounted: Mount, connection: Connection, container: str) -> None:
    file, folder = mounted.path / "file", mounted.path / "folder"
    file.write_bytes(b"x")
    folder.mkdir()
    for path, mode in ((file, 0o4751), (folder, 0o2750)):
        path.chmod(mode)
        os.utime(path, ns=(1, EXACT))
    mounted.remount()
    for path, mode in ((file, 0o4751), (folder, 0o2750)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert path.stat().st_mtime_ns == EXACT
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
    headers = connection.head_object(container, "file")
    assert "mtime=1600000000.123456789;mode=0104751" in headers["content-type"]
    assert headers["x-object-meta-mtime"] == "1600000000.123456789"
    marker = connection.head_object(container, "folder")
    assert (marker["content-type"], marker["content-length"]) == ("application/directory", "0")


def test_times_before_1970_and_after_2038(mounted: Mount) -> None:
    file = mounted.path / "file"
    file.touch()
    for moment in (-1, -1_500_000_000, 0, 5_000_000_000_000_000_001):
        os.utime(file, ns=(1, moment))
        mounted.remount()
        assert file.stat().st_mtime_ns == moment


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    "target", ["a", "/nowhere/at all", "../up", "漢字 and ümläut", "x" * 2000, "%2e;=\n,"]
)
def test_symlinks(mounted: Mount, target: str) -> None:
    link = mounted.path / "link"
    link.symlink_to(target)
    for _ in range(2):
        assert link.readlink() == Path(target)
        assert link.lstat().st_size == len(target.encode())
        assert stat.S_ISLNK(link.lstat().st_mode)
        mounted.remount()
    with fails(errno.EEXIST):
        link.symlink_to("again")


def test_fifos_and_sockets(mounted: Mount) -> None:
    os.mkfifo(mounted.path / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(mounted.path / "socket"))
    for _ in range(2):
        assert stat.S_ISFIFO((mounted.path / "fifo").stat().st_mode)
        assert stat.S_IMODE((mounted.path / "fifo").stat().st_mode) == 0o640
        assert stat.S_ISSOCK((mounted.path / "socket").stat().st_mode)
        mounted.remount()
    for path in mounted.path.iterdir():
        path.unlink()
    assert list(mounted.path.iterdir()) == []


def test_inodes_and_links_are_stable(mounted: Mount) -> None:
    (mounted.path / "folder").mkdir()
    paths = [mounted.path, mounted.path / "folder", mounted.path / "folder" / "file"]
    paths[-1].write_bytes(b"x")
    before = [(path.stat().st_ino, path.stat().st_nlink) for path in paths]
    assert len({inode for inode, _ in before}) == len(paths)
    assert all(links >= 1 for _, links in before)
    listed = {entry.name: entry.inode() for entry in os.scandir(mounted.path)}
    assert listed["folder"] == before[1][0]
    mounted.remount()
    assert [(path.stat().st_ino, path.stat().st_nlink) for path in paths] == before


def test_every_folder_lists_itself_and_its_parent(mounted: Mount) -> None:
    (mounted.path / "folder").mkdir()
    for folder in (mounted.path, mounted.path / "folder"):
        with os.popen(f"ls -a '{folder}'") as listing:  # iterdir leaves them out
            assert listing.read().split()[:2] == [".", ".."]


@pytest.mark.parametrize("is_open", [False, True])
def test_a_file_named_like_a_hidden_file_of_libfuse_is_kept(mounted: Mount, is_open: bool) -> None:
    name = ".fuse_hidden0000000200000001"  # the first that libfuse takes itself
    file = mounted.path / "file"
    file.write_text("kept")
    with file.open() if is_open else nullcontext():
        file.rename(mounted.path / name)
        assert (mounted.path / name).read_text() == "kept"
        (mounted.path / "other").write_text("open")
        with (mounted.path / "other").open() as other:
            (mounted.path / "other").unlink()
            assert other.read() == "open"
    mounted.remount()
    assert [path.name for path in mounted.path.iterdir()] == [name]
    assert (mounted.path / name).read_text() == "kept"
