"""What users type by mistake, and the one line that they see."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import swiftfs
from support.mounts import clean_environment
from swiftfs.demo.server import SwiftServer

WRONG, FAILED = 2, 1
"""The exit codes of a command line that cannot be understood, and of one that cannot be done."""

TYPED: tuple[tuple[str, int, str], ...] = (
    # The command
    ("swiftfs photos mp", WRONG, "no such command 'photos': 'swiftfs mount photos mp' mounts it *"),
    ("swiftfs mnt photos mp", WRONG, "no such command 'mnt'; did you mean 'mount', 'umount'? *"),
    ("swiftfs mount photos", WRONG, "missing argument 'MOUNTPOINT' (see 'swiftfs mount --help')"),
    ("swiftfs mount photos mp --reed-ahead 1M", WRONG, "*--reed-ahead*; did you mean '--read-ahead'? *"),
    ("swiftfs mount photos mp -o read_ahead = 1M", WRONG, "got unexpected extra arguments (= 1M) *"),
    ("swiftfs status --jsn", WRONG, "no such option '--jsn'; did you mean '--json'? *"),
    ("swiftfs --verbose mount photos mp", WRONG, "no such option '--verbose'*(see 'swiftfs --help')"),
    ("cd gone; swiftfs mount photos mp", FAILED, "the current folder was deleted: cd to another one"),
    ("cd gone; swiftfs status mp", FAILED, "the current folder was deleted: cd to another one"),
    ("cd gone; swiftfs umount mp", FAILED, "the current folder was deleted: cd to another one"),
    ("cd gone; swiftfs mount photos /mnt --cache-dir c", FAILED, "the current folder was deleted: *"),
    # The options
    ("swiftfs mount photos mp -o tll=3", FAILED, "unknown option 'tll' (-o); did you mean 'ttl'?"),
    ("swiftfs mount photos mp -o ttl=soon", FAILED, "option ttl=soon (-o): expected seconds, 0 to a year"),
    ("swiftfs mount photos mp -o cache_size=1", FAILED, "option cache_size=1 (-o): *a size, 64M to 1P"),
    ("swiftfs mount photos mp -o sync,settle=3", FAILED, "options sync and settle (-o) contradict *"),
    ("swiftfs mount photos mp -o remount,ro", FAILED, "remount is not supported: *"),
    ("swiftfs mount photos mp --config table.toml", FAILED, "table [photos] (table.toml, line 2): *"),
    ("swiftfs mount photos mp --config none.toml", FAILED, "configuration file none.toml: No such file*"),
)


@pytest.fixture
def home(tmp_path: Path, swift: SwiftServer) -> Path:
    """A folder with what the commands name."""
    for name in ("mp", "full/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "table.toml").write_text("ttl = 3\n[photos]\nttl = 4\n")
    return tmp_path


@pytest.mark.parametrize(("typed", "code", "seen"), TYPED, ids=[typed for typed, _, _ in TYPED])
def test_a_mistake_is_answered_in_one_line(
    home: Path, swift: SwiftServer, typed: str, code: int, seen: str
) -> None:
    result = shell(typed, home, swift)
    expected = ".*".join(map(re.escape, f"swiftfs: {seen}\n".split("*")))
    assert re.fullmatch(expected, result.stderr), result.stderr
    assert (result.returncode, result.stdout) == (code, "")


def shell(typed: str, home: Path, swift: SwiftServer) -> subprocess.CompletedProcess[str]:
    """Do what a shell does with the line."""
    environment = {**swift.environment(), "HOME": str(home)}
    if typed.startswith("swiftfs "):
        return swiftfs(*shlex.split(typed)[1:], environment=environment, folder=home)
    (home / "gone").mkdir()
    program = typed.replace("cd gone;", "cd gone && rmdir ../gone &&")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", program],
        env={**clean_environment(), **environment, "PATH": path},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
