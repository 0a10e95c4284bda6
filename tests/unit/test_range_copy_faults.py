"""copy_file_range while requests fail, another client changes the source, or the mount is killed."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.harness import ANY_END, ME, copy_live, get, harness, put, read, sync_all, write
from support.late_store import LateStore, look
from support.memory_store import MemoryStore
from support.range_copies import BIG, PLAIN, append, copy_range, cp, left, opened, put_slo
from support.stored_objects import body, keys, refuse, segments, ten_minutes_later
from swiftfs.errors import (
    AccessDenied,
    NoSpace,
    NotFound,
    PreconditionFailed,
    StoreError,
    TooLarge,
    Unavailable,
    os_error,
)
from swiftfs.objects import ObjectName, ObjectVersion, Page
from swiftfs.store.protocol import CopyRequest

MIB = 1024 * 1024
LARGE, SMALL = "segment_size=1M,settle=3600", "segment_size=6M,settle=3600"

pytestmark = pytest.mark.mount_options(LARGE)


def test_bytes_that_a_full_disk_took_of_a_copy_are_part_of_the_file(
    store: MemoryStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind its end they would be in the place of zeros when the file grows."""
    really_write = os.pwrite

    def write_some(descriptor: int, data: bytes, offset: int) -> int:
        if offset == 1100:
            raise os_error(errno.ENOSPC)
        return really_write(descriptor, data[:1000] if offset == 100 else data, offset)

    with harness(store, cache, LARGE) as filesystem:
        write(filesystem, "/big", BIG)
        sync_all(filesystem)
        with opened(filesystem, "/big", "/copy") as (source, target):
            put(filesystem, target, 0, b"x" * 100)
            monkeypatch.setattr(os, "pwrite", write_some)
            with pytest.raises(OSError, match="No space left"):
                copy_range(filesystem, source, target, 0, 100)
            monkeypatch.undo()
            copied = filesystem.getattr("/copy").size - 100
            filesystem.truncate_handle(target, 5000)
            assert get(filesystem, target, 0) == b"x" * 100 + BIG[:copied].ljust(4900, b"\0")


class WithoutRanges(MemoryStore):
    """A server that copies all of an object, whatever range is asked for."""

    def copy(self, request: CopyRequest) -> ObjectVersion:
        return super().copy(replace(request, span=None))


class WrongEtags(MemoryStore):
    """A server that says a wrong ETag of one copy of a range."""

    wrong = 1

    def copy(self, request: CopyRequest) -> ObjectVersion:
        copied = super().copy(request)
        if request.span is None or not self.wrong:
            return copied
        self.wrong -= 1
        return replace(copied, etag="0" * 32)


def put_plain(store: MemoryStore) -> None:
    store.put(ObjectName("box", "their"), BIG, PLAIN)


def put_large(store: MemoryStore) -> None:
    put_slo(store, "their", BIG, 700_000)


@pytest.mark.store(WithoutRanges, "box")
@pytest.mark.parametrize("make", [put_plain, put_large])
def test_a_server_that_ignores_ranges(
    store: MemoryStore, cache: Path, make: Callable[[MemoryStore], None]
) -> None:
    make(store)
    with harness(store, cache, LARGE) as filesystem:
        assert cp(filesystem, "/their", "/copy") == 0
        sync_all(filesystem)
        assert body(store, "copy") == BIG
    assert left(store, "copy") == set()


@pytest.mark.store(WrongEtags, "box")
@pytest.mark.parametrize("make", [put_plain, put_large])
@pytest.mark.parametrize("shown", [True, False])
def test_a_wrong_etag_of_a_copy(
    store: WrongEtags, cache: Path, make: Callable[[MemoryStore], None], *, shown: bool
) -> None:
    make(store)
    with harness(store, cache, LARGE) as filesystem:
        if not shown:  # the listing is late
            refuse(store, "list_page", Unavailable, "box_segments")
        assert cp(filesystem, "/their", "/copy") == len(BIG)
        store.hook = None
        filesystem.unlink("/their")
        # From its segments, which nothing names yet.
        assert read(filesystem, "/copy") == BIG
        sync_all(filesystem)
        assert body(store, "copy") == BIG
        assert store.wrong == 0
    assert left(store, "copy") == set()


class WrongTwice(WrongEtags):
    """A server whose listing shows the same wrong ETag, and not only once."""

    def list_page(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = "", limit: int = 0
    ) -> Page:
        page = super().list_page(container, prefix=prefix, delimiter=delimiter, marker=marker, limit=limit)
        if "/swiftfs-" not in prefix or not prefix.startswith("copy"):
            return page
        return replace(page, rows=tuple(replace(row, hash="0" * 32) for row in page.rows))


