"""Writers whose cache folder is on a disk that is smaller than what they write."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import ME, harness, put
from support.memory_store import MemoryStore
from support.noise import noise
from support.small_disk import fill, small_disk
from support.stored_objects import NEVER, body, foreign
from swiftfs.config.cache_dir import JOURNAL_RESERVE
from swiftfs.filecache.upload_source import Answer
from swiftfs.objects import ObjectName
from swiftfs.sqlite import KEPT

MIB = 1024 * 1024


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "24m") as disk:
        (disk / "cache").mkdir()
        yield disk / "cache"


def piece(number: int) -> bytes:
    """Return one MiB of a file larger than the disk."""
    return noise(MIB, number % 3)


@pytest.mark.usual
@pytest.mark.parametrize("size", ["4M", "8M", "16M"])
def test_a_file_larger_than_the_disk_is_written(store: MemoryStore, cache: Path, size: str) -> None:
    with harness(store, cache, f"segment_size={size}") as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        for number in range(45):
            put(filesystem, handle, number * MIB, piece(number))
        filesystem.release(handle)
    assert store.head(ObjectName("box", "file")).size == 45 * MIB
    assert all(body(store, "file", number * MIB, MIB) == piece(number) for number in range(45))


def test_the_journal_keeps_space_when_its_reserve_is_used(store: MemoryStore, cache: Path) -> None:
    with harness(store, cache, NEVER) as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        put(filesystem, handle, 0, b"text")
        (cache / JOURNAL_RESERVE).unlink()
        fill(cache, left=KEPT + MIB)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                put(filesystem, handle, 4, noise(3 * MIB))
        disk = os.statvfs(cache)
        assert disk.f_bavail * disk.f_frsize >= KEPT
        filesystem.flush(handle)
        filesystem.release(handle)
    assert body(store, "file") == b"text"


def test_bytes_that_are_verified_before_a_change_leave_the_journal_its_space(
    store: MemoryStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers were written to the disk until that was full."""
    left = list[int]()

    def watched(answer: Answer, position: int, data: bytes) -> None:
        write_answer(answer, position, data)
        left.append(shutil.disk_usage(cache).free)

    write_answer = Answer.write
    monkeypatch.setattr(Answer, "write", watched)
    foreign(store, "file", noise(8 * MIB))
    with harness(store, cache) as filesystem:
        (cache / JOURNAL_RESERVE).unlink()
        filler = fill(cache, left=KEPT + MIB)
        handle = filesystem.open("/file", os.O_RDWR)
        with pytest.raises(OSError, match="No space left"):
            put(filesystem, handle, 100, b"text")
        assert min(left) >= KEPT - 4096
        filler.unlink()
        put(filesystem, handle, 100, b"text")
        filesystem.release(handle)
    assert body(store, "file")[90:110] == noise(8 * MIB)[90:100] + b"text" + noise(8 * MIB)[104:110]
