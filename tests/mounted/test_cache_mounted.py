"""The cache folder of real mounts: restarts, kills, deletion of the folder, a size limit, a full disk."""

import contextlib
import os
import select
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from support.read_patterns import body, parts
from support.small_disk import fill, small_disk
from swiftfs.config.cache_dir import JOURNAL_RESERVE, VERSIONS
from swiftfs.demo.server import SwiftServer
from swiftfs.journal.salvage import copy_journal

MIB = 1024 * 1024


def gets(swift: SwiftServer, key: str) -> int:
    """Return the GETs of an object since the last call."""
    count = sum(one.method == "GET" and one.path.endswith(f"/{key}") for one in swift.requests())
    swift.reset_requests()
    return count


def kill(mount: Mount, *descriptors: int) -> None:
    """Kill the mount's process, remove the dead mount, and mount again with the same cache."""
    ended = os.pidfd_open(mount.pid)
    os.kill(mount.pid, signal.SIGKILL)
    select.select([ended], [], [])
    os.close(ended)
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    mount.exit_code = -signal.SIGKILL
    mount.stop()
    mount.exit_code = 0
    mount.start()


def is_kept(mount: Mount, folder: Path) -> bool:
    """Return whether the index has a file that was closed: it is written up to half a second later.

    A copy in `folder` is read, because the mount locks the database.
    """
    with contextlib.closing(sqlite3.connect(copy_journal(mount.cache / VERSIONS, folder))) as index:
        return bool(index.execute("SELECT * FROM files").fetchall())


def disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def test_what_was_read_and_written_is_there_after_a_restart(
    mounted: Mount, connection: Connection, container: str, swift: SwiftServer
) -> None:
    connection.put_object(container, "read", noise(3 * MIB))
    assert (mounted.path / "read").read_bytes() == noise(3 * MIB)
    (mounted.path / "written").write_bytes(noise(2 * MIB, 1))
    mounted.remount(empty_cache=False)
    swift.reset_requests()
    assert (mounted.path / "read").read_bytes() == noise(3 * MIB)
    assert (mounted.path / "written").read_bytes() == noise(2 * MIB, 1)
    assert gets(swift, "read") == gets(swift, "written") == 0


def test_another_version_is_not_taken_for_the_cached_one(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "file", b"old")
    assert (mounted.path / "file").read_bytes() == b"old"
    mounted.stop()
    connection.put_object(container, "file", b"new")
    mounted.start()
    assert (mounted.path / "file").read_bytes() == b"new"


def test_the_cache_of_a_killed_mount_is_right(
    mounted: Mount, connection: Connection, container: str, swift: SwiftServer
) -> None:
    for number in range(3):
        connection.put_object(container, f"file{number}", noise(3 * MIB, number))
    assert (mounted.path / "file0").read_bytes() == noise(3 * MIB)
    with (mounted.path / "file1").open("rb") as file:
        assert file.read(MIB) == noise(3 * MIB, 1)[:MIB]
    changing = os.open(mounted.path / "file0", os.O_RDWR)
    os.pwrite(changing, b"never stored", 0)
    reading = os.open(mounted.path / "file2", os.O_RDONLY)
    os.pread(reading, 1, 0)
    swift.reset_requests()
    kill(mounted, changing, reading)
    for number in range(3):
        assert (mounted.path / f"file{number}").read_bytes() == noise(3 * MIB, number)


def test_a_cached_file_needs_no_request_after_a_kill(
    mounted: Mount, connection: Connection, container: str, swift: SwiftServer, tmp_path: Path
) -> None:
    connection.put_object(container, "file", noise(3 * MIB))
    assert (mounted.path / "file").read_bytes() == noise(3 * MIB)
    wait_until(lambda: is_kept(mounted, tmp_path))
    kill(mounted)
    swift.reset_requests()
    assert (mounted.path / "file").read_bytes() == noise(3 * MIB)
    assert gets(swift, "file") == 0


def test_the_cache_can_be_wiped_under_a_mount(mounted: Mount, connection: Connection, container: str) -> None:
    for key in ("closed", "open"):
        connection.put_object(container, key, noise(3 * MIB))
    assert (mounted.path / "closed").read_bytes() == noise(3 * MIB)
    with (mounted.path / "open").open("rb") as file:
        head = file.read(MIB)
        shutil.rmtree(mounted.cache / "content")
        assert head + file.read() == noise(3 * MIB)
    assert (mounted.path / "closed").read_bytes() == noise(3 * MIB)
    (mounted.path / "new").write_bytes(noise(MIB))
    assert (mounted.path / "new").read_bytes() == noise(MIB)
    mounted.remount(empty_cache=False)
    for key in ("closed", "open"):
        assert (mounted.path / key).read_bytes() == noise(3 * MIB)


