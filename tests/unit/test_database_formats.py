"""Databases of another format, of another program, damaged ones, and ones that cannot be read."""

import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from support.harness import harness, names, read
from support.memory_store import MemoryStore
from support.old_databases import NEW, OLD, contents, garbage, make, rewrite
from support.refused_changes import leave_refused_files
from support.stored_objects import body
from swiftfs.errors import ConfigurationError
from swiftfs.filecache.version_index import VersionIndex
from swiftfs.journal.database import JournalDB
from swiftfs.journal.schema import SCHEMA
from swiftfs.maintenance.other_journals import journaled
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.sqlite import OtherFormat, Schema, open_database

FIRST_JOURNAL = """
CREATE TABLE intents (
    seq INTEGER PRIMARY KEY, path TEXT NOT NULL, intent TEXT NOT NULL, errno INTEGER, reason TEXT,
    written INTEGER NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE uploads (
    container TEXT, prefix TEXT, named TEXT NOT NULL, PRIMARY KEY (container, prefix)
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
PRAGMA application_id = 0x73776A6C;
PRAGMA user_version = 1;
"""
"""The journal's tables as the first release made them; this text never changes."""
BROKEN = Schema(7, 1, OLD.tables, (NEW.migrations[0], "CREATE TABLE half (x); CREATE TABLE notes (x)"))


@pytest.fixture
def cache(store: MemoryStore, tmp_path: Path) -> Path:
    """A cache folder with a file that Swift refused."""
    return leave_refused_files(store, tmp_path / "cache", {"/file": b"data"})


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_an_older_format_is_migrated_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "a #%?.sqlite"
    make(path)
    with closing(open_database(path, NEW)) as database:
        assert database.execute("SELECT * FROM notes").fetchall() == [("one", 4)]
        assert database.execute("SELECT * FROM more").fetchall() == []
        assert database.execute("PRAGMA user_version").fetchone() == (NEW.format,) == (3,)
    with closing(open_database(path, NEW)) as database:
        assert database.execute("SELECT * FROM notes").fetchall() == [("one", 4)]


def test_a_new_database_has_the_tables_of_a_migrated_one(tmp_path: Path) -> None:
    make(tmp_path / "old")
    open_database(tmp_path / "old", NEW).close()
    open_database(tmp_path / "new", NEW).close()
    tables = "SELECT name, sql FROM sqlite_schema ORDER BY name"
    assert rows(tmp_path / "old", tables) == rows(tmp_path / "new", tables) != []


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    make(path)
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        open_database(path, BROKEN)
    assert rows(path, "SELECT name FROM sqlite_schema") == [("notes",)]
    with closing(open_database(path, OLD)) as database:
        assert database.execute("SELECT * FROM notes").fetchall() == [("one",)]


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    rewrite(path, "CREATE TABLE notes (theirs TEXT)")
    before = contents(tmp_path)
    with pytest.raises(OtherFormat, match="move it away"):
        open_database(path, OLD)
    assert contents(tmp_path) == before


def test_the_journal_of_the_first_release_is_read(cache: Path, store: MemoryStore) -> None:
    path = cache / "journal.sqlite"
    intents, facts = rows(path, "SELECT * FROM intents"), rows(path, "SELECT * FROM facts")
    assert intents
    path.unlink()
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(FIRST_JOURNAL)
        database.executemany("INSERT INTO intents VALUES (?, ?, ?, ?, ?, ?, ?)", [one[:7] for one in intents])
        database.executemany("INSERT INTO facts VALUES (?, ?)", facts)
    with harness(store, cache) as filesystem:
        assert read(filesystem, "/file") == b"data"
    assert body(store, "file") == b"data"
    assert rows(path, "PRAGMA user_version") == [(SCHEMA.format,)]


