"""What a program deletes may never have come to its name: then what another client stores there stays."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.deadlines import within
from support.halted_moves import Halt
from support.harness import ANY_END, ME, copy_live, get, harness, names, put, read, write
from support.interrupted_moves import refusals
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import as_of_now, body, foreign, keys
from swiftfs.errors import AccessDenied, QuotaExceeded, StoreError, Unavailable
from swiftfs.journal import recovery
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import PutMarker
from swiftfs.journal.report import GivenUp
from swiftfs.objects import DIRECTORY_TYPE, ObjectName
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

OPTIONS = "settle=0.05,background_rename=2"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("box")
    for name in ("a", "b", "c"):
        foreign(store, f"d/{name}", name.encode())
    store.put(ObjectName("box", "d/sub"), b"", Headers(DIRECTORY_TYPE))
    return store


pytestmark = pytest.mark.mount_options(OPTIONS)


@pytest.fixture
def refused(store: MemoryStore, tmp_path: Path) -> Iterator[FileSystem]:
    """A mount whose end reports changes that were refused."""
    with harness(store, tmp_path, OPTIONS, close_error="^[0-9]+ changes? (was|were) refused") as built:
        yield built


def held(filesystem: FileSystem, store: MemoryStore) -> Halt:
    """Rename the folder; Swift refuses the copies later."""
    halt = Halt(store, "copy", AccessDenied)
    filesystem.rename("/d", "/e")
    assert halt.reached.wait(within(20))
    return halt


def settle(filesystem: FileSystem) -> None:
    wait_until(lambda: not filesystem.waiting())


def refuse_just_before_it(
    refused: FileSystem,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    way: str = "submit",
) -> None:
    """Rename the folder, and let its move be refused just before the next change is handed in.

    That is by the journal's method `way`. Then another client has a file at the new name of an object.
    """
    halt = held(refused, store)
    journal = refused.services.journal
    submit: Callable[..., object] = getattr(journal, way)

    def submit_late(*args: object, **options: object) -> object:
        monkeypatch.undo()
        halt.go_on()
        settle(refused)
        foreign(store, f"e/{name}", b"theirs")
        return submit(*args, **options)

    monkeypatch.setattr(journal, way, submit_late)


@pytest.mark.parametrize("name", ["a", "sub"])
def test_a_move_is_refused_while_its_object_is_deleted(
    refused: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The deletion is for what is at its old name again; Linux begins the call again after ESTALE."""
    refuse_just_before_it(refused, store, monkeypatch, name)
    delete = refused.rmdir if name == "sub" else refused.unlink
    with pytest.raises(OSError, match=name) as raised:
        delete(f"/e/{name}")
    assert raised.value.errno == errno.ESTALE
    settle(refused)
    assert body(store, f"e/{name}") == b"theirs"
    assert names(refused, "/d") == ["a", "b", "c", "sub"]
    refused.refresh()
    assert read(refused, f"/e/{name}") == b"theirs"
    store.hook = None
    refused.unlink(f"/e/{name}")  # this one is meant
    settle(refused)
    assert f"e/{name}" not in keys(store)


