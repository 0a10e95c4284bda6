"""`conflict=keep` with large files: the kept version has segments of its own."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from support.harness import change, harness, write
from support.memory_store import MemoryStore
from support.stored_objects import body, named_segments, segments
from swiftfs.attributes import decode_type
from swiftfs.errors import QuotaExceeded, Unavailable
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024
OPTIONS = "segment_size=1M,settle=1000,conflict=keep"


pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


@pytest.fixture
def caches(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    return tmp_path / "ours", tmp_path / "theirs"


def kept(store: MemoryStore) -> str:
    (key,) = [row.key for row in store.list_page("box").rows if "conflict" in row.key]
    return key


def flush(filesystem: FileSystem) -> None:
    filesystem.services.journal.flush_below(Folder("box", ""))


def patched(data: bytes, offset: int, part: bytes) -> bytes:
    return data[:offset] + part + data[offset + len(part) :]


@pytest.fixture(params=["patch", "append"])
def conflict(
    store: MemoryStore, caches: tuple[Path, Path], request: pytest.FixtureRequest
) -> tuple[bytes, bytes]:
    """Let two mounts change one file; return the bytes of the kept version and of the new one.

    After an append the kept version still has all segments of the old one.
    """
    data = os.urandom(4 * MIB)
    offset = 0 if request.param == "patch" else len(data)
    theirs, ours = patched(data, offset, b"theirs"), patched(data, 2 * MIB, b"ours")
    with harness(store, caches[0], OPTIONS) as filesystem:
        write(filesystem, "/file", data)
        flush(filesystem)
        change(filesystem, "/file", 2 * MIB, b"ours")
        with harness(store, caches[1], OPTIONS) as other:
            change(other, "/file", offset, b"theirs")
        assert body(store, "file") == theirs
    return theirs, ours


def test_a_file_that_is_written_anew_over_another_client_s_change(
    store: MemoryStore, caches: tuple[Path, Path]
) -> None:
    data, ours = os.urandom(4 * MIB), os.urandom(3 * MIB)
    theirs = patched(data, 0, b"theirs")
    with harness(store, caches[0], OPTIONS) as filesystem:
        write(filesystem, "/file", data)
        flush(filesystem)
        write(filesystem, "/file", ours)
        with harness(store, caches[1], OPTIONS) as other:
            change(other, "/file", 0, b"theirs")
    check(store, theirs, ours)


def check(store: MemoryStore, theirs: bytes, ours: bytes) -> None:
    assert body(store, kept(store)) == theirs
    assert body(store, "file") == ours
    assert not named_segments(store, kept(store)) & named_segments(store, "file")
    assert segments(store) == named_segments(store, kept(store)) | named_segments(store, "file")


def test_both_versions_have_segments_of_their_own(store: MemoryStore, conflict: tuple[bytes, bytes]) -> None:
    check(store, *conflict)
    headers = store.head(ObjectName("box", kept(store)))
    assert decode_type(headers.content_type)[1].slo == headers.version.etag


@pytest.mark.usual
@pytest.mark.parametrize("who", [0, 1], ids=["the winner's mount", "another mount"])
def test_the_new_version_can_be_changed_and_the_kept_one_deleted(
    store: MemoryStore, caches: tuple[Path, Path], conflict: tuple[bytes, bytes], who: int
) -> None:
    theirs, ours = conflict
    with harness(store, caches[who], OPTIONS) as filesystem:
        for number in range(4):
            change(filesystem, "/file", number * MIB + 50, b"again")
            ours = patched(ours, number * MIB + 50, b"again")
            flush(filesystem)
    check(store, theirs, ours)
    copy = kept(store)
    with harness(store, caches[1 - who], OPTIONS) as filesystem:
        change(filesystem, f"/{copy}", MIB, b"too")
        flush(filesystem)
        assert body(store, copy) == patched(theirs, MIB, b"too")
        filesystem.unlink(f"/{copy}")
    assert body(store, "file") == ours
    assert segments(store) == named_segments(store, "file")


@pytest.mark.parametrize("who", [0, 1])
def test_the_new_version_can_be_deleted(
    store: MemoryStore, caches: tuple[Path, Path], conflict: tuple[bytes, bytes], who: int
) -> None:
    theirs, _ = conflict
    with harness(store, caches[who], OPTIONS) as filesystem:
        filesystem.unlink("/file")
    assert body(store, kept(store)) == theirs
    assert segments(store) == named_segments(store, kept(store))


def test_a_large_file_of_another_client_with_parts_of_segments(
    store: MemoryStore, caches: tuple[Path, Path]
) -> None:
    """Its manifest names two ranges of one segment, and a segment in a container that is not ours."""
    with harness(store, caches[0], OPTIONS) as filesystem:
        write(filesystem, "/file", b"ours")
        data = os.urandom(MIB)
        info = store.put(ObjectName("box_segments", "file/slo/1.5/1/1/00000000"), data, Headers("a/b"))
        store.create_container("elsewhere")
        other = store.put(ObjectName("elsewhere", "part"), b"elsewhere", Headers("a/b"))
        parts = [Segment(info.version.name, info.version.etag, MIB, first, 1000) for first in (0, 500)]
        parts.append(Segment(other.version.name, other.version.etag, 9))
        name = ObjectName("box", "file")
        store.put_manifest(name, Manifest(tuple(parts)), Headers("video/x", {"owner": "them"}))
    copy = kept(store)
    assert body(store, copy) == data[:1000] + data[500:1500] + b"elsewhere"
    info = store.head(ObjectName("box", copy))
    assert (info.content_type, info.metadata) == ("video/x", {"owner": "them"})
    assert body(store, "file") == b"ours"
    assert segments(store) == named_segments(store, copy)
    assert len(segments(store)) == 2
    assert [row.key for row in store.list_page("elsewhere").rows] == ["part"]
    store.requests.clear()
    with harness(store, caches[0], OPTIONS):
        pass
    # All segments of the copy are named: the next mount does not look for others.
    assert not [subject for _, subject in store.requests if subject.startswith("box_segments")]


def failing(store: MemoryStore, method: str, nth: int, error: Callable[[], Exception]) -> None:
    """Let the `nth` request of this method from now on fail, once."""
    count = 0

    def hook(called: str, _subject: str) -> None:
        nonlocal count
        if called == method:
            count += 1
            if count == nth:
                raise error()

    store.hook = hook


@pytest.mark.matrix(3)
@pytest.mark.parametrize(
    ("method", "nth"), [("copy", 1), ("copy", 3), ("put_manifest", 1), ("put_manifest", 2)]
)
@pytest.mark.parametrize("error", [Unavailable, QuotaExceeded])
def test_a_copy_that_fails_is_made_again_and_nothing_is_left(
    store: MemoryStore, caches: tuple[Path, Path], method: str, nth: int, error: type[Exception]
) -> None:
    data = os.urandom(4 * MIB)
    theirs, ours = patched(data, 0, b"theirs"), patched(data, 2 * MIB, b"ours")
    with harness(store, caches[0], OPTIONS) as filesystem:
        write(filesystem, "/file", data)
        flush(filesystem)
        change(filesystem, "/file", 2 * MIB, b"ours")
        with harness(store, caches[1], OPTIONS) as other:
            change(other, "/file", 0, b"theirs")
        failing(store, method, nth, lambda: error("no"))
        with suppress(Unavailable, QuotaExceeded):
            flush(filesystem)
        flush(filesystem)
        assert body(store, kept(store)) == theirs
        assert body(store, "file") == ours
    with harness(store, caches[0], OPTIONS):
        pass
    check(store, theirs, ours)
