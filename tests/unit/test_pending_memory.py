"""The memory that each waiting file takes, in the mount that took it and in the next one.

It is counted, not measured: bytes that Python has allocated. `benchmarks/pending.py` measures 100,000 files.
"""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import LEFT, ME, copy_live, harness, put
from support.memory_store import MemoryStore
from support.stored_objects import NEVER
from swiftfs.posix.filesystem import FileSystem

FILES = 500
BYTES = 2500
"""Of each waiting file, with its name and its entry in the listing."""
NEXT_BYTES = 3300
"""The same in the next mount, where also the upload of up to 10,000 files counts as lost."""


@contextmanager
def counting() -> Iterator[Callable[[], float]]:
    """Count what is allocated from now on; the function returns the bytes for each file."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield lambda: (tracemalloc.get_traced_memory()[0] - before) / FILES
    finally:
        tracemalloc.stop()


def make_file(filesystem: FileSystem, number: int) -> None:
    handle = filesystem.create(f"/folder/file{number:06d}", 0o644, os.O_WRONLY | os.O_EXCL, ME)
    put(filesystem, handle, 0, b"x" * 100)
    filesystem.flush(handle)
    filesystem.release(handle)


@pytest.mark.usefixtures("no_retries")
def test_a_waiting_file_takes_little_memory(tmp_path: Path) -> None:
    store, cache, image = MemoryStore("box"), tmp_path / "cache", tmp_path / "image"
    cache.mkdir()
    with harness(store, cache, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        filesystem.mkdir("/folder", 0o755, ME)
        make_file(filesystem, FILES)  # for what the first one allocates
        with counting() as allocated:
            for number in range(FILES):
                make_file(filesystem, number)
            made = allocated()
        copy_live(cache, image)
    with (
        counting() as allocated,
        harness(store, image, f"{NEVER},drain=0", close_error=LEFT) as filesystem,
    ):
        size = filesystem.getattr("/folder/file000000").size
        waiting = len(filesystem.waiting())
        recovered = allocated()
    assert (size, waiting) == (100, FILES + 2)
    assert 0 < made < BYTES
    assert 0 < recovered < NEXT_BYTES
