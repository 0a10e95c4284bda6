"""`swiftfs` whose calls wait only a moment for the move of a name.

`python mount_with_short_patience.py ARGS…`
"""

import sys
from typing import Any

from swiftfs import concurrency
from swiftfs.cli import app


def serve(*arguments: str) -> None:
    """Run the command."""
    from swiftfs.fuse import name_moves  # noqa: PLC0415  it is loaded by the mount only

    patched: Any = name_moves
    patched.CHANGE_PATIENCE = 0.2
    app.main(list(arguments))


if __name__ == "__main__":
    concurrency.check()
    serve(*sys.argv[1:])
