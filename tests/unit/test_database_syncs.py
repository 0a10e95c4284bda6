"""How often a start waits for the disk: what only caches need not be there at once."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swiftfs.filecache.version_index import VersionIndex
from swiftfs.namespace.head_cache import HeadCache

WRITES = ("CREATE", "INSERT", "UPDATE", "DELETE", "BEGIN", "PRAGMA journal_mode =", "PRAGMA application_id =")
"""How the statements begin that write to the file."""


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return the levels at which databases have been written since the last call: `OFF` never waits."""
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    seen: list[str] = []

    def connected(*words: Any, **more: Any) -> sqlite3.Connection:
        database = connect(*words, **more)
        state = ["FULL"]  # SQLite's own

        def trace(statement: str) -> None:
            if statement.startswith("PRAGMA synchronous ="):
                state[0] = statement.rpartition(" ")[2]
            elif statement.startswith(WRITES):
                seen.append(state[0])

        database.set_trace_callback(trace)
        return database

    def taken() -> list[str]:
        found = list(dict.fromkeys(seen))
        seen.clear()
        return found

    monkeypatch.setattr(sqlite3, "connect", connected)
    return taken


def test_new_caches_do_not_wait_for_the_disk(tmp_path: Path, levels: Callable[[], list[str]]) -> None:
    HeadCache(tmp_path / "heads.sqlite").close()
    assert levels() == ["OFF"]
    index = VersionIndex(tmp_path / "content.sqlite")
    # The session of this boot: in WAL mode a commit at NORMAL does not wait.
    assert levels() == ["OFF", "NORMAL"]
    index.close(clean=True)


def test_the_end_of_a_clean_session_does(tmp_path: Path, levels: Callable[[], list[str]]) -> None:
    """Its rows are trusted after a power cut, until the next session is on the disk."""
    VersionIndex(tmp_path / "content.sqlite").close(clean=True)
    assert "FULL" in levels()
    index = VersionIndex(tmp_path / "content.sqlite")
    assert "FULL" in levels()
    index.close(clean=True)
