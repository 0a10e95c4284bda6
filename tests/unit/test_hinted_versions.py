"""`slo=` in a Content-Type is a hint: copies by other clients have it too, and it may be wrong."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.harness import get, harness, names, put, read, write
from support.memory_store import MemoryStore
from support.noise import LARGE, NEWER, OLD, noise
from swiftfs.errors import PreconditionFailed, Unavailable, errno_of
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import CopyRequest, Headers

MIB = 1024 * 1024

FILE, COPY = ObjectName("box", "file"), ObjectName("box", "copy")


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    """A store with a large file that a mount has stored; no cache of that mount is left."""
    made = MemoryStore("box")
    (tmp_path / "first").mkdir()
    with harness(made, tmp_path / "first", "segment_size=1M") as filesystem:
        write(filesystem, "/file", OLD)
    assert made.head(FILE).is_slo
    made.requests.clear()
    return made


def type_of(store: MemoryStore, name: ObjectName = FILE) -> str:
    return store.head(name).content_type


def copy_as_plain_object(store: MemoryStore) -> None:
    """As `swift copy` does: the bytes become a plain object with the same Content-Type."""
    store.copy(CopyRequest(FILE, COPY))


def copy_segments(store: MemoryStore) -> Manifest:
    """Copy the segments."""
    segments = []
    for number in range(3):
        part = ObjectName("box_segments", f"parts/{number}")
        info = store.put(part, OLD[number * MIB : (number + 1) * MIB], Headers("x/y"))
        segments.append(Segment(part, info.version.etag, MIB))
    return Manifest(tuple(segments))


def copy_as_dlo(store: MemoryStore) -> None:
    """As rclone does: the segments are copied, and the manifest is a DLO's."""
    copy_segments(store)
    store.put(COPY, b"", Headers(type_of(store), {}, {"X-Object-Manifest": "box_segments/parts/"}))


def copy_with_wrong_etag(store: MemoryStore) -> None:
    """An SLO whose Content-Type names another ETag, as a chmod by a stale listing once left it."""
    etag = store.head(FILE).version.etag
    store.put_manifest(COPY, copy_segments(store), Headers(type_of(store).replace(etag, "0" * 32)))


def copy_without_hint(store: MemoryStore) -> None:
    """An SLO whose Content-Type has our parameters, but no `slo=`."""
    etag = store.head(FILE).version.etag
    store.put_manifest(COPY, copy_segments(store), Headers(type_of(store).replace(f";slo={etag}", "")))


COPIES = [copy_as_plain_object, copy_as_dlo, copy_with_wrong_etag, copy_without_hint]
MakeCopy = Callable[[MemoryStore], None]


@pytest.fixture(params=COPIES)
def copied(store: MemoryStore, request: pytest.FixtureRequest) -> MemoryStore:
    """The store with a copy of the file."""
    make: MakeCopy = request.param
    make(store)
    store.requests.clear()
    return store


@pytest.fixture(params=["segment_size=1M", "segment_size=8M", "segment_size=1M,settle=60"])
def filesystem(copied: MemoryStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FileSystem]:
    with harness(copied, tmp_path, request.param) as built:
        yield built


def stored(store: MemoryStore, name: ObjectName = COPY) -> bytes:
    body = bytearray(store.head(name).size)

    def sink(offset: int, data: bytes) -> None:
        body[offset : offset + len(data)] = data

    store.get(name, sink)
    return bytes(body)


def change(filesystem: FileSystem, path: str, offset: int, data: bytes) -> None:
    handle = filesystem.open(path, os.O_RDWR)
    put(filesystem, handle, offset, data)
    filesystem.flush(handle)
    filesystem.fsync(handle, False)
    filesystem.release(handle)


@pytest.mark.matrix(4)
def test_a_copy_has_its_size_and_its_bytes(filesystem: FileSystem) -> None:
    for _ in range(2):
        assert filesystem.getattr("/copy").size == len(OLD)
        assert read(filesystem, "/copy") == OLD
        assert read(filesystem, "/file") == OLD
        filesystem.refresh()


