"""Ghosts: rows that a listing shows for objects that Swift does not have. They can only be deleted."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.ghosts import GhostStore
from support.harness import ME, harness, names, read, write
from support.stored_objects import refuse
from swiftfs.errors import BadName, BadRequest, Clash, Corrupt, NotFound, StoreError, errno_of
from swiftfs.objects import DIRECTORY_TYPE, ObjectName
from swiftfs.store.protocol import Headers

OURS = "text/plain;mtime=1700000000.5;mode=0100644;uid=0;gid=0"
LARGE = f"{OURS};slo={'0' * 32}"
KINDS = [("foreign", "text/plain", 7), ("ours", OURS, 7), ("large", LARGE, 7), ("copied", LARGE, 0)]


pytestmark = pytest.mark.store(GhostStore, "box")


@contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises((OSError, StoreError)) as caught:
        yield
    assert errno.errorcode[errno_of(caught.value)] == errno.errorcode[number]


@pytest.mark.matrix(4)
@pytest.mark.parametrize("options", ["", "settle=0.05"])
@pytest.mark.parametrize(("kind", "content_type", "size"), KINDS)
def test_a_ghost_is_seen_and_deleted(
    store: GhostStore, tmp_path: Path, options: str, kind: str, content_type: str, size: int
) -> None:
    store.add_ghost("d/ghost", content_type, size)
    store.put(ObjectName("box", "d/file"), b"alive", Headers("text/plain"))
    with harness(store, tmp_path, options) as filesystem:
        assert names(filesystem, "/d") == ["file", "ghost"]
        for _ in range(2):
            assert filesystem.getattr("/d/ghost").size == size, kind
            with fails(errno.ENOENT):
                read(filesystem, "/d/ghost")
        assert read(filesystem, "/d/file") == b"alive"
        assert names(filesystem, "/d") == ["file", "ghost"]
        filesystem.unlink("/d/ghost")
        assert names(filesystem, "/d") == ["file"]
    assert store.deleted == ["d/ghost"]
    assert not store.ghosts


def test_a_folder_of_ghosts_is_removed(store: GhostStore, tmp_path: Path) -> None:
    for number, (_, content_type, size) in enumerate(KINDS * 3):
        store.add_ghost(f"d/{number}", content_type, size)
    store.add_ghost("d", DIRECTORY_TYPE, 0)
    with harness(store, tmp_path) as filesystem:
        for name in names(filesystem, "/d"):
            filesystem.getattr(f"/d/{name}")
            filesystem.unlink(f"/d/{name}")
        filesystem.getattr("/d")
        filesystem.rmdir("/d")
        assert names(filesystem, "/") == []
        filesystem.refresh()
        assert names(filesystem, "/") == []
    assert not store.ghosts


def test_attributes_of_a_folder_with_a_ghost_marker_can_be_set(store: GhostStore, tmp_path: Path) -> None:
    store.add_ghost("d", DIRECTORY_TYPE, 0)
    store.put(ObjectName("box", "d/file"), b"alive", Headers("text/plain"))
    with harness(store, tmp_path) as filesystem:
        assert filesystem.getattr("/d").is_directory
        filesystem.chmod("/d", 0o700)
        assert filesystem.getattr("/d").mode & 0o777 == 0o700
    assert store.head(ObjectName("box", "d")).metadata["mode"] == "0040700"


@pytest.mark.parametrize(("kind", "content_type", "size"), KINDS)
def test_a_ghost_is_overwritten(
    store: GhostStore, tmp_path: Path, kind: str, content_type: str, size: int
) -> None:
    store.add_ghost("ghost", content_type, size)
    with harness(store, tmp_path) as filesystem:
        filesystem.getattr("/ghost")
        write(filesystem, "/ghost", b"alive")
        assert read(filesystem, "/ghost") == b"alive", kind
        write(filesystem, "/other", b"new")
        filesystem.rename("/other", "/ghost")
        assert read(filesystem, "/ghost") == b"new"


def test_a_removed_folder_that_another_client_fills_is_shown_beside_its_marker_s_ghost(
    store: GhostStore, tmp_path: Path
) -> None:
    """The listing still has the marker that the removal has deleted."""
    with harness(store, tmp_path) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        filesystem.rmdir("/d")
        store.add_ghost("d", DIRECTORY_TYPE, 0)
        store.put(ObjectName("box", "d/file"), b"x", Headers("text/plain"))
        filesystem.refresh()
        assert names(filesystem, "/") == ["d"]
        assert read(filesystem, "/d/file") == b"x"


def test_an_object_that_another_client_deleted_is_no_ghost(store: GhostStore, tmp_path: Path) -> None:
    name = ObjectName("box", "file")
    store.put(name, b"alive", Headers("text/plain"))
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/") == ["file"]
        store.delete(name)
        with fails(errno.ENOENT):
            filesystem.getattr("/file")
        assert names(filesystem, "/") == []


REFUSALS = [BadRequest, BadName, Clash, Corrupt]


@pytest.mark.parametrize("error", REFUSALS)
def test_a_refusal_never_means_something_else(
    store: GhostStore, tmp_path: Path, error: type[StoreError]
) -> None:
    """EINVAL of rename(2) means a directory into itself; unlink(2) has no ENOTEMPTY."""
    for key in ("a", "d/x"):
        store.put(ObjectName("box", key), b"1", Headers(OURS))

    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/") == ["a", "d"]
        refuse(store, "copy delete delete_many post put get", error)
        with fails(errno.EIO):
            filesystem.rename("/a", "/b")
        with fails(errno.EIO):
            filesystem.rename("/d", "/e")
        with fails(errno.EIO):
            filesystem.unlink("/a")
        with fails(errno.EIO):
            filesystem.chmod("/a", 0o600)
        with fails(errno.EIO):
            filesystem.setxattr("/a", "user.x", b"1", 0)
        with fails(errno.EIO):
            filesystem.mkdir("/made", 0o755, ME)
        with fails(errno.EIO):
            write(filesystem, "/new", b"1")
        with fails(errno.EIO):
            read(filesystem, "/a")
        store.hook = None


def test_not_found_is_enoent() -> None:
    assert errno_of(NotFound("x")) == errno.ENOENT
