"""What the first users got wrong with a mount, and what they see now."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount, clean_environment
from swiftfs.control.client import read_state
from swiftfs.control.mount_table import fusermount, mounted_on
from swiftfs.demo.server import Fault, SwiftServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mp"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("path", ["hello.txt", "d/hello.txt", "empty"])
def test_a_file_is_no_source(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, folder: Path, path: str
) -> None:
    connection.put_object(container, path, b"" if path == "empty" else b"text")
    words = ("mount", f"{container}/{path}", folder, "--cache-dir", tmp_path / "cache")
    expected = f"{container}/{path} is a file: mount the folder that it is in, {container}/{path}"
    assert one_line(swiftfs(*words, environment=swift.environment())) == (
        f"swiftfs: {expected.rpartition('/')[0]}\n"
    )
    assert not mounted_on(folder)
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_the_name_of_a_file_is_a_source(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    """The file was taken for the marker of the root: a chmod of that changed the file."""
    headers = {"X-Object-Meta-Of": "the file"}
    connection.put_object(container, "both", b"text", headers=headers, content_type="text/plain")
    connection.put_object(container, "both/inner", b"inner")
    with Mount(swift, f"{container}/both", tmp_path) as mounted:
        assert (mounted.path / "inner").read_bytes() == b"inner"
        mounted.path.chmod(0o700)
    found, body = connection.get_object(container, "both")
    assert (found["content-type"], found["x-object-meta-of"], body) == ("text/plain", "the file", b"text")


def test_too_few_open_files_are_told(
    swift: SwiftServer, container: str, tmp_path: Path, folder: Path
) -> None:
    """A thread ended with a traceback."""
    command = [sys.executable, "-m", "swiftfs", "mount", container, str(folder)]
    result = subprocess.run(
        ["prlimit", "--nofile=20", *command, "--cache-dir", str(tmp_path / "cache")],
        env={**clean_environment(), **swift.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert one_line(result) == (
        "swiftfs: this process may open only 20 files, and a mount needs 64: raise the hard limit "
        "('ulimit -Hn', LimitNOFILE= of a service)\n"
    )
    assert not mounted_on(folder)


@pytest.mark.parametrize("path", ["", ":", "/nowhere"])
def test_users_unmount_without_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str) -> None:
    """It was said that the program is not installed. What the current folder has is not run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fusermount").write_text("#!/bin/sh\n")
    (tmp_path / "fusermount").chmod(0o755)
    monkeypatch.setenv("PATH", path)
    found = fusermount()
    assert found is not None
    assert Path(found).parent in map(Path, os.defpath.split(":"))


@pytest.mark.mount_options("settle=0.1")
@pytest.mark.parametrize("command", ["flush", "umount"])
def test_an_interrupted_command_leaves_the_upload_to_the_mount(
    swift: SwiftServer, connection: Connection, mounted: Mount, container: str, command: str
) -> None:
    swift.inject(Fault("PUT", f"/{container}/file", delay=within(10)))
    (mounted.path / "file").write_text("text")
    words = [sys.executable, "-m", "swiftfs", command, str(mounted.path)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=clean_environment()) as process:
        if command == "flush":
            wait_until(lambda: read_state(mounted.path).report.flushing > 0)
        else:
            wait_until(lambda: not mounted_on(mounted.path))
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=within(60))[1]
    where = f": {mounted.path} is unmounted, but its process may still store changes"
    assert (said, process.returncode) == (f"swiftfs: interrupted{where * (command == 'umount')}\n", 1)
    swift.end_delays()
    if command == "umount":
        assert mounted.take_process().wait(within(60)) == 0
    wait_until(lambda: [one["name"] for one in connection.get_container(container)[1]] == ["file"])


@pytest.mark.mount_options("settle=60")
@pytest.mark.parametrize("what", ["killed", "cannot write"])
def test_umount_says_when_it_does_not_know_that_all_is_stored(
    swift: SwiftServer, mounted: Mount, container: str, what: str
) -> None:
    """It was taken for success that nothing was waiting when the mount had begun."""
    swift.inject(Fault("PUT", f"/{container}/file", delay=within(30)))
    (mounted.path / "file").write_text("text")
    process = mounted.take_process()
    if what == "cannot write":
        (mounted.cache / "drain.json").unlink()
        (mounted.cache / "drain.json" / "folder").mkdir(parents=True)
    words = [sys.executable, "-m", "swiftfs", "umount", str(mounted.path)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=clean_environment()) as command:
        wait_until(lambda: not mounted_on(mounted.path))
        if what == "killed":
            process.send_signal(signal.SIGKILL)
        swift.clear_faults()  # the request may not have begun
        swift.end_delays()
        said = command.communicate(timeout=within(60))[1]
    assert command.returncode == 1
    assert f"swiftfs: {mounted.path} is unmounted, but its process did not say" in said
    process.wait(within(60))
