"""Other clients see ordinary objects, and swiftfs reads what the `swift` command and its library store."""

import hashlib
import os
import re
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount, run, swift_cli
from support.noise import noise
from swiftfs.demo.server import Fault

MIB = 1024**2
CLOSE = 1_000
"""Nanoseconds: the swift command writes a time as the decimal digits of a float."""

small_segments = pytest.mark.mount_options("segment_size=1M")


def facts(text: str) -> dict[str, str]:
    """Return the `name: value` lines of `swift stat`."""
    pairs = (line.strip().partition(": ") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def assert_same(local: Path, mounted: Path) -> None:
    """Compare size, bytes, and the time up to a microsecond."""
    assert mounted.stat().st_size == local.stat().st_size
    assert abs(mounted.stat().st_mtime_ns - local.stat().st_mtime_ns) <= CLOSE
    assert mounted.read_bytes() == local.read_bytes()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A folder of files to upload, with times of their own."""
    folder = tmp_path / "local"
    (folder / "tree" / "deep" / "deeper").mkdir(parents=True)
    (folder / "tree" / "empty").mkdir()
    sizes = {"tree/one": 1, "tree/zero": 0, "tree/deep/two.txt": 20_000, "tree/deep/deeper/ümläut %41": 5}
    sizes["large"] = 3 * MIB + 5
    for number, (name, size) in enumerate(sizes.items()):
        path = folder / name
        path.write_bytes(noise(size))
        os.utime(path, ns=(0, 1_600_000_000_123_456_789 + number * 86_400_000_000_000))
    return folder


def upload_large(mounted: Mount, container: str, local: Path, *flags: str) -> None:
    """Let the swift command store the file `large` in four segments."""
    swift_cli(mounted.swift, "upload", "-S", MIB, *flags, container, "large", cwd=local)


def refresh(mounted: Mount) -> None:
    """Let the mount forget its listings; the kernel remembers names and sizes for a second."""
    os.setxattr(mounted.path, "swift.refresh", b"1")


def test_the_swift_command_reads_a_file(mounted: Mount, container: str, tmp_path: Path) -> None:
    path = mounted.path / "notes.txt"
    path.write_bytes(noise(12_345))
    path.chmod(0o640)
    os.utime(path, ns=(0, 1_234_567_890_123_456_789))
    assert swift_cli(mounted.swift, "list", container) == "notes.txt\n"
    stat = facts(swift_cli(mounted.swift, "stat", container, "notes.txt"))
    assert stat["Content Length"] == "12345"
    assert stat["ETag"] == hashlib.md5(noise(12_345)).hexdigest()
    assert stat["Meta Mtime"] == "1234567890.123456789"
    assert stat["Content Type"].startswith("text/plain;")
    swift_cli(mounted.swift, "download", container, "notes.txt", cwd=tmp_path)
    assert_same(tmp_path / "notes.txt", path)


def test_the_swift_command_sees_a_folder_as_a_marker(mounted: Mount, container: str, tmp_path: Path) -> None:
    (mounted.path / "folder" / "inner").mkdir(parents=True)
    (mounted.path / "folder" / "file").write_text("text")
    assert swift_cli(mounted.swift, "list", container).split() == ["folder", "folder/file", "folder/inner"]
    assert swift_cli(mounted.swift, "list", container, "--delimiter", "/").split() == ["folder", "folder/"]
    for name in ("folder", "folder/inner"):
        stat = facts(swift_cli(mounted.swift, "stat", container, name))
        assert stat["Content Type"] == "application/directory"
        assert stat["Content Length"] == "0"
        assert stat["ETag"] == hashlib.md5(b"").hexdigest()
    swift_cli(mounted.swift, "download", container, cwd=tmp_path)
    assert (tmp_path / "folder" / "inner").is_dir()
    assert (tmp_path / "folder" / "file").read_text() == "text"


@small_segments
def test_the_swift_command_reads_and_deletes_a_large_file(
    mounted: Mount, container: str, connection: Connection, tmp_path: Path
) -> None:
    path = mounted.path / "large.bin"
    path.write_bytes(noise(3 * MIB + 5))
    os.utime(path, ns=(0, 1_234_567_890_123_456_789))
    mounted.remount(empty_cache=True)
    listed = swift_cli(mounted.swift, "list", container, "--long")
    assert re.search(rf"^\s*{3 * MIB + 5}\s.*large\.bin$", listed, re.MULTILINE)
    stat = facts(swift_cli(mounted.swift, "stat", container, "large.bin"))
    assert stat["Content Length"] == str(3 * MIB + 5)
    assert stat["X-Static-Large-Object"].lower() == "true"
    assert stat["Meta Mtime"] == "1234567890.123456789"
    swift_cli(mounted.swift, "download", container, "large.bin", cwd=tmp_path)
    assert_same(tmp_path / "large.bin", path)
    assert len(swift_cli(mounted.swift, "list", f"{container}_segments").splitlines()) == 4
    swift_cli(mounted.swift, "delete", container, "large.bin")
    assert connection.get_container(f"{container}_segments")[1] == []


@small_segments
def test_uploading_again_what_the_mount_wrote_changes_nothing(
    mounted: Mount, container: str, local: Path
) -> None:
    run("cp", "-a", local / "tree", local / "large", mounted.path)
    mounted.swift.reset_requests()
    names = ("tree/one", "tree/deep/two.txt", "large")
    swift_cli(mounted.swift, "upload", "--skip-identical", container, *names, cwd=local)
    puts = [request.path for request in mounted.swift.requests() if request.method == "PUT"]
    assert not [path for path in puts if path.count("/") > 3]


@pytest.mark.parametrize("flags", [(), ("--use-slo",)])
def test_a_folder_that_the_swift_command_uploads(
    mounted: Mount, container: str, local: Path, flags: tuple[str, ...]
) -> None:
    swift_cli(mounted.swift, "upload", *flags, container, "tree", cwd=local)
    target = mounted.path / "tree"
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert found == sorted(str(path.relative_to(local / "tree")) for path in (local / "tree").rglob("*"))
    for path in (local / "tree").rglob("*"):
        there = mounted.path / path.relative_to(local)
        assert there.is_dir() == path.is_dir()
        if path.is_file():
            assert_same(path, there)
    assert list((target / "empty").iterdir()) == []
    assert run("rsync", "-rcn", "-i", f"{local}/tree/", f"{target}/") == ""
    mounted.remount(empty_cache=True)
    assert run("diff", "-r", local / "tree", target) == ""


@pytest.mark.parametrize("flags", [("--use-slo",), ("--use-slo", "--changed"), ("--header", "X-Nothing: 1")])
def test_a_large_file_that_the_swift_command_uploads_in_segments(
    mounted: Mount, container: str, local: Path, flags: tuple[str, ...]
) -> None:
    upload_large(mounted, container, local, *flags)
    assert_same(local / "large", mounted.path / "large")
    mounted.remount(empty_cache=True)
    assert {path.name: path.stat().st_size for path in mounted.path.iterdir()} == {"large": 3 * MIB + 5}
    assert_same(local / "large", mounted.path / "large")


def test_a_wrong_byte_of_a_dlo_is_found(mounted: Mount, connection: Connection, container: str) -> None:
    data, segments = noise(3 * MIB), f"{container}_segments"
    connection.put_container(segments)
    for number in range(3):
        connection.put_object(segments, f"upload/{number}", data[number * MIB : (number + 1) * MIB])
    connection.put_object(container, "dlo", b"", headers={"X-Object-Manifest": f"{segments}/upload/"})
    path = mounted.path / "dlo"
    path.stat()
    mounted.swift.inject(Fault("GET", f"{container}/dlo", flip_byte=True, times=1))
    path.read_bytes()  # the reader may have had it
    wait_until(lambda: path.read_bytes() == data)
    mounted.remount(empty_cache=False)
    mounted.swift.reset_requests()
    assert path.read_bytes() == data
    assert not [one for one in mounted.swift.requests() if one.bytes_out > MIB]


def test_a_dlo_has_the_size_of_its_segments(mounted: Mount, connection: Connection, container: str) -> None:
    parts = [noise(100_000), noise(100_001), b"end"]
    connection.put_container(f"{container}_segments")
    for number, part in enumerate(parts):
        connection.put_object(f"{container}_segments", f"upload/{number}", part)
    headers = {"X-Object-Manifest": f"{container}_segments/upload/", "X-Object-Meta-Mtime": "1500000000.25"}
    connection.put_object(container, "folder/dlo", b"", headers=headers)
    connection.put_object(container, "folder/beside", b"b")
    path = mounted.path / "folder" / "dlo"
    assert path.stat().st_size == sum(map(len, parts))
    assert path.stat().st_mtime_ns == 1_500_000_000_250_000_000
    assert path.read_bytes() == b"".join(parts)
    os.utime(path, ns=(0, 1_600_000_000_000_000_000))
    path.chmod(0o600)
    assert connection.get_object(container, "folder/dlo")[1] == b"".join(parts)
    mounted.remount(empty_cache=True)
    assert path.stat().st_mtime_ns == 1_600_000_000_000_000_000
    assert path.stat().st_size == sum(map(len, parts))
    assert path.read_bytes() == b"".join(parts)


def test_a_large_file_of_another_client_is_replaced_with_its_segments(
    mounted: Mount, connection: Connection, container: str, local: Path
) -> None:
    upload_large(mounted, container, local, "--use-slo")
    assert len(connection.get_container(f"{container}_segments")[1]) == 4
    (mounted.path / "large").write_bytes(b"small now")
    assert connection.get_object(container, "large")[1] == b"small now"
    assert connection.get_container(f"{container}_segments")[1] == []


def test_markers_of_every_form_and_implied_folders(
    mounted: Mount, connection: Connection, container: str
) -> None:
    marker = "application/directory"
    connection.put_object(container, "plain", b"", content_type=marker)
    connection.put_object(container, "plain/file", b"1")
    connection.put_object(container, "slash/", b"", content_type=marker)
    connection.put_object(container, "slash/file", b"2")
    connection.put_object(container, "both", b"", content_type=marker)
    connection.put_object(container, "both/", b"", content_type=marker)
    connection.put_object(container, "implied/deep/file", b"3")
    connection.put_object(container, "lonely", b"", content_type=marker)
    connection.put_object(container, "lonely slash/", b"", content_type=marker)
    connection.put_object(container, "file", b"", content_type="text/plain")
    names = ["both", "file", "implied", "lonely", "lonely slash", "plain", "slash"]
    assert sorted(path.name for path in mounted.path.iterdir()) == names
    assert [name for name in names if not (mounted.path / name).is_dir()] == ["file"]
    assert (mounted.path / "plain" / "file").read_bytes() == b"1"
    assert (mounted.path / "slash" / "file").read_bytes() == b"2"
    assert (mounted.path / "implied" / "deep" / "file").read_bytes() == b"3"
    for name in ("both", "lonely", "lonely slash"):
        assert list((mounted.path / name).iterdir()) == []
        (mounted.path / name).rmdir()
    mounted.stop()
    left = [row["name"] for row in connection.get_container(container)[1]]
    assert left == ["file", "implied/deep/file", "plain", "plain/file", "slash/", "slash/file"]


def test_metadata_of_other_clients_survives_a_change(
    mounted: Mount, connection: Connection, container: str
) -> None:
    headers = {"X-Object-Meta-Colour": "green", "Content-Encoding": "identity", "X-Delete-After": "100000"}
    connection.put_object(container, "file", b"text", content_type="text/css;charset=utf-8", headers=headers)
    path = mounted.path / "file"
    path.chmod(0o600)
    os.utime(path, ns=(0, 1_400_000_000_000_000_001))
    for content in (b"text", b"text and more"):
        found = connection.head_object(container, "file")
        assert connection.get_object(container, "file")[1] == content
        assert found["x-object-meta-colour"] == "green"
        assert found["content-encoding"] == "identity"
        assert "x-delete-at" in found
        assert found["content-type"].startswith("text/css;charset=utf-8")
        with path.open("ab") as file:
            file.write(b" and more")
    assert os.getxattr(path, "user.colour") == b"green"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_change_by_another_client_is_seen_at_the_next_mount(
    mounted: Mount, connection: Connection, container: str
) -> None:
    """What the cache folder keeps from before must not hide it."""
    connection.put_object(container, "file", b"first")
    assert (mounted.path / "file").read_bytes() == b"first"
    connection.put_object(container, "file", b"the second")
    connection.put_object(container, "new", b"new")
    mounted.remount(empty_cache=False)
    assert (mounted.path / "file").read_bytes() == b"the second"
    assert (mounted.path / "new").read_bytes() == b"new"


@pytest.fixture
def deleted(mounted: Mount, connection: Connection, container: str) -> Path:
    """A file that another client has just deleted; the kernel remembers its name."""
    path = mounted.path / "file"
    with path.open("wb") as file:
        file.write(b"old")
        file.flush()
        os.fsync(file.fileno())
    assert path.stat().st_size == 3
    connection.delete_object(container, "file")
    refresh(mounted)
    return path


@pytest.mark.parametrize("flags", [os.O_CREAT, os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_EXCL])
def test_a_file_that_another_client_has_just_deleted_is_created_again(deleted: Path, flags: int) -> None:
    with os.fdopen(os.open(deleted, os.O_WRONLY | flags, 0o644), "wb") as file:
        file.write(b"anew")
    assert deleted.read_bytes() == b"anew"


def test_a_file_that_another_client_has_just_deleted_is_not_there(deleted: Path) -> None:
    with pytest.raises(FileNotFoundError):
        deleted.open("rb")


@pytest.mark.parametrize("size", [9_000, 900_000])
def test_a_version_of_another_size_is_read_whole_at_once(
    mounted: Mount, connection: Connection, container: str, size: int
) -> None:
    path = mounted.path / "file"
    connection.put_object(container, "file", noise(size // 3))
    assert path.stat().st_size == size // 3
    for new in (noise(size, seed=1), noise(size // 2, seed=2)):
        connection.put_object(container, "file", new)
        refresh(mounted)
        assert path.read_bytes() == new
