"""Renames of large folders: the objects move when the call has returned, and are shown as if they had."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.background_renames import (
    ALL,
    COUNT,
    OPTIONS,
    folder_of_many,
    held,
    is_quiet,
    moved_keys,
    refuse,
    remake,
)
from support.deadlines import within
from support.halted_moves import Halt
from support.harness import ANY_END, LEFT, change, copy_live, harness, names, read, write
from support.jobs import wait_until
from support.lagging_store import LaggingStore
from support.memory_store import MemoryStore
from support.outdated_store import OutdatedStore
from support.stored_objects import as_of_now, body, foreign, keys
from swiftfs.errors import AccessDenied, Unavailable
from swiftfs.journal.queue_report import QueueReport, RenameProgress
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers


@pytest.fixture
def store() -> MemoryStore:
    return folder_of_many()


pytestmark = pytest.mark.mount_options(OPTIONS)


def test_a_rename_returns_before_anything_is_copied(filesystem: FileSystem, store: MemoryStore) -> None:
    halt = Halt(store, "copy")
    filesystem.rename("/d", "/e")
    assert names(filesystem, "/") == ["e"]
    assert names(filesystem, "/e") == ALL
    assert names(filesystem, "/e/sub") == ["x"]
    assert halt.reached.wait(within(20))
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


@pytest.mark.parametrize("count", [99, 100])
def test_by_default_a_rename_waits_for_fewer_than_a_hundred_objects(cache: Path, count: int) -> None:
    store = MemoryStore("box")
    for number in range(count):
        foreign(store, f"d/{number:02}", b"%d" % number)
    with harness(store, cache, "settle=0.05") as filesystem:
        if count < 100:
            filesystem.rename("/d", "/e")
        else:
            halt = held(filesystem, store)
            assert keys(store)[0] == "d/00"
            halt.go_on()
            wait_until(is_quiet(filesystem))
        assert keys(store) == sorted(f"e/{number:02}" for number in range(count))


@pytest.mark.parametrize("options", ["sync", "settle=0.05,background_rename=0"])
def test_where_all_renames_wait_this_one_does(store: MemoryStore, cache: Path, options: str) -> None:
    with harness(store, cache, options) as filesystem:
        filesystem.rename("/d", "/e")
        assert keys(store)[0] == "e/00"


@pytest.mark.parametrize("refuses", [False, True])
def test_what_moves_stays_hidden_when_a_new_file_at_its_old_name_is_gone_again(
    store: MemoryStore, cache: Path, *, refuses: bool
) -> None:
    """Swift still has it there."""
    with harness(store, cache, OPTIONS, close_error="refused" if refuses else None) as filesystem:
        halt = held(filesystem, store, error=AccessDenied if refuses else None)
        remake(filesystem, "/d", "/d/04")
        filesystem.unlink("/d/04")
        filesystem.refresh()
        shown = names(filesystem, "/d")
        halt.go_on()
        wait_until(is_quiet(filesystem))
        assert shown == []
        assert names(filesystem, "/d") == (ALL if refuses else [])
        filesystem.refresh()
        assert names(filesystem, "/d") == (ALL if refuses else [])


def test_an_fsync_of_one_file_waits_for_that_only(filesystem: FileSystem, store: MemoryStore) -> None:
    halt = held(filesystem, store)
    change(filesystem, "/e/11", 0, b"new")
    assert read(filesystem, "/e/11") == b"new"
    halt.go_on()
    handle = filesystem.open("/e/11", os.O_RDWR)
    filesystem.fsync(handle, False)
    assert body(store, "e/11") == b"new"
    assert "d/11" not in keys(store)
    filesystem.release(handle)


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


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("method", ["copy", "delete_many"])
def test_any_call_may_come_while_the_objects_move(
    filesystem: FileSystem, store: MemoryStore, call: str, method: str
) -> None:
    halt = held(filesystem, store, method)
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(CALLS[call], filesystem)
        halt.go_on()
        called.result(within(20))
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


def test_a_flush_that_waits_for_the_moves_tells_what_they_have_left(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    halt = held(filesystem, store)
    journal = filesystem.services.journal
    journal.flush_all()

    def refuse_deletions(method: str, subject: str) -> None:
        if method.startswith("delete"):
            raise AccessDenied(f"{subject} is refused")

    store.hook = refuse_deletions
    halt.go_on()
    wait_until(lambda: not journal.report().renames)
    report = journal.report()
    assert (report.unflushed, report.flushing) == (COUNT + 1, 0)
    store.hook = None
    journal.flush_all()
    wait_until(is_quiet(filesystem))


def test_what_another_client_deletes_is_not_said_to_be_at_its_old_name(
    store: MemoryStore, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with harness(store, cache, OPTIONS, close_error=ANY_END) as filesystem:
        halt = held(filesystem, store)
        store.hook = None
        store.delete(ObjectName("box", "d/29"))
        halt.go_on()
        wait_until(is_quiet(filesystem))
    said = [record.message for record in caplog.records if "could not be moved" in record.message]
    assert len(said) == 1
    assert said[0].startswith("/d/29: could not be moved to /e/29: ")


@pytest.mark.usual
def test_the_requests_are_those_of_a_rename_that_waits_and_few_listings(
    store: MemoryStore, cache: Path
) -> None:
    for number in range(COUNT, 300):
        own = Headers("text/plain;mode=0100644")
        store.put(ObjectName("box", f"d/{number}"), b"%d" % number, own)
    with harness(store, cache, OPTIONS) as filesystem:
        store.requests.clear()
        filesystem.rename("/d", "/e")
        wait_until(is_quiet(filesystem))
        sent = Counter(method for method, _ in store.requests)
    assert sent["copy"] == 301
    assert sent["delete_many"] + sent["delete"] == 2
    # About those of another client, and the last object, for which no listing is requested.
    assert sent["head"] <= COUNT + 1 + 3
    assert sent["list_page"] <= 3 + 2 * 2
