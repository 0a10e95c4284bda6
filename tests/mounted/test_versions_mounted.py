"""A container with versioning on a real mount of a real Swift: what is shown, kept and restored."""

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.jobs import wait_until
from support.large_files import MIB, append, patch, segment_names
from support.mounts import Mount
from support.versions import enable_versions
from swiftfs.demo.server import READER, Fault, SwiftServer

small_segments = pytest.mark.mount_options("segment_size=1M")


@pytest.fixture(scope="module")
def swift_server(versioned_server: SwiftServer) -> SwiftServer:
    """A Swift whose containers may keep older versions."""
    return versioned_server


@pytest.fixture
def connection(swift: SwiftServer, container: str) -> Iterator[Connection]:
    """Another client; it has created `container`, which keeps older versions."""
    enable_versions(swift, container)
    client = Connection(swift.auth_url, swift.user, swift.key, retries=0)
    swift.reset_requests()
    yield client
    client.close()


def listed_versions(connection: Connection, container: str, prefix: str = "") -> list[dict[str, object]]:
    query = f"versions=true&prefix={prefix}"
    rows: list[dict[str, object]] = connection.get_container(container, query_string=query)[1]
    return rows


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def older(mounted: Mount, folder: str, name: str) -> list[Path]:
    """Return the older versions of a file, the oldest first."""
    return sorted((mounted.path / folder / ".versions" / name).iterdir())


@pytest.mark.slow
@pytest.mark.mount_options("ttl=0")
def test_older_versions_are_read_only_files(mounted: Mount, connection: Connection, container: str) -> None:
    folder = mounted.path / "d"
    folder.mkdir()
    for text in ("one", "three", "now"):
        (folder / "a.txt").write_text(text)
    (folder / "a.txt").chmod(0o600)
    (folder / "b").write_text("b")
    (folder / "b").unlink()
    assert names(folder) == ["a.txt"]
    assert names(folder / ".versions") == ["a.txt", "b"]
    versions = older(mounted, "d", "a.txt")
    assert [one.read_text() for one in versions] == ["one", "three"]
    assert [one.stat().st_size for one in versions] == [3, 5]
    rows = listed_versions(connection, container, "d/a.txt")
    times = [str(row["last_modified"]) for row in reversed(rows)]
    assert [one.name for one in versions] == [f"{moment}Z.txt" for moment in times[:2]]
    assert [one.read_text() for one in older(mounted, "d", "b")] == ["b"]
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        versions[0].write_text("x")
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        versions[0].unlink()
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (folder / ".versions" / "new").mkdir()


@pytest.mark.mount_options("ttl=0")
def test_files_and_folders_are_renamed(mounted: Mount, connection: Connection, container: str) -> None:
    (mounted.path / "d").mkdir()
    (mounted.path / "d" / "a").write_text("a")
    (mounted.path / "d" / "a").rename(mounted.path / "d" / "b")
    (mounted.path / "d").rename(mounted.path / "e")
    assert (mounted.path / "e" / "b").read_text() == "a"
    assert {row["name"] for row in connection.get_container(container)[1]} == {"e", "e/b"}
    assert [one.read_text() for one in older(mounted, "", "d/a")] == ["a"]


def test_attributes_survive_a_new_mount(mounted: Mount, container: str) -> None:
    """The listings of such a container lack the parameters of the Content-Type."""
    (mounted.path / "file").write_text("text")
    (mounted.path / "file").chmod(0o640)
    os.utime(mounted.path / "file", ns=(5, 1_600_000_000_123_456_789))
    (mounted.path / "new").write_text("text")
    (mounted.path / "link").symlink_to("file")
    os.mkfifo(mounted.path / "fifo", 0o600)
    before = {one.name: shown(one) for one in mounted.path.iterdir()}
    for empty_cache in (True, False):
        mounted.remount(empty_cache=empty_cache)
        with os.scandir(mounted.path) as found:
            kinds = {one.name: (one.is_symlink(), one.is_file(follow_symlinks=False)) for one in found}
        assert kinds == {
            "fifo": (False, False),
            "file": (False, True),
            "link": (True, False),
            "new": (False, True),
        }
        assert {one.name: shown(one) for one in mounted.path.iterdir()} == before
        assert (mounted.path / "link").read_text() == "text"
    mounted.swift.reset_requests()
    mounted.remount(empty_cache=False)
    assert {one.name: shown(one) for one in mounted.path.iterdir()} == before
    heads = [one.path for one in mounted.swift.requests() if one.method == "HEAD"]
    assert [path for path in heads if path.count("/") > 3] == []  # each was remembered


