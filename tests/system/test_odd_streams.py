"""Commands whose standard streams are closed, or lead to a full disk, and a Ctrl-C as early as it can be."""

import subprocess
import sys
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import clean_environment
from swiftfs.demo.server import SwiftServer

SWIFTFS = f"{sys.executable} -m swiftfs"


def shell(line: str, swift: SwiftServer, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in `folder`."""
    return subprocess.run(
        ["sh", "-c", line],
        env={**clean_environment(), **swift.environment(), "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", ">&-"])
def test_a_mount_begins_with_closed_streams(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, closed: str
) -> None:
    (tmp_path / "mnt").mkdir()
    mount = f"{SWIFTFS} mount {container} mnt {closed}"
    use = "echo text >mnt/file && cat mnt/file"
    result = shell(f"{mount} && {use}; {SWIFTFS} umount mnt {closed}", swift, tmp_path)
    assert (result.returncode, result.stdout) == (0, "text\n"), result
    assert connection.get_object(container, "file")[1] == b"text\n"


@pytest.mark.parametrize("words", ["--help", "mount --help", "version", "check {}", "check {} --json"])
def test_a_full_disk_of_the_output_is_one_line(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path, words: str
) -> None:
    connection.put_container(container)
    result = shell(f"{SWIFTFS} {words.format(container)} >/dev/full", swift, tmp_path)
    assert result.stderr == "swiftfs: the output cannot be written: No space left on device\n"
    assert result.returncode == 1


def test_ctrl_c_while_the_command_is_loaded_is_one_line(swift: SwiftServer, tmp_path: Path) -> None:
    interrupted = (
        "import sys; from swiftfs import __main__\n"
        "class Finder:\n"
        "    def find_spec(self, *_): raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "__main__.main()"
    )
    result = shell(f"{sys.executable} -c '{interrupted}'", swift, tmp_path)
    assert (result.returncode, result.stderr) == (1, "swiftfs: interrupted\n")