@pytest.mark.matrix(4)
def test_a_part_of_a_copy_can_be_read(filesystem: FileSystem) -> None:
    handle = filesystem.open("/copy", os.O_RDONLY)
    assert get(filesystem, handle, 2 * MIB, 1000) == OLD[2 * MIB : 2 * MIB + 1000]
    assert get(filesystem, handle, 0, 1000) == OLD[:1000]
    filesystem.release(handle)


@pytest.mark.matrix(6)
@pytest.mark.parametrize("offset", [3 * MIB, 1_200_000, 0])
@pytest.mark.parametrize("size", [8, 128 * 1024])
def test_a_copy_is_changed(copied: MemoryStore, filesystem: FileSystem, offset: int, size: int) -> None:
    data = noise(size, 2)
    change(filesystem, "/copy", offset, data)
    wanted = OLD[:offset] + data + OLD[offset + len(data) :]
    assert stored(copied) == wanted
    assert read(filesystem, "/copy") == wanted
    filesystem.refresh()
    assert read(filesystem, "/copy") == wanted
    assert stored(copied, FILE) == OLD == read(filesystem, "/file")


@pytest.mark.matrix(5)
@pytest.mark.parametrize("size", [0, MIB, MIB + 1, 4 * MIB])
def test_a_copy_is_cut_or_made_longer(copied: MemoryStore, filesystem: FileSystem, size: int) -> None:
    filesystem.truncate("/copy", size)
    handle = filesystem.open("/copy", os.O_RDWR)
    filesystem.fsync(handle, False)
    filesystem.release(handle)
    wanted = (OLD + bytes(MIB))[:size]
    assert stored(copied) == wanted == read(filesystem, "/copy")
    assert stored(copied, FILE) == OLD


def settle(filesystem: FileSystem) -> None:
    root = filesystem.opendir("/")
    filesystem.fsyncdir(root)
    filesystem.releasedir(root)


def operations(path: str = "/copy") -> dict[str, Callable[[FileSystem], object]]:
    return {
        "chmod": lambda fs: fs.chmod(path, 0o600),
        "touch": lambda fs: fs.utimens(path, None, 1_600_000_000_000_000_000),
        "setxattr": lambda fs: fs.setxattr(path, "user.x", b"1", 0),
        "stat": lambda fs: fs.getattr(path),
    }


@pytest.mark.matrix(7)
@pytest.mark.parametrize("first", operations())
@pytest.mark.parametrize("listed", [True, False])
def test_a_copy_whose_attributes_change_keeps_its_bytes(
    copied: MemoryStore, filesystem: FileSystem, first: str, listed: bool
) -> None:
    if listed:
        assert names(filesystem, "/") == ["copy", "file"]
    operations()[first](filesystem)
    assert read(filesystem, "/copy") == OLD
    settle(filesystem)
    filesystem.refresh()
    assert read(filesystem, "/copy") == OLD == stored(copied)
    assert filesystem.getattr("/copy").size == len(OLD)
    change(filesystem, "/copy", 3 * MIB, b"tail")
    assert stored(copied) == OLD + b"tail"


@pytest.mark.matrix(6)
@pytest.mark.parametrize("target", ["/moved", "/file"])
def test_a_copy_is_renamed(copied: MemoryStore, filesystem: FileSystem, target: str) -> None:
    filesystem.rename("/copy", target)
    assert read(filesystem, target) == OLD
    assert filesystem.getattr(target).size == len(OLD)
    filesystem.refresh()
    assert names(filesystem, "/") == sorted({"file", target[1:]})
    assert read(filesystem, target) == OLD == stored(copied, ObjectName("box", target[1:]))
    if target != "/file":
        assert read(filesystem, "/file") == OLD


@pytest.mark.parametrize("make", [copy_as_plain_object, copy_as_dlo])
def test_deleting_a_copy_leaves_the_original(store: MemoryStore, tmp_path: Path, make: MakeCopy) -> None:
    make(store)
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        filesystem.unlink("/copy")
        assert names(filesystem, "/") == ["file"]
        assert read(filesystem, "/file") == OLD
    assert stored(store, FILE) == OLD


