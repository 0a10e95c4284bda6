"""An example of a mount's status, and how people see it."""

from rich.console import Console

from swiftfs.cli.status_view import view
from swiftfs.control.snapshot import SCHEMA, Bounds, MountStatus, Server
from swiftfs.journal.queue_report import QueueReport
from swiftfs.objects import CacheUse, Count

MIB = 1024 * 1024

NOTHING_WAITS = QueueReport(0, 0, 0, 0, False, 0, 0)

STATE = MountStatus(
    SCHEMA,
    "1.2",
    "photos",
    "/mnt",
    7,
    False,
    1000.0,
    1000.0 + 3 * 3600 + 120,
    Server("https://example.org as me", "Swift 2.38"),
    Bounds(16 * MIB, 10**12, 8, 1, 5 * 10**9, 10_000, 1000, 0),
    "/cache",
    (),
    CacheUse(2_000_000, 1000, 10**10),
    {"put": Count(1, 0, 1000, 0, 0.5), "get": Count(2000, 3, 0, 5_000_000, 10.0)},
    None,
    (),
    NOTHING_WAITS,
)
"""A mount without pending changes."""


def shown(state: MountStatus, width: int = 100) -> str:
    """Return the text of `swiftfs status` about a mount, `width` characters wide."""
    console = Console(width=width)
    with console.capture() as capture:
        console.print(view([state]))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
