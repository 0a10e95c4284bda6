"""Shell completion, set up as in docs/operations.md, in a real shell on a terminal."""

import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SETUP = 'eval "$(_SWIFTFS_COMPLETE=bash_source swiftfs)"'
SECONDS = 60


class Terminal:
    """An interactive bash on a terminal of its own."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "TERM": "dumb", "HOME": "/", "PS1": "> "}
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, text: str, until: str) -> str:
        """Type `text`; return the terminal's output up to `until`."""
        os.write(self._ours, text.encode())
        shown = ""
        while until not in shown:
            assert select.select([self._ours], [], [], SECONDS)[0], shown
            shown += os.read(self._ours, 4096).decode()
        return shown

    def close(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._ours)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    terminal = Terminal()
    terminal.type(f"{SETUP}; echo set''up\n", "\nsetup")
    yield terminal
    terminal.close()


def test_a_command_is_completed(terminal: Terminal) -> None:
    assert terminal.type("swiftfs umo\t", "umount ")


def test_an_option_is_completed(terminal: Terminal) -> None:
    assert terminal.type("swiftfs mount --read-a\t", "--read-ahead ")


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("read_a", "read_ahead="),
        ("ro,allow_o", "allow_other "),
        ("ttl=5,confl", "conflict="),
        ("ttl=5,conflict=k", "keep "),
        ("dir_marker=sl", "slash "),
    ],
)
def test_a_word_after_o_is_completed(terminal: Terminal, typed: str, shown: str) -> None:
    assert terminal.type(f"swiftfs mount -o {typed}\t", shown)


def test_a_value_follows_its_option_without_a_blank(terminal: Terminal) -> None:
    assert terminal.type("swiftfs mount -o read_a\t1M", "read_ahead=1M")


def test_a_value_of_a_flag_is_completed(terminal: Terminal) -> None:
    assert terminal.type("swiftfs mount --conflict k\t", "keep ")


def test_the_setup_is_the_documented_one() -> None:
    page = Path(__file__).parents[2] / "docs" / "operations.md"
    assert SETUP in page.read_text()
