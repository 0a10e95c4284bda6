"""What the journals on this machine have: segments that they need, and names whose changes wait.

Mounts may have them open meanwhile.
"""

import math
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from swiftfs.concurrency import monotonic
from swiftfs.config.cache_dir import JOURNAL
from swiftfs.errors import ConfigurationError
from swiftfs.journal.operations import MoveFolder, Operation, PutFile, Unreadable, decode, names_of
from swiftfs.journal.salvage import copy_journal, salvage
from swiftfs.journal.schema import SCHEMA
from swiftfs.maintenance.trees import folders_above
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
from swiftfs.sqlite import is_empty, migrate

REST = 10
"""The pause between reads of the journals, in times of a read: one with 100,000 changes takes seconds."""


class Waiting(Struct, frozen=True):
    """So many `changes` of names below a source wait in a cache folder."""

    cache: Path
    changes: int


class PendingNames:
    """Knows which names below `source` have changes in journals below the folders `roots`.

    Journals for which `is_foreign` holds, given their cache folder, belong to another account: they are left
    out. So are those that this user may not read.
    """

    def __init__(self, roots: Sequence[Path], source: Source, is_foreign: Callable[[Path], bool]) -> None:
        self._roots = roots
        self._source = source
        self._is_foreign = is_foreign
        # The cache folders of the changes, by the names that they are about.
        self._names: dict[ObjectName, Path] = {}
        self._folders: dict[ObjectName, Path] = {}
        self._above: set[ObjectName] = set()
        self._read_again_at = -math.inf

    def read(self) -> list[Waiting]:
        """Read the journals; return where changes wait. Raise `ConfigurationError` if one cannot be read."""
        found = []
        began = monotonic()
        for journal in self._journals():
            # What is damaged does not matter here: the mount says so.
            about = [one.operation for one in salvage(journal).found if self._concerns(one.operation)]
            if about and not self._is_foreign(journal.parent):
                found.append(Waiting(journal.parent, len(about)))
                self._add(about, journal.parent)
        now = monotonic()
        self._read_again_at = now + REST * (now - began)
        return found

    def covers(self, name: ObjectName) -> bool:
        """Return whether a change waits of a name (a folder's ends in `/`), above it, or below it."""
        return self.cache_of(name) is not None or name in self._above

    def cache_of(self, name: ObjectName) -> Path | None:
        """Return in which cache folder a change waits of an object or folder, or of a folder above it."""
        if monotonic() > self._read_again_at:
            self.read()
        plain = ObjectName(name.container, name.key.removesuffix("/"))
        found = self._names.get(name) or self._names.get(plain)
        if found is not None:
            return found
        return next((cache for folder, cache in self._folders.items() if _is_below(name, folder)), None)

    def _add(self, operations: Iterable[Operation], cache: Path) -> None:
        for one in operations:
            self._names.update(dict.fromkeys(names_of(one), cache))
            self._folders.update(dict.fromkeys(_folders_of(one), cache))
            for name in names_of(one):
                self._above.update(ObjectName(name.container, folder) for folder in folders_above(name.key))

    def _concerns(self, operation: Operation) -> bool:
        return any(
            self._source.is_account
            or (name.container == self._source.container and name.key.startswith(self._source.prefix))
            for name in (*names_of(operation), *_folders_of(operation))
        )

    def _journals(self) -> Iterator[Path]:
        found = (journal for root in self._roots for journal in _journals(root))
        yield from (journal for journal in dict.fromkeys(found) if os.access(journal, os.R_OK))


def _folders_of(operation: Operation) -> list[ObjectName]:
    if not isinstance(operation, MoveFolder):
        return []
    return [
        ObjectName(operation.container, operation.source),
        ObjectName(operation.target_container, operation.target),
    ]


def _is_below(name: ObjectName, folder: ObjectName) -> bool:
    return name.container == folder.container and f"{name.key.removesuffix('/')}/".startswith(folder.key)


class Journaled(Struct, frozen=True):
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
    return Journaled.all_of(_read(journal) for journal in _journals(cache_root))


def _journals(root: Path) -> Iterator[Path]:
    """Yield the journals in a folder and its subfolders; none if this user may not read it."""
    if os.access(root, os.R_OK | os.X_OK):
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
            yield from operation.file.base.manifest.names
