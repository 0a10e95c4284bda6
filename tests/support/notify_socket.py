"""A notification socket like systemd's."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def notify_socket(path: Path) -> Iterator[socket.socket]:
    """Bind a datagram socket to `path`, which must not exist; its reads time out after 30 s."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(path))
        channel.settimeout(30)
        yield channel
