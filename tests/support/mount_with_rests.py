"""`swiftfs` in which replaced segments rest, as in a mount of a user: `python mount_with_rests.py ARGS…`."""

import sys

from swiftfs import concurrency
from swiftfs.cli import app
from swiftfs.journal import segment_records

SECONDS = 2.0
"""As `segment_records.REST_SECONDS` is before a test changes it."""


def serve(*arguments: str) -> None:
    """Run the command."""
    segment_records.REST_SECONDS = SECONDS
    app.main(list(arguments))


if __name__ == "__main__":
    concurrency.check()
    serve(*sys.argv[1:])
