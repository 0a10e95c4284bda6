"""Renames in the background of what Swift refuses to move, or of what other clients change meanwhile."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from support.background_renames import (
    ALL,
    OPTIONS,
    folder_of_many,
    held,
    is_quiet,
    moved_keys,
    refuse,
    remake,
)
from support.halted_moves import Halt
from support.harness import ANY_END, ME, copy_live, get, harness, names, put, read, sync_all, write
from support.interrupted_moves import refusals
from support.jobs import wait_until
from support.lagging_store import LaggingStore
from support.memory_store import MemoryStore
from support.stored_objects import as_of_now, body, foreign, keys, ten_minutes_later
from swiftfs.errors import AccessDenied, StoreError, Unavailable
from swiftfs.journal.carried_tasks import FolderRename
from swiftfs.namespace.entry import Entry
from swiftfs.objects import DIRECTORY_TYPE, ObjectName, Page
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.rename_ops import RenameOps
from swiftfs.store.protocol import Headers


@pytest.fixture
def store() -> MemoryStore:
    return folder_of_many()


@pytest.fixture
def refused(store: MemoryStore, cache: Path) -> Iterator[FileSystem]:
    """A mount whose end reports changes that were refused."""
    with harness(store, cache, OPTIONS, close_error="^[0-9]+ changes? (was|were) refused") as built:
        yield built


pytestmark = pytest.mark.mount_options(OPTIONS)


def test_what_swift_refuses_stays_at_its_old_name(
    refused: FileSystem, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(store, "03", "04")
    refused.rename("/d", "/e")
    wait_until(is_quiet(refused))
    stay = ["03", "04"]
    assert keys(store) == sorted(["d/03", "d/04", *(key for key in moved_keys() if key[2:] not in stay)])
    assert names(refused, "/") == ["d", "e"]
    assert names(refused, "/d") == stay
    assert names(refused, "/e") == [name for name in ALL if name not in stay]
    assert read(refused, "/d/03") == b"3"
    assert sorted(path for path, *_ in refusals(refused)) == ["/d/03", "/d/04"]
    said = [record.message for record in caplog.records if "could not be moved" in record.message]
    assert sorted(said)[0].startswith("/d/03: could not be moved to /e/03, and is at its old name again: ")


def test_what_stays_is_shown_while_the_folder_s_marker_has_not_moved(store: MemoryStore, cache: Path) -> None:
    store.put(ObjectName("box", "d"), b"", Headers(DIRECTORY_TYPE))
    image = cache.with_name("image")

    def refuse_some(method: str, subject: str) -> None:
        if method == "copy" and subject.endswith("/03"):
            raise AccessDenied(f"{subject} is refused")
        if method == "copy" and "/" not in subject.removeprefix("box/"):
            raise Unavailable("the folder's marker is not copied")

    store.hook = refuse_some
    with harness(store, cache, OPTIONS, close_error="^1 change was refused") as filesystem:
        filesystem.rename("/d", "/e")
        wait_until(lambda: [one.path for one in filesystem.waiting()] == ["/d"])
        copy_live(cache, image)
        twin = as_of_now(store)
        assert names(filesystem, "/") == ["d", "e"]
        store.hook = None
    twin.hook = refuse_some
    with harness(twin, image, OPTIONS) as filesystem:
        assert names(filesystem, "/") == ["d", "e"]
        assert names(filesystem, "/d") == ["03"]
        filesystem.refresh()
        assert names(filesystem, "/") == ["d", "e"]
        twin.hook = None
    assert keys(twin) == [key for key in moved_keys("d/03", "e") if key != "e/03"]


def test_what_was_deleted_does_not_come_back_when_swift_refuses_to_move_it(
    refused: FileSystem, store: MemoryStore
) -> None:
    halt = held(refused, store, error=AccessDenied)
    refused.unlink("/e/03")
    write(refused, "/e/04", b"newer")
    halt.go_on()
    wait_until(is_quiet(refused))
    stay = [key.replace("e/", "d/", 1) for key in moved_keys() if key not in ("e/03", "e/04")]
    assert keys(store) == [*stay, "e/04"]
    assert body(store, "e/04") == b"newer"


def test_what_this_mount_has_just_stored_and_deleted_does_not_come_back_though_listings_lag(
    store: MemoryStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_page = MemoryStore.list_page

    def before_the_last_put(self: MemoryStore, container: str, **how: Any) -> Page:
        page = list_page(self, container, **how)
        rows = [
            replace(row, last_modified="2020-01-01T00:00:00.000000") if row.key == "d/03" else row
            for row in page.rows
        ]
        return replace(page, rows=tuple(rows))

    monkeypatch.setattr(MemoryStore, "list_page", before_the_last_put)
    with harness(store, cache, f"{OPTIONS},ttl=0", close_error="refused") as filesystem:
        write(filesystem, "/d/03", b"own")
        sync_all(filesystem)
        halt = held(filesystem, store, error=AccessDenied)
        filesystem.unlink("/e/03")
        halt.go_on()
        wait_until(is_quiet(filesystem))
        assert "d/03" not in keys(store)


def test_what_was_overwritten_is_in_swift_until_the_new_state_is(store: MemoryStore, cache: Path) -> None:
    """A power cut may take that."""
    with harness(store, cache, "settle=30,background_rename=10") as filesystem:
        halt = held(filesystem, store, error=AccessDenied, subject="box/d/04")
        write(filesystem, "/e/04", b"newer")
        halt.go_on()
        wait_until(lambda: {one.kind for one in filesystem.waiting()} == {"PutFile", "Delete"})
        assert body(store, "d/04") == b"4"
    assert keys(store) == moved_keys()
    assert body(store, "e/04") == b"newer"


def test_what_is_needed_at_its_new_name_is_parked_when_swift_refuses_to_move_it(
    refused: FileSystem, store: MemoryStore
) -> None:
    halt = held(refused, store, error=AccessDenied)
    refused.chmod("/e/03", 0o600)
    remake(refused, "/d", "/d/04")
    halt.go_on()
    wait_until(lambda: [one.path for one in refused.waiting() if one.state == "parked"] == ["/d/03", "/d/04"])
    assert (body(store, "d/03"), body(store, "d/04")) == (b"3", b"4")
    assert read(refused, "/e/03") == b"3"
    assert (read(refused, "/d/04"), read(refused, "/e/04")) == (b"new", b"4")
    store.hook = None
    refused.retry()
    wait_until(is_quiet(refused))
    assert (body(store, "e/03"), body(store, "d/04"), body(store, "e/04")) == (b"3", b"new", b"4")


def test_a_new_file_that_is_open_at_the_old_name_is_not_stored_over_what_stays(
    refused: FileSystem, store: MemoryStore
) -> None:
    """Only its close hands it in, after Swift has refused the move."""
    halt = held(refused, store, error=AccessDenied)
    refused.mkdir("/d", 0o755, ME)
    handle = refused.create("/d/04", 0o644, os.O_WRONLY, ME)
    halt.go_on()
    wait_until(lambda: [one.path for one in refused.waiting() if one.kind == "MoveObject"] == ["/d/04"])
    put(refused, handle, 0, b"new")
    with pytest.raises(AccessDenied):  # the file waits for what is parked
        refused.flush(handle)
    refused.flush(handle)
    for _ in range(2):
        with pytest.raises(AccessDenied):
            refused.fsync(handle, data_only=False)
    refused.release(handle)
    assert (read(refused, "/d/04"), read(refused, "/e/04")) == (b"new", b"4")
    store.hook = None
    refused.retry()
    wait_until(is_quiet(refused))
    assert (body(store, "d/04"), body(store, "e/04")) == (b"new", b"4")


def test_a_link_is_not_stored_over_what_stays_while_it_is_made(
    refused: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = held(refused, store, error=AccessDenied)
    refused.mkdir("/d", 0o755, ME)
    submit = refused.services.journal.submit

    def submit_late(*args: object, **options: object) -> object:
        halt.go_on()
        wait_until(lambda: [one.path for one in refused.waiting() if one.kind == "MoveObject"] == ["/d/04"])
        submitting: Callable[..., object] = submit
        return submitting(*args, **options)

    monkeypatch.setattr(refused.services.journal, "submit", submit_late)
    refused.symlink("target", "/d/04", ME)
    store.hook = None
    refused.retry()
    wait_until(is_quiet(refused))
    assert (body(store, "d/04"), body(store, "e/04")) == (b"target", b"4")


def test_a_folder_that_is_made_anew_shows_what_has_come_back_meanwhile(
    refused: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a new file of such a name would count as one that replaces nothing."""
    halt = held(refused, store, error=AccessDenied)
    submit = refused.services.journal.submit

    def submit_late(*args: object, **options: object) -> object:
        halt.go_on()
        wait_until(is_quiet(refused))
        submitting: Callable[..., object] = submit
        return submitting(*args, **options)

    monkeypatch.setattr(refused.services.journal, "submit", submit_late)
    refused.mkdir("/d", 0o755, ME)
    assert names(refused, "/d") == ALL