@pytest.mark.store(WrongTwice, "box")
def test_a_wrong_etag_that_is_believed_is_corrected_when_swift_refuses_the_manifest(
    store: WrongTwice, cache: Path, tmp_path: Path
) -> None:
    put_plain(store)
    store.wrong = 1000
    image = tmp_path / "image"
    with harness(store, cache, LARGE) as filesystem:
        cp(filesystem, "/their", "/copy")
        store.delete(ObjectName("box", "their"))
        copy_live(cache, image)
        twin = twin_of(store)
        sync_all(filesystem)
    assert body(store, "copy") == BIG
    assert left(store, "copy") == set()
    with harness(twin, image, LARGE) as killed:
        sync_all(killed)
    assert body(twin, "copy") == BIG


def test_copies_of_ranges_are_listed_once(store: MemoryStore, cache: Path) -> None:
    put_plain(store)
    with harness(store, cache, LARGE) as filesystem:
        filesystem.getattr("/their")
        store.requests.clear()
        cp(filesystem, "/their", "/copy")
        sent = [method for method, subject in store.requests if "segments" in subject]
        assert sent.count("list_page") == 1
        assert "head" not in sent


class Refusals:
    """Refuses the COPY with a number, and all after it, with an error."""

    def __init__(self, number: int, error: type[StoreError]) -> None:
        self._left = number
        self._error = error

    def __call__(self, method: str, _subject: str) -> None:
        if method == "copy":
            self._left -= 1
            if self._left < 0:
                raise self._error("no")


@pytest.mark.parametrize("error", [AccessDenied, TooLarge, NoSpace, Unavailable, NotFound])
@pytest.mark.parametrize("number", [0, 2])
def test_copies_that_fail_are_left_to_the_kernel(
    store: MemoryStore, cache: Path, error: type[StoreError], number: int
) -> None:
    put_plain(store)
    with harness(store, cache, LARGE) as filesystem:
        store.hook = Refusals(number, error)
        assert cp(filesystem, "/their", "/copy") < len(BIG)
        assert read(filesystem, "/copy") == BIG
        sync_all(filesystem)
        assert body(store, "copy") == BIG
        store.hook = None
    ten_minutes_later(store, cache)
    assert left(store, "copy") == set()


@pytest.mark.parametrize("error", [AccessDenied, TooLarge, Unavailable])
def test_the_last_copy_fails_at_first(store: MemoryStore, cache: Path, error: type[StoreError]) -> None:
    put_plain(store)
    with harness(store, cache, SMALL, close_error=ANY_END) as filesystem:
        cp(filesystem, "/their", "/copy")
        store.hook = Refusals(0, error)
        with pytest.raises(Exception, match="no"):
            sync_all(filesystem)
        assert read(filesystem, "/copy") == BIG
        store.hook = None
        sync_all(filesystem)
        assert body(store, "copy") == BIG
    ten_minutes_later(store, cache)
    assert segments(store) == set()


def test_the_segment_is_gone_and_its_bytes_are_here(store: MemoryStore, cache: Path) -> None:
    put_plain(store)
    with harness(store, cache, SMALL) as filesystem:
        cp(filesystem, "/their", "/copy")
        assert read(filesystem, "/copy") == BIG
        store.delete_many([ObjectName("box_segments", key) for key in segments(store)])
        sync_all(filesystem)
        assert body(store, "copy") == BIG


@pytest.mark.store(LateStore, "box")
@pytest.mark.parametrize("options", [LARGE, SMALL])
@pytest.mark.parametrize("is_late", [False, True])
def test_lost_answers(store: LateStore, cache: Path, options: str, is_late: bool) -> None:
    put_plain(store)
    with harness(store, cache, options) as filesystem:
        store.loses["copy", "copy/"] = 1
        store.loses["copy", "copy"] = 1
        if not is_late:
            store.answers_only |= store.loses.keys()
        cp(filesystem, "/their", "/copy")
        sync_all(filesystem)
        assert body(store, "copy") == BIG
    ten_minutes_later(store, cache)
    assert left(store, "copy") == set()


