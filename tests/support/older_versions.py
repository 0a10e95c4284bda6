"""Open files that another client replaces in a real mount, and the process that moves their names."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise

LONG, SHORT, LONGER = noise(300_017), noise(5_003, 1), noise(400_009, 2)


def body_of(handle: int) -> bytes:
    """Return the bytes of an open file up to its end."""
    parts, offset = [], 0
    while part := os.pread(handle, 65536, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


@contextmanager
def opened(path: Path, data: bytes, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a file and read all of it."""
    handle = os.open(path, flags)
    try:
        assert body_of(handle) == data
        yield handle
    finally:
        with suppress(OSError):  # the mount may be gone
            os.close(handle)


def replace(connection: Connection, mounted: Mount, container: str, key: str, data: bytes) -> None:
    """Replace an object as another client, and let the mount forget its listings."""
    connection.put_object(container, key, data)
    refresh(mounted)


def refresh(mounted: Mount) -> None:
    os.setxattr(mounted.path, "swift.refresh", b"1")


def movers_of(mounted: Mount) -> list[str]:
    """Return the processes that move names in a mount."""
    found = subprocess.run(
        ["pgrep", "-f", f"mount_calls.py {mounted.path}"], check=False, capture_output=True, text=True
    )
    return found.stdout.split()


def halt_moves(mounted: Mount, connection: Connection, container: str) -> Path:
    """Return a file that a program can open and another client replace, but no name is moved any more."""
    path = mounted.path / "d" / "file"
    connection.put_object(container, "d/file", LONGER)
    with opened(path, LONGER):
        replace(connection, mounted, container, "d/file", LONG)
        wait_until(lambda: path.stat().st_size == len(LONG))
    (mover,) = movers_of(mounted)
    os.kill(int(mover), signal.SIGSTOP)
    return path


def let_move(mounted: Mount) -> None:
    """Let the mover of a `halted` mount go on."""
    os.kill(int(movers_of(mounted)[0]), signal.SIGCONT)
