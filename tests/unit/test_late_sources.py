"""A late request overwrites or deletes what a rename is about to move: the newer version arrives."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.harness import ANY_END, ME, copy_live, harness, write
from support.jobs import wait_until
from support.late_store import (
    LATE,
    OPTIONS,
    LateStore,
    away,
    late,
    remove,
    repair,
    settle,
    store_body,
    store_file,
)
from support.stored_objects import foreign, keys
from swiftfs.errors import AccessDenied, SwiftfsError
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

pytestmark = LATE

MIB = 1024 * 1024
SIZES = pytest.mark.parametrize("size", [10, 5000, 3 * MIB])
BACKGROUND = f"{OPTIONS},background_rename=1"
OLD, NEW = ObjectName("box", "d/file"), ObjectName("box", "e/file")

Lose = Callable[[FileSystem, LateStore], None]


def overwritten(filesystem: FileSystem, store: LateStore) -> None:
    """Lose a PUT of the file, which is to be stored with other bytes."""
    store.lose("put", OLD.key)
    write(filesystem, "/d/file", b"older")
    wait_until(lambda: store.lost == 1)
    settle(filesystem)


def deleted(filesystem: FileSystem, store: LateStore) -> None:
    """Lose the deletion of a file of that name."""
    store_file(filesystem, b"older", "/d/file")
    store.lose("delete", OLD.key)
    remove(filesystem, "/d/file")
    assert store.lost == 1


LOSSES = pytest.mark.parametrize("lose", [overwritten, deleted])


def prepare(filesystem: FileSystem, store: LateStore, lose: Lose, data: bytes, others: int = 0) -> None:
    """Store the file after a request of its name was lost, and others beside it."""
    filesystem.mkdir("/d", 0o755, ME)
    for number in range(others):
        write(filesystem, f"/d/{number}", b"other")
    lose(filesystem, store)
    store_file(filesystem, data, "/d/file")


def on_copy(store: LateStore, act: Callable[[], None]) -> None:
    """Call `act` at the first COPY."""

    def hook(method: str, subject: str) -> None:
        if method == "copy" and subject == f"{OLD}":
            store.hook = None
            act()

    store.hook = hook


@SIZES
@LOSSES
@pytest.mark.parametrize("others", [0, 8])
def test_the_next_mount_moves_the_newer_version(
    store: LateStore, cache: Path, size: int, lose: Lose, others: int
) -> None:
    data, died = os.urandom(size), cache.with_name("died")

    def kill() -> None:
        store.hook = away
        copy_live(cache, died)

    with harness(store, cache, f"{BACKGROUND},drain=0", close_error=ANY_END) as filesystem:
        prepare(filesystem, store, lose, data, others)
        on_copy(store, kill)
        filesystem.rename("/d", "/e")
        wait_until(died.exists)
    store.hook = None
    store.land()
    with harness(store, died, BACKGROUND) as filesystem:
        settle(filesystem)
        assert store_body(store, NEW) == data
        assert OLD.key not in keys(store)


@SIZES
@LOSSES
def test_a_mount_moves_the_newer_version_in_the_background(
    store: LateStore, cache: Path, size: int, lose: Lose
) -> None:
    data = os.urandom(size)
    with harness(store, cache, BACKGROUND) as filesystem:
        prepare(filesystem, store, lose, data)
        on_copy(store, store.land)
        filesystem.rename("/d", "/e")
        settle(filesystem)
        assert store.lost == 0
        assert store_body(store, NEW) == data
        assert OLD.key not in keys(store)


@SIZES
@pytest.mark.parametrize("old", ["/d", "/d/file"])
def test_a_rename_that_waits_does_not_move_the_older_version(
    store: LateStore, filesystem: FileSystem, size: int, old: str
) -> None:
    data, new = os.urandom(size), old.replace("/d", "/e")
    prepare(filesystem, store, overwritten, data)
    if old != "/d":
        filesystem.mkdir("/e", 0o755, ME)
        settle(filesystem)
    on_copy(store, store.land)
    with pytest.raises(SwiftfsError):
        filesystem.rename(old, new)
    repair(filesystem)
    assert store_body(store, OLD) == data
    filesystem.rename(old, new)
    settle(filesystem)
    assert store_body(store, NEW) == data


@SIZES
@pytest.mark.parametrize("old", ["/d", "/d/file"])
def test_an_interrupted_rename_does_not_forget_the_newer_version(
    store: LateStore, cache: Path, size: int, old: str
) -> None:
    data, new, died = os.urandom(size), old.replace("/d", "/e"), cache.with_name("died")

    def kill() -> None:
        store.hook = away
        copy_live(cache, died)
        away("", "")

    with harness(store, cache, f"{OPTIONS},drain=0", close_error=ANY_END) as filesystem:
        prepare(filesystem, store, overwritten, data)
        filesystem.mkdir("/e", 0o755, ME)
        settle(filesystem)
        on_copy(store, kill)
        with suppress(SwiftfsError, OSError):
            filesystem.rename(old, new)
    store.hook = None
    store.land()
    with harness(store, died, OPTIONS, close_error=ANY_END) as filesystem:
        repair(filesystem)
        stands = [name for name in (OLD, NEW) if name.key in keys(store)]
        assert [store_body(store, name) for name in stands] == [data]


def test_what_comes_late_to_an_old_name_is_deleted(store: LateStore, filesystem: FileSystem) -> None:
    """Swift refuses to delete what was copied; then a late request overwrites it."""
    prepare(filesystem, store, overwritten, b"new")
    filesystem.mkdir("/e", 0o755, ME)
    settle(filesystem)

    def hook(method: str, subject: str) -> None:
        if method.startswith("delete") and OLD.key in subject:
            raise AccessDenied(subject)

    store.hook = hook
    filesystem.rename("/d/file", "/e/file")
    assert OLD.key in keys(store)
    store.hook = None
    store.land()
    settle(filesystem)
    repair(filesystem)
    assert OLD.key not in keys(store)
    assert store_body(store, NEW) == b"new"


def test_a_late_deletion_of_what_the_next_mount_could_not_move(store: LateStore, cache: Path) -> None:
    """The process may have sent it before it died."""
    died = cache.with_name("died")

    def kill() -> None:
        store.hook = away
        copy_live(cache, died)
        away("", "")

    with harness(store, cache, f"{BACKGROUND},drain=0", close_error=ANY_END) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        for number in range(8):
            write(filesystem, f"/d/{number}", b"other")
        store_file(filesystem, b"ours", "/d/file")
        on_copy(store, kill)
        filesystem.rename("/d", "/e")
        wait_until(died.exists)
    store.hook = None
    store.refused_copies.add(NEW.key)
    with harness(store, died, BACKGROUND, close_error="^1 change was refused") as filesystem:
        wait_until(lambda: not filesystem.waiting())
        late(filesystem).fetch()
        store.delete(OLD)
        repair(filesystem)
        assert store_body(store, OLD) == b"ours"


@pytest.mark.parametrize("theirs", [b"", b"theirs"])
def test_a_late_copy_to_where_the_object_could_not_move_is_undone(
    store: LateStore, cache: Path, theirs: bytes
) -> None:
    """In the end Swift refuses the COPY, or another client has stored an object there."""
    with harness(store, cache, BACKGROUND, close_error="^1 change was refused") as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        store_file(filesystem, b"ours", "/d/file")
        store.lose("copy", NEW.key)

        def then() -> None:
            store.on_loss = None
            store.refused_copies.add(NEW.key)
            if theirs:
                foreign(store, NEW.key, theirs)

        store.on_loss = then
        filesystem.rename("/d", "/e")
        wait_until(lambda: not filesystem.waiting())
        assert store_body(store, OLD) == b"ours"
        late(filesystem).fetch()
        store.land()
        assert store_body(store, NEW) == b"ours"
        repair(filesystem)
        assert store_body(store, OLD) == b"ours"
        if theirs:
            assert store_body(store, NEW) == theirs
        else:
            assert NEW.key not in keys(store)


@pytest.mark.parametrize("old", ["/d", "/d/file"])
@pytest.mark.parametrize("background", [True, False])
def test_attributes_that_a_late_request_undoes_just_before_the_copy_arrive(
    store: LateStore, cache: Path, old: str, *, background: bool
) -> None:
    """The late request has stored the same bytes: only the headers tell the two versions apart."""
    with harness(store, cache, BACKGROUND if background else OPTIONS) as filesystem:
        for folder in ("/d", *(["/e"] if old != "/d" else [])):
            filesystem.mkdir(folder, 0o755, ME)
        store.lose("put", OLD.key)
        store_file(filesystem, b"bytes", "/d/file")
        assert store.lost == 1
        filesystem.chmod("/d/file", 0o600)
        settle(filesystem)
        on_copy(store, store.land)
        filesystem.rename(old, old.replace("/d", "/e"))
        settle(filesystem)
        repair(filesystem)
        assert store.lost == 0
        assert ";mode=0100600;" in store.head(NEW).content_type
        assert OLD.key not in keys(store)
