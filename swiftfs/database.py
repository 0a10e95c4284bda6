"""SQLite files of one mount, which has its cache folder to itself."""

import sqlite3
import zlib
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file is for, by SQLite's `application_id`, the format's number, and what makes its tables."""

    application: int
    format: int
    tables: str


def make_tables(database: sqlite3.Connection, schema: Schema) -> None:
    """Make an empty database one of the schema."""
    marks = f"PRAGMA application_id = {schema.application}; PRAGMA user_version = {schema.format}"
    database.executescript(f"{schema.tables}; {marks}")


def open_database(path: Path, schema: Schema, *, synchronous: str = "NORMAL") -> sqlite3.Connection:
    """Open a file, for its owner alone, and make it when it is not there; any thread may use it.

    Raise `sqlite3.DatabaseError` for a damaged one or one of another format, `sqlite3.OperationalError` and
    `OSError` for one that cannot be reached.
    """
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        # Nobody else needs the shared index that other modes keep.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {synchronous}")
        path.chmod(0o600)
        marks = tuple(
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if marks == (0, 0) and not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            make_tables(database, schema)
        elif marks != (schema.application, schema.format):
            raise sqlite3.DatabaseError("it has another format")  # noqa: TRY301
    except BaseException:
        database.close()
        raise
    return database


def boot_id() -> str:
    """Return what tells this run of the machine from every other, empty where nothing does."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def row_checksum(*values: object) -> int:
    """Return a checksum of a row, for SQLite has none."""
    return zlib.crc32(repr(values).encode())
