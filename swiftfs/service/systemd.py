"""The notification protocol of systemd, sd_notify(3)."""

import os
import socket


def notify(state: str) -> None:
    """Report a state such as `READY=1` to systemd; do nothing without a `NOTIFY_SOCKET`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError:
            return


def is_service() -> bool:
    """Return whether systemd has started this process and waits for its `READY=1`."""
    return bool(os.environ.get("NOTIFY_SOCKET"))
