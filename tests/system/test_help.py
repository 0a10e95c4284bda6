"""The help of the commands, as a new user reads it."""

import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.commands import one_line, swiftfs
from support.mounts import clean_environment
from swiftfs.cli import app

IN_ORDER_OF_USE = ["mount", "umount", "status", "flush", "retry", "set", "thaw", "warm", "pin", "unpin"]
IN_ORDER_OF_USE += ["export", "recover", "cp", "share", "restore", "gc", "trash", "check", "probe", "demo"]

CPU_SECONDS = 0.2
"""What a command that does nothing may use: a shell runs one at every TAB."""


def test_the_commands_stand_in_the_order_of_use_with_whole_descriptions() -> None:
    text = swiftfs("--help").stdout
    rows = re.findall(r"^  (\w+)  +(.+(?:\n {10,}.+)*)", text.partition("Commands:\n")[2], re.MULTILINE)
    assert [name for name, _ in rows] == [*IN_ORDER_OF_USE, "version"]
    for name, lines in rows:
        described = " ".join(lines.split())
        assert described.endswith(".")
        assert "..." not in described
        assert " ".join((app.main.commands[name].help or "").split()).startswith(described)


@pytest.mark.parametrize("command", app.main.commands)
def test_the_help_of_a_command_has_examples(command: str) -> None:
    shown = swiftfs(command, "--help").stdout.partition("Examples:\n")[2].splitlines()
    assert shown
    page = (Path(__file__).parents[2] / "man" / "swiftfs.1").read_text().replace("\\-", "-")
    for line in shown:
        assert line.startswith(f"    swiftfs {command}")
        assert line.strip() in page


@pytest.mark.matrix(8)
@pytest.mark.parametrize("command", app.main.commands)
def test_the_examples_are_understood(command: str) -> None:
    """Each option exists: the command line is read, and the help that is asked for then is printed."""
    shown = swiftfs(command, "--help").stdout.partition("Examples:\n")[2]
    for line in shown.splitlines():
        assert "Usage:" in swiftfs(*line.split()[1:], "--help").stdout


def test_no_command_is_told_the_whole_help() -> None:
    result = swiftfs()
    assert "Commands:" in result.stdout + result.stderr


def test_a_source_without_a_command_is_told_how_to_mount_it(tmp_path: Path) -> None:
    (tmp_path / "mp").mkdir()
    assert "'swiftfs mount photos mp' mounts it" in one_line(swiftfs("photos", "mp", folder=tmp_path), 2)
    assert "'swiftfs mount photos ./mp' mounts it" in one_line(swiftfs("photos", "./mp"), 2)
    assert "did you mean 'mount'" in one_line(swiftfs("mont", "mp"), 2)


def test_an_option_may_be_written_as_in_a_file(tmp_path: Path) -> None:
    line = one_line(swiftfs("mount", "box", tmp_path, "--read_ahead", "x"))
    assert "option read_ahead=x (--read-ahead): expected a size" in line


@pytest.mark.parametrize("flag", ["--readonly", "--read-only", "--read_only"])
def test_other_names_of_ro_are_flags(tmp_path: Path, flag: str) -> None:
    assert "no credentials" in one_line(swiftfs("mount", "box", tmp_path, flag))


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (("--version",), {}),
        ((), {"_SWIFTFS_COMPLETE": "bash_complete", "COMP_WORDS": "swiftfs mount -o re", "COMP_CWORD": "3"}),
    ],
    ids=["version", "completion"],
)
def test_a_command_that_does_nothing_uses_little(
    words: tuple[str, ...], environment: Mapping[str, str]
) -> None:
    """CPU time, not the time on the clock; the least of five counts, as the machine may be busy."""
    used = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "swiftfs", *words],
            env={**clean_environment(), **environment},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(used) < CPU_SECONDS
