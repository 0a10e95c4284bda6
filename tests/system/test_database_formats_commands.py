"""Databases of another format, of another program, damaged ones, and ones that cannot be read.

These run commands, some on a real Swift.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import one_line, swiftfs
from support.harness import harness, names
from support.memory_store import MemoryStore
from support.mounts import Mount
from support.old_databases import NEW, contents, garbage, make, rewrite
from support.refused_changes import leave_refused_files
from swiftfs.demo.server import SwiftServer
from swiftfs.journal.schema import SCHEMA
from swiftfs.sqlite import OtherFormat, open_database


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("box")


@pytest.fixture
def cache(store: MemoryStore, tmp_path: Path) -> Path:
    """A cache folder with a file that Swift refused."""
    return leave_refused_files(store, tmp_path / "cache", {"/file": b"data"})


def kill_after(path: Path, *statements: str) -> None:
    """Execute statements in a process that dies with a full write-ahead log."""
    words = "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None)\n" + (
        "for one in sys.argv[2:]: d.execute(one)\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", words, path, "PRAGMA journal_mode = WAL", *statements], check=True)
    assert path.with_name(f"{path.name}-wal").stat().st_size


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


def test_export_and_recover_report_another_format(cache: Path, tmp_path: Path) -> None:
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


def test_a_journal_whose_table_has_other_columns_is_reported(cache: Path, tmp_path: Path) -> None:
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


def truncate_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_tables(path: Path) -> None:
    rewrite(path, "DROP TABLE intents")


def leave_only_the_wal(path: Path) -> None:
    kill_after(path, "INSERT OR REPLACE INTO facts VALUES ('x', 'y')")
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncate_file, garbage, empty, without_tables, leave_only_the_wal])
def test_a_damaged_journal_is_set_aside_with_its_files(cache: Path, store: MemoryStore, harm: object) -> None:
    assert callable(harm)
    harm(cache / "journal.sqlite")
    with harness(store, cache) as filesystem:
        assert names(filesystem, "/") == []
    assert (
        len([path for path in cache.glob("journal.damaged-*") if not path.name.endswith(("-wal", "-shm"))])
        == 1
    )
    assert [path.read_bytes() for path in (cache / "lost").iterdir()] == [b"data"]


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
