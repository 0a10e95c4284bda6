"""`swiftfs` that looks soon for late requests: `python hasty_mount.py SECONDS,SECONDS… ARGS…`."""

import sys
from typing import Any

from swiftfs import concurrency
from swiftfs.cli import app
from swiftfs.journal import late_requests


def main(looks: tuple[float, ...], arguments: list[str]) -> None:
    """Run the command."""
    patched: Any = late_requests
    patched.LOOKS = looks
    patched.AGAIN_SECONDS = 1.0
    concurrency.check()
    app.main(arguments)


if __name__ == "__main__":
    main(tuple(map(float, sys.argv[1].split(","))), sys.argv[2:])
