"""The journal after a power cut: it goes back to the last sync."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from swiftfs.journal.codec import Unreadable, decode
from swiftfs.journal.operations import PutFile
from swiftfs.journal.schema import NOT_WRITTEN, SELECT_OLDER, Statement

SetAside = Callable[[int | str, str, str, str], None]
"""Saves a row: its number, the path, the operation's text, and why it does not count."""


def go_back(database: sqlite3.Connection, synced: int, content: Path, set_aside: SetAside) -> list[Statement]:
    """Set newer rows aside; return the statements that make the journal what it was at the commit `synced`.

    They may name local files, in the folder `content`, that lack bytes. An older row may do so only if it was
    overtaken, and the disk has lost the commit that says so: a change that is executed gives its file away.
    """
    back = []
    for row in database.execute(SELECT_OLDER, {"synced": synced}).fetchall():
        if _is_usable(row[2], content):
            back.append(row)
        else:
            set_aside(f"{row[0]}-{row[5]}", row[1], row[2], "its local file is not whole")
    known, gone = {row[1] for row in back}, []
    query = "SELECT seq, path, intent, written FROM intents"
    for seq, path, text, written in database.execute(query).fetchall():
        if written > synced:
            rest = "; the one before it counts" if path in known else ""
            set_aside(seq, path, text, f"{NOT_WRITTEN}{rest}")
        elif not _is_usable(text, content):
            set_aside(seq, path, text, "its local file is not whole, because it was stored")
        else:
            continue
        gone.append((seq,))
    return [
        ("DELETE FROM intents WHERE seq = ?", gone),
        ("INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?)", back),
        ("DELETE FROM older WHERE until > 0", [()]),
    ]


def _is_usable(text: str, content: Path) -> bool:
    """Return whether the local file that a row names, if it names one, has all of its bytes."""
    try:
        operation = decode(text)
        if not isinstance(operation, PutFile):
            return True
        return (content / operation.file.file).stat().st_size >= operation.file.size
    except OSError:
        return False
    except Unreadable:  # it is reported as such
        return True
