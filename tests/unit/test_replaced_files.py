"""The moves of the names of open files that another client has replaced, with the kernel's calls played."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import ME, get, harness, names, put, read
from support.memory_store import MemoryStore
from support.stored_objects import body, foreign
from swiftfs.objects import ObjectName, PageUse
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.replaced_files import Move, ReplacedFiles

OLD, NEW, NEWER = b"old" * 50_000, b"new", b"newer" * 10
HIDDEN = "/d/.fuse_hidden0000000100000002"


@pytest.fixture
def filesystem(store: MemoryStore, tmp_path: Path) -> Iterator[FileSystem]:
    foreign(store, "d/file", OLD)
    with harness(store, tmp_path, "sync,read_ahead=0,ttl=0") as built:
        built.services.open_files.replaced.serve()
        yield built
        built.services.open_files.replaced.stop()


@pytest.fixture
def replaced(filesystem: FileSystem) -> ReplacedFiles:
    return filesystem.services.open_files.replaced


def replace(filesystem: FileSystem, store: MemoryStore, data: bytes = NEW) -> int:
    """Open and read the file; then another client replaces it."""
    handle = filesystem.open("/d/file", os.O_RDWR)
    get(filesystem, handle)
    foreign(store, "d/file", data)
    return handle


def next_move(replaced: ReplacedFiles) -> Move:
    move = replaced.next()
    assert move is not None
    return move


def look(filesystem: FileSystem, path: str) -> None:
    """Look a name up that is not there, as the mover does before its rename(2)."""
    with pytest.raises(FileNotFoundError):
        filesystem.getattr(path)


def make(filesystem: FileSystem, replaced: ReplacedFiles, path: str = "/d/file") -> str:
    """Make the next move; return the path that the older version has then."""
    move = next_move(replaced)
    assert move.path == path
    target = move.target
    look(filesystem, target)
    filesystem.rename(path, target)
    assert filesystem.getattr(path).size == len(OLD)
    replaced.end_move(move, is_moved=True)
    return target


@contextmanager
def mover(filesystem: FileSystem, replaced: ReplacedFiles) -> Iterator[None]:
    """Make one move in another thread."""
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(make, filesystem, replaced)
        yield
        made.result()


def test_a_lookup_waits_for_the_move(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    old = replace(filesystem, store)
    before = filesystem.getattr_handle(old)
    assert filesystem.getattr("/d/file") == before
    assert list(filesystem.moves) == ["/d/file"]
    with mover(filesystem, replaced):
        filesystem.wait_for_move("/d/file", 60, 60)  # not if the mover was faster
    assert not filesystem.moves
    assert not filesystem.wait_for_move("/d/file", 60, 60)
    now = filesystem.getattr("/d/file")
    assert (now.size, before.size) == (len(NEW), len(OLD))
    assert now.inode != before.inode
    assert filesystem.getattr_handle(old) == before
    assert names(filesystem, "/d") == ["file"]
    new = filesystem.open("/d/file", os.O_RDONLY)
    assert filesystem.page_use(new) in {PageUse.DROP, PageUse.LOOK_AGAIN}
    assert get(filesystem, new) == NEW
    assert get(filesystem, old) == OLD
    for handle in (new, old):
        filesystem.release(handle)


def test_the_old_version_is_shown_until_the_name_is_moved(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    old = replace(filesystem, store)
    assert filesystem.getattr("/d/file").size == len(OLD)
    assert filesystem.is_other_inode("/d/file")
    # The kernel has looked the name up twice, and takes the inode of the old version.
    again = filesystem.open("/d/file", os.O_RDONLY)
    assert get(filesystem, again) == OLD
    filesystem.release(again)
    target = make(filesystem, replaced)
    assert filesystem.getattr("/d/file").size == len(NEW)
    assert not filesystem.is_other_inode("/d/file")
    assert filesystem.is_other_inode(target)
    assert filesystem.getattr(target) == filesystem.getattr_handle(old)
    filesystem.release(old)


def test_the_older_version_is_opened_by_its_other_name(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    """As by /proc/self/fd. Other calls by that name are about what is at the path."""
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    target = make(filesystem, replaced)
    again = filesystem.open(target, os.O_RDONLY)
    assert filesystem.page_use(again) is PageUse.BYPASS
    assert get(filesystem, again) == OLD
    filesystem.chmod(target, 0o600)
    assert filesystem.getattr("/d/file").mode & 0o777 == 0o600
    assert body(store, "d/file") == NEW
    with pytest.raises(OSError, match="Stale") as raised:
        filesystem.truncate(target, 0)
    assert raised.value.errno == errno.ESTALE
    for handle in (again, old):
        filesystem.release(handle)
    look(filesystem, target)


def test_libfuse_hides_the_other_name_and_removes_it(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    target = make(filesystem, replaced)
    filesystem.hide(target, HIDDEN)  # the mover's unlink(2)
    look(filesystem, target)
    assert filesystem.getattr(HIDDEN) == filesystem.getattr_handle(old)
    filesystem.release(old)
    filesystem.unlink(HIDDEN)
    look(filesystem, HIDDEN)
    assert read(filesystem, "/d/file") == NEW
    assert body(store, "d/file") == NEW


def test_the_other_name_is_removed_of_a_file_that_is_closed(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    target = make(filesystem, replaced)
    filesystem.release(old)
    filesystem.unlink(target)
    assert read(filesystem, "/d/file") == NEW


def test_no_other_rename_is_taken_for_a_move(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    foreign(store, "d/other", NEW)
    foreign(store, "file", NEW)
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    move = next_move(replaced)
    for path, target in (
        ("/d/other", move.target),
        ("/file", f"/{move.alias}"),
        ("/d/file", f"/{move.alias}"),
        ("/d/file", move.target + "1"),
    ):
        with pytest.raises(OSError, match="busy"):
            filesystem.rename(path, target)
    filesystem.rename("/d/file", move.target)
    with pytest.raises(OSError, match="busy"):
        filesystem.rename("/d/file", move.target)
    replaced.end_move(move, is_moved=True)
    with pytest.raises(OSError, match="busy"):
        filesystem.rename("/d/file", move.target)
    filesystem.release(old)
    assert body(store, "d/file") == body(store, "d/other") == NEW


def test_a_version_that_is_replaced_within_the_move_of_the_one_before_is_moved_too(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    move = next_move(replaced)
    filesystem.rename("/d/file", move.target)
    # By an open that the kernel does not try again.
    second = filesystem.open("/d/file", os.O_RDWR)
    assert get(filesystem, second) == NEW
    foreign(store, "d/file", NEWER)
    filesystem.getattr("/d/file")
    replaced.end_move(move, is_moved=True)
    again = next_move(replaced)
    filesystem.rename("/d/file", again.target)
    replaced.end_move(again, is_moved=True)
    assert filesystem.getattr(again.target).size == len(NEW)
    assert filesystem.getattr("/d/file").size == len(NEWER)
    for handle in (old, second):
        filesystem.release(handle)


def test_a_file_that_is_closed_needs_no_move(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    move = next_move(replaced)
    filesystem.release(old)
    assert not replaced.is_asked(move)
    with pytest.raises(OSError, match="busy"):
        filesystem.rename("/d/file", move.target)
    assert filesystem.getattr("/d/file").size == len(NEW)


@pytest.mark.parametrize("is_sent", [False, True])
def test_the_new_version_is_shown_when_the_name_cannot_be_moved(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore, is_sent: bool
) -> None:
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    move = next_move(replaced)
    if is_sent:
        filesystem.rename("/d/file", move.target)
    replaced.end_move(move, is_moved=False)
    assert filesystem.getattr("/d/file").size == len(NEW)
    assert filesystem.getattr_handle(old).size == len(OLD)
    new = filesystem.open("/d/file", os.O_RDONLY)
    assert filesystem.page_use(new) in {PageUse.BYPASS, PageUse.LOOK_AGAIN}
    assert get(filesystem, new) == NEW
    # The kernel may show it zeros behind its end, or cut it.
    refuses(errno.ESTALE, lambda: get(filesystem, old))
    filesystem.release(new)
    # A change asks for another move.
    refuses(errno.EBUSY, lambda: filesystem.open("/d/file", os.O_RDWR))
    make(filesystem, replaced)
    assert put_whole(filesystem, NEWER) == NEWER
    filesystem.release(old)


def put_whole(filesystem: FileSystem, data: bytes) -> bytes:
    """Replace the file by its path, and return what it has then."""
    handle = filesystem.open("/d/file", os.O_WRONLY | os.O_TRUNC)
    put(filesystem, handle, 0, data)
    filesystem.flush(handle)
    filesystem.release(handle)
    return read(filesystem, "/d/file")


def refuses(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        call()
    assert raised.value.errno == number


CHANGES: list[Callable[[FileSystem], object]] = [
    lambda filesystem: filesystem.open("/d/file", os.O_WRONLY),
    lambda filesystem: filesystem.open("/d/file", os.O_RDONLY | os.O_TRUNC),
    lambda filesystem: filesystem.truncate("/d/file", 1),
    lambda filesystem: filesystem.create("/d/file", 0o644, os.O_WRONLY, ME),
    lambda filesystem: filesystem.mknod("/d/file", stat.S_IFREG, 0, ME),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("is_deleted", [False, True])
def test_nothing_is_changed_while_the_kernel_has_the_older_version_at_the_name(
    filesystem: FileSystem,
    replaced: ReplacedFiles,
    store: MemoryStore,
    change: Callable[[FileSystem], object],
    is_deleted: bool,
) -> None:
    """The kernel would give the older version the size of the new one."""
    foreign(store, "d/other", NEW)
    old = replace(filesystem, store)
    if is_deleted:
        store.delete(ObjectName("box", "d/file"))
    filesystem.getattr("/d/file")
    is_node = change is CHANGES[-1]
    refuses(errno.EEXIST if is_node and not is_deleted else errno.EBUSY, lambda: change(filesystem))
    assert get(filesystem, old) == OLD
    make(filesystem, replaced)
    if is_deleted is (change in CHANGES[3:]):
        handle = change(filesystem)
        if isinstance(handle, int):
            filesystem.release(handle)
    assert get(filesystem, old) == OLD
    filesystem.release(old)


def test_in_a_mount_that_moves_no_names_the_older_version_is_cut_off(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    """As with `ro`."""
    replaced.serve(moves=False)
    old = replace(filesystem, store)
    assert get(filesystem, old) == OLD
    assert read(filesystem, "/d/file") == NEW
    refuses(errno.ESTALE, lambda: get(filesystem, old))
    filesystem.release(old)


def test_a_move_has_begun_when_the_kernel_looks_for_the_new_name(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    """The mover has done so before, and then the folder is locked. If it begins anew, so does the count."""
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    move = next_move(replaced)
    look(filesystem, move.target)
    replaced.begin_again(move)
    look(filesystem, move.target)
    assert move.begun < 0
    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(filesystem.wait_for_move, "/d/file", 60, 0)
        look(filesystem, move.target)
        assert not waited.result(60)
    assert move.begun > 0
    filesystem.release(old)


def test_the_end_of_the_mount_ends_the_moves(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    old = replace(filesystem, store)
    with ThreadPoolExecutor(1) as pool:
        filesystem.getattr("/d/file")
        ended = pool.submit(filesystem.wait_for_move, "/d/file", 60, 60)
        replaced.stop()
        ended.result()
        assert filesystem.getattr("/d/file").size == len(NEW)
    assert replaced.next() is None
    filesystem.release(old)


def test_a_program_that_opens_it_again_learns_whether_it_is_gone(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    """The old version is shown until its name is moved, but it must not be opened instead of a new file."""
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    filesystem.check_exists("/d/file")  # another client has replaced it
    store.delete(ObjectName("box", "d/file"))
    filesystem.refresh()
    assert filesystem.getattr("/d/file").size == len(OLD)
    with pytest.raises(FileNotFoundError):
        filesystem.check_exists("/d/file")
    make(filesystem, replaced)
    new = filesystem.create("/d/file", 0o644, os.O_WRONLY, ME)
    filesystem.check_exists("/d/file")
    for handle in (new, old):
        filesystem.release(handle)


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_name_moves_with_its_folder(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore, is_moved: bool
) -> None:
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    target = make(filesystem, replaced) if is_moved else ""
    filesystem.rename("/d", "/e")
    if not is_moved:
        target = make(filesystem, replaced, "/e/file")
    target = target.replace("/d/", "/e/")
    assert filesystem.getattr(target).size == filesystem.getattr_handle(old).size == len(OLD)
    assert filesystem.getattr("/e/file").size == len(NEW)
    put(filesystem, old, 0, b"OLD")
    filesystem.flush(old)
    filesystem.release(old)
    assert body(store, "e/file") == b"OLD" + OLD[3:]


def test_a_name_that_a_program_moves_is_moved_from_there(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    filesystem.rename("/d/file", "/d/moved")
    target = make(filesystem, replaced, "/d/moved")
    assert filesystem.getattr(target).size == len(OLD)
    assert read(filesystem, "/d/moved") == NEW
    filesystem.release(old)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_name_that_a_program_takes_away_is_not_moved(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore, is_replaced: bool
) -> None:
    """libfuse hides it first: it counts the older version as open there."""
    foreign(store, "d/other", NEWER)
    old = replace(filesystem, store)
    filesystem.getattr("/d/file")
    move = next_move(replaced)
    filesystem.hide("/d/file", HIDDEN)
    assert not replaced.is_asked(move)
    if is_replaced:
        filesystem.rename("/d/other", "/d/file")
        assert read(filesystem, "/d/file") == NEWER
    else:
        look(filesystem, "/d/file")
    assert filesystem.getattr(HIDDEN) == filesystem.getattr_handle(old)
    assert get(filesystem, old) == OLD
    filesystem.release(old)
    filesystem.unlink(HIDDEN)
    assert names(filesystem, "/d") == (["file"] if is_replaced else ["other"])


def test_a_file_is_cut_only_when_the_kernel_knows_the_new_version(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    old = replace(filesystem, store)
    refuses(errno.EBUSY, lambda: filesystem.truncate("/d/file", 1))
    make(filesystem, replaced)
    filesystem.truncate("/d/file", 1)
    assert body(store, "d/file") == NEW[:1]
    assert filesystem.getattr_handle(old).size == len(OLD)
    filesystem.release(old)


def test_stat_asks_for_an_open_file_as_for_any_other(
    filesystem: FileSystem, replaced: ReplacedFiles, store: MemoryStore
) -> None:
    """A file that was deleted is gone, too."""
    old = replace(filesystem, store)
    store.delete(ObjectName("box", "d/file"))
    foreign(store, "d/other", NEW)
    assert filesystem.getattr("/d/file").size == len(OLD)
    make(filesystem, replaced)
    look(filesystem, "/d/file")
    assert get(filesystem, old) == OLD
    filesystem.release(old)