def shown(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    target = path.readlink() if path.is_symlink() else None
    return status.st_mode, status.st_mtime_ns, status.st_size, status.st_ino, target


@small_segments
def test_a_large_version_reads_whole_whatever_happens_to_its_file(
    swift: SwiftServer, mounted: Mount, connection: Connection, container: str
) -> None:
    file = mounted.path / "large"
    data = bytearray(os.urandom(4 * MIB + 100))
    states = []

    def store() -> None:
        states.append(bytes(data))
        os.sync()

    file.write_bytes(data)
    store()
    patch(file, data)
    store()
    append(file, data)
    store()
    data[:] = os.urandom(3 * MIB)
    file.write_bytes(data)
    store()
    file.rename(mounted.path / "moved")
    (mounted.path / "moved").unlink()
    os.sync()
    result = swiftfs(
        *("gc", container, "--older-than", "0s", "--delete", "--cache-dir", mounted.cache),
        environment=swift.environment(),
    )
    assert result.returncode == 0, result
    assert "\n0 uploads" in f"\n{result.stdout}", result.stdout
    mounted.remount()
    assert segment_names(connection, container) != set()
    versions = older(mounted, "", "large")
    assert [one.stat().st_size for one in versions] == [len(state) for state in states]
    for version, state in zip(versions, states, strict=True):
        assert version.read_bytes() == state
    (moved,) = older(mounted, "", "moved")
    assert moved.read_bytes() == states[-1]
    restored = swiftfs("restore", file, "--at", versions[1].name, environment=swift.environment())
    assert restored.returncode == 0, restored
    wait_until(file.exists)  # the kernel keeps for a second that it does not
    assert file.read_bytes() == states[1]


@pytest.mark.mount_options("settle=0.1")
def test_a_folder_is_restored(swift: SwiftServer, mounted: Mount, container: str) -> None:
    folder = mounted.path / "d"
    (folder / "sub").mkdir(parents=True)
    for name in ("kept", "changed", "sub/deleted"):
        (folder / name).write_text("then")
    flushed(mounted)
    moment = f"{time.time():.6f}"
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(float(moment))) + moment[moment.index(".") :] + "Z"
    (folder / "changed").write_text("now")
    (folder / "later").write_text("now")
    for gone in (folder / "sub" / "deleted", folder / "sub"):
        gone.unlink() if gone.is_file() else gone.rmdir()
    result = swiftfs("restore", "-r", folder, "--at", at, "--json", environment=swift.environment())
    assert result.returncode == 0, result
    done = json.loads(result.stdout)
    paths = [one["path"].removeprefix(f"{container}/") for one in done["restored"]]
    assert paths == ["d/changed", "d/sub", "d/sub/deleted"]
    assert (done["later"], done["failed"]) == (1, [])
    assert (folder / "changed").read_text() == (folder / "sub" / "deleted").read_text() == "then"
    assert (folder / "later").read_text() == "now"
    again = swiftfs("restore", "-r", f"{container}/d", "--at", at, environment=swift.environment())
    assert again.stdout.startswith("restored 0 objects"), again


def flushed(mounted: Mount) -> None:
    os.close(os.open(mounted.path, os.O_RDONLY))
    result = swiftfs("flush", mounted.path)
    assert result.returncode == 0, result


