"""`swiftfs` that looks for late requests after other delays than usual.

`python mount_with_look_delays.py SECONDS,SECONDS… ARGS…`: the delays after a lost answer, and the arguments.
"""

import sys
from typing import Any

from swiftfs import concurrency
from swiftfs.cli import app
from swiftfs.journal import late_requests


def serve(looks: str, *arguments: str) -> None:
    """Run the command with these delays, in seconds."""
    patched: Any = late_requests
    patched.LOOKS = tuple(map(float, looks.split(",")))
    patched.AGAIN_SECONDS = 1.0
    app.main(list(arguments))


if __name__ == "__main__":
    concurrency.check()
    serve(*sys.argv[1:])
