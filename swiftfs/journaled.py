"""What the journals on this machine still speak of, read beside the mounts that have them open."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from swiftfs.database import is_empty, migrate
from swiftfs.errors import ConfigurationError
from swiftfs.journal.log import SCHEMA
from swiftfs.journal.salvage import copy_journal
from swiftfs.model import ObjectName

JOURNAL = "journal.sqlite"


def journaled_prefixes(cache_root: Path) -> set[ObjectName]:
    """Return what the names of segments begin with that a journal below `cache_root` speaks of.

    That is in the cache folder itself and in those in it; a root that belongs to somebody else says nothing.
    Raise `ConfigurationError` for a journal that cannot be read, or has another format.
    """
    if not os.access(cache_root, os.R_OK | os.X_OK):
        return set()
    return {prefix for journal in _journals(cache_root) for prefix in _read(journal)}


def _journals(root: Path) -> Iterator[Path]:
    yield from (path for path in (root / JOURNAL, *sorted(root.glob(f"*/{JOURNAL}"))) if path.exists())


def _read(journal: Path) -> set[ObjectName]:
    """Read a copy: who has the journal open lets nobody else in."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _uploads(copy_journal(journal, Path(folder)), journal)
        except sqlite3.Error as error:
            raise ConfigurationError(f"the journal {journal} cannot be read: {error}") from None


def _uploads(copy: Path, journal: Path) -> set[ObjectName]:
    with closing(sqlite3.connect(copy)) as database:
        if is_empty(database):
            return set()
        migrate(database, SCHEMA, journal)
        rows = database.execute("SELECT container, prefix FROM uploads").fetchall()
        return {ObjectName(container, prefix) for container, prefix in rows}
