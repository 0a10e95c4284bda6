"""The names that changes in the journals of this machine are about: what Swift says of them is old."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from swiftfs.concurrency import monotonic
from swiftfs.config.cache_dir import JOURNAL
from swiftfs.journal.operations import MoveFolder, Operation, names_of
from swiftfs.journal.salvage import salvage
from swiftfs.lazy_dataclass import dataclass
from swiftfs.maintenance.remote_tree import folders_above
from swiftfs.objects import ObjectName
from swiftfs.paths import Source

FRESH_SECONDS = 10.0
"""How long what was read of the journals is used: to read one with 100,000 changes takes seconds."""


@dataclass(frozen=True, slots=True)
class Waiting:
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
        self._names: set[ObjectName] = set()
        self._folders: set[ObjectName] = set()
        self._above: set[ObjectName] = set()
        self._read_at = -FRESH_SECONDS

    def read(self) -> list[Waiting]:
        """Read the journals; return where changes wait. Raise `ConfigurationError` if one cannot be read."""
        found = []
        for journal in self._journals():
            about = [one for one in _operations(journal) if self._concerns(one)]
            if about and not self._is_foreign(journal.parent):
                found.append(Waiting(journal.parent, len(about)))
                self._add(about)
        self._read_at = monotonic()
        return found

    def covers(self, name: ObjectName) -> bool:
        """Return whether a change waits of an object or folder, of a folder above it, or of what is below it.

        The key of a folder ends in a slash.
        """
        if monotonic() - self._read_at > FRESH_SECONDS:
            self.read()
        plain = ObjectName(name.container, name.key.removesuffix("/"))
        return (
            not self._names.isdisjoint((name, plain))
            or name in self._above
            or any(_is_below(name, folder) for folder in self._folders)
        )

    def _add(self, operations: Iterable[Operation]) -> None:
        for one in operations:
            self._names.update(names_of(one))
            self._folders.update(_folders_of(one))
            for name in names_of(one):
                self._above.update(ObjectName(name.container, folder) for folder in folders_above(name.key))

    def _concerns(self, operation: Operation) -> bool:
        return any(
            self._source.is_account
            or (name.container == self._source.container and name.key.startswith(self._source.prefix))
            for name in (*names_of(operation), *_folders_of(operation))
        )

    def _journals(self) -> Iterator[Path]:
        for root in dict.fromkeys(self._roots):
            if os.access(root, os.R_OK | os.X_OK):
                for journal in (root / JOURNAL, *sorted(root.glob(f"*/{JOURNAL}"))):
                    if os.access(journal, os.R_OK):
                        yield journal


def _operations(journal: Path) -> list[Operation]:
    # What is damaged does not matter here: the mount says so.
    return [found.operation for found in salvage(journal).found]


def _folders_of(operation: Operation) -> list[ObjectName]:
    if not isinstance(operation, MoveFolder):
        return []
    return [
        ObjectName(operation.container, operation.source),
        ObjectName(operation.target_container, operation.target),
    ]


def _is_below(name: ObjectName, folder: ObjectName) -> bool:
    return name.container == folder.container and f"{name.key.removesuffix('/')}/".startswith(folder.key)
