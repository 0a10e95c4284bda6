"""What a program has of a file that it has open or mapped, when another client replaces the file.

These run in a real mount. The kernel has one size for each of its inodes, so the two versions need two.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from mmap import MAP_SHARED, PROT_READ, mmap
from pathlib import Path

import pytest
from swiftclient import Connection

from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from support.older_versions import (
    LONG,
    LONGER,
    SHORT,
    body_of,
    halt_moves,
    let_move,
    movers_of,
    opened,
    refresh,
    replace,
)

pytestmark = pytest.mark.mount_options("settle=0.2,ttl=1,read_ahead=0")

SIZES = [(LONG, SHORT), (SHORT, LONG), (LONG, LONGER), (LONG, b""), (LONG, noise(len(LONG), 3))]
FOLDERS = ["", "sub/folder/"]


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def append_by_shell(path: Path) -> None:
    subprocess.run(["sh", "-c", f": >> '{path}'"], check=True)


LOOKS: dict[str, Callable[[Path], object]] = {
    "ls": lambda path: subprocess.run(["ls", "-l", path.parent], check=True, capture_output=True),
    "stat": size_of,
    "cat": lambda path: subprocess.run(["cat", path], check=False, capture_output=True),
    "append": append_by_shell,
}
"""What other programs do with the name."""


@pytest.mark.matrix(8)
@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("sizes", SIZES)
def test_an_open_file_keeps_its_size_and_bytes(
    mounted: Mount, connection: Connection, container: str, sizes: tuple[bytes, bytes], look: str, folder: str
) -> None:
    old, new = sizes
    connection.put_object(container, f"{folder}file", old)
    path = mounted.path / f"{folder}file"
    with opened(path, old) as handle, opened(path, old) as second:
        mapped = mmap(handle, 0, MAP_SHARED, PROT_READ)
        connection.put_object(container, f"{folder}file", new)
        os.setxattr(mounted.path, "swift.refresh", b"1")
        LOOKS[look](path)
        # Until the old inode has another name, the old version is shown.
        wait_until(lambda: path.read_bytes() == new)
        for _ in range(2):
            assert body_of(handle) == old
            assert body_of(second) == old
            assert os.fstat(handle).st_size == len(old)
            assert mapped[:] == old
            assert path.read_bytes() == new
            assert path.stat().st_size == len(new)
        assert os.fstat(handle).st_ino != path.stat().st_ino
        assert [one.name for one in path.parent.iterdir()] == ["file"]
        mapped.close()
    assert path.read_bytes() == new


def copied(connection: Connection, container: str) -> None:
    connection.put_object(container, "other", SHORT)
    connection.copy_object(container, "other", f"/{container}/file")


def test_it_keeps_its_size_when_another_object_is_copied_to_its_name(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "file", LONG)
    path = mounted.path / "file"
    with opened(path, LONG) as handle:
        copied(connection, container)
        refresh(mounted)
        wait_until(lambda: path.read_bytes() == SHORT)
        assert path.stat().st_size == len(SHORT)
        assert body_of(handle) == LONG


def test_each_of_three_versions_keeps_its_size(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "file", LONG)
    path = mounted.path / "file"
    with opened(path, LONG) as first:
        replace(connection, mounted, container, "file", SHORT)
        wait_until(lambda: path.stat().st_size == len(SHORT))
        with opened(path, SHORT) as second:
            replace(connection, mounted, container, "file", LONGER)
            wait_until(lambda: path.stat().st_size == len(LONGER))
            with opened(path, LONGER) as third:
                handles = [first, second, third]
                for handle, data in zip(handles, (LONG, SHORT, LONGER), strict=True):
                    assert body_of(handle) == data
                    assert os.fstat(handle).st_size == len(data)
                assert len({os.fstat(handle).st_ino for handle in handles}) == 3
                # A file that is found through its handle is the version of the handle.
                assert Path(f"/proc/self/fd/{first}").read_bytes() == LONG


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_file_that_another_client_deletes_keeps_its_size(
    mounted: Mount, connection: Connection, container: str, is_seen: bool
) -> None:
    connection.put_object(container, "file", LONG)
    path = mounted.path / "file"
    with opened(path, LONG) as handle:
        connection.delete_object(container, "file")
        refresh(mounted)
        if is_seen:
            wait_until(lambda: not path.exists())
        assert os.fstat(handle).st_size == len(LONG)
        assert body_of(handle) == LONG
        path.write_bytes(SHORT)
        wait_until(lambda: path.read_bytes() == SHORT)
        assert path.stat().st_size == len(SHORT)
        assert body_of(handle) == LONG
        assert os.fstat(handle).st_ino != path.stat().st_ino
    assert path.read_bytes() == SHORT
    mounted.remount()
    assert path.read_bytes() == SHORT


@pytest.mark.parametrize("creates", [False, True])
def test_a_program_makes_files_anew_as_often_as_another_client_deletes_them(
    mounted: Mount, connection: Connection, container: str, creates: bool
) -> None:
    """The kernel knows the names, so it opens the files; the first open(2) fails or makes the file."""
    for name in ("first", "second"):
        connection.put_object(container, name, LONG)
    refresh(mounted)
    for name in ("first", "second"):
        path = mounted.path / name
        assert path.stat().st_size == len(LONG)
        connection.delete_object(container, name)
        refresh(mounted)
        if name == "second" or creates:
            path.write_bytes(SHORT)
        else:
            with pytest.raises(FileNotFoundError):
                path.open("rb")
    assert path.read_bytes() == SHORT


@pytest.mark.parametrize("is_marked", [False, True])
def test_a_file_that_becomes_a_folder_keeps_its_bytes(
    mounted: Mount, connection: Connection, container: str, is_marked: bool
) -> None:
    connection.put_object(container, "file", LONG)
    path = mounted.path / "file"
    with opened(path, LONG) as handle:
        connection.put_object(container, "file/inner", SHORT)
        if is_marked:
            connection.put_object(container, "file", b"", content_type="application/directory")
        else:
            connection.delete_object(container, "file")
        refresh(mounted)
        wait_until(path.is_dir)
        assert (path / "inner").read_bytes() == SHORT
        assert body_of(handle) == LONG
        assert os.fstat(handle).st_size == len(LONG)


def truncated(path: Path) -> bytes:
    os.truncate(path, 1000)
    return SHORT[:1000]


def copied_over(path: Path) -> bytes:
    path.write_bytes(LONGER)
    return LONGER


def renamed_over(path: Path) -> bytes:
    path.with_name("new").write_bytes(LONGER)
    path.with_name("new").rename(path)
    return LONGER


def renamed_away(path: Path) -> bytes:
    path.rename(path.with_name("moved"))
    assert path.with_name("moved").read_bytes() == SHORT
    path.write_bytes(LONGER)
    return LONGER


def unlinked(path: Path) -> bytes:
    path.unlink()
    assert not path.exists()
    path.write_bytes(LONGER)
    return LONGER


def moved_with_its_folder(path: Path) -> bytes:
    path.parent.rename(path.parent.with_name("moved"))
    assert path.parent.with_name("moved").joinpath(path.name).read_bytes() == SHORT
    path.parent.mkdir()
    path.write_bytes(LONGER)
    return LONGER


CHANGES = [truncated, copied_over, renamed_over, renamed_away, unlinked, moved_with_its_folder]


@pytest.mark.matrix(6)
@pytest.mark.parametrize("is_seen", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_it_keeps_its_bytes_when_a_program_here_changes_the_new_version(
    mounted: Mount, connection: Connection, container: str, change: Callable[[Path], bytes], is_seen: bool
) -> None:
    connection.put_object(container, "d/file", LONG)
    path = mounted.path / "d" / "file"
    with opened(path, LONG) as handle:
        replace(connection, mounted, container, "d/file", SHORT)
        if is_seen:
            wait_until(lambda: path.stat().st_size == len(SHORT))
        data = change(path)
        for _ in range(2):
            assert body_of(handle) == LONG
            assert os.fstat(handle).st_size == len(LONG)
            assert path.read_bytes() == data
        assert all(".fuse" not in one.name and ".repl" not in one.name for one in path.parent.iterdir())
    mounted.remount()
    assert path.read_bytes() == data
    assert all(".fuse" not in one["name"] for one in connection.get_container(container)[1])


def test_what_is_written_to_the_older_version_is_stored_at_its_name(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "file", LONG)
    path = mounted.path / "file"
    with opened(path, LONG, os.O_RDWR) as handle:
        replace(connection, mounted, container, "file", SHORT)
        wait_until(lambda: path.stat().st_size == len(SHORT))
        assert os.pwrite(handle, b"ours", len(LONG)) == 4
        os.fsync(handle)
        assert connection.get_object(container, "file")[1] == LONG + b"ours"
        wait_until(lambda: path.read_bytes() == LONG + b"ours")
    assert path.read_bytes() == LONG + b"ours"


@pytest.mark.mount_options("settle=0.2,ttl=1,segment_size=1M")
def test_a_large_file_keeps_its_size(mounted: Mount, connection: Connection, container: str) -> None:
    large = noise(3 * 1024 * 1024 + 11, 5)
    path = mounted.path / "file"
    path.write_bytes(large)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    with opened(path, large) as handle, mmap(handle, 0, MAP_SHARED, PROT_READ) as mapped:
        replace(connection, mounted, container, "file", SHORT)
        wait_until(lambda: path.read_bytes() == SHORT)
        assert body_of(handle) == large
        assert mapped[:] == large


@pytest.mark.mount_options("ro,ttl=1")
@pytest.mark.parametrize("new", [SHORT, LONGER])
def test_in_a_read_only_mount_new_handles_read_the_new_version(
    mounted: Mount, connection: Connection, container: str, new: bytes
) -> None:
    """The kernel has one size there, so handles of the old version would be cut, or read zeros."""
    connection.put_object(container, "file", LONG)
    path = mounted.path / "file"
    mounted.expected.append("ESTALE")
    with opened(path, LONG) as handle:
        connection.put_object(container, "file", new)
        wait_until(lambda: path.read_bytes() == new)
        for _ in range(3):
            with pytest.raises(OSError, match="Stale"):
                body_of(handle)
            assert path.read_bytes() == new
            assert path.stat().st_size == len(new)
    assert path.read_bytes() == new


@pytest.mark.mount_options("ro,ttl=1,read_ahead=0")
@pytest.mark.parametrize("new", [SHORT, b""])
def test_in_a_read_only_mount_a_reader_meets_no_end_of_a_shorter_version(
    mounted: Mount, connection: Connection, container: str, new: bytes
) -> None:
    connection.put_object(container, "file", LONG)
    path = mounted.path / "file"
    mounted.expected.append("ESTALE")
    handle = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(handle, 65536, 0) == LONG[:65536]
        connection.put_object(container, "file", new)
        wait_until(lambda: path.stat().st_size == len(new))
        for _ in range(3):
            assert path.stat().st_size == len(new)
            with pytest.raises(OSError, match="Stale"):
                os.pread(handle, 65536, 131072)
            assert path.read_bytes() == new
            with pytest.raises(OSError, match="Stale"):
                os.pread(handle, 65536, 131072)
    finally:
        os.close(handle)
    # From now on the kernel keeps attributes again.
    assert path.read_bytes() == new


@pytest.mark.slow
def test_many_files_that_are_open_are_replaced(
    mounted: Mount, connection: Connection, container: str
) -> None:
    count = 60
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: connection.put_object(container, f"{n}", LONG[n:]), range(count)))
    handles = [os.open(mounted.path / f"{n}", os.O_RDONLY) for n in range(count)]
    try:
        for n, handle in enumerate(handles):
            assert body_of(handle) == LONG[n:]
        for n in range(count):
            connection.put_object(container, f"{n}", SHORT[n:])
        refresh(mounted)
        began = time.monotonic()
        subprocess.run(["ls", "-l", mounted.path], check=True, capture_output=True)
        print(f"ls: {time.monotonic() - began:.2f} s")
        for n, handle in enumerate(handles):
            assert (mounted.path / f"{n}").read_bytes() == SHORT[n:]
            assert body_of(handle) == LONG[n:]
    finally:
        for handle in handles:
            os.close(handle)


@pytest.fixture
def halted(mounted: Mount, connection: Connection, container: str) -> Path:
    return halt_moves(mounted, connection, container)


def test_a_move_that_hangs_hinders_nobody(
    halted: Path, mounted: Mount, connection: Connection, container: str
) -> None:
    with opened(halted, LONG) as handle:
        replace(connection, mounted, container, "d/file", SHORT)
        # Until then the old version is shown.
        for _ in range(2):
            assert halted.stat().st_size == len(LONG)
            subprocess.run(["cmp", halted, f"/proc/self/fd/{handle}"], check=True, pass_fds=[handle])
        halted.with_name("other").write_bytes(SHORT)
        halted.unlink()
        assert not halted.exists()
        assert os.fstat(handle).st_size == len(LONG)
        assert body_of(handle) == LONG
        halted.write_bytes(LONGER)
        assert halted.read_bytes() == LONGER
        assert body_of(handle) == LONG
    mounted.stop()
    assert connection.get_object(container, "d/file")[1] == LONGER
    assert not movers_of(mounted)


def test_a_file_is_made_anew_while_the_move_of_its_name_hangs(
    halted: Path, mounted: Mount, connection: Connection, container: str
) -> None:
    """The lookup for open(2) with O_CREAT holds the lock for which the move waits."""
    with opened(halted, LONG) as handle, ThreadPoolExecutor(1) as pool:
        connection.put_object(container, "d/other", SHORT)  # it keeps the folder
        connection.delete_object(container, "d/file")
        refresh(mounted)
        written = pool.submit(halted.write_bytes, SHORT)
        assert not wait([written], 2).done
        assert body_of(handle) == LONG
        let_move(mounted)
        written.result()
        assert halted.stat().st_ino != os.fstat(handle).st_ino
        assert halted.read_bytes() == SHORT
        assert body_of(handle) == LONG
        assert os.fstat(handle).st_size == len(LONG)
    mounted.stop()
    assert connection.get_object(container, "d/file")[1] == SHORT


def test_a_mover_that_has_ended_begins_again(
    halted: Path, mounted: Mount, connection: Connection, container: str
) -> None:
    with opened(halted, LONG) as handle:
        os.kill(int(movers_of(mounted)[0]), signal.SIGKILL)
        replace(connection, mounted, container, "d/file", SHORT)
        wait_until(lambda: halted.read_bytes() == SHORT)
        with opened(halted, SHORT) as second:
            replace(connection, mounted, container, "d/file", LONGER)
            wait_until(lambda: halted.stat().st_size == len(LONGER))
            assert body_of(second) == SHORT
            assert os.fstat(second).st_size == len(SHORT)
        assert body_of(handle) == LONG
        assert os.fstat(handle).st_size == len(LONG)


def test_nothing_is_left_after_a_kill(mounted: Mount, connection: Connection, container: str) -> None:
    connection.put_object(container, "file", LONG)
    path = mounted.path / "file"
    with opened(path, LONG):
        replace(connection, mounted, container, "file", SHORT)
        wait_until(lambda: path.stat().st_size == len(SHORT))
        movers = movers_of(mounted)
        assert len(movers) == 1
        mounted.kill()
    wait_until(lambda: not movers_of(mounted))
    mounted.start()
    assert path.read_bytes() == SHORT


def test_an_open_file_that_is_replaced_does_not_keep_the_mount_from_ending(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "file", LONG)
    path = mounted.path / "file"
    with opened(path, LONG) as handle:
        subprocess.run(["fusermount", "-uz", mounted.path], check=True)
        connection.put_object(container, "file", SHORT)
        assert body_of(handle) == LONG
    process = mounted.take_process()
    assert process.wait(within(60)) == 0
    assert not path.exists()


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_file_is_renamed_to_a_name_at_which_another_client_has_deleted_an_open_one(
    mounted: Mount, connection: Connection, container: str, is_seen: bool
) -> None:
    connection.put_object(container, "d/file", LONG)
    path = mounted.path / "d" / "file"
    path.with_name("new").write_bytes(LONGER)
    with opened(path, LONG) as handle:
        connection.delete_object(container, "d/file")
        refresh(mounted)
        if is_seen:
            wait_until(lambda: not path.exists())
        path.with_name("new").rename(path)
        for _ in range(2):
            assert path.read_bytes() == LONGER
            assert body_of(handle) == LONG
            assert os.fstat(handle).st_size == len(LONG)
    mounted.remount()
    assert path.read_bytes() == LONGER