def test_an_object_of_another_client_at_the_new_name_stays(refused: FileSystem, store: MemoryStore) -> None:
    def store_theirs(method: str, subject: str) -> None:
        if method == "list_page" and subject == "box/e/":
            store.hook = None
            foreign(store, "e/03", b"theirs")

    store.hook = store_theirs
    refused.rename("/d", "/e")
    wait_until(is_quiet(refused))
    assert keys(store) == ["d/03", *moved_keys()]
    assert (body(store, "d/03"), body(store, "e/03")) == (b"3", b"theirs")
    refused.refresh()
    assert read(refused, "/d/03") == b"3"
    assert read(refused, "/e/03") == b"theirs"


def test_another_client_s_file_at_the_new_name_of_a_marker_is_shown_beside_the_folder(
    refused: FileSystem, store: MemoryStore
) -> None:
    store.put(ObjectName("box", "d/sub"), b"", Headers(DIRECTORY_TYPE))
    halt = Halt(store, "copy", AccessDenied, subject="box/d/sub")
    refused.rename("/d", "/e")
    wait_until(lambda: "e/sub/x" in keys(store) and halt.reached.is_set())
    foreign(store, "e/sub", b"theirs")
    refused.refresh()
    assert names(refused, "/e") == [*ALL, "sub%file"]
    assert refused.getattr("/e/sub%file").size == len(b"theirs")
    assert read(refused, "/e/sub%file") == b"theirs"
    assert names(refused, "/e/sub") == ["x"]
    halt.go_on()
    wait_until(is_quiet(refused))
    assert body(store, "e/sub") == b"theirs"


