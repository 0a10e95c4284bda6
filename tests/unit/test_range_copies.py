"""copy_file_range over the store in memory: the server copies, and the new file depends on nothing."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import get, harness, put, read, sync_all, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.range_copies import BIG, PLAIN, append, copy_range, cp, left, opened, put_slo
from support.stored_objects import body, keys, segments, ten_minutes_later
from swiftfs.errors import errno_of
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024
MEDIUM = noise(MIB + 70_001)

LARGE, SMALL = "segment_size=1M,settle=3600", "segment_size=2M,settle=3600"

pytestmark = pytest.mark.mount_options(LARGE)


def refused(filesystem: FileSystem, source: int, target: int, *numbers: int) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011  the caller compares the errno
        copy_range(filesystem, source, target, *numbers)
    return errno_of(caught.value)


def requests(store: MemoryStore) -> dict[str, int]:
    found: dict[str, int] = {}
    for method, _ in store.requests:
        found[method] = found.get(method, 0) + 1
    store.requests.clear()
    return found


@pytest.fixture
def big(store: MemoryStore, filesystem: FileSystem) -> FileSystem:
    """The file system with a large file `/big` that it has stored, of which no byte is in the cache."""
    make_big(store, filesystem)
    return filesystem


def make_big(store: MemoryStore, filesystem: FileSystem) -> None:
    write(filesystem, "/big", BIG)
    sync_all(filesystem)
    filesystem.services.file_cache.space.set_limit(0)
    filesystem.services.file_cache.space.set_limit(1 << 30)
    store.requests.clear()


def test_no_byte_of_a_large_file_comes_here(store: MemoryStore, big: FileSystem) -> None:
    assert cp(big, "/big", "/copy") == len(BIG)
    sync_all(big)
    sent = requests(store)
    assert sent.pop("copy") == 6
    assert sent.pop("put_manifest") == 1
    assert sent == {"manifest": 1}, "that of the source"
    assert body(store, "copy") == BIG
    assert big.getattr("/copy").size == len(BIG)
    assert read(big, "/copy") == BIG
    segments = {one.name for one in store.manifest(ObjectName("box", "copy")).segments}
    assert not segments & {one.name for one in store.manifest(ObjectName("box", "big")).segments}


def test_the_copy_does_not_need_the_source(store: MemoryStore, big: FileSystem) -> None:
    cp(big, "/big", "/copy")
    manifest = store.manifest(ObjectName("box", "big"))
    store.delete_many([ObjectName("box", "big"), *(one.name for one in manifest.segments)])
    assert read(big, "/copy") == BIG, "before it is stored"
    sync_all(big)
    assert body(store, "copy") == BIG


def large_plain(store: MemoryStore) -> None:
    store.put(ObjectName("box", "their"), BIG, PLAIN)


def with_other_segments(store: MemoryStore) -> None:
    put_slo(store, "their", BIG, 700_000)


def with_larger_segments(store: MemoryStore) -> None:
    put_slo(store, "their", BIG, 2 * MIB)


@pytest.mark.parametrize("make", [large_plain, with_other_segments, with_larger_segments])
def test_objects_of_other_clients_are_copied_in_ranges(
    store: MemoryStore, filesystem: FileSystem, make: Callable[[MemoryStore], None]
) -> None:
    make(store)
    store.requests.clear()
    assert cp(filesystem, "/their", "/copy") == len(BIG)
    sync_all(filesystem)
    sent = requests(store)
    assert (sent["copy"], sent["put_manifest"]) == (6, 1)
    assert not sent.keys() & {"get", "put"}
    assert sent["head"] <= 2, "which kind of object it is, and whether the server heeds ranges"
    assert body(store, "copy") == BIG


def test_segments_do_not_end_with_the_source(store: MemoryStore, filesystem: FileSystem) -> None:
    expiring = Headers("text/plain", {"note": "theirs"}, {"X-Delete-At": "4102444800"})
    store.put(ObjectName("box", "their"), BIG, expiring)
    cp(filesystem, "/their", "/copy")
    sync_all(filesystem)
    for one in store.manifest(ObjectName("box", "copy")).segments:
        info = store.head(one.name)
        assert (info.metadata, info.preserved_headers) == ({}, {})


def test_the_end_of_a_part_is_left_to_the_kernel(big: FileSystem) -> None:
    with opened(big, "/big", "/copy") as (source, target):
        assert copy_range(big, source, target, 0, 0, 3 * MIB + 100) == 3 * MIB
        assert refused(big, source, target, 3 * MIB, 3 * MIB, 100) == errno.EOPNOTSUPP
        assert copy_range(big, source, target, 2 * MIB, 3 * MIB, 2 * MIB) == 2 * MIB
        assert get(big, target) == BIG[: 3 * MIB] + BIG[2 * MIB : 4 * MIB]


def test_files_are_joined(store: MemoryStore, big: FileSystem) -> None:
    """As `cat a b a` does: what comes before the next segment is copied through this machine."""
    write(big, "/small", b"between")
    with opened(big, "/big", "/all") as (source, target):
        assert append(big, source, target) == len(BIG)
        with opened(big, "/small", "/other") as (small, _):
            append(big, small, target, len(BIG))
        copied = append(big, source, target, len(BIG) + 7)
        assert copied > 4 * MIB
        assert get(big, target) == BIG + b"between" + BIG
    sync_all(big)
    assert body(store, "all") == BIG + b"between" + BIG


def grow(filesystem: FileSystem, target: int) -> bytes:
    put(filesystem, target, len(BIG), b"more")
    return BIG + b"more"


def grow_much(filesystem: FileSystem, target: int) -> bytes:
    more = noise(2 * MIB)
    for at in range(0, len(more), MIB // 2):
        put(filesystem, target, len(BIG) + at, more[at : at + MIB // 2])
    return BIG + more


def write_behind(filesystem: FileSystem, target: int) -> bytes:
    put(filesystem, target, len(BIG) + 3 * MIB, b"more")
    return BIG + bytes(3 * MIB) + b"more"


def extend(filesystem: FileSystem, target: int) -> bytes:
    filesystem.truncate_handle(target, len(BIG) + 10)
    return BIG + bytes(10)


def cut(filesystem: FileSystem, target: int) -> bytes:
    filesystem.truncate_handle(target, len(BIG) - 10)
    return BIG[:-10]


def cut_and_extend(filesystem: FileSystem, target: int) -> bytes:
    filesystem.truncate_handle(target, 5 * MIB)
    filesystem.truncate_handle(target, 7 * MIB)
    return BIG[: 5 * MIB] + bytes(2 * MIB)


def cut_to_a_segment_and_copy(filesystem: FileSystem, target: int) -> bytes:
    filesystem.truncate_handle(target, 2 * MIB)
    source = filesystem.open("/big", os.O_RDONLY)
    append(filesystem, source, target, 2 * MIB)
    filesystem.release(source)
    return BIG[: 2 * MIB] + BIG


def change_the_middle(filesystem: FileSystem, target: int) -> bytes:
    put(filesystem, target, MIB + 5, b"changed")
    return BIG[: MIB + 5] + b"changed" + BIG[MIB + 12 :]


def change_the_end(filesystem: FileSystem, target: int) -> bytes:
    put(filesystem, target, len(BIG) - 3, b"end")
    return BIG[:-3] + b"end"


def fill_up_the_block(filesystem: FileSystem, target: int) -> bytes:
    end = -(-len(BIG) // 131072) * 131072
    filesystem.fallocate(target, 0, 0, end)
    return BIG.ljust(end, b"\0")


CHANGES = [
    grow,
    grow_much,
    write_behind,
    extend,
    cut,
    cut_and_extend,
    cut_to_a_segment_and_copy,
    change_the_middle,
    change_the_end,
    fill_up_the_block,
]


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("alter", CHANGES)
def test_a_copy_is_changed_before_it_is_stored(
    store: MemoryStore, cache: Path, alter: Callable[[FileSystem, int], bytes], is_closed: bool
) -> None:
    with harness(store, cache, LARGE) as filesystem:
        make_big(store, filesystem)
        with opened(filesystem, "/big", "/copy") as (source, target):
            append(filesystem, source, target)
            if is_closed:
                filesystem.flush(target)
            expected = alter(filesystem, target)
            assert get(filesystem, target) == expected
        assert read(filesystem, "/copy") == expected
        sync_all(filesystem)
        assert body(store, "copy") == expected
    if is_closed:  # what a record named may be needed after a power cut
        ten_minutes_later(store, cache)
    assert left(store, "copy", "big") == set()


@pytest.mark.parametrize("alter", CHANGES)
def test_a_stored_copy_is_changed(
    store: MemoryStore, big: FileSystem, alter: Callable[[FileSystem, int], bytes]
) -> None:
    cp(big, "/big", "/copy")
    sync_all(big)
    target = big.open("/copy", os.O_RDWR)
    expected = alter(big, target)
    big.flush(target)
    big.release(target)
    sync_all(big)
    assert body(store, "copy") == expected


def test_over_an_existing_file(store: MemoryStore, big: FileSystem) -> None:
    write(big, "/copy", noise(3 * MIB + 5))
    sync_all(big)
    cp(big, "/big", "/copy")
    assert read(big, "/copy") == BIG
    sync_all(big)
    assert body(store, "copy") == BIG
    assert left(store, "copy", "big") == set()


def test_behind_the_end_of_a_stored_file(store: MemoryStore, big: FileSystem) -> None:
    start = noise(2 * MIB)
    write(big, "/copy", start)
    sync_all(big)
    with opened(big, "/big", "/copy", 0) as (source, target):
        assert copy_range(big, source, target, MIB, 2 * MIB, 3 * MIB) == 3 * MIB
        assert get(big, target) == start + BIG[MIB : 4 * MIB]
    sync_all(big)
    assert body(store, "copy") == start + BIG[MIB : 4 * MIB]
    assert left(store, "copy", "big") == set()


def test_what_the_server_does_not_copy(store: MemoryStore, big: FileSystem) -> None:
    put_slo(store, "part", BIG, MIB)
    store.put(ObjectName("box", "dlo"), b"", Headers("x/y", {}, {"X-Object-Manifest": "theirs/part/"}))
    store.put(ObjectName("box", "small"), b"x" * 900_000, PLAIN)
    big.refresh()
    write(big, "/new", BIG)
    for path in ("/small", "/new", "/dlo"):
        with opened(big, path, "/copy") as (source, target):
            assert refused(big, source, target) == errno.EOPNOTSUPP
    with opened(big, "/big", "/copy") as (source, target):
        assert copy_range(big, source, target, len(BIG), 0) == 0, "at the end"
        assert refused(big, source, source) == errno.EBADF
        with pytest.raises(OSError) as caught:  # noqa: PT011  the errno is compared
            big.copy_file_range(source, 0, target, 0, MIB, 1)
        assert caught.value.errno == errno.EINVAL
        put(big, target, 0, b"x" * 5)
        assert refused(big, source, target, 0, 0) == errno.EOPNOTSUPP, "over bytes that are there"
        assert refused(big, target, target, 0, 5) == errno.EOPNOTSUPP, "within a file"


@pytest.fixture
def medium(store: MemoryStore, filesystem: FileSystem) -> FileSystem:
    """The file system of `box`, in which another client has stored the plain object `medium`."""
    store.put(ObjectName("box", "medium"), MEDIUM, PLAIN)
    store.requests.clear()
    return filesystem


MEDIUM_OPTIONS = pytest.mark.mount_options(SMALL)


def test_a_plain_object_stays_one(store: MemoryStore, cache: Path) -> None:
    store.put(ObjectName("box", "medium"), MEDIUM, PLAIN)
    with harness(store, cache, SMALL) as medium:
        assert cp(medium, "/medium", "/copy.txt") == len(MEDIUM)
        medium.chmod("/copy.txt", 0o640)
        assert read(medium, "/copy.txt") == MEDIUM
        store.requests.clear()
        sync_all(medium)
        assert requests(store) == {"copy": 1}
        info = store.head(ObjectName("box", "copy.txt"))
        assert not info.is_slo
        assert info.content_type.startswith("text/plain;")
        assert body(store, "copy.txt") == MEDIUM
        assert stat.S_IMODE(medium.getattr("/copy.txt").mode) == 0o640
    assert len(segments(store)) == 1
    ten_minutes_later(store, cache)
    assert segments(store) == set()


@MEDIUM_OPTIONS
def test_bytes_that_are_here_are_stored_from_here(store: MemoryStore, medium: FileSystem) -> None:
    read(medium, "/medium")
    assert cp(medium, "/medium", "/copy") == 0
    store.requests.clear()
    sync_all(medium)
    assert requests(store) == {"put": 1}


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_copied_object_is_changed_before_it_is_stored(
    store: MemoryStore, cache: Path, is_closed: bool
) -> None:
    store.put(ObjectName("box", "medium"), MEDIUM, PLAIN)
    with harness(store, cache, SMALL) as medium:
        with opened(medium, "/medium", "/copy") as (source, target):
            append(medium, source, target)
            if is_closed:
                medium.flush(target)
            put(medium, target, 5, b"changed")
            put(medium, target, len(MEDIUM), b"more")
        sync_all(medium)
        assert body(store, "copy") == MEDIUM[:5] + b"changed" + MEDIUM[12:] + b"more"
    if is_closed:
        ten_minutes_later(store, cache)
    assert segments(store) == set()


@MEDIUM_OPTIONS
def test_a_copied_object_that_is_deleted_leaves_nothing(store: MemoryStore, medium: FileSystem) -> None:
    cp(medium, "/medium", "/copy")
    assert len(segments(store)) == 1
    medium.unlink("/copy")
    wait_until(lambda: segments(store) == set())


@MEDIUM_OPTIONS
def test_a_copied_object_is_renamed_before_it_is_stored(store: MemoryStore, medium: FileSystem) -> None:
    cp(medium, "/medium", "/copy")
    medium.rename("/copy", "/new")
    sync_all(medium)
    assert body(store, "new") == MEDIUM
    assert keys(store) == ["medium", "new"]


def test_from_one_container_to_another(store: MemoryStore, cache: Path) -> None:
    store.create_container("other")
    store.put(ObjectName("other", "their"), BIG, PLAIN)
    with harness(store, cache, LARGE, "/") as account:
        assert cp(account, "/other/their", "/box/copy") == len(BIG)
    assert body(store, "copy") == BIG
    assert left(store, "copy") == set()
