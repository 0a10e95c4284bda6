"""Options of fstab, and the helpers of mount(8) and umount(8)."""

import errno
import os
import re
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.mounts import Mount, run

HELPER = "from swiftfs.cli.mount_helper import unmount_main; unmount_main()"
"""The command umount.fuse.swiftfs, whether it is installed or not."""


MOUNT_HELPER = "from swiftfs.cli.mount_helper import main; main()"


def umount(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the helper as umount(8) does."""
    command = [sys.executable, "-c", HELPER, *map(str, words), "-t", "fuse.swiftfs"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def make_program(folder: Path) -> Path:
    program = folder / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    return program


def kill(mounted: Mount) -> None:
    process = os.pidfd_open(mounted.pid)
    os.kill(mounted.pid, 9)
    select.select([process], [], [])
    os.close(process)
    mounted.exit_code = -9


@pytest.mark.mount_options("noexec")
def test_noexec_forbids_programs(mounted: Mount) -> None:
    program = make_program(mounted.path)
    assert "noexec" in run("findmnt", "--noheadings", "--output=OPTIONS", mounted.path)
    with pytest.raises(PermissionError) as refused:
        subprocess.run([program], check=False)
    assert refused.value.errno == errno.EACCES


def test_programs_run_where_nothing_forbids_it(mounted: Mount) -> None:
    assert run(make_program(mounted.path)) == "ran\n"


@pytest.mark.mount_options("settle=60")
def test_umount_returns_when_all_is_stored(mounted: Mount, connection: Connection) -> None:
    (mounted.path / "file").write_text("text")
    result = umount(mounted.path)
    assert (result.returncode, result.stderr) == (0, "")
    assert connection.get_object(mounted.source, "file")[1] == b"text"


def test_umount_of_a_busy_mount_is_refused(mounted: Mount) -> None:
    with (mounted.path / "file").open("w"):
        result = umount(mounted.path)
    assert result.returncode == 32
    assert "has a file or folder open there" in result.stderr
    assert mounted.path.is_mount()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may unmount lazily")
def test_a_lazy_umount_does_not_wait(mounted: Mount) -> None:
    with (mounted.path / "file").open("w"):
        result = umount(mounted.path, "-l")
        assert (result.returncode, result.stderr) == (
            0,
            f"swiftfs: {mounted.path} is unmounted for programs that begin now; its process stores what was "
            "closed, or the next mount does if it has died\n",
        )
        assert not mounted.path.is_mount()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may unmount by force")
@pytest.mark.mount_options("settle=60")
def test_a_forced_umount_loses_nothing_that_was_closed(mounted: Mount, connection: Connection) -> None:
    (mounted.path / "file").write_text("text")
    process = os.pidfd_open(mounted.pid)
    try:
        result = umount(mounted.path, "-f")
        assert result.returncode == 0
        assert re.fullmatch(r"swiftfs: \S+ is unmounted by force, .*; its process stores .*\n", result.stderr)
        assert not mounted.path.is_mount()
        select.select([process], [], [])
    finally:
        os.close(process)
    assert connection.get_object(mounted.source, "file")[1] == b"text"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may unmount by force")
def test_a_forced_umount_of_a_busy_mount_says_what_is_left(mounted: Mount) -> None:
    (mounted.path / "file").write_text("text")
    descriptor = os.open(mounted.path / "file", os.O_RDONLY)
    try:
        result = umount(mounted.path, "-f")
        assert result.returncode == 32
        assert result.stderr == (
            f"swiftfs: cannot unmount {mounted.path}: target is busy; its process was cut off: 'umount -l' "
            "removes it\n"
        )
        assert umount(mounted.path, "-l").returncode == 0
        assert not mounted.path.is_mount()
    finally:
        with suppress(OSError):  # the kernel asks the process that is gone, if it asks at all
            os.close(descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may unmount lazily")
def test_a_lazy_umount_removes_a_mount_that_died(mounted: Mount) -> None:
    kill(mounted)
    result = umount(mounted.path, "-l")
    assert result.returncode == 0
    assert "or the next mount does if it has died" in result.stderr
    assert not mounted.path.is_mount()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may unmount lazily")
@pytest.mark.parametrize("flag", ["-l", "-f"])
def test_what_is_not_mounted_is_one_line(tmp_path: Path, flag: str) -> None:
    result = umount(tmp_path, flag)
    assert result.returncode == 32
    assert result.stderr == f"swiftfs: cannot unmount {tmp_path}: not mounted\n"


@pytest.mark.parametrize(
    ("helper", "words", "said"),
    [
        (MOUNT_HELPER, (), "missing argument 'SOURCE' (see 'mount.swiftfs --help')"),
        (MOUNT_HELPER, ("box", "/mnt", "--nope"), "no such option '--nope' (see 'mount.swiftfs --help')"),
        (MOUNT_HELPER, ("swift:-c", "/no/such"), "mount point /no/such: No such file or directory"),
        (HELPER, (), "missing argument 'MOUNTPOINT' (see 'umount.fuse.swiftfs --help')"),
        (
            HELPER,
            ("",),
            "invalid value for 'MOUNTPOINT': the path is empty (see 'umount.fuse.swiftfs --help')",
        ),
    ],
)
def test_a_wrong_command_line_of_a_helper_is_one_line(helper: str, words: tuple[str, ...], said: str) -> None:
    command = [sys.executable, "-c", helper, *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert one_line(result, 32).startswith(f"swiftfs: {said}")


def test_umount_removes_a_mount_that_died(mounted: Mount) -> None:
    kill(mounted)
    result = umount(mounted.path)
    assert result.returncode == 0
    assert "is unmounted; its process had died: mount it again to continue" in result.stderr
    assert not mounted.path.is_mount()


def test_umount_by_a_symbolic_link(mounted: Mount, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(mounted.path)
    assert swiftfs("umount", link).returncode == 0
    assert not mounted.path.is_mount()


@pytest.mark.mount_options("settle=60")
@pytest.mark.parametrize("flags", [(), ("--create",)], ids=["", "create"])
@pytest.mark.parametrize("by_link", [False, True], ids=["", "by a link"])
def test_the_next_mount_replaces_one_that_died(
    mounted: Mount, connection: Connection, tmp_path: Path, flags: tuple[str, ...], *, by_link: bool
) -> None:
    (mounted.path / "file").write_text("text")
    kill(mounted)
    place = tmp_path / "link" if by_link else mounted.path
    if by_link:
        place.symlink_to(mounted.path)
    words = (*flags, mounted.source, place, "--cache-dir", mounted.cache)
    again = swiftfs("mount", *words, environment=mounted.swift.environment())
    assert again.returncode == 0, again.stderr
    assert (mounted.path / "file").read_text() == "text"
    assert run("findmnt", "--noheadings", "--output=TARGET", mounted.path).count(str(mounted.path)) == 1
    assert swiftfs("umount", mounted.path).returncode == 0
    assert connection.get_object(mounted.source, "file")[1] == b"text"


def test_a_path_in_a_mount_that_died_is_one_line(mounted: Mount, tmp_path: Path) -> None:
    kill(mounted)
    inside, place = mounted.path / "a", tmp_path / "place"
    place.mkdir()
    died = "its process has died: run 'fusermount -u' on it first"
    gone = os.strerror(errno.ENOTCONN)
    for words, line in {
        ("mount", "--create", "box", inside): f"{inside}: {died}",
        ("mount", "box", place, "--cache-dir", inside): f"cache folder {inside} is inside {mounted.path}, "
        "where a swiftfs is mounted: use another --cache-dir",
        ("mount", "box", place, "-o", f"metrics={inside}/m.prom"): f"option metrics={inside}/m.prom: {gone}",
        ("check", "box", "--against", inside): f"--against {inside}: {gone}",
        ("demo", inside): f"{inside}: {died}",
    }.items():
        result = swiftfs(*words, environment=mounted.swift.environment())
        assert result.returncode in (1, 2), words
        assert result.stderr.splitlines()[-1:] == [f"swiftfs: {line}"], words


def test_more_files_may_be_open_than_the_usual_limit(mounted: Mount) -> None:
    limits = Path(f"/proc/{mounted.pid}/limits").read_text().splitlines()
    (line,) = (line for line in limits if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    assert soft == hard