def test_a_marker_that_cannot_move_is_that_of_the_folder_that_was_made_again(
    refused: FileSystem, store: MemoryStore
) -> None:
    """It has no bytes that anybody needs, so it is not parked."""
    store.put(ObjectName("box", "d"), b"", Headers(DIRECTORY_TYPE))
    halt = held(refused, store, error=AccessDenied, subject="box/d")
    refused.mkdir("/d", 0o755, ME)
    refused.chmod("/e", 0o700)
    foreign(store, "e", b"theirs")
    halt.go_on()
    wait_until(is_quiet(refused))
    assert keys(store) == sorted(["d", "e", *moved_keys()])
    assert body(store, "e") == b"theirs"
    refused.refresh()
    assert names(refused, "/") == ["d", "e", "e%file"]


def test_a_rename_begins_again_when_a_move_is_refused_meanwhile(
    refused: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stayed at its old name is in the target, which was looked at before that."""
    halt = held(refused, store, error=AccessDenied, subject="box/d/03")
    hand_in = RenameOps._hand_in_below

    def refuse_first(operations: RenameOps, rename: FolderRename) -> None:
        halt.go_on()
        wait_until(is_quiet(refused))
        hand_in(operations, rename)

    monkeypatch.setattr(RenameOps, "_hand_in_below", refuse_first)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        refused.rename("/e", "/d")
    assert names(refused, "/d") == ["03"]
    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
        refused.rename("/e", "/d")


def test_a_folder_that_was_made_again_where_a_marker_is_left_can_be_removed(
    store: MemoryStore, cache: Path
) -> None:
    store.put(ObjectName("box", "d"), b"", Headers(DIRECTORY_TYPE))

    def refuse_deletion(method: str, subject: str) -> None:
        if method in ("delete", "delete_many") and subject == "box/d":
            raise AccessDenied("no")

    with harness(store, cache, "settle=30,background_rename=10") as filesystem:
        halt = held(filesystem, store, subject="box/d")
        filesystem.mkdir("/d", 0o755, ME)
        store.hook = refuse_deletion
        halt.go_on()
        wait_until(lambda: [one.kind for one in filesystem.waiting()] == ["PutMarker"])
        store.hook = None
        filesystem.rmdir("/d")
    assert keys(store) == sorted(["e", *moved_keys()])


@pytest.mark.parametrize("is_changed", [False, True])
def test_what_was_copied_is_shown_though_another_client_has_replaced_it_at_the_old_name(
    store: MemoryStore, cache: Path, is_changed: bool
) -> None:
    """A change of it that waits is stored."""
    image = cache.with_name("image")
    with harness(store, cache, OPTIONS) as filesystem:
        halt = held(filesystem, store, "delete_many")  # all were copied, none was deleted
        if is_changed:
            filesystem.chmod("/e/03", 0o600)
        copy_live(cache, image)
        twin = as_of_now(store)
        halt.go_on()
    foreign(twin, "d/03", b"theirs")
    with harness(twin, image, OPTIONS) as filesystem:
        halt = Halt(twin, "delete_many")
        assert read(filesystem, "/e/03") == b"3"
        halt.go_on()
        wait_until(is_quiet(filesystem))
        filesystem.refresh()
        assert (read(filesystem, "/d/03"), read(filesystem, "/e/03")) == (b"theirs", b"3")
        assert (filesystem.getattr("/e/03").mode & 0o777 == 0o600) is is_changed
    assert keys(twin) == sorted(["d/03", *moved_keys()])


def refuse_deletion(store: MemoryStore, subject: str) -> None:
    """Let Swift refuse every deletion of an object."""
    delete = store.delete_many

    def delete_others(names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        wanted = list(names)
        failed = delete(name for name in wanted if f"{name}" != subject)
        return {**failed, **{name: AccessDenied("no") for name in wanted if f"{name}" == subject}}

    store.delete_many = delete_others  # type: ignore[method-assign]


def test_a_new_file_is_deleted_again_at_the_name_of_an_object_that_could_not_be_deleted(
    store: MemoryStore, cache: Path
) -> None:
    """The file replaces the object, and so does its deletion."""
    delete = store.delete_many
    with harness(store, cache, "settle=30,background_rename=10") as filesystem:
        halt = held(filesystem, store)
        refuse_deletion(store, "box/d/04")
        remake(filesystem, "/d", "/d/04")
        halt.go_on()
        wait_until(lambda: all(one.kind != "MoveObject" for one in filesystem.waiting()))
        assert body(store, "d/04") == b"4"
        store.delete_many = delete  # type: ignore[method-assign]
        filesystem.unlink("/d/04")
    assert "d/04" not in keys(store)
    assert body(store, "e/04") == b"4"


def test_segments_are_deleted_of_what_is_replaced_at_both_names(cache: Path) -> None:
    """Swift refuses to move a large file that was overwritten, and at its old name is a new one."""
    store = MemoryStore("box", "box_segments")
    options = "settle=0.05,background_rename=1,segment_size=1M"
    with harness(store, cache, options) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, "/d/large", bytes(3_000_000))
        sync_all(filesystem)
        halt = held(filesystem, store, error=AccessDenied, subject="box/d/large")
        write(filesystem, "/e/large", b"newer")
        remake(filesystem, "/d", "/d/large")
        halt.go_on()
        wait_until(is_quiet(filesystem))
    assert (body(store, "d/large"), body(store, "e/large")) == (b"new", b"newer")
    # At once only if `e/large` was stored first: until then it may name them.
    ten_minutes_later(store, cache)
    assert not keys(store, "box_segments")


@pytest.mark.parametrize("size", [10, 200_000, 3 * 1024 * 1024])
@pytest.mark.parametrize("is_read", [False, True])
def test_a_change_of_an_open_file_that_could_not_move_is_stored_by_the_next_mount(
    store: MemoryStore, cache: Path, size: int, is_read: bool
) -> None:
    """What the change keeps is at the old name, where nobody may lose it."""
    data, image, options = os.urandom(size), cache.with_name("image"), f"{OPTIONS},segment_size=1M"
    changed = b"new" + data[3:]
    with harness(store, cache, options) as filesystem:
        write(filesystem, "/d/file", data)
        sync_all(filesystem)
    with harness(store, cache, f"{options},settle=60,drain=0", close_error=ANY_END) as filesystem:
        if is_read:
            assert read(filesystem, "/d/file") == data
        handle = filesystem.open("/d/file", os.O_RDWR)
        refuse(store, "file")
        filesystem.rename("/d", "/e")
        wait_until(is_quiet(filesystem))
        assert (get(filesystem, handle), read(filesystem, "/d/file")) == (data, data)
        put(filesystem, handle, 0, b"new")
        filesystem.flush(handle)
        assert get(filesystem, handle) == changed
        copy_live(cache, image)
        twin = as_of_now(store)
        filesystem.release(handle)
        store.hook = lambda _method, _subject: (_ for _ in ()).throw(Unavailable("away"))
    with harness(twin, image, options) as filesystem:
        assert (read(filesystem, "/d/file"), read(filesystem, "/e/file")) == (data, changed)
        wait_until(is_quiet(filesystem))
        filesystem.unlink("/e/file")
        sync_all(filesystem)
        filesystem.refresh()
        assert read(filesystem, "/d/file") == data


def test_what_cannot_move_back_is_not_shown_where_it_was_though_listings_lag(cache: Path) -> None:
    """Neither by this mount, nor by the next one."""
    store = LaggingStore("box")
    foreign(store, "d/foreign", b"theirs")
    with harness(store, cache, "settle=0.05,background_rename=1", close_error="refused") as filesystem:
        write(filesystem, "/d/own", b"ours")
        sync_all(filesystem)
        store.stop()
        filesystem.rename("/d", "/e")
        wait_until(is_quiet(filesystem))
        refuse(store, "own", "foreign")
        filesystem.rename("/e", "/d")
        wait_until(is_quiet(filesystem))
        assert sorted(store._containers["box"].objects) == ["e/foreign", "e/own"]
        for path in ("/d/own", "/d/foreign"):
            with pytest.raises(FileNotFoundError):
                filesystem.getattr(path)
        assert names(filesystem, "/e") == ["foreign", "own"]
    with harness(store, cache, "settle=0.05,background_rename=1") as filesystem:
        for path in ("/d/own", "/d/foreign"):
            with pytest.raises(FileNotFoundError):
                filesystem.getattr(path)
        assert names(filesystem, "/e") == ["foreign", "own"]
        assert read(filesystem, "/e/own") == b"ours"


def test_what_stays_is_shown_though_a_new_file_there_was_deleted_and_listings_lag(cache: Path) -> None:
    """By this mount, and by the next one."""
    store = LaggingStore("box")
    foreign(store, "d/foreign", b"theirs")
    store.stop()
    options = "settle=0.05,background_rename=1"
    with harness(store, cache, options, close_error="refused") as filesystem:
        write(filesystem, "/d/own", b"ours")
        sync_all(filesystem)
        halt = held(filesystem, store, error=AccessDenied, subject="box/d/own")
        filesystem.mkdir("/d", 0o755, ME)
        write(filesystem, "/d/own", b"new")
        filesystem.unlink("/d/own")
        halt.go_on()
        wait_until(is_quiet(filesystem))
        assert read(filesystem, "/d/own") == b"ours"
    with harness(store, cache, options) as filesystem:
        assert read(filesystem, "/d/own") == b"ours"


def test_a_rename_begins_again_if_a_folder_has_come_back_since_it_looked(
    filesystem: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem.mkdir("/new", 0o755, ME)
    namespace = filesystem.services.namespace
    find, gone = namespace.find, ["/new"]

    def find_later(path: str) -> Entry | None:
        if path not in gone:
            return find(path)
        gone.remove(path)
        return None

    monkeypatch.setattr(namespace, "find", find_later)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        filesystem.rename("/new", "/newer")
    filesystem.rename("/new", "/newer")
    assert "newer" in names(filesystem, "/")
