"""Checks of a mount after a load: nothing is pending, and nothing is left."""

import sqlite3
from contextlib import closing

from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.control.client import flush

PREFETCHED = 128
"""Most files that prefetch has open, for reads that may follow."""


def open_contents(mount: Mount) -> list[str]:
    """Return the names of the local files that the mount has open, for open or pending files."""
    return [path.name for path in (mount.cache / "content").iterdir() if path.name.startswith("open-")]


def assert_nothing_pending(mount: Mount) -> None:
    """Flush; assert that nothing is pending or failed, and that local files are closed."""
    report = flush(mount.path, lambda _report: None)
    assert (report.total, report.unflushed, report.bytes) == (0, 0, 0), report
    most = PREFETCHED if "prefetch=no" not in mount.options else 0
    wait_until(lambda: len(open_contents(mount)) <= most)


def assert_journal_is_empty(mount: Mount) -> None:
    """Assert that the journal of a mount that has ended has no rows."""
    with closing(sqlite3.connect(mount.cache / "journal.sqlite")) as database:
        for table in ("intents", "uploads"):
            assert database.execute(f"SELECT * FROM {table}").fetchall() == []
