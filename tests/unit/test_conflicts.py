"""An object that two clients changed: which version wins, and which is kept."""

import os
from pathlib import Path
from threading import Event

import pytest

from support.harness import ME, copy_live, harness, put, write
from support.jobs import wait_until
from support.late_store import LateStore
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, body, foreign, keys
from swiftfs.paths import Folder


def test_the_last_writer_wins(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, NEVER) as filesystem:
        write(filesystem, "/new", b"ours")
        foreign(store, "new", b"theirs")
    assert keys(store) == ["new"]
    assert body(store, "new") == b"ours"


def test_a_new_file_that_another_client_made_too(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, f"{NEVER},conflict=keep") as filesystem:
        write(filesystem, "/folder.d.txt", b"ours")
        foreign(store, "folder.d.txt", b"theirs")
    ours, theirs = sorted(keys(store), key=len)
    assert body(store, ours) == b"ours"
    assert body(store, theirs) == b"theirs"
    assert theirs.startswith("folder.d (conflict ")
    assert theirs.endswith(").txt")


def test_a_file_that_another_client_changed_too(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "file", b"at first")
    with harness(store, tmp_path, f"{NEVER},conflict=keep") as filesystem:
        write(filesystem, "/file", b"ours")
        foreign(store, "file", b"theirs")
    assert sorted(body(store, key) for key in keys(store)) == [b"ours", b"theirs"]


def test_no_conflict_is_seen_where_there_is_none(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "file", b"at first")
    with harness(store, tmp_path, f"{NEVER},conflict=keep") as filesystem:
        for data in (b"one", b"two"):
            write(filesystem, "/file", data)
            filesystem.services.journal.flush_below(Folder("box", ""))
        write(filesystem, "/new", b"new")
        write(filesystem, "/temporary", b"renamed")
        filesystem.rename("/temporary", "/file")
    assert keys(store) == ["file", "new"]
    assert body(store, "file") == b"renamed"


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("options", ["", ",segment_size=1M"])
def test_our_own_version_is_no_conflict_when_its_answer_was_lost(
    tmp_path: Path, options: str, existed: bool
) -> None:
    """Also if the file was changed again before its PUT was known to have succeeded."""
    store = LateStore("box")
    if existed:
        foreign(store, "file", b"at first")
    size = 3_000_000 if options else 3
    with harness(store, tmp_path, f"settle=0.01,conflict=keep{options}") as filesystem:
        for method in ("put", "put_manifest"):
            store.lose(method, "file", 1000)
        write(filesystem, "/file", b"1" * size)
        wait_until(lambda: any(one.attempts for one in filesystem.waiting()))
        store.land()
        write(filesystem, "/file", b"2" * size)
        store.loses.clear()
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert keys(store) == ["file"]
    assert body(store, "file") == b"2" * size


@pytest.mark.parametrize("existed", [True, False])
def test_our_own_version_is_no_conflict_after_a_crash_either(tmp_path: Path, existed: bool) -> None:
    """The process died while the server executed its PUT, and the file had been changed again."""
    store, arrived, goes_on = MemoryStore("box"), Event(), Event()
    if existed:
        foreign(store, "file", b"at first")
    (cache := tmp_path / "cache").mkdir()

    def hook(method: str, _subject: str) -> None:
        if method == "put":
            arrived.set()
            goes_on.wait()

    with harness(store, cache, "settle=0.01,conflict=keep") as filesystem:
        store.hook = hook
        handle = filesystem.create("/file", 0o644, os.O_WRONLY | os.O_TRUNC, ME)
        put(filesystem, handle, 0, b"1")
        filesystem.flush(handle)
        arrived.wait()
        put(filesystem, handle, 0, b"22")
        filesystem.flush(handle)
        copy_live(cache, tmp_path / "image")
        goes_on.set()
        filesystem.release(handle)
    foreign(store, "file", b"1")
    with harness(store, tmp_path / "image", "settle=0.01,conflict=keep"):
        pass
    assert keys(store) == ["file"]
    assert body(store, "file") == b"22"
