"""The folder of the trash in a mount: hidden, or read-only."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import ME, harness, names, read, write
from support.memory_store import MemoryStore
from support.trash import TRASH, kept, only
from swiftfs.objects import ObjectName
from swiftfs.paths import split
from swiftfs.posix.filesystem import FileSystem

pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


def test_the_folder_is_hidden_and_nobody_can_make_it(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, TRASH) as filesystem:
        write(filesystem, "/a", b"data")
        write(filesystem, "/b", b"data")
        filesystem.mkdir("/folder", 0o755, ME)
        filesystem.unlink("/a")
        filesystem.refresh()
        assert names(filesystem, "/") == ["b", "folder"]
        with pytest.raises(FileNotFoundError):
            filesystem.getattr("/.trash")
        changes: list[Callable[[], object]] = [
            lambda: filesystem.mkdir("/.trash", 0o755, ME),
            lambda: filesystem.create("/.trash", 0o644, os.O_WRONLY, ME),
            lambda: filesystem.create("/.trash/a", 0o644, os.O_WRONLY, ME),
            lambda: filesystem.rename("/b", "/.trash"),
            lambda: filesystem.rename("/folder", "/.trash"),
            lambda: filesystem.rename("/folder", "/.trash/folder"),
            lambda: filesystem.symlink("b", "/.trash/b", ME),
        ]
        for attempt in changes:
            with pytest.raises(OSError, match="not permitted") as raised:
                attempt()
            assert raised.value.errno == errno.EPERM


def test_it_can_be_shown_and_is_read_only_then(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, f"{TRASH},show_trash") as filesystem:
        write(filesystem, "/a", b"data")
        filesystem.unlink("/a")
        filesystem.refresh()
        path = "/" + only(store)
        assert names(filesystem, "/") == [".trash"]
        assert read(filesystem, path) == b"data"
        for attempt in (
            lambda: filesystem.open(path, os.O_WRONLY),
            lambda: filesystem.unlink(path),
            lambda: filesystem.chmod(path, 0o600),
            lambda: filesystem.setxattr(path, "user.a", b"b", 0),
            lambda: filesystem.rename(path, "/a"),
        ):
            with pytest.raises(OSError, match="not permitted"):
                attempt()


def test_without_a_trash_the_folder_is_an_ordinary_one(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        filesystem.mkdir("/.trash", 0o755, ME)
        write(filesystem, "/.trash/a", b"data")
        filesystem.unlink("/.trash/a")
        assert names(filesystem, "/") == [".trash"]
        assert names(filesystem, "/.trash") == []


@pytest.mark.parametrize(
    ("source", "path", "key"), [("box/sub", "/d/a", "sub/.trash/"), ("/", "/box/d/a", ".trash/")]
)
def test_prefixes_and_accounts(store: MemoryStore, tmp_path: Path, source: str, path: str, key: str) -> None:
    with harness(store, tmp_path, TRASH, source) as filesystem:
        filesystem.mkdir(split(path)[0], 0o755, ME)
        write(filesystem, path, b"data")
        filesystem.unlink(path)
        filesystem.refresh()
        assert names(filesystem, split(path)[0]) == []
        assert ".trash" not in names(filesystem, split(split(path)[0])[0])
    ((kept_path, (name,)),) = kept(store, source).items()
    assert f"/{kept_path}" == path
    assert name.startswith(key)


@pytest.mark.mount_options(TRASH)
def test_a_link_may_have_a_target_that_looks_like_a_path_in_the_trash(
    filesystem: FileSystem,
) -> None:
    filesystem.symlink("/.trash/a", "/link", ME)
    assert filesystem.readlink("/link") == "/.trash/a"


def test_a_refused_rename_leaves_the_open_file_that_it_would_have_replaced(
    store: MemoryStore, tmp_path: Path
) -> None:
    """libfuse hides an open file before it asks for the rename that replaces it."""
    with harness(store, tmp_path, f"{TRASH},show_trash") as filesystem:
        for path in ("/a", "/b"):
            write(filesystem, path, path.encode())
        filesystem.unlink("/a")
        filesystem.refresh()
        handle = filesystem.open("/b", os.O_RDONLY)
        filesystem.hide("/b", "/.fuse_hidden0000000100000001")
        with pytest.raises(OSError, match="not permitted"):
            filesystem.rename("/" + only(store), "/b")
        assert read(filesystem, "/b") == b"/b"
        filesystem.release(handle)
    assert store.head(ObjectName("box", "b")).size == 2