def test_what_restore_refuses(swift: SwiftServer, connection: Connection, container: str) -> None:
    environment = swift.environment()
    connection.put_container(f"{container}-plain")
    connection.put_object(container, "d/file", b"1")
    connection.put_object(container, "d/file", b"2")

    def refused(*words: str, code: int = 1) -> str:
        return one_line(swiftfs("restore", *words, environment=environment), code)

    assert "keeps no older versions" in refused(f"{container}-plain/x", "--at", "1d")
    assert "no container" in refused("none/x", "--list")
    assert "no versions of such a file" in refused(f"{container}/none", "--at", "1d")
    assert "-r is for all" in refused(f"{container}/d", "--at", "1d", code=2)
    assert (
        "was made after that time"
        in swiftfs("restore", f"{container}/d/file", "--at", "1d", environment=environment).stderr
    )
    assert "expected a time" in refused(f"{container}/d/file", "--at", "yesterday", code=2)
    assert "in the future" in refused(f"{container}/d/file", "--at", "2999-01-01", code=2)
    assert "give one of" in refused(f"{container}/d/file", code=2)
    listed = swiftfs("restore", f"{container}/d/file", "--list", "--json", environment=environment)
    now, then = json.loads(listed.stdout)
    assert (now["current"], now["size"], then["current"], then["deleted"]) == (True, 1, False, False)
    words = ("restore", f"{container}/d/file", "--version", then["version"])
    assert swiftfs(*words, environment=environment).returncode == 0
    assert connection.get_object(container, "d/file")[1] == b"1"


def test_the_mount_leaves_no_trace_and_asks_no_more(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    connection.put_object(container, "file", b"1")
    with Mount(swift, container, tmp_path) as mounted:
        assert (mounted.path / "file").read_bytes() == b"1"
        assert [one.query for one in swift.requests() if "versions" in one.query] == []
    assert [row["name"] for row in listed_versions(connection, container)] == ["file"]
    plain = f"{container}-plain"
    connection.put_container(plain)
    with Mount(swift, plain, tmp_path / "plain") as mounted:
        assert names(mounted.path) == []
        swift.reset_requests()
        assert not (mounted.path / ".versions").exists()
        assert swift.requests() == []


def test_who_may_only_read_gets_a_read_only_mount(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    connection.post_container(container, {"X-Container-Read": READER.name})
    connection.put_object(container, "file", b"1")
    user, key = swift.user, swift.key
    try:
        swift.user, swift.key = READER.name, READER.key
        with Mount(swift, container, tmp_path) as mounted:
            assert (mounted.path / "file").read_bytes() == b"1"
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                (mounted.path / "new").touch()
    finally:
        swift.user, swift.key = user, key


@small_segments
def test_segments_stay_while_swift_does_not_say_whether_it_keeps_versions(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    connection.put_container(f"{container}-account")
    with Mount(swift, "/", tmp_path, "segment_size=1M") as mounted:
        file = mounted.path / container / "large"
        file.write_bytes(os.urandom(2 * MIB + 5))
        before = segment_names(connection, container)
        swift.inject(Fault("HEAD", f"^/v1/AUTH_test/{container}$", status=403))
        file.unlink()
        os.sync()
        swift.clear_faults()
        assert segment_names(connection, container) == before


def test_copies_within_such_a_container(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with Mount(swift, container, tmp_path, "segment_size=1M") as mounted:
        data = os.urandom(2 * MIB + 5)
        (mounted.path / "large").write_bytes(data)
        (mounted.path / "small").write_text("small")
        (mounted.path / "small").chmod(0o600)
        words = ("cp", f"{container}/large", f"{container}/small", f"{container}/d/")
        (mounted.path / "d").mkdir()
        result = swiftfs(*words, environment=swift.environment())
        assert result.returncode == 0, result
        mounted.remount()
        assert (mounted.path / "d" / "large").read_bytes() == data
        assert (mounted.path / "d" / "small").stat().st_mode & 0o777 == 0o600


@pytest.mark.mount_options("expire=/=90d")
def test_a_mount_says_that_nothing_expires(mounted: Mount) -> None:
    said = "no file expires by the rules of 'expire'"
    mounted.expected = [said]
    (mounted.path / "file").write_text("data")
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        os.setxattr(mounted.path / "file", "swift.delete_at", b"+1d")
    assert mounted.log.read_text().count(said) == 1
