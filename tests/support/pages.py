"""Runs the commands of the documentation as a reader does: copied, line by line."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support.mounts import clean_environment
from swiftfs.demo.server import SwiftServer

ROOT = Path(__file__).parents[2]


def blocks(page: str, first: str = "", end: str = "") -> list[str]:
    """Return the `sh` blocks of a page, or those from the heading `first` up to the heading `end`."""
    text = (ROOT / page).read_text()
    start = text.index(f"\n{first}\n") if first else 0
    stop = text.index(f"\n{end}\n") if end else len(text)
    return re.findall(r"^```sh\n(.+?)^```", text[start:stop], re.MULTILINE | re.DOTALL)


def put_program(path: Path, lines: str) -> None:
    """Make a shell script."""
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def put_editor(path: Path, answers: Path) -> None:
    """Make an editor that writes into a file what the file of that name in the folder `answers` has.

    Like an editor it keeps the mode of the file.
    """
    put_program(path, f'[ -e "$1" ] || exit 1\ncat "{answers}/${{1##*/}}" >"$1"')


def credentials(swift: SwiftServer) -> str:
    """Return a credentials file by which users log in to this Swift."""
    return "".join(f"{name}={value}\n" for name, value in swift.environment().items())


def reader_s_environment(home: Path) -> dict[str, str]:
    """Return the environment of somebody with the home folder `home`, where `swiftfs` runs this tree."""
    programs = home / "bin"
    programs.mkdir(exist_ok=True)
    put_program(programs / "swiftfs", f'exec {sys.executable} -m swiftfs "$@"')
    return {
        **clean_environment(),
        "HOME": str(home),
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def run_blocks(
    commands: list[str],
    shell: list[str],
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run blocks of commands in one shell, which ends at the first that fails; return what they printed.

    If one fails, the message shows all lines up to it, and what it said.
    """
    script = "\n".join(["set -ex", *commands])
    result = subprocess.run(
        [*shell, script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=environment,
        cwd=folder,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout
