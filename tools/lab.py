"""A shell, or a command, with a real Swift and a mount of a container, which end with it."""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from swiftfs.demo.server import SwiftServer
from swiftfs.demo.tour import Interruption, Tour, end, handled_by

CONTAINER = "lab"


def run(words: Sequence[str]) -> int:
    """Run a command in the folder with the mount point `mnt`; return its exit code.

    Mount, server and folder are removed at the end, even after a signal.
    """
    console, interruption = Console(highlight=False, stderr=True), Interruption()
    with handled_by(interruption), contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swiftfs-lab-")))
        (work / "mnt").mkdir()
        server = stack.enter_context(SwiftServer())
        tour = Tour(server, work / "mnt", work, console, interruption)
        stack.callback(end, tour)
        tour.type("swift", "post", CONTAINER)
        tour.type("swiftfs", "mount", CONTAINER, "mnt", "--cache-dir", "cache")
        # The programs of this Python come first, so that `swiftfs` is that of this tree.
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**tour.environment, "PATH": programs}
        if shutil.which(words[0], path=programs) is None:
            console.print(f"./dev lab: there is no program {words[0]}", markup=False)
            return 127
        return subprocess.run(words, cwd=work, env=environment, check=False).returncode
    raise AssertionError("unreachable")


def main() -> int:
    """Run what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="./dev lab", description=__doc__)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a program and its arguments ($SHELL)")
    words = parser.parse_args().command or [os.environ.get("SHELL", "/bin/sh")]
    with contextlib.suppress(KeyboardInterrupt):
        return run(words)
    return 130


if __name__ == "__main__":
    sys.exit(main())