@pytest.mark.store(LateStore, "box")
def test_a_part_that_is_copied_too_late_is_deleted(store: LateStore, cache: Path) -> None:
    put_plain(store)
    with harness(store, cache, LARGE) as filesystem:
        store.lose("copy", "copy/", 1000)
        assert cp(filesystem, "/their", "/copy") == 0
        store.loses.clear()
        sync_all(filesystem)
        assert store.lost
        store.land()
        assert left(store, "copy")
        look(filesystem)
        assert left(store, "copy") == set()
        assert body(store, "copy") == BIG


@pytest.mark.parametrize("options", [LARGE, SMALL])
def test_another_version_is_never_copied(store: MemoryStore, cache: Path, options: str) -> None:
    put_plain(store)
    with (
        harness(store, cache, options) as filesystem,
        opened(filesystem, "/their", "/copy") as (source, target),
    ):
        store.put(ObjectName("box", "their"), BIG[::-1], PLAIN)
        with pytest.raises(OSError) as caught:  # noqa: PT011  the errno is compared
            copy_range(filesystem, source, target)
        assert caught.value.errno == errno.EOPNOTSUPP
        assert filesystem.getattr("/copy").size == 0
    assert left(store, "copy") == set()


def test_a_source_that_is_replaced_meanwhile(store: MemoryStore, cache: Path) -> None:
    put_plain(store)
    copies: list[str] = []

    def replace(method: str, subject: str) -> None:
        if method == "copy":
            copies.append(subject)
            if len(copies) == 3:
                store.hook = None
                store.put(ObjectName("box", "their"), BIG[::-1], PLAIN)

    with (
        harness(store, cache, LARGE) as filesystem,
        opened(filesystem, "/their", "/copy") as (source, target),
    ):
        store.hook = replace
        with pytest.raises(PreconditionFailed):
            append(filesystem, source, target)
    data = body(store, "copy")
    assert data == BIG[: len(data)]
    ten_minutes_later(store, cache)
    assert left(store, "copy") == set()


def twin_of(store: MemoryStore) -> MemoryStore:
    """Return a store with the same objects, which no later request reaches."""
    twin = MemoryStore(*store._containers)
    for name, container in store._containers.items():
        twin._containers[name].objects.update(container.objects)
    return twin


class Crashes:
    """What a kill -9 before each request, and at the end, leaves: the cache folder and the store."""

    def __init__(self, store: MemoryStore, cache: Path, folder: Path) -> None:
        self._store = store
        self._cache = cache
        self._folder = folder
        self.is_closed = False
        self.left: list[tuple[Path, MemoryStore, bool]] = []
        self._lock = threading.Lock()

    def __call__(self, _method: str = "", _subject: str = "") -> None:
        with self._lock:
            image = self._folder / f"image{len(self.left)}"
            copy_live(self._cache, image)
            self.left.append((image, twin_of(self._store), self.is_closed))


@pytest.mark.usual
@pytest.mark.parametrize("options", [LARGE, SMALL])
def test_a_kill_at_each_request(store: MemoryStore, cache: Path, tmp_path: Path, options: str) -> None:
    put_plain(store)
    crashes = Crashes(store, cache, tmp_path)
    with harness(store, cache, options) as filesystem:
        filesystem.getattr("/their")
        store.hook = crashes
        cp(filesystem, "/their", "/copy")
        crashes.is_closed = True
        crashes()
        sync_all(filesystem)
        crashes()
        store.hook = None
    assert len(crashes.left) > 4
    for image, twin, is_closed in crashes.left:
        with harness(twin, image, options) as again:
            sync_all(again)
            if is_closed:
                assert read(again, "/copy") == BIG
        assert body(twin, "copy") == BIG if is_closed else "copy" not in keys(twin)
        ten_minutes_later(twin, image)
        if "box_segments" in twin.list_containers().subdirs:
            assert left(twin, *(["copy"] if is_closed else [])) == set()


def test_a_copy_that_is_not_closed_is_deleted(store: MemoryStore, cache: Path) -> None:
    put_plain(store)
    with harness(store, cache, LARGE) as filesystem:
        write(filesystem, "/copy", b"before")
        sync_all(filesystem)
        source = filesystem.open("/their", os.O_RDONLY)
        target = filesystem.create("/new", 0o644, os.O_RDWR, ME)
        append(filesystem, source, target)
        filesystem.unlink("/new")
        filesystem.release(target)
        filesystem.release(source)
    assert segments(store) == set()
    assert body(store, "copy") == b"before"
    store.requests.clear()
    with harness(store, cache, LARGE):
        pass
    # Its segments are gone: the next mount does not look for them.
    assert [one for one in store.requests if one[1].startswith("box_segments")] == []
