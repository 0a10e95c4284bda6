"""A real Swift, a mount of a container, and a shell in it: `./dev lab [COMMAND…]`."""

import contextlib
import os
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
    """Run a command, by default the user's shell, in the folder with the mount point `mnt`.

    Return its exit code. Mount, server and folder are removed at the end, even after a signal.
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
        command = list(words) or [os.environ.get("SHELL", "/bin/sh")]
        environment = {**tour.environment, "PATH": programs}
        return subprocess.run(command, cwd=work, env=environment, check=False).returncode
    raise AssertionError("unreachable")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(run(sys.argv[1:]))
    sys.exit(130)
