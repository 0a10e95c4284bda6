"""Room for a mount that begins on a full disk: copies of what is in Swift give way to the journal."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from swiftfs.config.cache_dir import CONTENT, JOURNAL, VERSIONS
from swiftfs.errors import ConfigurationError, pluralize
from swiftfs.filecache.cache_space import CacheDisk
from swiftfs.filecache.version_cache import evict_closed
from swiftfs.filecache.version_index import names_in_order
from swiftfs.journal.late_versions import only_here
from swiftfs.journal.operations import Unreadable, decode_ambiguity
from swiftfs.journal.salvage import copy_journal
from swiftfs.objects import ObjectVersion
from swiftfs.sqlite import KEPT
from swiftfs.store.ambiguous import Ambiguity

log = logging.getLogger(__name__)

ROOM = 2 * KEPT
"""Free bytes of disk with which a mount begins, if copies can be deleted for them."""

_IN_MEMORY = Path("/dev/shm")


def make_room(cache: Path) -> None:
    """Delete copies in `cache` if the journal has no space to begin, the least recently used ones first.

    Those that may be needed after a late request stay. While that is unknown nothing is deleted.
    """
    disk = CacheDisk(cache)
    if disk.free() >= KEPT or not (cache / CONTENT).is_dir():
        return
    # On a full disk SQLite can open no database with a write-ahead log, not even to read it.
    folder = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    try:
        with TemporaryDirectory(dir=folder, prefix="swiftfs-") as elsewhere:
            needed = _needed(copy_journal(cache / JOURNAL, Path(elsewhere)))
            order = names_in_order(copy_journal(cache / VERSIONS, Path(elsewhere)))
        count = evict_closed(cache / CONTENT, order, needed, lambda: disk.free() >= ROOM)
    except (ConfigurationError, OSError, sqlite3.Error, Unreadable) as error:
        log.info("no copy is deleted, although the disk of %s is full: %s", cache, error)
    else:
        log.info("the disk of %s is full: %s deleted", cache, pluralize(count, "copy", "copies"))


def _needed(journal: Path) -> set[ObjectVersion]:
    """Return the versions that only a local file may have, by the records of lost requests."""
    return set(only_here(_lost(journal)))


def _lost(journal: Path) -> Iterator[Ambiguity]:
    if not journal.exists():
        return
    with closing(sqlite3.connect(journal)) as database:
        if database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ambiguous'").fetchone():
            for (text,) in database.execute("SELECT record FROM ambiguous").fetchall():
                yield decode_ambiguity(text)
