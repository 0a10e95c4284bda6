"""The folder `.swiftfs` in a mount's root: who may read it, that nobody changes it, that no walk finds it.

These run in a real mount.
"""

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.mounts import Mount, run
from support.other_users import NOBODY, as_root
from swiftfs.attributes import PRIVATE_ATTRIBUTES
from swiftfs.demo.server import Fault, SwiftServer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FILES = ["log", "metrics.prom", "status.json"]


def test_programs_read_the_files_of_the_control_folder(mounted: Mount, tmp_path: Path) -> None:
    (mounted.path / "file").write_text("x")
    folder = mounted.path / ".swiftfs"
    assert sorted(run("ls", folder).split()) == FILES
    found = json.loads(run("cat", folder / "status.json"))
    assert (found["mountpoint"], found["pid"], found["waiting"]) == (str(mounted.path), mounted.pid, 0)
    run("cp", folder / "status.json", tmp_path / "copy")
    assert json.loads((tmp_path / "copy").read_text())["pid"] == mounted.pid
    assert 'swiftfs_requests_total{class="put"} 1.0' in run("tail", "-n", "200", folder / "metrics.prom")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o500
    assert stat.S_IMODE((folder / "log").stat().st_mode) == 0o400
    assert (folder / "status.json").stat().st_size > 1000


@pytest.mark.mount_options("debug")
def test_the_log_file_has_the_mount_s_log(mounted: Mount) -> None:
    mounted.expected.append("DEBUG")
    (mounted.path / "file").write_text("x")
    lines = run("tail", "-n", "1000", mounted.path / ".swiftfs" / "log").splitlines()
    (line,) = (line for line in lines if f"put {mounted.source}/file: 201" in line)
    assert line[:4].isdigit()
    assert " DEBUG " in line


def test_the_log_file_of_a_mount_in_the_background(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    (tmp_path / "mnt").mkdir()
    words = ("mount", container, tmp_path / "mnt", "--cache-dir", tmp_path / "cache", "-o", "settle=1000")
    assert swiftfs(*words, environment=swift.environment()).returncode == 0
    try:
        swift.inject(Fault("PUT", f"/{container}/file", status=403))
        (tmp_path / "mnt" / "file").write_text("x")
        assert swiftfs("flush", tmp_path / "mnt").returncode == 1
        log = (tmp_path / "mnt" / ".swiftfs" / "log").read_text()
        assert f" WARNING /file is parked, because it cannot be stored: put {container}/file: 403" in log
    finally:
        swift.clear_faults()
        assert swiftfs("umount", tmp_path / "mnt").returncode == 0


def test_walks_do_not_see_the_control_folder_and_it_costs_no_request(
    mounted: Mount, swift: SwiftServer
) -> None:
    (mounted.path / "d").mkdir()
    (mounted.path / "d" / "file").write_text("x")
    assert sorted(run("find", mounted.path, "-printf", "%P\n").split()) == ["d", "d/file"]
    swift.reset_requests()
    for name in FILES:
        assert (mounted.path / ".swiftfs" / name).read_bytes() or name == "log"
    assert not (mounted.path / ".swiftfs" / "other").exists()
    assert swift.requests() == []
    run("rm", "-rf", *mounted.path.iterdir())
    assert names(mounted.path) == []
    assert (mounted.path / ".swiftfs").is_dir()


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "write": lambda folder, _: (folder / "log").write_text("x"),
    "append": lambda folder, _: (folder / "log").open("a"),
    "create": lambda folder, _: (folder / "new").write_text("x"),
    "mkdir": lambda folder, _: (folder / "new").mkdir(),
    "unlink": lambda folder, _: (folder / "log").unlink(),
    "rmdir": lambda folder, _: folder.rmdir(),
    "rename it": lambda folder, file: folder.rename(file.with_name("new")),
    "rename out": lambda folder, file: (folder / "log").rename(file),
    "rename in": lambda folder, file: file.rename(folder / "new"),
    "rename over": lambda folder, file: file.rename(folder / "log"),
    "symlink": lambda folder, _: (folder / "new").symlink_to("log"),
    "fifo": lambda folder, _: os.mkfifo(folder / "new"),
    "chmod": lambda folder, _: (folder / "log").chmod(0o644),
    "chown": lambda folder, _: os.chown(folder, 1, 1),
    "utime": lambda folder, _: os.utime(folder / "log"),
    "truncate": lambda folder, _: os.truncate(folder / "log", 0),
    "set an attribute": lambda folder, _: os.setxattr(folder / "log", "user.x", b"x"),
    "remove an attribute": lambda folder, _: os.removexattr(folder / "log", "user.x"),
}


def test_changes_in_the_control_folder_are_erofs(mounted: Mount, swift: SwiftServer) -> None:
    file = mounted.path / "file"
    file.write_text("x")
    swift.reset_requests()
    for name, change in CHANGES.items():
        with pytest.raises(OSError, match="Read-only file system") as error:
            change(mounted.path / ".swiftfs", file)
        assert error.value.errno == errno.EROFS, name
    assert [request.method for request in swift.requests() if request.method not in {"GET", "HEAD"}] == []
    assert names(mounted.path) == ["file"]


