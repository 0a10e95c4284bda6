"""An object that two clients changed: who wins, and what is kept of the other."""

from pathlib import Path

import pytest
from bench_filesystem import bench, write
from journal_house import NEVER, body, foreign, keys
from memory_store import MemoryStore

from swiftfs.naming import Folder


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("box")


def test_the_last_writer_wins(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, NEVER) as filesystem:
        write(filesystem, "/new", b"ours")
        foreign(store, "new", b"theirs")
    assert keys(store) == ["new"]
    assert body(store, "new") == b"ours"


def test_a_new_file_that_another_client_made_too(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, f"{NEVER},conflict=keep") as filesystem:
        write(filesystem, "/folder.d.txt", b"ours")
        foreign(store, "folder.d.txt", b"theirs")
    ours, theirs = sorted(keys(store), key=len)
    assert body(store, ours) == b"ours"
    assert body(store, theirs) == b"theirs"
    assert theirs.startswith("folder.d (conflict ")
    assert theirs.endswith(").txt")


def test_a_file_that_another_client_changed_too(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "file", b"at first")
    with bench(store, tmp_path, f"{NEVER},conflict=keep") as filesystem:
        write(filesystem, "/file", b"ours")
        foreign(store, "file", b"theirs")
    assert sorted(body(store, key) for key in keys(store)) == [b"ours", b"theirs"]


def test_no_conflict_is_seen_where_there_is_none(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "file", b"at first")
    with bench(store, tmp_path, f"{NEVER},conflict=keep") as filesystem:
        for data in (b"one", b"two"):
            write(filesystem, "/file", data)
            filesystem._journal.flush_below(Folder("box", ""))
        write(filesystem, "/new", b"new")
        write(filesystem, "/temporary", b"renamed")
        filesystem.rename("/temporary", "/file")
    assert keys(store) == ["file", "new"]
    assert body(store, "file") == b"renamed"
