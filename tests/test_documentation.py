"""The pages that a table in the code decides are current, and what they say is so."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import one_line, swiftfs
from mounts import clean_environment
from swiftclient import Connection

from swiftfs import manual
from swiftfs.config import OPTIONS
from swiftfs.demo.server import SwiftServer


def test_the_generated_pages_are_current() -> None:
    assert list(manual.stale()) == [], "run: python -m swiftfs.manual"


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
@pytest.mark.parametrize("page", ["swiftfs.1", "mount.swiftfs.8"])
def test_the_man_pages_are_sound(page: str) -> None:
    command = ["groff", "-man", "-Tascii", "-ww", "-P-c", str(manual.ROOT / "man" / page)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    for name in OPTIONS:
        assert name in re.sub(".\b", "", result.stdout)


def test_the_version_names_what_a_report_needs() -> None:
    lines = swiftfs("version").stdout.splitlines()
    versions = dict(line.split(" ", 1) for line in lines)
    assert {
        "swiftfs",
        "python",
        "linux",
        "libfuse",
        "fusermount",
        "fusepy",
        "openstacksdk",
    } <= versions.keys()
    assert versions["libfuse"].startswith("2.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str) -> None:
    script = swiftfs(environment={"_SWIFTFS_COMPLETE": f"{shell}_source"})
    assert script.returncode == 0 or "bash" in shell
    words = {
        "COMP_WORDS": "swiftfs mount --read",
        "COMP_CWORD": "--read" if shell == "fish" else "2",
        "_SWIFTFS_COMPLETE": f"{shell}_complete",
    }
    assert "--read-ahead" in swiftfs(environment=words).stdout


def test_the_commands_of_operations_run(swift: SwiftServer, connection: Connection, tmp_path: Path) -> None:
    connection.put_container("photos")
    text = (manual.ROOT / "docs" / "operations.md").read_text()
    commands = re.findall(r"^\$ (.+)$", text, re.MULTILINE)
    assert len(commands) >= 8
    program = tmp_path / "bin"
    program.mkdir()
    (program / "swiftfs").write_text(f'#!/bin/sh\nexec {sys.executable} -m swiftfs "$@"\n')
    (program / "swiftfs").chmod(0o755)
    environment = {
        **clean_environment(),
        **swift.environment(),
        "HOME": str(tmp_path),
        "PATH": f"{program}:{os.environ['PATH']}",
        "PYTHONPATH": str(manual.ROOT),
    }
    for command in commands:
        result = subprocess.run(
            command, shell=True, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert result.returncode == 0, (command, result)
    assert connection.get_object("photos", "first")[1] == Path("/etc/hostname").read_bytes()


def quoted_lines() -> list[str]:
    text = (manual.ROOT / "docs" / "troubleshooting.md").read_text()
    return re.findall(r"^\| `(swiftfs: .+?)` \|", text, re.MULTILINE)


def is_quoted(line: str) -> bool:
    """Say whether the page has the line, words in capitals standing for others."""
    names = "AUTHURL|USER|REASON|NAME|FILE|FOLDER|PATH"
    for quoted in quoted_lines():
        parts = re.split(rf"\b(?:{names})\b", quoted)
        if re.fullmatch(".+".join(map(re.escape, parts)), line.rstrip("\n")):
            return True
    return False


def test_lines_of_troubleshooting_are_what_is_printed(swift: SwiftServer, tmp_path: Path) -> None:
    folder, full, secret = tmp_path / "mnt", tmp_path / "full", tmp_path / "secret"
    folder.mkdir()
    (full / "x").mkdir(parents=True)
    secret.touch(0o644)
    good = swift.environment()
    mount = ("mount", "no-such-box", folder, "--cache-dir", tmp_path / "cache")
    lines = [
        one_line(swiftfs(*mount)),
        one_line(swiftfs(*mount, environment={**good, "ST_KEY": "wrong"})),
        one_line(swiftfs(*mount, environment={**good, "ST_AUTH": "http://127.0.0.1:9/auth"})),
        one_line(swiftfs(*mount, environment=good)),
        one_line(swiftfs(*mount, "--credentials", secret)),
        one_line(swiftfs(*mount, "-o", "tll=3")),
        one_line(swiftfs(*mount, "-o", "sync,settle=3")),
        one_line(swiftfs(*mount, "-o", "remount,ro")),
        one_line(swiftfs("mount", "box", full)),
        one_line(swiftfs("umount", tmp_path)),
    ]
    assert [line for line in lines if not is_quoted(line)] == []
