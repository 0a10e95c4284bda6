"""Databases of other releases, and damaged ones."""

import sqlite3
from contextlib import closing
from pathlib import Path

from swiftfs.sqlite import Schema, open_database

OLD = Schema(7, 1, "CREATE TABLE notes (text TEXT)")
NEW = Schema(
    7,
    1,
    OLD.tables,
    (
        "ALTER TABLE notes ADD COLUMN size INTEGER DEFAULT 3",
        "CREATE TABLE more (x); UPDATE notes SET size = 4;",
    ),
)


def rewrite(path: Path, *statements: str) -> None:
    """Execute statements in a database."""
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the bytes of each file in a folder, without SQLite's `-shm`, which each opening writes anew."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {path: path.read_bytes() for path in files}


def make(path: Path, schema: Schema = OLD) -> None:
    """Make a database with one row."""
    with closing(open_database(path, schema)) as database, database:
        database.execute("INSERT INTO notes (text) VALUES ('one')")


def garbage(path: Path) -> None:
    """Write a file that is no database."""
    path.write_bytes(b"no database " * 1000)
