"""Renames of large folders: the objects move when the call has returned, and are shown as if they had."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.halted_moves import Halt
from support.harness import LEFT, ME, change, copy_live, harness, names, put, read, sync_all, write
from support.interrupted_moves import refusals
from support.jobs import wait_until
from support.lagging_store import LaggingStore
from support.memory_store import MemoryStore
from support.outdated_store import OutdatedStore
from support.stored_objects import as_of_now, body, foreign, keys
from swiftfs.errors import AccessDenied, StoreError, Unavailable
from swiftfs.journal.queue_report import QueueReport, RenameProgress
from swiftfs.objects import DIRECTORY_TYPE, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.rename_ops import RenameOps
from swiftfs.store.protocol import Headers

COUNT = 30
OPTIONS = "settle=0.05,background_rename=10"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("box")
    for number in range(COUNT):
        foreign(store, f"d/{number:02}", b"%d" % number)
    foreign(store, "d/sub/x", b"below")
    return store


@pytest.fixture
def refused(store: MemoryStore, cache: Path) -> Iterator[FileSystem]:
    """A mount whose end reports changes that were refused."""
    with harness(store, cache, OPTIONS, close_error="^[0-9]+ changes? (was|were) refused") as built:
        yield built


pytestmark = pytest.mark.mount_options(OPTIONS)


ALL = [*(f"{number:02}" for number in range(COUNT)), "sub"]


def is_quiet(filesystem: FileSystem) -> Callable[[], bool]:
    return lambda: not filesystem.waiting()


def test_a_rename_returns_before_anything_is_copied(filesystem: FileSystem, store: MemoryStore) -> None:
    halt = Halt(store, "copy")
    filesystem.rename("/d", "/e")
    assert names(filesystem, "/") == ["e"]
    assert names(filesystem, "/e") == ALL
    assert names(filesystem, "/e/sub") == ["x"]
    assert halt.reached.wait(20)
    assert keys(store)[0] == "d/00"
    assert read(filesystem, "/e/07") == b"7"
    assert read(filesystem, "/e/sub/x") == b"below"
    for path in ("/d", "/d/07", "/d/sub/x"):
        with pytest.raises(FileNotFoundError):
            filesystem.getattr(path)
    halt.go_on()
    store.hook = None
    wait_until(is_quiet(filesystem))
    assert keys(store) == [*(f"e/{number:02}" for number in range(COUNT)), "e/sub/x"]
    filesystem.refresh()
    assert names(filesystem, "/") == ["e"]
    assert names(filesystem, "/e") == ALL
    assert read(filesystem, "/e/08") == b"8"


def test_few_objects_move_before_the_rename_returns(store: MemoryStore, cache: Path) -> None:
    options = f"settle=0.05,background_rename={COUNT + 2}"
    with harness(store, cache, options) as filesystem:
        filesystem.rename("/d", "/e")
        assert keys(store)[0] == "e/00"


@pytest.mark.parametrize("options", ["sync", "settle=0.05,background_rename=0"])
def test_where_all_renames_wait_this_one_does(store: MemoryStore, cache: Path, options: str) -> None:
    with harness(store, cache, options) as filesystem:
        filesystem.rename("/d", "/e")
        assert keys(store)[0] == "e/00"


def test_an_fsync_of_one_file_waits_for_that_only(filesystem: FileSystem, store: MemoryStore) -> None:
    halt = Halt(store, "copy")
    filesystem.rename("/d", "/e")
    assert halt.reached.wait(20)
    change(filesystem, "/e/11", 0, b"new")
    assert read(filesystem, "/e/11") == b"new"
    halt.go_on()
    handle = filesystem.open("/e/11", os.O_RDWR)
    filesystem.fsync(handle, False)
    assert body(store, "e/11") == b"new"
    assert "d/11" not in keys(store)
    filesystem.release(handle)


def held(filesystem: FileSystem, store: MemoryStore, method: str = "copy") -> Halt:
    """Rename the folder, and hold the copies of its objects back."""
    halt = Halt(store, method)
    filesystem.rename("/d", "/e")
    assert halt.reached.wait(20)
    return halt


def moved_keys(*others: str) -> list[str]:
    return sorted([*(f"e/{number:02}" for number in range(COUNT)), "e/sub/x", *others])


def test_the_next_mount_goes_on(store: MemoryStore, cache: Path) -> None:
    image = cache.with_name("image")
    with harness(store, cache, OPTIONS) as filesystem:
        halt = held(filesystem, store, "delete_many")  # all were copied, none was deleted
        write(filesystem, "/e/00", b"newer")
        filesystem.unlink("/e/01")
        copy_live(cache, image)
        twin = as_of_now(store)
        halt.go_on()
    assert {"d/00", "e/00"} < {*keys(twin)}
    halt = Halt(twin, "delete_many")
    with harness(twin, image, OPTIONS) as filesystem:
        assert names(filesystem, "/e") == [name for name in ALL if name != "01"]
        assert names(filesystem, "/") == ["e"]
        assert read(filesystem, "/e/00") == b"newer"
        halt.go_on()
        assert read(filesystem, "/e/12") == b"12"
        wait_until(is_quiet(filesystem))
    assert body(twin, "e/00") == b"newer"
    assert keys(twin) == [key for key in moved_keys() if key != "e/01"]


def test_the_next_mount_goes_on_though_listings_show_older_versions(store: MemoryStore, cache: Path) -> None:
    image = cache.with_name("image")
    older = as_of_now(store)
    foreign(store, "d/03", b"newer")
    with harness(store, cache, OPTIONS) as filesystem:
        halt = held(filesystem, store)
        copy_live(cache, image)
        twin = OutdatedStore("box")
        twin._containers["box"].objects.update(store._containers["box"].objects)
        halt.go_on()
    twin.listed = older
    with harness(twin, image, OPTIONS) as filesystem:
        wait_until(is_quiet(filesystem))
    twin.listed = None
    assert keys(twin) == moved_keys()
    assert body(twin, "e/03") == b"newer"


def test_what_the_next_mount_cannot_move_is_at_its_old_name_though_listings_lag(
    store: MemoryStore, cache: Path
) -> None:
    image = cache.with_name("image")
    with harness(store, cache, OPTIONS) as filesystem:
        halt = held(filesystem, store)
        copy_live(cache, image)
        twin = LaggingStore("box")
        twin.stop()
        twin._containers["box"].objects.update(store._containers["box"].objects)
        halt.go_on()
    refuse(twin, "03")
    with harness(twin, image, OPTIONS, close_error="^1 change was refused") as filesystem:
        wait_until(is_quiet(filesystem))
        assert names(filesystem, "/d") == ["03"]
        assert read(filesystem, "/d/03") == b"3"


@pytest.mark.parametrize("settle", [0.05, 60.0])
def test_a_file_that_was_changed_before_the_rename_is_stored_at_its_new_name(
    store: MemoryStore, cache: Path, settle: float
) -> None:
    """It is carried along, and replaces what moves there."""
    with harness(store, cache, f"settle={settle},background_rename=10") as filesystem:
        write(filesystem, "/d/07", b"newer")
        halt = held(filesystem, store)
        assert read(filesystem, "/e/07") == b"newer"
        halt.go_on()
    assert body(store, "e/07") == b"newer"
    assert keys(store) == moved_keys()


def test_what_was_changed_before_the_rename_is_stored_by_the_next_mount(
    store: MemoryStore, cache: Path
) -> None:
    image = cache.with_name("image")
    with harness(store, cache, "settle=60,background_rename=10") as filesystem:
        write(filesystem, "/d/07", b"newer")
        halt = held(filesystem, store)
        copy_live(cache, image)
        twin = as_of_now(store)
        halt.go_on()
    with harness(twin, image, OPTIONS) as filesystem:
        assert read(filesystem, "/e/07") == b"newer"
    assert body(twin, "e/07") == b"newer"
    assert keys(twin) == moved_keys()


def test_an_unmount_waits_for_the_moves(store: MemoryStore, cache: Path) -> None:
    left: list[int] = []
    with harness(store, cache, OPTIONS, progress=left.append) as filesystem:
        filesystem.rename("/d", "/e")
    assert keys(store) == moved_keys()


def test_an_unmount_without_time_leaves_them_to_the_next_mount(store: MemoryStore, cache: Path) -> None:
    def fail(method: str, _subject: str) -> None:
        if method == "copy":
            raise Unavailable("no server")

    with harness(store, cache, f"{OPTIONS},drain=0", close_error=LEFT) as filesystem:
        store.hook = fail
        filesystem.rename("/d", "/e")
    store.hook = None
    assert keys(store)[0] == "d/00"
    with harness(store, cache, OPTIONS) as filesystem:
        assert names(filesystem, "/") == ["e"]
    assert keys(store) == moved_keys()


CALLS: dict[str, Callable[[FileSystem], object]] = {
    "rename again": lambda filesystem: filesystem.rename("/e", "/f"),
    "rename back": lambda filesystem: filesystem.rename("/e", "/d"),
    "rename a file": lambda filesystem: filesystem.rename("/e/03", "/e/new"),
    "replace a file": lambda filesystem: filesystem.rename("/e/03", "/e/04"),
    "rename a folder in it": lambda filesystem: filesystem.rename("/e/sub", "/e/new"),
    "fsync": lambda filesystem: fsync(filesystem, "/e/03"),
    "append": lambda filesystem: change(filesystem, "/e/03", 1, b"3"),
    "truncate": lambda filesystem: filesystem.truncate("/e/03", 1),
    "chmod": lambda filesystem: filesystem.chmod("/e/03", 0o600),
    "unlink": lambda filesystem: filesystem.unlink("/e/03"),
    "a new file": lambda filesystem: write(filesystem, "/e/new", b"new"),
    "a new file at the old name": lambda filesystem: remake(filesystem, "/d", "/d/03"),
    "a file instead of the folder": lambda filesystem: write(filesystem, "/d", b"new"),
}
EXPECTED = {
    "rename again": [key.replace("e/", "f/", 1) for key in moved_keys()],
    "rename back": [key.replace("e/", "d/", 1) for key in moved_keys()],
    "rename a file": sorted([*(key for key in moved_keys() if key != "e/03"), "e/new"]),
    "replace a file": [key for key in moved_keys() if key != "e/03"],
    "rename a folder in it": sorted([*(key for key in moved_keys() if key != "e/sub/x"), "e/new/x"]),
    "unlink": [key for key in moved_keys() if key != "e/03"],
    "a new file": moved_keys("e/new"),
    "a new file at the old name": moved_keys("d", "d/03"),
    "a file instead of the folder": moved_keys("d"),
}


def fsync(filesystem: FileSystem, path: str) -> None:
    handle = filesystem.open(path, os.O_RDWR)
    filesystem.fsync(handle, False)
    filesystem.release(handle)


def remake(filesystem: FileSystem, folder: str, path: str) -> None:
    filesystem.mkdir(folder, 0o755, ME)
    assert names(filesystem, folder) == []
    write(filesystem, path, b"new")
    assert names(filesystem, folder) == [path.rpartition("/")[2]]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("method", ["copy", "delete_many"])
def test_any_call_may_come_while_the_objects_move(
    filesystem: FileSystem, store: MemoryStore, call: str, method: str
) -> None:
    halt = held(filesystem, store, method)
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(CALLS[call], filesystem)
        halt.go_on()
        called.result(20)
    store.hook = None
    wait_until(is_quiet(filesystem))
    assert keys(store) == EXPECTED.get(call, moved_keys())
    filesystem.refresh()
    found = sorted(f"{path}/{name}"[1:] for path, name in files_of(filesystem, "/"))
    assert found == [key for key in keys(store) if key != "d" or call.startswith("a file")]
    if call.startswith("a new file at"):
        assert (body(store, "d/03"), body(store, "e/03")) == (b"new", b"3")
    if call == "append":
        assert body(store, "e/03") == b"33"


def files_of(filesystem: FileSystem, folder: str) -> Iterator[tuple[str, str]]:
    for name in names(filesystem, folder):
        path = f"{folder.rstrip('/')}/{name}"
        if filesystem.getattr(path).is_directory:
            yield from files_of(filesystem, path)
        else:
            yield folder.rstrip("/"), name


def test_a_folder_that_is_deleted_meanwhile_is_gone(filesystem: FileSystem, store: MemoryStore) -> None:
    halt = held(filesystem, store)
    for path, name in list(files_of(filesystem, "/e")):
        filesystem.unlink(f"{path}/{name}")
    filesystem.rmdir("/e/sub")
    filesystem.rmdir("/e")
    assert names(filesystem, "/") == []
    halt.go_on()
    store.hook = None
    wait_until(is_quiet(filesystem))
    assert keys(store) == []


def refuse(store: MemoryStore, *numbers: str) -> None:
    """Let Swift refuse the copies of some objects."""

    def hook(method: str, subject: str) -> None:
        if method == "copy" and subject.rpartition("/")[2] in numbers:
            raise AccessDenied(f"{subject} is refused")

    store.hook = hook


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
    halt = Halt(store, "copy", AccessDenied)
    refused.rename("/d", "/e")
    assert halt.reached.wait(20)
    refused.unlink("/e/03")
    write(refused, "/e/04", b"newer")
    halt.go_on()
    wait_until(is_quiet(refused))
    stay = [key.replace("e/", "d/", 1) for key in moved_keys() if key not in ("e/03", "e/04")]
    assert keys(store) == [*stay, "e/04"]
    assert body(store, "e/04") == b"newer"


def test_what_was_overwritten_is_in_swift_until_the_new_state_is(store: MemoryStore, cache: Path) -> None:
    """A power cut may take that."""
    with harness(store, cache, "settle=30,background_rename=10") as filesystem:
        halt = Halt(store, "copy", AccessDenied, subject="box/d/04")
        filesystem.rename("/d", "/e")
        assert halt.reached.wait(20)
        write(filesystem, "/e/04", b"newer")
        halt.go_on()
        wait_until(lambda: {one.kind for one in filesystem.waiting()} == {"PutFile", "Delete"})
        assert body(store, "d/04") == b"4"
    assert keys(store) == moved_keys()
    assert body(store, "e/04") == b"newer"


def refuse_deletion(store: MemoryStore, subject: str) -> None:
    """Let Swift refuse every deletion of an object."""
    delete = store.delete_many

    def delete_others(wanted: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        names = list(wanted)
        failed = delete(name for name in names if f"{name}" != subject)
        return {**failed, **{name: AccessDenied("no") for name in names if f"{name}" == subject}}

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
        halt = Halt(store, "copy", AccessDenied, subject="box/d/large")
        filesystem.rename("/d", "/e")
        assert halt.reached.wait(20)
        write(filesystem, "/e/large", b"newer")
        remake(filesystem, "/d", "/d/large")
        halt.go_on()
        wait_until(is_quiet(filesystem))
        wait_until(lambda: not keys(store, "box_segments"))
    assert (body(store, "d/large"), body(store, "e/large")) == (b"new", b"newer")


def test_what_is_needed_at_its_new_name_is_parked_when_swift_refuses_to_move_it(
    refused: FileSystem, store: MemoryStore
) -> None:
    halt = Halt(store, "copy", AccessDenied)
    refused.rename("/d", "/e")
    assert halt.reached.wait(20)
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
    halt = Halt(store, "copy", AccessDenied)
    refused.rename("/d", "/e")
    assert halt.reached.wait(20)
    refused.mkdir("/d", 0o755, ME)
    handle = refused.create("/d/04", 0o644, os.O_WRONLY, ME)
    halt.go_on()
    wait_until(lambda: [one.path for one in refused.waiting() if one.kind == "MoveObject"] == ["/d/04"])
    put(refused, handle, 0, b"new")
    with pytest.raises(AccessDenied):  # the file waits for what is parked
        refused.flush(handle)
    refused.release(handle)
    assert (read(refused, "/d/04"), read(refused, "/e/04")) == (b"new", b"4")
    store.hook = None
    refused.retry()
    wait_until(is_quiet(refused))
    assert (body(store, "d/04"), body(store, "e/04")) == (b"new", b"4")


def test_a_link_is_not_stored_over_what_stays_while_it_is_made(
    refused: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = Halt(store, "copy", AccessDenied)
    refused.rename("/d", "/e")
    assert halt.reached.wait(20)
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
    halt = Halt(store, "copy", AccessDenied, subject="box/d")
    refused.rename("/d", "/e")
    assert halt.reached.wait(20)
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
    halt = Halt(store, "copy", AccessDenied, subject="box/d/03")
    refused.rename("/d", "/e")
    assert halt.reached.wait(20)
    hand_in = RenameOps._hand_in_below

    def refuse_first(operations: RenameOps, old: str, new: str) -> None:
        halt.go_on()
        wait_until(is_quiet(refused))
        hand_in(operations, old, new)

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
        halt = Halt(store, "copy", subject="box/d")
        filesystem.rename("/d", "/e")
        assert halt.reached.wait(20)
        filesystem.mkdir("/d", 0o755, ME)
        store.hook = refuse_deletion
        halt.go_on()
        wait_until(lambda: [one.kind for one in filesystem.waiting()] == ["PutMarker"])
        store.hook = None
        filesystem.rmdir("/d")
    assert keys(store) == sorted(["e", *moved_keys()])


def test_what_was_copied_is_shown_though_another_client_has_replaced_it_at_the_old_name(
    store: MemoryStore, cache: Path
) -> None:
    image = cache.with_name("image")
    with harness(store, cache, OPTIONS) as filesystem:
        halt = held(filesystem, store, "delete_many")  # all were copied, none was deleted
        copy_live(cache, image)
        twin = as_of_now(store)
        halt.go_on()
    foreign(twin, "d/03", b"theirs")
    with harness(twin, image, f"{OPTIONS}", close_error="^1 change was refused") as filesystem:
        halt = Halt(twin, "delete_many")
        assert read(filesystem, "/e/03") == b"3"
        halt.go_on()
        wait_until(is_quiet(filesystem))
        assert (read(filesystem, "/d/03"), read(filesystem, "/e/03")) == (b"theirs", b"3")
    assert keys(twin) == sorted(["d/03", *moved_keys()])


def test_a_status_shows_the_progress(filesystem: FileSystem, store: MemoryStore) -> None:
    halt = held(filesystem, store)
    (rename,) = filesystem.services.journal.report().renames
    assert rename == RenameProgress("/d", "/e", COUNT + 1, COUNT + 1)
    report = filesystem.services.journal.report()
    assert QueueReport.from_json(report.to_json()).renames == report.renames
    halt.go_on()
    store.hook = None
    wait_until(is_quiet(filesystem))
    assert filesystem.services.journal.report().renames == ()


def test_the_requests_are_those_of_a_rename_that_waits_and_few_listings(
    store: MemoryStore, cache: Path
) -> None:
    for number in range(COUNT, 300):
        foreign(store, f"d/{number}", b"%d" % number)
    with harness(store, cache, OPTIONS) as filesystem:
        store.requests.clear()
        filesystem.rename("/d", "/e")
        wait_until(is_quiet(filesystem))
        sent = Counter(method for method, _ in store.requests)
    assert sent["copy"] == 301
    assert sent["delete_many"] + sent["delete"] == 2
    assert sent["head"] <= 3  # of the last object, for which no listing is requested
    assert sent["list_page"] <= 3 + 2 * 2