def overwritten(store: MemoryStore, body: bytes) -> None:
    """Let another client replace the bytes of the file, with the same Content-Type."""
    store.put(FILE, body, Headers(type_of(store)))


@pytest.mark.matrix(4)
@pytest.mark.parametrize("body", [NEWER, NEWER[:1000], LARGE, b""], ids=len)
@pytest.mark.parametrize("cached", [True, False])
def test_bytes_of_another_client_under_the_same_type_are_read(
    store: MemoryStore, tmp_path: Path, body: bytes, cached: bool
) -> None:
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        if cached:
            assert read(filesystem, "/file") == OLD
        overwritten(store, body)
        filesystem.refresh()
        assert filesystem.getattr("/file").size == len(body)
        assert read(filesystem, "/file") == body
        change(filesystem, "/file", len(body), b"tail")
        assert stored(store, FILE) == body + b"tail"


@pytest.mark.parametrize("operation", ["chmod", "touch", "setxattr"])
def test_a_stale_listing_puts_no_wrong_hint_into_a_type(
    store: MemoryStore, tmp_path: Path, operation: str
) -> None:
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        assert names(filesystem, "/") == ["file"]
        (tmp_path / "other").mkdir()
        with harness(store, tmp_path / "other", "segment_size=1M") as other:
            change(other, "/file", 10, b"of another mount")
        store.copy(CopyRequest(FILE, COPY, manifest_only=True))
        store.copy(CopyRequest(COPY, FILE, manifest_only=True))
        wanted = stored(store, FILE)
        operations("/file")[operation](filesystem)
        filesystem.refresh()
        assert read(filesystem, "/file") == wanted
    (tmp_path / "next").mkdir()
    with harness(store, tmp_path / "next") as filesystem:
        assert f"slo={store.head(FILE).version.etag}" in type_of(store)
        assert read(filesystem, "/file") == wanted


def test_a_reader_of_a_hinted_version_never_gets_two_versions(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "read_ahead=0") as filesystem:
        handle = filesystem.open("/file", os.O_RDONLY)
        assert get(filesystem, handle, 0, 1000) == OLD[:1000]
        overwritten(store, NEWER)
        with pytest.raises(PreconditionFailed) as caught:
            get(filesystem, handle, 2 * MIB, 1000)
        assert errno_of(caught.value) == errno.ESTALE
        filesystem.release(handle)
        assert read(filesystem, "/file") == NEWER


def test_cached_bytes_are_read_while_swift_does_not_answer(store: MemoryStore, tmp_path: Path) -> None:
    def away(method: str, subject: str) -> None:
        raise Unavailable(f"{method} {subject}")

    with harness(store, tmp_path) as filesystem:
        assert read(filesystem, "/file") == OLD
        store.hook = away
        assert read(filesystem, "/file") == OLD
        store.hook = None


def test_a_confirmed_version_costs_one_head(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        assert read(filesystem, "/file") == OLD
        before = [method for method, _ in store.requests].count("get")
        filesystem.refresh()
        assert read(filesystem, "/file") == OLD
        assert [method for method, _ in store.requests].count("get") == before
        assert "head" not in [method for method, _ in store.requests]


def test_a_corrected_version_costs_one_head(store: MemoryStore, tmp_path: Path) -> None:
    copy_as_plain_object(store)
    store.requests.clear()
    with harness(store, tmp_path) as filesystem:
        assert read(filesystem, "/copy") == OLD
        assert [method for method, _ in store.requests].count("head") == 1
        before = len(store.requests)
        filesystem.refresh()
        assert read(filesystem, "/copy") == OLD
        assert [method for method, _ in store.requests[before:]] == ["list_page"]


def test_a_copy_that_is_overwritten_makes_no_conflict(store: MemoryStore, tmp_path: Path) -> None:
    copy_as_plain_object(store)
    with harness(store, tmp_path, "conflict=keep,segment_size=1M") as filesystem:
        change(filesystem, "/copy", 5, b"patch")
        assert names(filesystem, "/") == ["copy", "file"]