def test_an_open_file_keeps_the_text_of_the_moment_of_open(mounted: Mount) -> None:
    with (mounted.path / ".swiftfs" / "status.json").open() as file:
        begin = file.read(10)
        for number in range(5):
            (mounted.path / f"file{number}").write_text("x")
        found = json.loads(begin + file.read())
    assert "put" not in found["requests"]
    assert (
        json.loads((mounted.path / ".swiftfs" / "status.json").read_text())["requests"]["put"]["requests"]
        == 5
    )


@as_root
@pytest.mark.mount_options("allow_other,no_default_permissions")
@pytest.mark.reachable
def test_other_users_may_not_read_the_control_folder(mounted: Mount) -> None:
    (mounted.path / "file").write_text("x")
    (mounted.path / "file").chmod(0o644)

    def errno_of(code: str) -> int:
        script = f"import os\ntry: {code}\nexcept OSError as error: print(error.errno)\nelse: print(0)"
        command = ["python3", "-c", script]
        result = subprocess.run(
            command, user=NOBODY, group=NOBODY, cwd=mounted.path, capture_output=True, text=True, check=True
        )
        return int(result.stdout)

    assert errno_of("open('file').read()") == 0
    for name in FILES:
        assert errno_of(f"open('.swiftfs/{name}')") == errno.EACCES
        assert errno_of(f"os.stat('.swiftfs/{name}')") == errno.EACCES
    assert errno_of("os.listdir('.swiftfs')") == errno.EACCES
    for name in PRIVATE_ATTRIBUTES:
        for path in (".", "file"):
            assert errno_of(f"os.setxattr('{path}', '{name}', b'1')") == errno.EPERM
            assert errno_of(f"os.getxattr('{path}', '{name}')") == errno.EACCES


@as_root
@pytest.mark.mount_options("allow_other")
@pytest.mark.reachable
def test_commands_of_other_users_say_who_may_use_them(mounted: Mount) -> None:
    for command in ("status", "flush", "retry", "umount"):
        script = (
            "import os; from swiftfs.cli.app import main\n"
            "from swiftfs.cli import running, status as showing; from swiftfs.control import unmount\n"
            f"os.setgid({NOBODY}); os.setuid({NOBODY}); main(['{command}', {str(mounted.path)!r}])"
        )
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        reason = "only the user who mounted it may do this (root too, with allow_root or allow_other)"
        expected = f"swiftfs: {mounted.path}: {reason}\n"
        assert (result.returncode, result.stderr) == (1, expected)


def test_objects_called_as_the_control_folder_get_another_name(
    mounted: Mount, connection: Connection, container: str
) -> None:
    for key in (".swiftfs/deep", "%.swiftfs", "d/.swiftfs"):
        connection.put_object(container, key, key.encode())
    mounted.remount()
    root = mounted.path
    assert names(root) == ["%%.swiftfs", "%.swiftfs", "d"]
    assert (root / "%.swiftfs" / "deep").read_bytes() == b".swiftfs/deep"
    assert (root / "%%.swiftfs").read_bytes() == b"%.swiftfs"
    assert (root / "d" / ".swiftfs").read_bytes() == b"d/.swiftfs"
    (root / "%.swiftfs" / "new").write_text("new")
    (root / "%%.swiftfs").rename(root / "%%%.swiftfs")
    (root / "d" / ".swiftfs").unlink()
    keys = [row["name"] for row in connection.get_container(container)[1]]
    assert {".swiftfs/deep", ".swiftfs/new", "%%.swiftfs"} <= set(keys)
    assert not {"%.swiftfs", "d/.swiftfs"} & set(keys)


@pytest.mark.mount_options("ro")
def test_flush_and_retry_of_a_read_only_mount_without_changes(mounted: Mount) -> None:
    for command in ("flush", "retry"):
        result = swiftfs(command, mounted.path)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"{mounted.path} is mounted read-only and has nothing to store\n"


@pytest.mark.mount_options("settle=1000")
def test_a_read_only_mount_stores_the_changes_of_an_earlier_mount(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    mounted.expected += ["is parked, because it cannot be stored", "the next mount continues"]
    swift.inject(Fault("PUT", f"/{container}/file", status=403))
    (mounted.path / "file").write_text("left")
    mounted.exit_code = 1
    mounted.stop()
    mounted.exit_code, mounted.options = 0, "ro,settle=1000"
    mounted.start()
    assert "403" in swiftfs("flush", mounted.path).stderr
    swift.clear_faults()
    result = swiftfs("flush", mounted.path)
    assert result.returncode == 0, result
    assert connection.get_object(container, "file")[1] == b"left"


def test_commands_report_a_folder_without_a_mount(tmp_path: Path) -> None:
    (tmp_path / ".swiftfs").mkdir()
    (tmp_path / ".swiftfs" / "status.json").write_text("{}")
    assert one_line(swiftfs("status", tmp_path)).endswith(
        "is mounted by an incompatible version of swiftfs\n"
    )
