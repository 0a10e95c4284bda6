"""Errors of users and of the server: one clear line, the right errno, nothing lost."""

import contextlib
import errno
import mmap
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from swiftclient import Connection

from support import mount_with_time_limits
from support.commands import swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount
from support.system_calls import fails
from swiftfs.demo.server import READER, Fault, SwiftServer

SECRET = "a-key-nobody-may-see"


def mount(swift: SwiftServer, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `swiftfs mount` in the background, as a user does; it must fail within seconds. Return its line."""
    began = time.monotonic()
    result = swiftfs("mount", *words, environment={**swift.environment(), **environment})
    assert time.monotonic() - began < within(20)
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    said = [line for line in result.stderr.splitlines() if line.startswith("swiftfs: ")]
    assert len(said) == 1, result.stderr
    assert SECRET not in result.stderr
    assert "Traceback" not in result.stderr
    return result


def listed(path: Path) -> list[str]:
    return [child.name for child in path.iterdir()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


def test_a_wrong_key_is_reported(swift: SwiftServer, folder: Path, tmp_path: Path) -> None:
    result = mount(swift, "box", folder, "--cache-dir", tmp_path / "cache", ST_KEY=SECRET)
    assert swift.auth_url in result.stderr
    assert swift.user in result.stderr


def test_a_server_that_is_down_is_reported(swift: SwiftServer, folder: Path, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9/auth/v1.0"
    result = mount(swift, "box", folder, "--cache-dir", tmp_path / "cache", ST_AUTH=nowhere, ST_KEY=SECRET)
    assert nowhere in result.stderr
    assert swift.user in result.stderr


def test_missing_credentials_are_reported(swift: SwiftServer, folder: Path, tmp_path: Path) -> None:
    result = mount(swift, "box", folder, "--cache-dir", tmp_path / "cache", ST_AUTH="", ST_USER="", ST_KEY="")
    assert "ST_AUTH" in result.stderr


def test_a_missing_container_is_reported(swift: SwiftServer, folder: Path, tmp_path: Path) -> None:
    result = mount(swift, "nobodys-box", folder, "--cache-dir", tmp_path / "cache")
    assert "nobodys-box" in result.stderr


def test_a_container_of_another_user_is_reported(
    swift: SwiftServer, connection: Connection, container: str, folder: Path, tmp_path: Path
) -> None:
    who = {"ST_USER": READER.name, "ST_KEY": READER.key}
    mount(swift, container, folder, "--cache-dir", tmp_path / "cache", **who)


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda path: path.rmdir(), "No such file"),
        (lambda path: (path / "inside").touch(), "not empty"),
        (lambda path: (path.rmdir(), path.touch()), "Not a directory"),
    ],
    ids=["missing", "not-empty", "a-file"],
)
def test_unusable_mount_points_are_reported(
    swift: SwiftServer, folder: Path, prepare: Callable[[Path], object], said: str
) -> None:
    prepare(folder)
    result = mount(swift, "box", folder)
    assert said in result.stderr
    assert str(folder) in result.stderr


@pytest.mark.matrix(3)
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("segment_siez=1M", "segment_size"),
        ("ttl=soon", "ttl=soon"),
        ("segment_size=10", "segment_size=10"),
        ("uploads=0", "1 to 64"),
        ("umask=9", "octal"),
        ("mtime=never", "meta, listing or auto"),
        ("ro=perhaps", "yes or no"),
        ("zzzzzzzz", "zzzzzzzz"),
    ],
)
def test_wrong_options_are_reported(swift: SwiftServer, folder: Path, option: str, said: str) -> None:
    assert said in mount(swift, "box", folder, "-o", option).stderr


@pytest.mark.parametrize("source", ["/box", "x" * 300])
def test_wrong_sources_are_reported(swift: SwiftServer, folder: Path, source: str) -> None:
    assert "source" in mount(swift, source, folder).stderr


def test_a_cache_folder_in_use_is_reported(
    swift: SwiftServer, mounted: Mount, container: str, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.mkdir()
    result = mount(swift, container, second, "--cache-dir", mounted.cache)
    assert "in use by another mount" in result.stderr
    assert str(mounted.cache) in result.stderr
    assert list(mounted.path.iterdir()) == []


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    ("status", "number"), [(403, errno.EACCES), (413, errno.EDQUOT), (507, errno.ENOSPC)]
)
def test_refusals_are_reported_at_close(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str, status: int, number: int
) -> None:
    mounted.expected += ["flush", "fsync", "last changes are lost"]
    file = mounted.path / "file"
    file.write_bytes(b"old")
    swift.inject(Fault(method="PUT", path=f"/{container}/file", status=status))
    descriptor = os.open(file, os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, b"new")
    with fails(number):
        os.fsync(descriptor)
    with fails(number):
        os.close(descriptor)
    swift.clear_faults()
    assert connection.get_object(container, "file")[1] == b"old"
    assert file.read_bytes() == b"old"
    file.write_bytes(b"newest")
    assert connection.get_object(container, "file")[1] == b"newest"


def test_a_reader_sees_nothing_of_a_refused_mapping(
    mounted: Mount, swift: SwiftServer, container: str
) -> None:
    """Not even from the kernel's pages, which have the refused bytes."""
    mounted.expected += ["flush", "fsync", "last changes are lost"]
    file = mounted.path / "file"
    file.write_bytes(b"old" * 5000)
    assert file.read_bytes() == b"old" * 5000
    swift.inject(Fault(method="PUT", path=f"/{container}/file", status=403))
    with file.open("r+b") as stream:
        mapping = mmap.mmap(stream.fileno(), 0)
        mapping[:3] = b"new"
        with contextlib.suppress(OSError):
            mapping.flush()
        mapping.close()
        with contextlib.suppress(OSError):
            stream.close()
    swift.clear_faults()
    wait_until(lambda: "last changes are lost" in mounted.log.read_text())
    wait_until(lambda: file.read_bytes() == b"old" * 5000)


def test_an_exceeded_quota_is_edquot(mounted: Mount, connection: Connection, container: str) -> None:
    mounted.expected += ["flush", "last changes are lost"]
    connection.post_container(container, {"X-Container-Meta-Quota-Bytes": "1000"})
    with fails(errno.EDQUOT), (mounted.path / "file").open("wb", buffering=0) as stream:
        stream.write(bytes(2000))
    assert connection.get_container(container)[1] == []
    (mounted.path / "small").write_bytes(bytes(100))


def test_forbidden_reads_are_eacces(mounted: Mount, swift: SwiftServer, container: str) -> None:
    mounted.expected += ["read", "getattr", "opendir", "readdir"]
    (mounted.path / "file").write_bytes(b"x")
    mounted.remount()
    swift.inject(Fault(method="GET", path=f"/{container}/file", status=403))
    with fails(errno.EACCES):
        (mounted.path / "file").read_bytes()
    swift.clear_faults()
    assert (mounted.path / "file").read_bytes() == b"x"
    mounted.remount()
    swift.inject(Fault(method="GET", path="prefix=|format=json", status=403))
    for _ in range(2):
        with fails(errno.EACCES):
            listed(mounted.path)
    swift.clear_faults()
    assert listed(mounted.path) == ["file"]


def test_a_passing_503_is_not_reported(mounted: Mount, swift: SwiftServer, container: str) -> None:
    swift.inject(Fault(method="PUT", path=f"/{container}/", status=503, times=2))
    (mounted.path / "file").write_bytes(b"x")
    swift.inject(Fault(method="GET", path=f"/{container}", reset=True, times=2))
    mounted.remount()
    assert (mounted.path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("deadline", [3, pytest.param(None, marks=pytest.mark.slow)])
def test_a_lasting_503_is_eio(
    mounted: Mount, swift: SwiftServer, container: str, deadline: int | None
) -> None:
    """Without another deadline it waits as long as users do."""
    mounted.expected += ["readdir", "opendir", "getattr"]
    if deadline:
        mounted.program = (mount_with_time_limits.__file__, "30", str(deadline))
    (mounted.path / "file").write_bytes(b"x")
    mounted.remount()
    swift.inject(Fault(path=f"/{container}", status=503))
    began = time.monotonic()
    with fails(errno.EIO):
        listed(mounted.path)
    assert time.monotonic() - began < within(40)
    swift.clear_faults()

    def is_listed() -> bool:
        with contextlib.suppress(OSError):  # for a moment, as lookups that waited get the same failure
            return listed(mounted.path) == ["file"]
        return False

    wait_until(is_listed)


def test_a_server_killed_during_a_copy_leaves_the_old_file(tmp_path: Path) -> None:
    old, new = os.urandom(100_000), tmp_path / "new"
    new.write_bytes(os.urandom(40_000_000))
    with SwiftServer() as server:
        connection = Connection(server.auth_url, server.user, server.key, retries=0)
        connection.put_container("box")
        connection.put_object("box", "file", old)
        mounted = Mount(server, "box", tmp_path, "segment_size=1M")
        # One case of `test_a_lasting_503_is_eio` waits as long as users do.
        mounted.program = (mount_with_time_limits.__file__, "30", "3")
        with mounted:
            mounted.expected += ["flush", "release", "getattr", "lost", "stay", "unused", "write"]
            server.inject(Fault(method="PUT", path="box_segments/.*/0000002097152", delay=60))
            with subprocess.Popen(["cp", new, mounted.path / "file"], stderr=subprocess.PIPE) as copy:
                wait_until(lambda: any("/0000002097152" in one.path for one in server.requests()))
                server.kill()
                assert copy.stderr is not None
                said = copy.stderr.read().decode()
            assert copy.returncode == 1
            assert "Input/output error" in said or "Connection timed out" in said
            server.start()
            assert connection.get_object("box", "file")[1] == old
            assert [row["name"] for row in connection.get_container("box")[1]] == ["file"]
            assert listed(mounted.path) == ["file"]
            assert (mounted.path / "file").read_bytes() == old
        connection.close()
