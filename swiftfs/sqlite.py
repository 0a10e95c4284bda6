"""SQLite files in a cache folder, which one mount uses exclusively."""

import errno
import logging
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path

from msgspec import Struct

from swiftfs.errors import ConfigurationError

log = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

LITTLE = 128 * 1024
"""With fewer free bytes of disk a "disk I/O error" counts as a full disk: SQLite reports a full disk only for
some of its files."""

KEPT = 2 * 1024 * 1024
"""Free bytes of disk that are left to the journal, in all that others write to the cache folder. Without them
nothing can be uploaded, which alone would free space, and no mount can begin."""


def leaves_room(folder: Path) -> bool:
    """Return whether the journal keeps its space in a cache folder."""
    try:
        return shutil.disk_usage(folder).free >= KEPT
    except OSError:  # whoever writes there will see it
        return True


class OtherFormat(ConfigurationError):
    """A database of another release or program; it was not changed. The message is a line for users."""


class Schema(Struct, frozen=True):
    """The tables of a kind of database, identified by SQLite's `application_id` and `user_version`.

    `tables` is the SQL that creates format `first`, the oldest that can be read. Each of `migrations` is the
    SQL from one format to the next: to change the tables, append one. A new database goes through the same
    steps, so it equals a migrated one.
    """

    application: int
    first: int
    tables: str
    migrations: tuple[str, ...] = ()

    @property
    def format(self) -> int:
        """The format that this release writes."""
        return self.first + len(self.migrations)


def is_empty(database: sqlite3.Connection) -> bool:
    """Return whether nothing was ever written to a database."""
    tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return not tables and pragma(database, "application_id") == pragma(database, "user_version") == 0


def make_tables(database: sqlite3.Connection, schema: Schema) -> None:
    """Create the schema's tables in an empty database."""
    _run_migrations(database, schema, (schema.tables, *schema.migrations))


def migrate(database: sqlite3.Connection, schema: Schema, path: Path) -> None:
    """Migrate the tables to the schema's format, in one transaction.

    Raise `OtherFormat` for a database that is newer, too old, or not of this application; `path` is its name
    in the message.
    """
    steps = _format_of(database, schema, path) - schema.first
    if steps < len(schema.migrations):
        _run_migrations(database, schema, schema.migrations[steps:])


def open_database(
    path: Path, schema: Schema, *, synchronous: str = "NORMAL", is_cache: bool = False
) -> sqlite3.Connection:
    """Open or create a file that only its owner may read; any thread may use the connection.

    An older format is migrated. A new file that `is_cache` reaches the disk later. Raise `OtherFormat` if the
    database must not be changed, `sqlite3.DatabaseError` if it is damaged or lacks a table, and `OSError` or
    `sqlite3.OperationalError` (a subclass) if the file cannot be opened.
    """
    _check_format_read_only(path, schema)
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        # Other modes keep an index in shared memory (`-shm`) for other processes, of which there are none.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        is_new = is_empty(database)
        is_lazy = is_cache and is_new
        if is_lazy:  # otherwise SQLite waits seven times for the disk, and whoever mounts waits for it
            database.execute("PRAGMA synchronous = OFF")
        # A commit appends to one file, without an fsync(2): a close waits 0.2 ms for it.
        database.execute("PRAGMA journal_mode = WAL")
        if not is_lazy:
            database.execute(f"PRAGMA synchronous = {synchronous}")
        path.chmod(0o600)
        if is_new:
            make_tables(database, schema)
        if is_lazy:
            database.execute(f"PRAGMA synchronous = {synchronous}")
        if not is_new:
            migrate(database, schema, path)
            # A damaged catalogue may have lost a table: an INSERT would fail only in the middle of the work.
            if missing := _all_tables(schema) - _tables(database):
                raise sqlite3.DatabaseError(f"it lacks {', '.join(sorted(missing))}")  # noqa: TRY301
    except BaseException:
        database.close()
        raise
    return database


AT_ONCE = 64
"""Rows of one statement: with 15 parameters in each SQLite's smallest limit, 999, is enough."""


def for_rows(text: str, rows: int) -> str:
    """Return a statement whose parameters in brackets after `VALUES` are those of so many rows."""
    head, values, rest = text.partition("VALUES ")
    one, bracket, tail = rest.partition(")")
    return head + values + ", ".join([one + bracket] * rows) + tail


