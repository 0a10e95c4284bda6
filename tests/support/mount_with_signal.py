"""`swiftfs` that gets a SIGTERM when it is about to mount: `python mount_with_signal.py ARGS…`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from swiftfs import concurrency
from swiftfs.cli import app
from swiftfs.control.unmount import died
from swiftfs.service import serving
from swiftfs.service.daemon import Termination


def serve(*arguments: str) -> None:
    """Run the command."""
    end, received = Termination._end, concurrency.new_event()

    def ended(termination: Termination) -> None:
        end(termination)
        received.set()

    def signalled(mountpoint: Path) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received.wait(20)
        return died(mountpoint)

    patched: Any = serving
    patched.died = signalled
    patched = Termination
    patched._end = ended
    app.main(list(arguments))


if __name__ == "__main__":
    concurrency.check()
    serve(*sys.argv[1:])