@pytest.mark.parametrize("mark", ["user_version = 9", "user_version = 0", "application_id = 8"])
def test_a_journal_of_another_format_ends_the_mount_and_is_kept(
    cache: Path, store: MemoryStore, mark: str
) -> None:
    kept = (
        rows(cache / "journal.sqlite", "PRAGMA user_version"),
        rows(cache / "journal.sqlite", "PRAGMA application_id"),
    )
    rewrite(cache / "journal.sqlite", f"PRAGMA {mark}")
    before = contents(cache)
    with pytest.raises(OtherFormat, match=r"journal\.sqlite"), harness(store, cache):
        pytest.fail("it was mounted")
    assert contents(cache) == before
    with pytest.raises(ConfigurationError, match=r"journal\.sqlite"):
        journaled(cache)
    rewrite(
        cache / "journal.sqlite",
        f"PRAGMA user_version = {kept[0][0][0]}",
        f"PRAGMA application_id = {kept[1][0][0]}",
    )
    with harness(store, cache) as filesystem:
        assert names(filesystem, "/") == ["file"]
    assert body(store, "file") == b"data"


def locked(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    return database


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for 0.1 s until a database is unlocked; SQLite's default is five seconds."""
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.1))


@pytest.mark.usefixtures("impatient")
def test_a_journal_that_cannot_be_read_now_does_not_count_as_damaged(cache: Path, store: MemoryStore) -> None:
    path = cache / "journal.sqlite"
    with closing(locked(path)), pytest.raises(ConfigurationError, match="locked"), harness(store, cache):
        pytest.fail("it was mounted")
    elsewhere = cache.parent / "elsewhere"
    path.rename(elsewhere)
    path.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be opened"), harness(store, cache):
        pytest.fail("it was mounted")
    path.rmdir()
    shutil.move(elsewhere, path)
    with harness(store, cache) as filesystem:
        assert names(filesystem, "/") == ["file"]
    assert not list(cache.glob("journal.damaged-*"))


@pytest.mark.parametrize("mark", ["user_version = 9", "user_version = 1", "application_id = 8"])
def test_a_cache_of_another_format_is_set_aside(
    tmp_path: Path, mark: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    index, heads = tmp_path / "content.sqlite", tmp_path / "heads.sqlite"
    VersionIndex(index).close(clean=True)
    HeadCache(heads).close()
    for path in (index, heads):
        rewrite(path, f"PRAGMA {mark if path == index else mark.replace('= 1', '= 0')}")
    before = [path.read_bytes() for path in (index, heads)]
    VersionIndex(index).close(clean=True)
    HeadCache(heads).close()
    aside = [path.with_name(f"{path.name}.other") for path in (index, heads)]
    assert [path.name for path in sorted(tmp_path.glob("*.other"))] == [path.name for path in aside]
    assert [path.read_bytes() for path in aside] == before
    assert len([record for record in caplog.records if "is kept as" in record.message]) == 2
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    assert "damaged" not in caplog.text
    assert rows(index, "SELECT state FROM session") == [("clean",)]


def test_a_cache_without_a_table_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index, heads = tmp_path / "content.sqlite", tmp_path / "heads.sqlite"
    VersionIndex(index).close(clean=True)
    HeadCache(heads).close()
    rewrite(index, "DROP TABLE session")
    rewrite(heads, "DROP TABLE heads")
    VersionIndex(index).close(clean=True)
    HeadCache(heads).close()
    assert rows(index, "SELECT state FROM session") == [("clean",)]
    assert rows(heads, "SELECT count(*) FROM heads") == [(0,)]
    assert [path.name for path in sorted(tmp_path.glob("*.damaged"))] == [
        "content.sqlite.damaged",
        "heads.sqlite.damaged",
    ]
    assert len([record for record in caplog.records if "it lacks " in record.message]) == 2


@pytest.mark.usefixtures("impatient")
def test_an_index_that_cannot_be_read_now_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "content.sqlite"
    VersionIndex(path).close(clean=True)
    with closing(locked(path)):
        index = VersionIndex(path)
        assert index.names() == set()
        index.close(clean=True)
    assert rows(path, "SELECT state FROM session") == [("clean",)]


def test_a_journal_reports_what_it_lost(cache: Path) -> None:
    garbage(cache / "journal.sqlite")
    log = JournalDB(cache, "box of memory")
    assert len(log.lost) == 1
    log.close()
