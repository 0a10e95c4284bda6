"""The uploads that the journals on this machine still need, read while mounts may have them open."""

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from swiftfs.config.cache_dir import JOURNAL
from swiftfs.errors import ConfigurationError
from swiftfs.journal.codec import Unreadable, decode
from swiftfs.journal.operations import PutFile
from swiftfs.journal.salvage import copy_journal
from swiftfs.journal.schema import SCHEMA
from swiftfs.lazy_dataclass import dataclass
from swiftfs.objects import ObjectName
from swiftfs.sqlite import is_empty, migrate


@dataclass(frozen=True, slots=True)
class Journaled:
    """The `ids` of journals, and the `prefixes` of the segments that they name.

    Segments below the prefixes that are `shared` may belong to several objects.
    """

    ids: frozenset[str] = frozenset()
    prefixes: frozenset[ObjectName] = frozenset()
    shared: frozenset[ObjectName] = frozenset()

    @classmethod
    def all_of(cls, several: Iterable["Journaled"]) -> "Journaled":
        """Return the union for several journals."""
        found = list(several)
        ids = frozenset(text for one in found for text in one.ids)
        shared = frozenset(prefix for one in found for prefix in one.shared)
        return cls(ids, frozenset(prefix for one in found for prefix in one.prefixes), shared)


def journaled(cache_root: Path) -> Journaled:
    """Return the uploads of the journals below `cache_root`: in the folder itself and in its subfolders.

    A root that this user may not read is ignored. Raise `ConfigurationError` for a journal that cannot be
    read, or has another format.
    """
    if not os.access(cache_root, os.R_OK | os.X_OK):
        return Journaled()
    return Journaled.all_of(_read(journal) for journal in _journals(cache_root))


def _journals(root: Path) -> Iterator[Path]:
    yield from (path for path in (root / JOURNAL, *sorted(root.glob(f"*/{JOURNAL}"))) if path.exists())


def _read(journal: Path) -> Journaled:
    """Read a copy of the journal: a mount that has it open has locked it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with closing(sqlite3.connect(copy_journal(journal, Path(folder)))) as database:
                # A mount has just made it, and knows of no upload yet.
                if is_empty(database):
                    return Journaled()
                migrate(database, SCHEMA, journal)
                ids = database.execute("SELECT value FROM facts WHERE name = 'id'").fetchall()
                uploads = database.execute("SELECT container, prefix FROM uploads").fetchall()
                # A request whose answer was lost may still store a manifest that names them.
                left = database.execute("SELECT container, key FROM leftovers").fetchall()
                shared = database.execute("SELECT * FROM shared").fetchall()
                # After a power cut the older ones may be the valid ones.
                query = "SELECT intent FROM intents UNION ALL SELECT intent FROM older"
                operations = database.execute(query).fetchall()
        except sqlite3.Error as error:
            raise ConfigurationError(f"the journal {journal} cannot be read: {error}") from None
    prefixes = {ObjectName(container, prefix) for container, prefix in (*uploads, *left)}
    try:
        prefixes |= {name for (text,) in operations for name in _needed(text)}
    except Unreadable as error:
        raise ConfigurationError(f"the journal {journal} cannot be read: {error}") from None
    common = frozenset(ObjectName(container, prefix) for container, prefix, *_ in shared)
    return Journaled(frozenset(text for (text,) in ids), frozenset(prefixes), common)


def _needed(text: str) -> Iterator[ObjectName]:
    """Yield the segments, and the prefixes of segments, that an operation needs."""
    operation = decode(text)
    if isinstance(operation, PutFile):
        yield from [operation.file.prefix] if operation.file.prefix else []
        yield from (stored.segment.name for stored in operation.file.evicted)
        if operation.file.base is not None and operation.file.base.manifest is not None:
            yield from (segment.name for segment in operation.file.base.manifest.segments)
