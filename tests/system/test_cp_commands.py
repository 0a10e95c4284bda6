"""`swiftfs cp` on a real Swift: between containers and in mounts, and that no byte comes through here."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from swiftclient import Connection

from support.commands import one_line, start, swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.large_files import MIB, manifest, manifest_names, segment_names, segment_rows
from support.mounts import Mount, clean_environment, swift_cli
from swiftfs.demo.server import STRANGER, Fault, RecordedRequest, SwiftServer

NOTE = {"X-Object-Meta-Note": "kept", "Content-Disposition": "inline", "X-Delete-At": "9999999999"}


@pytest.fixture(scope="module")
def swift_server() -> Iterator[SwiftServer]:
    """A Swift for this module: `gc` finds no orphan beside the rows without objects of other tests."""
    with SwiftServer() as server:
        yield server


@pytest.fixture
def other(connection: Connection, container: str) -> str:
    """Another container of the account."""
    name = f"{container}-other"
    connection.put_container(name)
    return name


@pytest.fixture(autouse=True)
def no_faults(swift: SwiftServer) -> Iterator[None]:
    yield
    swift.clear_faults()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(5 * MIB + 100))
    return file


def cp(swift: SwiftServer, *words: object, folder: Path | None = None) -> str:
    """Run `cp`; return its output. It must succeed."""
    result = swiftfs("cp", *words, environment=swift.environment(), folder=folder)
    assert result.returncode == 0, result
    return result.stdout


def failed_cp(swift: SwiftServer, *words: object) -> str:
    """Run `cp`, which must fail; return what it complains of."""
    result = swiftfs("cp", *words, environment=swift.environment())
    assert result.returncode == 1, result
    return result.stderr


def counted(swift: SwiftServer, *words: object) -> list[RecordedRequest]:
    """Run `cp`; return its requests without those of the login and of `/info`."""
    swift.reset_requests()
    cp(swift, *words)
    return [one for one in swift.requests() if "/auth" not in one.path and one.path != "/info"]


def keys(connection: Connection, container: str) -> set[str]:
    return {row["name"] for row in connection.get_container(container, full_listing=True)[1]}


def test_a_plain_file_is_one_copy_and_no_byte_comes_through_here(
    swift: SwiftServer, connection: Connection, container: str, other: str
) -> None:
    data = os.urandom(3 * MIB)
    connection.put_object(container, "a", data, content_type="text/x;mode=0100640;mtime=5.0", headers=NOTE)
    requests = counted(swift, f"{container}/a", f"swift:{other}/b")
    assert [one.method for one in requests if one.method not in ("GET", "HEAD")] == ["COPY"]
    assert len(requests) <= 6
    assert sum(one.bytes_in + one.bytes_out for one in requests) < 10_000
    headers, body = connection.get_object(other, "b")
    assert body == data
    assert headers["content-type"] == "text/x;mode=0100640;mtime=5.0"
    assert [headers[name.lower()] for name in NOTE] == [*NOTE.values()]


def test_a_large_file_is_its_segments_and_a_manifest(
    swift: SwiftServer, connection: Connection, container: str, other: str, large: Path
) -> None:
    swift_cli(
        swift, "upload", container, large.name, "-S", MIB, "--use-slo", "-H", "X-Object-Meta-Note: kept",
        cwd=large.parent,
    )  # fmt: skip
    swift.reset_requests()
    requests = counted(swift, f"{container}/large", f"{other}/large")
    copies = [one for one in requests if one.method == "COPY" and one.status == 201]
    assert len(copies) == 6
    assert [one.query for one in requests if one.method == "PUT" and "manifest" in one.query] == [
        "multipart-manifest=put"
    ]
    assert len([one for one in requests if one.method == "GET" and "manifest" in one.query]) == 1
    assert sum(one.bytes_in + one.bytes_out for one in requests) < 20_000
    headers, body = connection.get_object(other, "large")
    assert body == large.read_bytes()
    assert headers["x-object-meta-note"] == "kept"
    assert headers["x-static-large-object"] == "True"
    assert manifest_names(connection, other, "large") == segment_names(connection, other)
    place = f"/{other}_segments/.swiftfs-segments/large/swiftfs-"
    assert all(name.startswith(place) for name in segment_names(connection, other))
    # The source can go with its segments.
    swift_cli(swift, "delete", container, "large")
    assert connection.get_object(other, "large")[1] == large.read_bytes()


def test_a_tree_with_everything_in_it_and_again(
    swift: SwiftServer, connection: Connection, container: str, other: str, large: Path
) -> None:
    connection.put_object(container, "d", b"", content_type="application/directory")
    connection.put_object(container, "d/empty", b"", content_type="application/directory")
    connection.put_object(container, "d/ü name?", b"text")
    connection.put_object(container, "d/sub/zero", b"")
    for flag, name in (("--use-slo", "d/slo"), ("--use-dlo", "d/dlo")):
        words = ("upload", container, large.name, "-S", MIB, flag, "--object-name", name)
        swift_cli(swift, *words, cwd=large.parent)
    cp(swift, "-r", f"{container}/d", f"{other}/new")
    assert keys(connection, other) == {
        *("new", "new/empty", "new/ü name?", "new/sub/zero", "new/slo", "new/dlo")
    }
    for key in ("new/slo", "new/dlo"):
        headers, body = connection.get_object(other, key)
        assert body == large.read_bytes()
        assert headers["x-static-large-object"] == "True"
    before = {row["name"]: row["last_modified"] for row in connection.get_container(other)[1]}
    report = json.loads(cp(swift, "-r", "--json", f"{container}/d/.", f"{other}/new"))
    assert (report["copied"], report["failed"]) == (0, [])
    assert report["skipped"] == 5  # all but the folder itself
    assert {row["name"]: row["last_modified"] for row in connection.get_container(other)[1]} == before


@pytest.mark.mount_options("segment_size=1M")
def test_in_a_mount_the_copy_is_seen_at_once(
    swift: SwiftServer, connection: Connection, container: str, mounted: Mount, large: Path
) -> None:
    (mounted.path / "a" / "sub").mkdir(parents=True)
    (mounted.path / "a" / "large").write_bytes(large.read_bytes())
    (mounted.path / "a" / "link").symlink_to("large")
    (mounted.path / "a" / "sub" / "file").write_bytes(b"text")
    (mounted.path / "a" / "sub" / "file").chmod(0o640)
    os.setxattr(mounted.path / "a" / "sub" / "file", "user.note", b"kept")
    os.utime(mounted.path / "a" / "sub" / "file", ns=(5, 1_234_567_890))
    assert not (mounted.path / "b").exists()
    cp(swift, "-r", "a", mounted.path / "b", folder=mounted.path)
    wait_until((mounted.path / "b").is_dir)
    assert (mounted.path / "b" / "large").read_bytes() == large.read_bytes()
    assert (mounted.path / "b" / "link").readlink() == Path("large")
    file = mounted.path / "b" / "sub" / "file"
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.stat().st_mtime_ns == 1_234_567_890
    assert os.getxattr(file, "user.note") == b"kept"
    assert len(manifest(connection, container, "b/large")) == 6
    named = {"a/large", "b/large"}
    names = [manifest_names(connection, container, key) for key in named]
    assert not names[0] & names[1]
    # The copy's segments are its own, and go with it.
    (mounted.path / "b" / "large").unlink()
    wait_until(
        lambda: segment_names(connection, container) == manifest_names(connection, container, "a/large")
    )
    assert (mounted.path / "a" / "large").read_bytes() == large.read_bytes()


@pytest.mark.mount_options("settle=600")
def test_what_waits_in_the_mount_is_stored_first(
    swift: SwiftServer, connection: Connection, container: str, mounted: Mount
) -> None:
    (mounted.path / "new").mkdir()
    (mounted.path / "new" / "file").write_bytes(b"text")
    (mounted.path / "old").write_bytes(b"written here just now")
    cp(swift, mounted.path / "new" / "file", mounted.path / "old")
    assert connection.get_object(container, "old")[1] == b"text"
    wait_until(lambda: (mounted.path / "old").read_bytes() == b"text")
    with (mounted.path / "new" / "file").open("ab") as file:
        file.write(b" more")
        file.flush()
        cp(swift, "-r", mounted.path / "new", mounted.path / "copy")
    assert connection.get_object(container, "copy/file")[1] == b"text more"


def test_replacing_frees_the_segments_of_the_target(
    swift: SwiftServer, connection: Connection, container: str, large: Path
) -> None:
    for name in ("film", "old"):
        words = ("upload", container, large.name, "-S", MIB, "--use-slo", "--object-name", name)
        swift_cli(swift, *words, cwd=large.parent)
    connection.put_object(container, "small", b"small")
    cp(swift, f"{container}/film", f"{container}/old2")
    cp(swift, f"{container}/small", f"{container}/old")
    cp(swift, f"{container}/small", f"{container}/old2")
    assert segment_names(connection, container) == manifest_names(connection, container, "film")


def killed_cp(swift: SwiftServer, *words: str, copies: int) -> None:
    """Kill `cp` when the server has carried out so many copies and holds up the others."""
    swift.reset_requests()
    environment = {**clean_environment(), **swift.environment()}
    with TemporaryFile("w+") as output:
        process = start(["cp", *words], environment, output, output)
        wait_until(lambda: len(done(swift)) >= copies)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def done(swift: SwiftServer) -> list[RecordedRequest]:
    return [one for one in swift.requests() if one.method == "COPY" and one.status == 201]


def test_a_killed_run_is_continued_and_what_it_leaves_is_found(
    swift: SwiftServer, connection: Connection, container: str, other: str, large: Path
) -> None:
    words = ("upload", container, large.name, "-S", MIB, "--use-slo", "--object-name", "film")
    swift_cli(swift, *words, cwd=large.parent)
    swift.inject(Fault("COPY", r"/film/.*/0000000[345]", delay=600.0, status=503))
    killed_cp(swift, f"{container}/film", f"{other}/film", copies=3)
    swift.end_delays()
    swift.clear_faults()
    left = {row["name"]: row["last_modified"] for row in segment_rows(connection, other)}
    assert len(left) == 3
    assert "film" not in keys(connection, other)
    found = swiftfs("gc", other, "--older-than", "0s", environment=swift.environment())
    assert "1 upload, 3 segments" in found.stdout, found
    assert "kept" not in found.stdout
    swift.reset_requests()
    cp(swift, f"{container}/film", f"{other}/film")
    assert len(done(swift)) == 3
    after = {row["name"]: row["last_modified"] for row in segment_rows(connection, other)}
    assert len(after) == 6
    assert {name: after[name] for name in left} == left
    assert connection.get_object(other, "film")[1] == large.read_bytes()
    assert manifest_names(connection, other, "film") == segment_names(connection, other)


def test_an_interruption_does_not_wait_for_the_server(
    swift: SwiftServer, connection: Connection, container: str, other: str, large: Path
) -> None:
    words = ("upload", container, large.name, "-S", MIB, "--use-slo", "--object-name", "film")
    swift_cli(swift, *words, cwd=large.parent)
    swift.inject(Fault("COPY", r"/film/.*0000000[345]", delay=600.0, status=503))
    swift.reset_requests()
    environment = {**clean_environment(), **swift.environment()}
    with TemporaryFile("w+") as output:
        process = start(["cp", f"{container}/film", f"{other}/film"], environment, output, output)
        wait_until(lambda: len(done(swift)) == 3)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(within(30)) == 1
        output.seek(0)
        assert output.read() == "swiftfs: interrupted: run it again to continue\n"
    swift.end_delays()
    swift.clear_faults()
    swift.reset_requests()
    cp(swift, f"{container}/film", f"{other}/film")
    assert len(done(swift)) == 3
    assert connection.get_object(other, "film")[1] == large.read_bytes()


def test_odd_names_in_a_mount(
    swift: SwiftServer, connection: Connection, container: str, mounted: Mount
) -> None:
    connection.put_object(container, "a", b"the object")
    connection.put_object(container, "a/b", b"below it")
    connection.put_object(container, "c//d", b"an empty component")
    cp(swift, mounted.path / "a%file", mounted.path / "x")
    cp(swift, "-r", mounted.path / "a", mounted.path / "y")
    cp(swift, "-r", mounted.path / "c", mounted.path / "z")
    assert connection.get_object(container, "x")[1] == b"the object"
    assert {"y/b", "z//d"} < keys(connection, container)
    assert "y" not in keys(connection, container)
    assert "these files are not in Swift" in failed_cp(
        swift, mounted.path / ".swiftfs" / "status.json", mounted.path / "x"
    )


@pytest.mark.mount_options("ro")
def test_a_mount_that_is_read_only_can_be_a_source(
    swift: SwiftServer, connection: Connection, container: str, other: str, mounted: Mount
) -> None:
    connection.put_object(container, "a", b"text")
    cp(swift, mounted.path / "a", f"{other}/a")
    cp(swift, f"{other}/a", mounted.path / "b")
    assert connection.get_object(container, "b")[1] == b"text"


def test_in_a_mount_of_the_account(
    swift: SwiftServer, connection: Connection, container: str, other: str, tmp_path: Path
) -> None:
    connection.put_object(container, "d/a", b"text")
    with Mount(swift, "/", tmp_path) as mount:
        cp(swift, "-r", mount.path / container / "d", mount.path / other)
        wait_until((mount.path / other / "d" / "a").is_file)
        assert "is the whole account: give a container in it" in failed_cp(
            swift, "-r", mount.path / container, mount.path
        )
    assert keys(connection, other) == {"d/a"}


@pytest.mark.slow
def test_what_a_killed_run_leaves_can_be_deleted(
    swift: SwiftServer, connection: Connection, container: str, other: str, large: Path
) -> None:
    words = ("upload", container, large.name, "-S", MIB, "--use-slo", "--object-name", "film")
    swift_cli(swift, *words, cwd=large.parent)
    swift.inject(Fault("PUT", "multipart-manifest=put", delay=600.0, status=503))
    killed_cp(swift, f"{container}/film", f"{other}/film", copies=6)
    swift.clear_faults()

    def is_deleted() -> bool:
        result = swiftfs("gc", other, "--older-than", "0s", "--delete", environment=swift.environment())
        assert result.returncode == 0, result
        return True

    # A copy whose client was killed may be listed a moment before it is there: `gc` says to try again then.
    wait_until(is_deleted)
    assert segment_rows(connection, other) == []
    swift.end_delays()
    cp(swift, f"{container}/film", f"{other}/film")
    assert connection.get_object(other, "film")[1] == large.read_bytes()


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_of_a_busy_server_are_repeated(
    swift: SwiftServer, connection: Connection, container: str, other: str, status: int
) -> None:
    for number in range(5):
        connection.put_object(container, f"d/{number}", b"x")
    swift.inject(Fault("COPY", container, status=status, times=3))
    cp(swift, "-r", f"{container}/d", f"{other}/d")
    assert len(keys(connection, other)) == 5


def test_a_file_that_may_not_be_copied_is_named_and_the_others_are_copied(
    swift: SwiftServer, connection: Connection, container: str, other: str
) -> None:
    for number in range(3):
        connection.put_object(container, f"d/{number}", b"x")
    swift.inject(Fault("COPY", "/d/1", status=403))
    result = swiftfs("cp", "-r", "--json", f"{container}/d", f"{other}/d", environment=swift.environment())
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert report["copied"] == 2
    assert [one["path"] for one in report["failed"]] == [f"{container}/d/1"]
    assert result.stderr.startswith(f"swiftfs: {container}/d/1: ") or f"{container}/d/1" in result.stderr
    assert keys(connection, other) == {"d/0", "d/2"}


def test_a_large_object_whose_bytes_lie_elsewhere_is_not_copied(
    swift: SwiftServer, connection: Connection, container: str, other: str
) -> None:
    connection.put_object(other, "secret", b"secret")
    parts = json.dumps([{"path": f"{other}/secret"}])
    connection.put_object(container, "film", parts, query_string="multipart-manifest=put")
    words = (f"{container}/film", f"{container}/copy")
    assert "its bytes lie in" in failed_cp(swift, *words)
    cp(swift, "--foreign-manifests", "follow", *words)
    assert connection.get_object(container, "copy")[1] == b"secret"
    first = manifest_names(connection, container, "copy").pop()
    assert first.startswith(f"/{container}_segments/.swiftfs-segments/copy/")


def test_a_plain_copy_of_a_large_object_is_copied(
    swift: SwiftServer, connection: Connection, container: str, large: Path
) -> None:
    """Swift keeps the SLO's ETag in its metadata, and compares conditions with that one."""
    words = ("upload", container, large.name, "-S", MIB, "--use-slo", "--object-name", "film")
    swift_cli(swift, *words, cwd=large.parent)
    connection.copy_object(container, "film", f"/{container}/flat")
    cp(swift, f"{container}/flat", f"{container}/copy")
    headers, body = connection.get_object(container, "copy")
    assert body == large.read_bytes()
    assert "x-static-large-object" not in headers


