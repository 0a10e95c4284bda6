"""Files that an earlier mount left are shown when their folder is looked at, and stored in any case."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import LEFT, ME, harness, names, read, write
from support.jobs import wait_until
from support.lagging_store import LaggingStore
from support.stored_objects import NEVER, body, foreign, keys, refuse
from swiftfs.errors import AccessDenied
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem

pytestmark = pytest.mark.store(LaggingStore, "box", "box_segments")

FILES = 5


@pytest.fixture
def left(store: LaggingStore, tmp_path: Path) -> Path:
    """Return the cache folder of a mount that left files in `/a`, one over an object, and in `/b/c`."""
    foreign(store, "a/file0", b"older")
    with harness(store, tmp_path, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        filesystem.mkdir("/b", 0o755, ME)
        filesystem.mkdir("/b/c", 0o755, ME)
        refuse(store, "put", AccessDenied)
        for folder in ("/a", "/b/c"):
            for number in range(FILES):
                write(filesystem, f"{folder}/file{number}", f"bytes {number}".encode())
    store.hook = None
    store.stop()
    return tmp_path


def folders(filesystem: FileSystem) -> set[str]:
    """Return the prefixes of the folders in which something is not shown yet."""
    namespace = filesystem.services.namespace
    with namespace._lock:
        return {folder.prefix for folder in namespace._overlay._expected}


def stored(filesystem: FileSystem) -> None:
    filesystem.services.journal.flush_all()
    wait_until(lambda: not filesystem.waiting())


ALL = [f"file{number}" for number in range(FILES)]


def test_entries_are_made_when_the_folder_is_looked_at(store: LaggingStore, left: Path) -> None:
    with harness(store, left, NEVER) as filesystem:
        assert folders(filesystem) == {"a/", "b/c/"}
        assert len(filesystem.waiting()) == 2 * FILES + 2
        assert filesystem.getattr("/a/file1").size == len(b"bytes 1")
        assert folders(filesystem) == {"b/c/"}
        assert names(filesystem, "/") == ["a", "b"]
        assert names(filesystem, "/b") == ["c"]
        assert names(filesystem, "/b/c") == ALL
        assert folders(filesystem) == set()
        assert read(filesystem, "/b/c/file4") == b"bytes 4"


@pytest.mark.parametrize("looks", [False, True])
def test_what_is_stored_stays_shown_while_listings_lag(store: LaggingStore, left: Path, looks: bool) -> None:
    with harness(store, left, f"{NEVER},ttl=0") as filesystem:
        if looks:
            assert names(filesystem, "/b/c") == ALL
        stored(filesystem)
        assert {f"b/c/{name}" for name in ALL} <= store._containers["box"].objects.keys()
        assert names(filesystem, "/a") == ALL
        assert names(filesystem, "/b/c") == ALL
        assert read(filesystem, "/a/file0") == b"bytes 0"
        store.go_on()


def changes(filesystem: FileSystem) -> None:
    filesystem.unlink("/b/c/file0")
    filesystem.rename("/b/c/file1", "/a/moved")
    write(filesystem, "/b/c/file2", b"newer", os.O_WRONLY | os.O_TRUNC)
    filesystem.chmod("/b/c/file3", 0o600)


@pytest.mark.parametrize("when", [lambda _: None, stored, lambda one: names(one, "/b/c")])
def test_changes_of_them(store: LaggingStore, left: Path, when: Callable[[FileSystem], object]) -> None:
    with harness(store, left, f"{NEVER},ttl=0") as filesystem:
        when(filesystem)
        changes(filesystem)
        for _ in range(2):
            assert names(filesystem, "/a") == [*ALL, "moved"]
            assert names(filesystem, "/b/c") == ALL[2:]
            assert read(filesystem, "/b/c/file2") == b"newer"
            assert filesystem.getattr("/b/c/file3").mode & 0o777 == 0o600
            stored(filesystem)
        store.go_on()
    assert body(store, "a/moved") == b"bytes 1"
    assert keys(store) == [
        *(f"a/{name}" for name in ALL),
        "a/moved",
        "b",
        "b/c",
        *(f"b/c/{name}" for name in ALL[2:]),
    ]


def test_a_folder_with_them_is_renamed(store: LaggingStore, left: Path) -> None:
    store.go_on()
    with harness(store, left, f"{NEVER},ttl=0") as filesystem:
        filesystem.rename("/b", "/d")
        assert names(filesystem, "/d/c") == ALL
        assert folders(filesystem) == {"a/"}
        filesystem.rename("/a", "/e")
        assert read(filesystem, "/e/file0") == b"bytes 0"
    assert keys(store) == ["d", "d/c", *(f"d/c/{name}" for name in ALL), *(f"e/{name}" for name in ALL)]


def test_the_outcome_of_a_change_may_come_twice(store: LaggingStore, left: Path) -> None:
    """A task whose end the disk refuses is executed again."""
    store.go_on()
    with harness(store, left, NEVER) as filesystem:
        journal = filesystem.services.journal
        with journal._changed:
            sleeping = next(one for one in journal._queue.asleep() if one.name.key == "b/c/file0")
            task = sleeping.awake()
        task.notify(AccessDenied("no"))
        task.notify(AccessDenied("no"))
        assert folders(filesystem) == {"a/"}
        with filesystem.services.namespace._lock:
            shown = filesystem.services.namespace._overlay.changes_in(Folder("box", "b/c/"))
        assert sorted(shown) == ALL[1:]
