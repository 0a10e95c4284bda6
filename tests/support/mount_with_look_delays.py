"""`swiftfs` that looks for late requests after other delays than usual.

`python mount_with_look_delays.py SECONDS,SECONDS… ARGS…`: the delays after a lost answer, and the arguments.
"""

import sys
from typing import Any

from swiftfs import concurrency
from swiftfs.cli import app
from swiftfs.journal import late_requests


def main(looks: tuple[float, ...], arguments: list[str]) -> None:
    """Run the command with these delays, in seconds."""
    patched: Any = late_requests
    patched.LOOKS = looks
    patched.AGAIN_SECONDS = 1.0
    concurrency.check()
    app.main(arguments)


if __name__ == "__main__":
    main(tuple(map(float, sys.argv[1].split(","))), sys.argv[2:])
