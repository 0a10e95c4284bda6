"""Commits of the journal's database: what they do, their rows about uploads and lost requests, and those that
the disk has refused, with the space that is kept for them.
"""

import json
import os
import shutil
import sqlite3
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from swiftfs.config.cache_dir import new_file
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.older_rows import Executed
from swiftfs.journal.operations import Operation
from swiftfs.journal.schema import Statement
from swiftfs.objects import ObjectName


class Record(Struct, frozen=True):
    """A pending operation about `path` in the mount.

    A folder's move that was executed gave it this name if it was `carried`: that is its number until then.
    """

    seq: int
    path: str
    operation: Operation
    carried: int | None = None


class Commit(Struct, frozen=True):
    """What one commit does: it deletes the records `drop`, and then writes those of `put`, by their numbers.

    It also writes the prefixes `unreferenced`. What was synced before of the records comes back after a power
    cut, unless it is `executed`.
    """

    put: Mapping[int, Record]
    drop: Collection[int]
    unreferenced: tuple[UnreferencedPrefix, ...] = ()
    executed: tuple[Executed, ...] = ()

    @classmethod
    def of(
        cls,
        put: Iterable[Record],
        drop: Iterable[int],
        unreferenced: Iterable[UnreferencedPrefix] = (),
        executed: Iterable[Executed] = (),
    ) -> "Commit":
        """Return the commit of these."""
        return cls({one.seq: one for one in put}, {*drop}, tuple(unreferenced), tuple(executed))

    @property
    def carries(self) -> bool:
        """Whether it gives records the names that a folder's move has brought."""
        return any(one.carried is not None for one in self.put.values())

    def then(self, later: "Commit") -> "Commit":
        """Return a commit that does what this one and a later one do."""
        left = {seq: one for seq, one in self.put.items() if seq not in later.drop}
        return Commit(
            {**left, **later.put},
            {*self.drop, *later.drop},
            (*self.unreferenced, *later.unreferenced),
            (*self.executed, *later.executed),
        )


class RefusedCommits:
    """The commits that the disk has refused, to be repeated in their order before another one.

    Not locked: the database's lock guards it.
    """

    def __init__(self) -> None:
        self._commits: deque[Commit] = deque()

    def add(self, commit: Commit) -> None:
        """Add the newest one."""
        # One commit of all: a disk may be full for hours. Not with another change of what was carried: how a
        # record came to its name decides what comes back after a power cut.
        if self._commits and not self._commits[-1].carries and not commit.carries:
            commit = self._commits.pop().then(commit)
        self._commits.append(commit)

    def __len__(self) -> int:
        return len(self._commits)

    def first(self) -> Commit:
        """Return the oldest one."""
        return self._commits[0]

    def written(self) -> None:
        """Forget the oldest one."""
        self._commits.popleft()


RESERVE = 1024 * 1024
"""Bytes of disk space reserved for the database: enough for thousands of records."""


class Reserve:
    """A file that takes disk space which only the database may have, for closes and mounts on a full disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def release(self) -> bool:
        """Free the space; return whether there was any."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True

    def fill(self) -> None:
        """Reserve the space, unless the database may need it now."""
        with suppress(OSError):
            if not self._path.exists() and shutil.disk_usage(self._path.parent).free >= 2 * RESERVE:
                # Written, and not a hole: a hole reserves nothing.
                with os.fdopen(new_file(self._path), "wb") as file:
                    file.write(bytes(RESERVE))


def upload_changes(prefixes: Iterable[UnreferencedPrefix]) -> list[Statement]:
    """Return statements that update the tables of uploads; of two about one prefix the newest counts."""
    uploads = {one.prefix: one for one in sorted(prefixes, key=lambda one: one.revision)}
    if not uploads:
        return []
    names: list[tuple[object, ...]] = [(prefix.container, prefix.key) for prefix in uploads]
    left = [(prefix, one) for prefix, one in uploads.items() if one.named is not None]
    return [
        ("DELETE FROM uploads WHERE container = ? AND prefix = ?", names),
        ("DELETE FROM upload_facts WHERE container = ? AND prefix = ?", names),
        (
            "INSERT INTO uploads VALUES (?, ?, ?)",
            [(prefix.container, prefix.key, json.dumps(sorted(one.named or ()))) for prefix, one in left],
        ),
        (
            "INSERT INTO upload_facts VALUES (?, ?, ?)",
            [(prefix.container, prefix.key, _write_facts(one)) for prefix, one in left],
        ),
    ]


def _write_facts(unreferenced: UnreferencedPrefix) -> str:
    objects = [[name.container, name.key] for name in sorted(unreferenced.objects)]
    facts = {"file": unreferenced.file, "objects": objects, "since": unreferenced.since}
    asked, landed, sent = map(sorted, (unreferenced.asked, unreferenced.landed, unreferenced.sent))
    return json.dumps({**facts, "asked": asked, "landed": landed, "sent": sent})


def read_uploads(database: sqlite3.Connection) -> list[UnreferencedPrefix]:
    """Return what the tables `uploads` and `upload_facts` say of all prefixes."""
    rows = database.execute("SELECT container, prefix, named FROM uploads").fetchall()
    facts = database.execute("SELECT * FROM upload_facts").fetchall()
    known = {(container, prefix): text for container, prefix, text in facts}
    return [
        _read_unreferenced(ObjectName(container, prefix), named, known.get((container, prefix), "{}"))
        for container, prefix, named in rows
    ]


def ambiguous_changes(records: Mapping[ObjectName, str | None]) -> list[Statement]:
    """Return statements that record lost requests by the object's name; None deletes a record."""
    kept = [(name.container, name.key, text) for name, text in records.items() if text is not None]
    return [
        (
            "DELETE FROM ambiguous WHERE container = ? AND key = ?",
            [(one.container, one.key) for one in records],
        ),
        ("INSERT INTO ambiguous VALUES (?, ?, ?)", kept),
    ]


def _read_unreferenced(prefix: ObjectName, named: str, text: str) -> UnreferencedPrefix:
    """Return what is recorded of a prefix: `named` in the table `uploads`, `text` in `upload_facts`."""
    facts = json.loads(text)
    return UnreferencedPrefix(
        prefix,
        frozenset(json.loads(named)),
        facts.get("file", ""),
        frozenset(ObjectName(container, key) for container, key in facts.get("objects", ())),
        frozenset(facts.get("asked", ())),
        facts.get("since", 0.0),
        frozenset(facts.get("landed", ())),
        frozenset(facts.get("sent", ())),
    )
