"""The pages that are made from the code are current, and what they say is so."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import swiftfs
from mounts import clean_environment
from swiftclient import Connection

from swiftfs.config.options import OPTIONS
from swiftfs.demo.server import SwiftServer
from tools import docs


def test_the_generated_pages_are_current() -> None:
    assert list(docs.stale()) == [], "run ./dev docs"


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
@pytest.mark.parametrize("page", ["swiftfs.1", "mount.swiftfs.8"])
def test_the_man_pages_are_sound(page: str) -> None:
    command = ["groff", "-man", "-Tascii", "-ww", "-P-c", str(docs.ROOT / "man" / page)]
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
    text = (docs.ROOT / "docs" / "operations.md").read_text()
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
        "PYTHONPATH": str(docs.ROOT),
    }
    for command in commands:
        result = subprocess.run(
            command, shell=True, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert result.returncode == 0, (command, result)
    assert connection.get_object("photos", "first")[1] == Path("/etc/hostname").read_bytes()