def execute_rows(database: sqlite3.Connection, text: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Run a statement with each of `rows`, in few steps if it has their parameters after `VALUES`.

    In each step sqlite3 gives up the GIL, and whoever holds locks meanwhile waits for it.
    """
    if len(rows) == 1 or "VALUES " not in text:
        database.executemany(text, rows)
        return
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        database.execute(for_rows(text, len(some)), list(chain.from_iterable(some)))


class CacheDatabase:
    """A database that only caches: its loss costs requests, but no data. It has no lock.

    A damaged file, or one of another format, is renamed and a new one created; `loss` says in the log what
    that costs. A file that cannot be opened is left alone, and the database is in memory: `path` is None
    then. `prepare` is called with each opened database; an exception from it counts as damage.
    """

    def __init__(
        self,
        path: Path | None,
        schema: Schema,
        prepare: Callable[[sqlite3.Connection], None],
        loss: str,
        *,
        synchronous: str = "NORMAL",
    ) -> None:
        self.path = path
        self._schema = schema
        self._prepare = prepare
        self._loss = loss
        self._synchronous = synchronous

    def open(self) -> sqlite3.Connection:
        """Open the database, in memory if the disk refuses it; never raise an error of the disk."""
        if self.path is None:
            return self.in_memory()
        try:
            return self._open(self.path)
        except (sqlite3.OperationalError, OSError) as error:  # no sign of damage: it may be locked
            reason = reason_of(error, self.path.parent)
            log.warning("%s cannot be opened (%s): %s", self.path, reason, self._loss)
            return self.in_memory()
        except (OtherFormat, sqlite3.Error) as error:
            return self.recreate(error)

    def may_grow(self) -> bool:
        """Return whether rows may be added: a cache leaves the last space of the disk to the journal."""
        return self.path is None or leaves_room(self.path.parent)

    def recreate(self, error: Exception) -> sqlite3.Connection:
        """Rename the file, which is closed and unusable because of `error`, and open a new database."""
        if self.path is None:
            return self.in_memory()
        try:
            if isinstance(error, OtherFormat):
                aside = _put_aside(self.path, "other")
                log.info("%s: it is kept as %s, and %s", error, aside.name, self._loss)
            else:
                log.warning("%s cannot be used (%s): it is set aside, and %s", self.path, error, self._loss)
                _put_aside(self.path, "damaged")
            return self._open(self.path)
        except (sqlite3.Error, OSError):
            return self.in_memory()

    def in_memory(self) -> sqlite3.Connection:
        """Open a database in memory, which replaces the file from now on."""
        self.path = None
        database = _in_memory(self._schema)
        self._prepare(database)
        return database

    def _open(self, path: Path) -> sqlite3.Connection:
        database = open_database(path, self._schema, synchronous=self._synchronous, is_cache=True)
        try:
            self._prepare(database)
        except BaseException:
            database.close()
            raise
        return database


def _in_memory(schema: Schema) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", check_same_thread=False)
    make_tables(database, schema)
    return database


@cache
def _all_tables(schema: Schema) -> frozenset[str]:
    with closing(_in_memory(schema)) as whole:
        return frozenset(_tables(whole))


def _put_aside(path: Path, suffix: str) -> Path:
    """Rename a closed database, replacing one that was renamed before; return its new path."""
    aside = path.with_name(f"{path.name}.{suffix}")
    for rest in ("-shm", "-journal"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    # SQLite would apply the write-ahead log of an older file to this one.
    aside.with_name(f"{aside.name}-wal").unlink(missing_ok=True)
    # The log first: a process that dies in between leaves a database without a log, which is sound.
    for rest in ("-wal", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + rest).replace(aside.with_name(aside.name + rest))
    return aside


def _check_format_read_only(path: Path, schema: Schema) -> None:
    """Raise `OtherFormat`, or `sqlite3.DatabaseError` for damage, before the file is opened for writing.

    Even opening and closing would change it: SQLite checkpoints the write-ahead log.
    """
    if not size_of(path):
        if size_of(path.with_name(f"{path.name}-wal")):  # SQLite would delete the log, and all data in it
            raise sqlite3.DatabaseError("it is empty, but not its write-ahead log")
        return
    with opened_read_only(path) as database:
        if not is_empty(database):
            _format_of(database, schema, path)


@contextmanager
def opened_read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that nobody uses, and change no file. After the first query `-shm` has the log's index.

    Errors as in `open_database`.
    """
    # Without a log the file is complete, and reading it must create no other file.
    mode = "mode=ro" if size_of(path.with_name(f"{path.name}-wal")) else "immutable=1"
    shared = path.with_name(f"{path.name}-shm")
    shared_before = shared.exists()
    database = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
    try:
        yield database
    finally:
        database.close()
        # Opening a database with a log makes this file.
        if not shared_before:
            shared.unlink(missing_ok=True)


def _tables(database: sqlite3.Connection) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, 0 if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _format_of(database: sqlite3.Connection, schema: Schema, path: Path) -> int:
    """Return the database's format; raise `OtherFormat` if this release cannot read it."""
    application, number = pragma(database, "application_id"), pragma(database, "user_version")
    if application != schema.application:
        raise OtherFormat(
            f"{path} is not this database of swiftfs (its application id is {application:#x}, not "
            f"{schema.application:#x}): move it away, or use another cache_dir; it was not changed"
        )
    if not schema.first <= number <= schema.format:
        known = f"{schema.first} to {schema.format}" if schema.migrations else f"{schema.format}"
        age = "a newer" if number > schema.format else "an older"
        raise OtherFormat(
            f"{path} has format {number}, of {age} release of swiftfs; this one reads format {known}: "
            "use that release, or another cache_dir; the file was not changed"
        )
    return number


def _run_migrations(database: sqlite3.Connection, schema: Schema, steps: Iterable[str]) -> None:
    marks = f"PRAGMA application_id = {schema.application}; PRAGMA user_version = {schema.format}"
    try:
        # One transaction: a process killed here leaves the old format, or an empty file.
        database.executescript(";\n".join(["BEGIN IMMEDIATE", *steps, marks, "COMMIT"]))
    except BaseException:
        database.rollback()
        raise


def pragma(database: sqlite3.Connection, name: str) -> int:
    """Return a number that a PRAGMA says."""
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def is_for_want_of_space(error: Exception, folder: Path) -> bool:
    """Return whether a database in `folder` failed because the disk is full."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    if "full" in str(error):
        return True
    # For the file that SQLite maps (`-shm`) it reports a full disk as an I/O error.
    return "disk I/O error" in str(error) and shutil.disk_usage(folder).free < LITTLE


def reason_of(error: Exception, folder: Path) -> str:
    """Return in words for users why a database in `folder` cannot be used."""
    return f"no space is left on the disk of {folder}" if is_for_want_of_space(error, folder) else str(error)


def boot_id() -> str:
    """Return an id of the machine's current boot, empty where the kernel has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def row_checksum(*values: object) -> int:
    """Return a checksum of a row: SQLite has none."""
    return zlib.crc32(repr(values).encode())
