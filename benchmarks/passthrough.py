"""A folder shown through swiftfs's own binding: the least that a file system in Python can cost.

It does with Python what passthrough.c does: `python benchmarks/passthrough.py VERSION ROOT MOUNTPOINT`, with
the version of libfuse. `--journal FILE` commits a row to an SQLite database at each close(2), as a journal
must that survives a kill.
"""

import argparse
import os
import sqlite3
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from threading import Lock

from swiftfs.fuse import load_binding
from swiftfs.objects import Attributes, Caller, FileSpan

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.passthrough import Passthrough

PART = 512
"""How many names of a folder are given at a time: more than the kernel asks for."""

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE change (seq INTEGER PRIMARY KEY, handle INTEGER, record BLOB);
"""
ROW = "INSERT INTO change (handle, record) VALUES (?, zeroblob(300))"
"""About as much as is recorded of a new file."""


class Bare(Passthrough):
    """A passthrough that does nothing more than that of C does."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._found: dict[int, dict[str, Attributes]] = {}

    def readdir(self, handle: int, start: int = 0) -> Sequence[tuple[str, Attributes]]:
        """Read a folder once, from its beginning on."""
        if not start:
            self._found[handle] = dict(super().readdir(handle))
        return list(islice(self._found[handle].items(), start, start + PART))

    def known_attributes(self, handle: int, names: Sequence[str]) -> Sequence[Attributes | None]:
        """Answer with what `readdir` has found."""
        return [self._found[handle].get(name) for name in names]  # none for the dots

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> int:  # noqa: ARG002
        """Create a file, whose owner is whoever runs this."""
        return os.open(self._at(path), flags | os.O_CREAT, mode)

    def read(self, handle: int, offset: int, size: int) -> FileSpan:
        """Answer without looking at the size: libfuse sends what there is."""
        return FileSpan(handle, offset, size)


class Journaled(Bare):
    """A passthrough that also keeps a record of each close(2)."""

    def __init__(self, root: Path, journal: Path) -> None:
        super().__init__(root)
        self._lock = Lock()
        self._journal = sqlite3.connect(journal, check_same_thread=False, isolation_level=None)
        self._journal.executescript(SCHEMA)

    def flush(self, handle: int) -> None:
        """Handle a close(2)."""
        with self._lock:
            self._journal.execute(ROW, (handle,))


def main() -> None:
    """Mount and serve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version")
    parser.add_argument("root", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--journal", type=Path)
    arguments = parser.parse_args()
    os.umask(0)
    journal = arguments.journal
    filesystem = Bare(arguments.root) if journal is None else Journaled(arguments.root, journal)
    load_binding(arguments.version)(filesystem, arguments.mountpoint, source="passthrough")


if __name__ == "__main__":
    main()
