"""A failed change of a large file deletes none of its segments, whoever names them ten minutes later."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.harness import LEFT, ME, change, harness, write
from support.jobs import wait_until
from support.late_store import LateStore, settle
from support.memory_store import MemoryStore
from support.moves import object_moves
from support.noise import LARGE
from support.stored_objects import body, keys, refuse, segments, segments_of, ten_minutes_later
from swiftfs.errors import AccessDenied, StoreError, SwiftfsError, Unavailable
from swiftfs.journal.database import JournalDB
from swiftfs.journal.moves import CopyKeeper
from swiftfs.journal.object_moves import ObjectMoves
from swiftfs.journal.operations import ANY_VERSION, Move
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import CopyRequest

MIB = 1024 * 1024
OPTIONS = "segment_size=1M,ttl=0"
SMALL = b"another file"


@dataclass(frozen=True)
class MountOperation:
    """A change of the large file /d/x, and its requests that fail."""

    run: Callable[[FileSystem], None]
    fails: tuple[tuple[str, str], ...]


def _remove(filesystem: FileSystem) -> None:
    filesystem.unlink("/d/x")


def _rename_over(filesystem: FileSystem) -> None:
    filesystem.rename("/d/s", "/d/x")


def _write_small(filesystem: FileSystem) -> None:
    write(filesystem, "/d/x", b"small now")


def _write_large(filesystem: FileSystem) -> None:
    write(filesystem, "/d/x", os.urandom(3 * MIB))


def _truncate(filesystem: FileSystem) -> None:
    filesystem.truncate("/d/x", 2 * MIB + 5)


def _patch(filesystem: FileSystem) -> None:
    change(filesystem, "/d/x", 10, b"patched" * 1000)


def _rename_folder(filesystem: FileSystem) -> None:
    filesystem.rename("/d", "/e")


DEEDS = {
    "remove": MountOperation(_remove, (("delete", "box/d/x"), ("delete_many", "box/d/x"))),
    "rename over": MountOperation(_rename_over, (("copy", "box/d/s"),)),
    "write small": MountOperation(_write_small, (("put", "box/d/x"),)),
    "write large": MountOperation(_write_large, (("put_manifest", "box/d/x"),)),
    "truncate": MountOperation(_truncate, (("put_manifest", "box/d/x"),)),
    "patch": MountOperation(_patch, (("put_manifest", "box/d/x"),)),
    "rename folder": MountOperation(_rename_folder, (("copy", "box/d/s"),)),
}

ERRORS = {
    "403": AccessDenied("403"),
    "503": Unavailable("503", may_land=False),
    "lost": Unavailable("no answer", may_land=True),
}


def _renamed(filesystem: FileSystem) -> bytes:
    filesystem.rename("/d/x", "/y")
    return LARGE


def _appended(filesystem: FileSystem) -> bytes:
    filesystem.rename("/d/x", "/y")
    change(filesystem, "/y", len(LARGE), b"more")
    return LARGE + b"more"


def _patched(filesystem: FileSystem) -> bytes:
    filesystem.rename("/d/x", "/between")
    change(filesystem, "/between", 5, b"hello")
    filesystem.rename("/between", "/y")
    return LARGE[:5] + b"hello" + LARGE[10:]


def _with_folder(filesystem: FileSystem) -> bytes:
    filesystem.rename("/d", "/f")
    change(filesystem, "/f/x", 5, b"hello")
    filesystem.rename("/f/x", "/y")
    return LARGE[:5] + b"hello" + LARGE[10:]


CARRIES = [_renamed, _appended, _patched, _with_folder]


@contextmanager
def failing(store: MemoryStore, operation: MountOperation, error: StoreError) -> Iterator[None]:
    """Let every request of the operation that changes something fail."""

    def hook(method: str, subject: str) -> None:
        if (method, subject) in operation.fails:
            raise error

    store.hook = hook
    try:
        yield
    finally:
        store.hook = None


def prepared() -> MemoryStore:
    return MemoryStore("box", "box_segments")


def fill(filesystem: FileSystem) -> None:
    filesystem.mkdir("/d", 0o755, ME)
    write(filesystem, "/d/x", LARGE)
    write(filesystem, "/d/s", SMALL)


def fail(filesystem: FileSystem, store: MemoryStore, operation: MountOperation, error: StoreError) -> None:
    """Do the operation, which fails; the mount then shows what Swift has."""
    with failing(store, operation, error), pytest.raises((SwiftfsError, OSError)):
        operation.run(filesystem)
    assert body(store, "d/x") == LARGE


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return the cache folders of two mounts."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "two"


@pytest.mark.matrix(8)
@pytest.mark.parametrize("restarts", [True, False])
@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("operation", DEEDS)
def test_a_file_that_is_renamed_and_changed_afterwards(
    folders: tuple[Path, Path],
    operation: str,
    error: str,
    carry: Callable[[FileSystem], bytes],
    restarts: bool,
) -> None:
    store = prepared()
    with harness(store, folders[0], OPTIONS) as filesystem:
        fill(filesystem)
        fail(filesystem, store, DEEDS[operation], ERRORS[error])
        if not restarts:
            filesystem.refresh()
            wanted = carry(filesystem)
    if restarts:
        with harness(store, folders[0], OPTIONS) as filesystem:
            wanted = carry(filesystem)
    ten_minutes_later(store, folders[0])
    assert body(store, "y") == wanted


@pytest.mark.matrix(8)
@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("operation", DEEDS)
def test_a_file_that_another_mount_renames_afterwards(
    folders: tuple[Path, Path], operation: str, error: str, carry: Callable[[FileSystem], bytes]
) -> None:
    store = prepared()
    with harness(store, folders[0], OPTIONS) as filesystem:
        fill(filesystem)
        fail(filesystem, store, DEEDS[operation], ERRORS[error])
        with harness(store, folders[1], OPTIONS) as other:
            wanted = carry(other)
    ten_minutes_later(store, folders[0])
    assert body(store, "y") == wanted


@pytest.mark.matrix(8)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("operation", DEEDS)
def test_a_file_whose_manifest_another_client_copies_afterwards(
    folders: tuple[Path, Path], operation: str, error: str
) -> None:
    store = prepared()
    with harness(store, folders[0], OPTIONS) as filesystem:
        fill(filesystem)
        fail(filesystem, store, DEEDS[operation], ERRORS[error])
        store.copy(CopyRequest(ObjectName("box", "d/x"), ObjectName("box", "y"), manifest_only=True))
    ten_minutes_later(store, folders[0])
    assert body(store, "d/x") == body(store, "y") == LARGE


WAITING = f"{OPTIONS},settle=0.05,drain=0"
WRITES = ["write small", "write large", "truncate", "patch"]


def wait_for_attempt(filesystem: FileSystem) -> None:
    """Wait until the upload of the file was attempted, and has failed."""
    wait_until(lambda: any(one.reason for one in filesystem.waiting()))


def change_twice(
    store: MemoryStore,
    cache: Path,
    operation: MountOperation,
    failure: AbstractContextManager[None],
    meanwhile: Callable[[], None],
    restarts: bool,
) -> None:
    """Do an operation that fails at first, and is tried again by this mount or the next."""
    if restarts:
        with failure, harness(store, cache, WAITING, close_error=LEFT) as filesystem:
            operation.run(filesystem)
            wait_for_attempt(filesystem)
        meanwhile()
        with harness(store, cache, WAITING) as filesystem:
            settle(filesystem)
        return
    with harness(store, cache, WAITING) as filesystem:
        with failure:
            operation.run(filesystem)
            wait_for_attempt(filesystem)
            meanwhile()
        settle(filesystem)


@contextmanager
def landing(store: LateStore) -> Iterator[None]:
    """Let the store execute all PUTs of the file, and lose their answers."""
    for method in ("put", "put_manifest"):
        store.lose(method, "d/x", 1000, lands=True)
    try:
        yield
    finally:
        store.loses.clear()


@pytest.mark.matrix(5)
@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("restarts", [True, False])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("operation", ["write small", "write large"])
def test_a_file_that_another_mount_renames_before_its_change_is_stored(
    folders: tuple[Path, Path], operation: str, error: str, restarts: bool
) -> None:
    """The change waits, and is stored under the old name."""
    store = prepared()
    with harness(store, folders[0], OPTIONS) as filesystem:
        fill(filesystem)

    def rename() -> None:
        with harness(store, folders[1], OPTIONS) as other:
            other.rename("/d/x", "/y")

    change_twice(
        store, folders[0], DEEDS[operation], failing(store, DEEDS[operation], ERRORS[error]), rename, restarts
    )
    assert "d/x" in keys(store)
    ten_minutes_later(store, folders[0])
    assert body(store, "y") == LARGE


@pytest.mark.matrix(4)
@pytest.mark.parametrize("restarts", [True, False])
@pytest.mark.parametrize("operation", WRITES)
def test_segments_of_what_an_attempt_without_an_answer_has_replaced_go(
    folders: tuple[Path, Path], operation: str, restarts: bool
) -> None:
    store = LateStore("box", "box_segments")
    with harness(store, folders[0], OPTIONS) as filesystem:
        fill(filesystem)
    change_twice(store, folders[0], DEEDS[operation], landing(store), lambda: None, restarts)
    ten_minutes_later(store, folders[0])
    assert segments(store) == segments_of(store, "d/x")


class Killed(BaseException):
    """Ends a process in the middle of a call."""


@pytest.mark.parametrize(
    "dies", [("copy", "box/s"), ("head", "box/s"), ("delete", "box/s"), ("delete_many", "")]
)
def test_segments_of_the_target_of_a_killed_rename_go(tmp_path: Path, dies: tuple[str, str]) -> None:
    """The next mount finds the copy, or makes it."""
    store = prepared()
    source, target = ObjectName("box", "s"), ObjectName("box", "x")
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/x", LARGE)
        write(filesystem, "/s", SMALL)
    etags = (store.head(source).version.etag, store.head(target).version.etag)
    move = Move(source, target, replaces_large=True, etag=etags[0], replaces_etag=etags[1])

    def die(method: str, subject: str) -> None:
        if method == dies[0] and subject.startswith(dies[1]):
            raise Killed

    store.hook = die
    with moves(store, tmp_path) as killed, pytest.raises(Killed):
        killed.move(move, CopyKeeper())
    store.hook = None
    with moves(store, tmp_path) as next_one:
        assert not next_one.resume_move(move, CopyKeeper())
    assert body(store, "x") == SMALL
    ten_minutes_later(store, tmp_path)
    assert segments(store) == set()


@pytest.mark.parametrize("is_large", [True, False, None])
def test_a_killed_rename_is_no_proof_of_an_older_deletion(
    folders: tuple[Path, Path], is_large: bool | None
) -> None:
    """Its target is another file than the one that could not be deleted, and another mount renamed that."""
    store = prepared()
    with harness(store, folders[0], OPTIONS) as filesystem:
        fill(filesystem)
        fail(filesystem, store, DEEDS["remove"], ERRORS["lost"])
    with harness(store, folders[1], OPTIONS) as other:
        other.rename("/d/x", "/y")
        write(other, "/d/x", b"a new file")
    source, target = ObjectName("box", "d/s"), ObjectName("box", "d/x")
    etag = store.head(source).version.etag
    move = Move(source, target, replaces_large=is_large, etag=etag, replaces_etag=ANY_VERSION)

    refuse(store, "delete", Killed)
    with moves(store, folders[0]) as killed, pytest.raises(Killed):
        killed.move(move, CopyKeeper())
    store.hook = None
    with moves(store, folders[0]) as next_one:
        assert not next_one.resume_move(move, CopyKeeper())
    ten_minutes_later(store, folders[0])
    assert body(store, "y") == LARGE


@contextmanager
def moves(store: MemoryStore, cache: Path) -> Iterator[ObjectMoves]:
    with closing(JournalDB(cache, "box of memory")) as log, ThreadPoolExecutor() as pool:
        yield object_moves(store, log, pool)
