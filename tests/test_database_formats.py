"""Databases of another format, of another program, damaged ones, and ones that cannot be reached."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from bench_filesystem import bench, names, read, write
from commands import one_line, swiftfs
from journal_house import NEVER, body, refuse
from memory_store import MemoryStore
from mounts import Mount

from swiftfs.demo.server import SwiftServer
from swiftfs.errors import AccessDenied, ConfigurationError, SwiftfsError
from swiftfs.filecache.version_index import VersionIndex
from swiftfs.journal.database import SCHEMA, JournalDB
from swiftfs.maintenance.journaled_uploads import journaled
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
BROKEN = Schema(7, 1, OLD.tables, (NEW.migrations[0], "CREATE TABLE half (x); CREATE TABLE notes (x)"))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("box")


@pytest.fixture
def cache(store: MemoryStore, tmp_path: Path) -> Path:
    """A cache folder with a file that Swift refused."""
    folder = tmp_path / "cache"
    folder.mkdir()
    refuse(store, "put", AccessDenied)
    with pytest.raises(SwiftfsError), bench(store, folder, NEVER) as filesystem:
        write(filesystem, "/file", b"data")
    store.hook = None
    return folder


def rewrite(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def contents(folder: Path) -> dict[Path, bytes]:
    """Return what a folder holds, without SQLite's index of a log, which it makes anew at each opening."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    return {path: path.read_bytes() for path in files}


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def make(path: Path, schema: Schema = OLD) -> None:
    with closing(open_database(path, schema)) as database, database:
        database.execute("INSERT INTO notes (text) VALUES ('one')")


def kill_after(path: Path, *statements: str) -> None:
    """Run statements in a process that dies with its write-ahead log full."""
    words = "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None)\n" + (
        "for one in sys.argv[2:]: d.execute(one)\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", words, path, "PRAGMA journal_mode = WAL", *statements], check=True)
    assert path.with_name(f"{path.name}-wal").stat().st_size


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


@pytest.mark.parametrize(
    "mark", ["PRAGMA user_version = 9", "PRAGMA application_id = 8", "PRAGMA user_version = 0"]
)
@pytest.mark.parametrize("logged", [False, True])
def test_another_format_is_refused_and_not_touched(tmp_path: Path, mark: str, logged: bool) -> None:
    path = tmp_path / "notes"
    make(path)
    if logged:
        kill_after(path, mark)
    else:
        rewrite(path, mark)
    before = contents(tmp_path)
    with pytest.raises(OtherFormat) as caught:
        open_database(path, NEW)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert mark.rpartition(" ")[2] in str(caught.value)
    assert contents(tmp_path) == before


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
    with bench(store, cache) as filesystem:
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
    with pytest.raises(OtherFormat, match=r"journal\.sqlite"), bench(store, cache):
        pytest.fail("it was mounted")
    assert contents(cache) == before
    with pytest.raises(ConfigurationError, match=r"journal\.sqlite"):
        journaled(cache)
    rewrite(
        cache / "journal.sqlite",
        f"PRAGMA user_version = {kept[0][0][0]}",
        f"PRAGMA application_id = {kept[1][0][0]}",
    )
    with bench(store, cache) as filesystem:
        assert names(filesystem, "/") == ["file"]
    assert body(store, "file") == b"data"


def test_export_and_recover_speak_of_another_format(cache: Path, tmp_path: Path) -> None:
    rewrite(
        cache / "journal.sqlite",
        "PRAGMA user_version = 9",
        "ALTER TABLE intents ADD COLUMN more TEXT DEFAULT 'x'",
    )
    result = swiftfs("export", cache, tmp_path / "out")
    assert result.returncode == 1
    assert "has format 9, of a newer release" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (tmp_path / "out" / "file").read_bytes() == b"data"
    result = swiftfs("recover", cache)
    assert (result.returncode, result.stderr) == (0, "")
    assert "holds no damaged journal" in result.stdout


def test_a_journal_whose_table_has_other_columns_is_told(cache: Path, tmp_path: Path) -> None:
    rewrite(
        cache / "journal.sqlite",
        "PRAGMA user_version = 9",
        "ALTER TABLE intents RENAME COLUMN intent TO change",
    )
    result = swiftfs("export", cache, tmp_path / "out")
    assert result.returncode == 1
    assert "has format 9" in result.stderr
    assert "damaged" not in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def garbage(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_tables(path: Path) -> None:
    rewrite(path, "DROP TABLE intents")


def only_its_log(path: Path) -> None:
    kill_after(path, "INSERT OR REPLACE INTO facts VALUES ('x', 'y')")
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, garbage, empty, without_tables, only_its_log])
def test_a_damaged_journal_is_set_aside_with_its_files(cache: Path, store: MemoryStore, harm: object) -> None:
    assert callable(harm)
    harm(cache / "journal.sqlite")
    with bench(store, cache) as filesystem:
        assert names(filesystem, "/") == []
    assert (
        len([path for path in cache.glob("journal.damaged-*") if not path.name.endswith(("-wal", "-shm"))])
        == 1
    )
    assert [path.read_bytes() for path in (cache / "lost").iterdir()] == [b"data"]


def locked(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    return database


def test_a_journal_that_is_out_of_reach_is_not_damaged(cache: Path, store: MemoryStore) -> None:
    path = cache / "journal.sqlite"
    with closing(locked(path)), pytest.raises(ConfigurationError, match="locked"), bench(store, cache):
        pytest.fail("it was mounted")
    elsewhere = cache.parent / "elsewhere"
    path.rename(elsewhere)
    path.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be opened"), bench(store, cache):
        pytest.fail("it was mounted")
    path.rmdir()
    shutil.move(elsewhere, path)
    with bench(store, cache) as filesystem:
        assert names(filesystem, "/") == ["file"]
    assert not list(cache.glob("journal.damaged-*"))


@pytest.mark.parametrize("mark", ["user_version = 9", "user_version = 1", "application_id = 8"])
def test_a_cache_of_another_format_is_kept_aside(
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


def test_a_cache_that_lacks_a_table_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


def test_an_index_that_is_out_of_reach_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "content.sqlite"
    VersionIndex(path).close(clean=True)
    with closing(locked(path)):
        index = VersionIndex(path)
        assert index.names() == set()
        index.close(clean=True)
    assert rows(path, "SELECT state FROM session") == [("clean",)]


def test_a_mount_refuses_a_journal_of_a_newer_release_in_one_line(
    mounted: Mount, swift: SwiftServer, container: str
) -> None:
    mounted.stop()
    journal = mounted.cache / "journal.sqlite"
    rewrite(journal, f"PRAGMA user_version = {SCHEMA.format + 1}")
    before = contents(mounted.cache)
    command = ("mount", container, mounted.path, "--cache-dir", mounted.cache)
    line = one_line(swiftfs(*command, environment=swift.environment()))
    assert f"{journal} has format {SCHEMA.format + 1}, of a newer release" in line
    assert contents(mounted.cache) == before
    rewrite(journal, f"PRAGMA user_version = {SCHEMA.format}")
    mounted.start()


def test_a_log_says_what_it_lost(cache: Path) -> None:
    garbage(cache / "journal.sqlite")
    log = JournalDB(cache, "box of memory")
    assert len(log.lost) == 1
    log.close()
