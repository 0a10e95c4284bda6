"""A manifest is stored and its answer lost: its segments stay, whatever is done next."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import change, harness, read, write
from support.jobs import wait_until
from support.late_store import LateStore, away, killed
from support.stored_objects import body, named_segments, segments
from swiftfs.errors import NoSpace, Unavailable
from swiftfs.filecache.block_map import BLOCK
from swiftfs.journal import recovery
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024
OPTIONS = "segment_size=1M,settle=1000"
NAME = ObjectName("box", "file")


pytestmark = pytest.mark.store(LateStore, "box")


def cache(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def noise(size: int) -> bytes:
    return os.urandom(size)


def flush(filesystem: FileSystem) -> None:
    filesystem.services.journal.flush_below(Folder("box", ""))


def lose(filesystem: FileSystem, store: LateStore, times: int = 1) -> None:
    """Let the next manifests be stored and their answers be lost; then the server does not answer."""
    lose_next(store, times)
    with pytest.raises(Unavailable):
        flush(filesystem)
    assert store.hook is away


def lose_next(store: LateStore, times: int = 1) -> None:
    def lost() -> None:
        if not store.loses["put_manifest", "file"]:
            store.hook = away

    store.lose("put_manifest", "file", times, lands=True)
    store.on_loss = lost


def hold(filesystem: FileSystem, store: LateStore) -> None:
    """Let the store get the manifest, and not execute it before it lands."""
    store.lose("put_manifest", "file", 1000)
    store.on_loss = None
    with pytest.raises(Unavailable):
        flush(filesystem)
    store.loses.clear()


def patch(filesystem: FileSystem, data: bytearray) -> None:
    change(filesystem, "/file", 2 * MIB + 5, b"changed")
    data[2 * MIB + 5 : 2 * MIB + 12] = b"changed"


def append(filesystem: FileSystem, data: bytearray) -> None:
    change(filesystem, "/file", len(data), b"appended" * 1000)
    data += b"appended" * 1000


def cut(filesystem: FileSystem, data: bytearray) -> None:
    filesystem.truncate("/file", 2 * MIB + 100)
    del data[2 * MIB + 100 :]


def replace(filesystem: FileSystem, data: bytearray) -> None:
    data[:] = noise(3 * MIB)
    write(filesystem, "/file", bytes(data))


OPERATIONS = pytest.mark.parametrize("operation", [patch, append, cut, replace])


@OPERATIONS
def test_the_next_mount_finds_the_stored_manifest(
    store: LateStore, tmp_path: Path, operation: Callable[[FileSystem, bytearray], None]
) -> None:
    data = bytearray(noise(4 * MIB + 17))
    with harness(store, cache(tmp_path, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
    with killed(store, tmp_path, OPTIONS) as filesystem:
        operation(filesystem, data)
        lose(filesystem, store)
    assert body(store, "file") == data
    with harness(store, tmp_path, OPTIONS) as filesystem:
        assert read(filesystem, "/file") == data
    assert body(store, "file") == data
    assert named_segments(store, "file") <= segments(store)


def test_the_manifest_of_a_new_large_file(store: LateStore, tmp_path: Path) -> None:
    data = noise(3 * MIB + 1)
    with killed(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", data)
        lose(filesystem, store)
    with harness(store, tmp_path, OPTIONS):
        pass
    assert body(store, "file") == data
    assert segments(store) == named_segments(store, "file")


def test_a_patch_of_an_object_that_was_no_slo(store: LateStore, tmp_path: Path) -> None:
    """The whole object is copied to a segment first."""
    data = bytearray(noise(4 * MIB))
    store.put(NAME, bytes(data), Headers("application/octet-stream"))
    with killed(store, tmp_path, OPTIONS) as filesystem:
        patch(filesystem, data)
        lose(filesystem, store)
    with harness(store, tmp_path, OPTIONS):
        pass
    assert body(store, "file") == data
    assert named_segments(store, "file") <= segments(store)


@OPERATIONS
def test_the_manifest_is_sent_again_by_the_same_process(
    store: LateStore, tmp_path: Path, operation: Callable[[FileSystem, bytearray], None]
) -> None:
    data = bytearray(noise(4 * MIB + 17))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
        flush(filesystem)
        operation(filesystem, data)
        lose(filesystem, store)
        store.hook = None
        flush(filesystem)
        assert body(store, "file") == data
        assert segments(store) == named_segments(store, "file")


def test_two_lost_manifests_of_one_process(store: LateStore, tmp_path: Path) -> None:
    data = bytearray(noise(4 * MIB))
    with harness(store, cache(tmp_path, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
    with killed(store, tmp_path, OPTIONS) as filesystem:
        for number in range(2):
            store.hook = None
            # Whole blocks: the rest of a partial one would be read from the version that is gone.
            change(filesystem, "/file", number * MIB, bytes([number + 1]) * BLOCK)
            data[number * MIB : number * MIB + BLOCK] = bytes([number + 1]) * BLOCK
            lose(filesystem, store)
    assert body(store, "file") == data
    with harness(store, tmp_path, OPTIONS) as filesystem:
        assert read(filesystem, "/file") == data
        patch(filesystem, data)
    assert body(store, "file") == data
    assert named_segments(store, "file") <= segments(store)


def test_lost_manifests_of_two_processes(
    store: LateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "RECOVERY_SECONDS", 0.0)
    data = bytearray(noise(4 * MIB))
    with harness(store, cache(tmp_path, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
    with killed(store, tmp_path, OPTIONS) as filesystem:
        patch(filesystem, data)
        lose(filesystem, store)
    lose_next(store)
    with killed(store, tmp_path, OPTIONS):
        wait_until(lambda: store.hook is away)
    assert body(store, "file") == data
    with harness(store, tmp_path, OPTIONS) as filesystem:
        assert read(filesystem, "/file") == data
        append(filesystem, data)
    assert body(store, "file") == data
    assert named_segments(store, "file") <= segments(store)


def test_a_file_that_is_removed_after_a_lost_manifest_is_whole_until_it_is_gone(
    store: LateStore, tmp_path: Path
) -> None:
    data = noise(3 * MIB)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", data)
        lose(filesystem, store)
        store.hook = None
        filesystem.unlink("/file")
        _let_threads_work(filesystem)
        assert body(store, "file") == data
        flush(filesystem)
        assert "file" not in {row.key for row in store.list_page("box").rows}


def _let_threads_work(filesystem: FileSystem) -> None:
    """Return when the jobs that are due have run; they run in their order."""
    backlog = filesystem.services.journal._backlog
    for job in [backlog.workers.submit(time.sleep, 0.01) for _ in range(2 * backlog.parallel)]:
        job.result()


def test_a_refusal_after_a_lost_answer_leaves_the_segments_of_what_stands(
    store: LateStore, tmp_path: Path
) -> None:
    """The first attempt has stored the manifest; the second one of the same call is refused."""
    data = noise(2 * MIB)
    store.lose("put_manifest", "file", 2, lands=True)

    def hook(method: str, _subject: str) -> None:
        if method == "put_manifest" and not store.loses["put_manifest", "file"]:
            raise NoSpace("507")

    store.hook = hook
    with harness(store, tmp_path, "segment_size=1M") as filesystem:
        with pytest.raises(NoSpace):
            write(filesystem, "/file", data)
        store.hook = None
    assert body(store, "file") == data


def test_a_late_manifest_finds_its_segments(store: LateStore, tmp_path: Path) -> None:
    """The first PUT is executed after the second: segments that only the first one names still exist."""
    data = bytearray(noise(4 * MIB))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
        flush(filesystem)
        change(filesystem, "/file", 0, b"one")
        first = b"one" + data[3:]
        hold(filesystem, store)
        change(filesystem, "/file", 0, b"two")
        change(filesystem, "/file", 3 * MIB, b"three")
        flush(filesystem)
        store.land()
        assert body(store, "file") == first


def test_a_late_manifest_of_a_file_that_became_small(store: LateStore, tmp_path: Path) -> None:
    data = bytearray(noise(3 * MIB))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
        hold(filesystem, store)
        filesystem.truncate("/file", 10)
        flush(filesystem)
        assert body(store, "file") == data[:10]
        store.land()
        assert body(store, "file") == data


def test_a_late_manifest_of_a_file_that_was_removed(store: LateStore, tmp_path: Path) -> None:
    data = noise(3 * MIB)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/file", data)
        hold(filesystem, store)
        filesystem.unlink("/file")
        _let_threads_work(filesystem)
        store.land()
        assert body(store, "file") == data
        flush(filesystem)
        assert store.list_page("box").rows == ()


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("size", [4 * BLOCK, MIB + BLOCK])
def test_a_file_that_becomes_small_after_a_lost_manifest(
    store: LateStore, tmp_path: Path, dies: bool, size: int
) -> None:
    """Most of it is not in the cache, and the version that it was read from does not exist any more."""
    data = bytearray(noise(4 * MIB))
    with harness(store, cache(tmp_path, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", bytes(data))
    mount = killed(store, tmp_path, OPTIONS) if dies else harness(store, tmp_path, OPTIONS)
    with mount as filesystem:
        change(filesystem, "/file", 3 * MIB, b"c" * BLOCK)
        data[3 * MIB : 3 * MIB + BLOCK] = b"c" * BLOCK
        lose(filesystem, store)
        filesystem.truncate("/file", size)
        store.hook = None
        if not dies:
            flush(filesystem)
            assert body(store, "file") == data[:size]
    with harness(store, tmp_path, OPTIONS):
        pass
    assert body(store, "file") == data[:size]