def test_mistakes_are_told_in_one_line(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    connection.put_object(container, "d/a", b"x")
    assert "-r not specified; omitting the folder" in failed_cp(swift, f"{container}/d", f"{container}/e")
    assert "no such file or folder" in failed_cp(swift, f"{container}/none", f"{container}/e")
    assert "into itself" in failed_cp(swift, "-r", f"{container}/d", f"{container}/d/e")
    assert "are the same file" in failed_cp(swift, f"{container}/d/a", f"{container}/d/a")
    assert "no container 'nobox'" in failed_cp(swift, f"{container}/d/a", "nobox/x")
    result = swiftfs("cp", tmp_path / "x", f"{container}/e", environment=swift.environment())
    assert "is not in a swiftfs mount: give a path in one, or CONTAINER/PATH" in one_line(result)
    assert "where to copy 'x' to" in one_line(swiftfs("cp", "x", environment=swift.environment()), 2)


def test_a_mount_of_another_account_is_refused(
    swift: SwiftServer, connection: Connection, container: str, mounted: Mount
) -> None:
    (mounted.path / "a").write_bytes(b"x")
    stranger = {**swift.environment(), "ST_USER": STRANGER.name, "ST_KEY": STRANGER.key}
    line = one_line(swiftfs("cp", mounted.path / "a", mounted.path / "b", environment=stranger))
    assert "and the credentials here are of" in line
    assert keys(connection, container) == {"a"}


def test_a_mount_of_another_project_is_refused(
    swift: SwiftServer, connection: Connection, container: str, mounted: Mount
) -> None:
    (mounted.path / "a").write_bytes(b"x")
    elsewhere = swift.storage_url.replace("AUTH_test", "AUTH_other")
    line = failed_cp(swift, "--storage-url", elsewhere, mounted.path / "a", mounted.path / "b")
    assert "and the credentials here are of" in line
    assert keys(connection, container) == {"a"}


def test_two_runs_to_one_target_do_not_meet(
    swift: SwiftServer, connection: Connection, container: str, other: str, large: Path
) -> None:
    words = ("upload", container, large.name, "-S", MIB, "--use-slo", "--object-name", "film")
    swift_cli(swift, *words, cwd=large.parent)
    swift.inject(Fault("PUT", "multipart-manifest=put", delay=600.0, times=1))
    environment = {**clean_environment(), **swift.environment()}
    with TemporaryFile("w+") as output:
        process = start(["cp", f"{container}/film", f"{other}/film"], environment, output, output)
        try:
            wait_until(lambda: len(done(swift)) >= 6)
            assert "is copying to it" in failed_cp(swift, f"{container}/film", f"{other}/film")
        finally:
            swift.end_delays()
            assert process.wait(within(30)) == 0
    assert connection.get_object(other, "film")[1] == large.read_bytes()
