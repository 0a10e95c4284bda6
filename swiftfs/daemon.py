"""From a command to a background process: a fork, and a pipe that tells how it went."""

import contextlib
import logging
import logging.handlers
import os
import sys
from collections.abc import Callable
from pathlib import Path

from swiftfs.errors import ConfigurationError

Ready = Callable[[], None]

_READY = b"ready"


def run_in_background(work: Callable[[Ready], None]) -> None:
    """Run `work` in a process of its own; return when it calls its argument.

    Raise `ConfigurationError` with the child's message when `work` fails before that. Threads do not survive
    a fork: `work` starts the first ones.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        os._exit(_child(work, writer))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    if said != _READY:
        raise ConfigurationError(said.decode() or "the mount ended before it answered")


def _child(work: Callable[[Ready], None], writer: int) -> int:
    os.setsid()
    os.chdir("/")
    told = False

    def ready() -> None:
        nonlocal told
        told = True
        _leave_terminal()
        os.write(writer, _READY)
        os.close(writer)

    try:
        work(ready)
    except BaseException as error:  # noqa: BLE001  the last boundary: whoever waits must be told
        if told:
            logging.getLogger(__name__).critical("the mount ended: %s", error)
        else:
            os.write(writer, str(error).encode() or repr(error).encode())
        return 1
    return 0


def _leave_terminal() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def log_to_terminal(level: int) -> None:
    """Write the log to standard error, a line each, as journald likes it."""
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s: %(message)s", force=True)


def log_to_system(level: int, folder: Path) -> None:
    """Write the log to syslog, or where there is none to `swiftfs.log` in `folder`."""
    handler: logging.Handler
    with contextlib.suppress(OSError):
        handler = logging.handlers.SysLogHandler("/dev/log", logging.handlers.SysLogHandler.LOG_DAEMON)
        logging.basicConfig(
            level=level, handlers=[handler], format=f"swiftfs[{os.getpid()}]: %(message)s", force=True
        )
        return
    handler = logging.handlers.RotatingFileHandler(folder / "swiftfs.log", maxBytes=4_000_000, backupCount=2)
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level, handlers=[handler], format=form, force=True)