@pytest.mark.mount_options("cache_size=64M,read_ahead=8M")
def test_the_cache_stays_within_its_size(mounted: Mount) -> None:
    for number in range(3):
        (mounted.path / f"file{number}").write_bytes(noise(20 * MIB, number))
    with (mounted.path / "large").open("wb") as file:
        file.writelines(parts())
    content = mounted.cache / "content"
    with (mounted.path / "large").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert all(file.read(MIB) == part for part in parts())
        assert disk(content) <= 90 * MIB
    for number in range(3):
        assert (mounted.path / f"file{number}").read_bytes() == noise(20 * MIB, number)
        assert disk(content) <= 90 * MIB


def write_all(descriptor: int, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        written = 0
        while written < len(piece):
            written += os.write(descriptor, piece[written : written + 100_000])


FULL = "ENOSPC: the disk of the cache folder is full, or cache_size is full of what is not in Swift yet"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB."""
    with small_disk(tmp_path / "disk", "64m") as made:
        yield made


def test_write_reports_a_full_disk(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, tiny: Path
) -> None:
    connection.put_object(container, "old", noise(20 * MIB))
    mount = Mount(swift, container, tmp_path, "segment_size=256M")  # nothing is uploaded before close()
    mount.cache = tiny / "cache"
    too_small = "less than a segment (256M): larger files fail with ENOSPC"
    mount.expected += [FULL, too_small]
    with mount:
        assert (mount.path / "old").read_bytes() == noise(20 * MIB)
        descriptor = os.open(mount.path / "file", os.O_RDWR | os.O_CREAT)
        with pytest.raises(OSError, match="No space left"):
            write_all(descriptor, parts())
        written = os.fstat(descriptor).st_size
        assert written > 40 * MIB, "what is clean went first"
        assert FULL in mount.log.read_text()
        assert too_small in mount.log.read_text()
        os.close(descriptor)
        with (mount.path / "file").open("rb") as file:
            for at in range(0, written, MIB):
                assert file.read(MIB) == body(at, min(at + MIB, written))
        (mount.path / "file").unlink()
        assert (mount.path / "old").read_bytes() == noise(20 * MIB)
        (mount.path / "small").write_bytes(b"there is room again")
    assert connection.get_object(container, "small")[1] == b"there is room again"


def test_write_reports_a_disk_that_other_programs_fill(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, tiny: Path
) -> None:
    mount = Mount(swift, container, tmp_path)
    mount.cache = tiny / "cache"
    mount.expected += [FULL, "smaller than two segments"]
    with mount:
        descriptor = os.open(mount.path / "file", os.O_RDWR | os.O_CREAT)
        os.write(descriptor, noise(MIB))
        filler = os.open(tiny / "filler", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space left"):
            write_all(filler, repeat(bytes(MIB), 100))
        with pytest.raises(OSError, match="No space left"):
            os.write(descriptor, noise(MIB, 2))
        os.close(filler)
        os.close(descriptor)
        assert connection.get_object(container, "file")[1][:MIB] == noise(MIB)
        (tiny / "filler").unlink()
        (mount.path / "file").write_bytes(b"again")
    assert connection.get_object(container, "file")[1] == b"again"


@pytest.fixture
def left_over(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, tiny: Path
) -> Mount:
    """A mount that was killed with a change that waits, on a disk that is full since, without a reserve."""
    mount = Mount(swift, container, tmp_path, "settle=3600,drain=60")
    mount.cache = tiny / "cache"
    mount.expected += ["smaller than two segments", "less than a segment"]
    for number in range(4):
        connection.put_object(container, f"old{number}", noise(2 * MIB, number))
    mount.start()
    (mount.path / "new").write_bytes(b"text")
    for number in range(4):
        assert len((mount.path / f"old{number}").read_bytes()) == 2 * MIB
    wait_until(lambda: is_kept(mount, tmp_path))
    process = mount.take_process()
    process.kill()
    process.wait()
    subprocess.run(["fusermount", "-uz", str(mount.path)], check=True)
    (mount.cache / JOURNAL_RESERVE).unlink()
    fill(tiny)
    return mount


def test_a_mount_on_a_disk_full_of_copies_begins(
    connection: Connection, container: str, left_over: Mount
) -> None:
    with left_over as mount:
        assert (mount.path / "new").read_bytes() == b"text"
    assert connection.get_object(container, "new")[1] == b"text"


def test_a_mount_on_a_disk_full_of_other_files_says_so_and_loses_nothing(
    swift: SwiftServer, connection: Connection, container: str, left_over: Mount
) -> None:
    for path in (left_over.cache / "content").iterdir():
        if not path.name.startswith("open-"):
            path.rename(left_over.cache.parent / f"others-{path.name}")
    words = ("mount", container, left_over.path, "--cache-dir", left_over.cache)
    said = one_line(swiftfs(*words, environment=swift.environment()))
    assert said.endswith(f"no space is left on the disk of {left_over.cache}\n")
    (left_over.cache.parent / "filler").unlink()
    with left_over as mount:
        assert (mount.path / "new").read_bytes() == b"text"
    assert connection.get_object(container, "new")[1] == b"text"