def test_a_move_is_refused_while_its_open_file_is_deleted(
    refused: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_just_before_it(refused, store, monkeypatch, "a", "hold")
    handle = refused.open("/e/a", os.O_RDONLY)
    with pytest.raises(OSError, match="a") as raised:
        refused.hide("/e/a", "/e/.fuse_hidden0000000100000001")
    assert raised.value.errno == errno.ESTALE
    refused.release(handle)
    settle(refused)
    assert body(store, "e/a") == b"theirs"


@pytest.mark.parametrize("is_open", [False, True])
def test_an_object_that_was_deleted_before_its_move_was_refused(
    refused: FileSystem, store: MemoryStore, is_open: bool
) -> None:
    """It is deleted at its old name, for at its new one it never was."""
    halt = held(refused, store)
    handle = refused.open("/e/a", 0) if is_open else None
    if handle is not None:
        assert get(refused, handle) == b"a"  # else its object is deleted after the close
    refused.unlink("/e/a")
    foreign(store, "e/a", b"theirs")
    halt.go_on()
    settle(refused)
    if handle is not None:
        refused.release(handle)
        settle(refused)
    assert body(store, "e/a") == b"theirs"
    assert "d/a" not in keys(store)
    refused.refresh()
    assert read(refused, "/e/a") == b"theirs"


def test_a_copy_of_what_another_client_has_changed_since_is_deleted(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    """The answer to the copy was lost, and the name deleted meanwhile."""

    def lose(method: str, subject: str) -> None:
        if method == "copy" and subject.endswith("/a"):
            foreign(store, "e/a", b"a")
            raise Unavailable("the answer is lost")

    store.hook = lose
    filesystem.rename("/d", "/e")
    wait_until(lambda: any(one.attempts for one in filesystem.waiting() if one.path == "/d/a"))
    filesystem.unlink("/e/a")
    foreign(store, "d/a", b"theirs")
    store.hook = None
    filesystem.retry()
    settle(filesystem)
    assert keys(store) == ["d/a", "e/b", "e/c", "e/sub"]
    assert body(store, "d/a") == b"theirs"


def test_a_folder_that_another_client_was_first_to_make_is_removed_before_that_is_known(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    halt = Halt(store, "put")
    filesystem.mkdir("/new", 0o755, ME)
    assert halt.reached.wait(within(20))
    filesystem.rmdir("/new")
    store.hook = None
    foreign(store, "new", b"theirs")
    halt.go_on()
    settle(filesystem)
    assert body(store, "new") == b"theirs"
    filesystem.refresh()
    assert read(filesystem, "/new") == b"theirs"


def test_a_folder_that_this_mount_has_made_is_removed(filesystem: FileSystem, store: MemoryStore) -> None:
    halt = Halt(store, "put")
    filesystem.mkdir("/new", 0o755, ME)
    assert halt.reached.wait(within(20))
    filesystem.rmdir("/new")
    store.hook = None
    halt.go_on()
    settle(filesystem)
    assert "new" not in keys(store)


@pytest.mark.parametrize("error", [QuotaExceeded, Unavailable])
def test_a_new_file_is_deleted_while_it_is_sent(
    filesystem: FileSystem, store: MemoryStore, error: type[StoreError]
) -> None:
    """If Swift has refused it, what is at its name is another client's; without an answer it may be ours."""
    halt = Halt(store, "put", error)
    write(filesystem, "/new", b"mine")
    assert halt.reached.wait(within(20))
    filesystem.unlink("/new")
    with_hook, store.hook = store.hook, None
    foreign(store, "new", b"theirs")
    store.hook = with_hook
    halt.go_on()
    settle(filesystem)
    store.hook = None
    assert ("new" in keys(store)) == (error is QuotaExceeded)
    filesystem.refresh()
    assert ("new" in names(filesystem, "/")) == (error is QuotaExceeded)


def headers(store: MemoryStore, key: str) -> Headers:
    return Headers.of(store.head(ObjectName("box", key)))


CHANGES: dict[str, Callable[[FileSystem, str], object]] = {
    "chmod": lambda filesystem, path: filesystem.chmod(path, 0o600),
    "setxattr": lambda filesystem, path: filesystem.setxattr(path, "user.color", b"blue", 0),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["a", "sub"])
def test_a_move_is_refused_while_attributes_of_its_object_are_changed(
    refused: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, name: str, change: str
) -> None:
    refuse_just_before_it(refused, store, monkeypatch, name)
    with pytest.raises(OSError, match=name) as raised:
        CHANGES[change](refused, f"/e/{name}")
    assert raised.value.errno == errno.ESTALE
    theirs = headers(store, f"e/{name}")
    settle(refused)
    assert headers(store, f"e/{name}") == theirs
    refused.refresh()
    CHANGES[change](refused, f"/e/{name}")  # this one is meant
    settle(refused)
    assert headers(store, f"e/{name}") != theirs


@pytest.mark.parametrize("change", CHANGES)
def test_attributes_of_an_open_file_are_changed_that_was_not_moved(
    refused: FileSystem, store: MemoryStore, change: str
) -> None:
    halt = held(refused, store)
    handle = refused.open("/e/a", 0)
    halt.go_on()
    settle(refused)
    foreign(store, "e/a", b"theirs")
    theirs = headers(store, "e/a")
    with pytest.raises(OSError, match="a") as raised:
        CHANGES[change](refused, "/e/a")
    assert raised.value.errno == errno.ESTALE
    refused.release(handle)
    settle(refused)
    assert headers(store, "e/a") == theirs


def test_an_open_file_that_was_stored_at_a_name_that_had_been_given_up(
    refused: FileSystem, store: MemoryStore
) -> None:
    halt = held(refused, store)
    handle = refused.open("/e/a", os.O_RDWR | os.O_TRUNC)
    halt.go_on()
    settle(refused)
    store.hook = None
    put(refused, handle, 0, b"mine")
    refused.flush(handle)
    settle(refused)
    refused.chmod("/e/a", 0o600)
    settle(refused)
    assert "mode=0100600" in headers(store, "e/a").content_type
    refused.release(handle)


def test_a_new_file_replaces_what_was_not_moved_and_is_renamed_again(
    refused: FileSystem, store: MemoryStore
) -> None:
    halt = held(refused, store)
    handle = refused.create("/e/new", 0o644, os.O_WRONLY, ME)
    refused.rename("/e/new", "/e/a")
    halt.go_on()
    settle(refused)
    foreign(store, "e/a", b"theirs")
    store.hook = None
    refused.rename("/e/a", "/e/b")
    refused.release(handle)
    settle(refused)
    assert body(store, "e/a") == b"theirs"
    assert body(store, "e/b") == b""


def test_a_folder_that_another_client_was_first_to_make_is_changed_before_that_is_known(
    refused: FileSystem, store: MemoryStore
) -> None:
    halt = Halt(store, "put")
    refused.mkdir("/new", 0o755, ME)
    assert halt.reached.wait(within(20))
    refused.chmod("/new", 0o700)
    store.hook = None
    foreign(store, "new", b"theirs")
    theirs = headers(store, "new")
    halt.go_on()
    settle(refused)
    assert headers(store, "new") == theirs
    assert [path for path, *_ in refusals(refused)] == ["/new"]


def test_a_refused_new_file_and_its_deletion_end_in_one_commit(
    filesystem: FileSystem, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = Halt(store, "put", QuotaExceeded)
    write(filesystem, "/new", b"mine")
    assert halt.reached.wait(within(20))
    filesystem.unlink("/new")
    commits = []
    finish = JournalDB.finish

    def count(db: JournalDB, put: object = (), drop: Iterable[int] = (), *args: object) -> bool:
        commits.append(sorted(drop := list(drop)))
        finishing: Callable[..., bool] = finish
        return finishing(db, put, drop, *args)

    monkeypatch.setattr(JournalDB, "finish", count)
    halt.go_on()
    settle(filesystem)
    assert [len(dropped) for dropped in commits] == [2]


def test_what_was_deleted_before_its_move_was_refused_stays_deleted_after_a_kill(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after any of its commits."""
    cache, killed = tmp_path / "cache", list[tuple[Path, MemoryStore]]()
    cache.mkdir()
    finish = JournalDB.finish

    def finish_and_die(db: JournalDB, *args: object, **how: object) -> bool:
        finishing: Callable[..., bool] = finish
        is_written = finishing(db, *args, **how)
        killed.append((tmp_path / f"{len(killed)}", as_of_now(store)))
        copy_live(cache, killed[-1][0])
        return is_written

    with harness(store, cache, OPTIONS, close_error="^[0-9]+ changes? (was|were) refused") as filesystem:
        halt = held(filesystem, store)
        filesystem.unlink("/e/a")
        monkeypatch.setattr(JournalDB, "finish", finish_and_die)
        halt.go_on()
        settle(filesystem)
    monkeypatch.undo()
    monkeypatch.setattr(recovery, "RECOVERY_SECONDS", 0.0)
    assert len(killed) > 3
    for image, twin in killed:
        with harness(twin, image, OPTIONS) as filesystem:
            assert "a" not in [
                name for folder in names(filesystem, "/") for name in names(filesystem, f"/{folder}")
            ]
            settle(filesystem)
        assert not {"d/a", "e/a"} & {*keys(twin)}


def test_a_folder_is_renamed_again_whose_marker_was_refused(store: MemoryStore, tmp_path: Path) -> None:
    """What has the name of the marker is another client's, and stays."""
    store.put(ObjectName("box", "d"), b"", Headers(DIRECTORY_TYPE))
    # The second rename raises the refusal if it waits for the marker by then; else it is reported at the end.
    with harness(store, tmp_path, OPTIONS, close_error=ANY_END) as filesystem:
        halt = Halt(store, "copy")
        hold = store.hook
        assert hold is not None

        def refuse_marker(method: str, subject: str) -> None:
            hold(method, subject)
            if (method, subject) == ("copy", "box/d"):
                foreign(store, "e", b"theirs")
                raise AccessDenied("no")

        store.hook = refuse_marker
        filesystem.rename("/d", "/e")
        with ThreadPoolExecutor(1) as pool:
            renaming = pool.submit(filesystem.rename, "/e", "/f")
            wait_until(lambda: bool(filesystem.services.journal._scheduler._waits))
            halt.go_on()
            try:
                renaming.result(within(20))
            except AccessDenied:
                filesystem.rename("/e", "/f")
        settle(filesystem)
        assert body(store, "e") == b"theirs"
        filesystem.refresh()
        assert names(filesystem, "/f") == ["a", "b", "c", "sub"]
        assert read(filesystem, "/e") == b"theirs"


def test_what_was_given_up_before_does_not_count() -> None:
    given_up = GivenUp()
    given_up.add(PutMarker(ObjectName("box", "d/before")))
    given_up.add(PutMarker(ObjectName("box", "other")))
    since = given_up.count
    given_up.add(PutMarker(ObjectName("box", "other")))
    assert not given_up.has_stayed_below(Folder("box", "d/"), since)
    given_up.add(PutMarker(ObjectName("box", "d/after")))
    assert given_up.has_stayed_below(Folder("box", "d/"), since)
