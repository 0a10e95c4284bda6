"""What must hold when a load has ended."""

import sqlite3
from contextlib import closing

from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.control.client import flush

PREFETCHED = 128
"""The most files that are fetched for readers who may come still, and are open meanwhile."""


def open_contents(mount: Mount) -> list[str]:
    """Return the local files that the mount uses for something that is open or waits."""
    return [path.name for path in (mount.cache / "content").iterdir() if path.name.startswith("open-")]


def assert_nothing_waits(mount: Mount) -> None:
    """Flush, and look for what is left."""
    report = flush(mount.path, lambda _report: None)
    assert (report.total, report.unflushed, report.bytes) == (0, 0, 0), report
    most = PREFETCHED if "prefetch=no" not in mount.options else 0
    wait_until(lambda: len(open_contents(mount)) <= most)


def assert_journal_is_empty(mount: Mount) -> None:
    """Look into the journal of a mount that has ended."""
    with closing(sqlite3.connect(mount.cache / "journal.sqlite")) as database:
        for table in ("intents", "uploads"):
            assert database.execute(f"SELECT * FROM {table}").fetchall() == []
