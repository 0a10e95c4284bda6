"""The memory that each waiting file takes, in the mount that took it and in the next one.

It is counted, not measured: bytes that Python has allocated. The slow test measures 25,000 files, by
`benchmarks/pending.py`, which makes 100,000 of its own.
"""

import gc
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import LEFT, ME, copy_live, harness, put
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import NEVER
from swiftfs.journal import recovery, task_queue
from swiftfs.posix.filesystem import FileSystem

FILES = 500
BYTES = 1300
"""Of each waiting file, with its name and its entry in the listing."""
NEXT_BYTES = 1650
"""Of each in the next mount, where also the upload of up to 10,000 files counts as lost."""
SHOWN_BYTES = 2000
"""The same when its folder was looked at."""

MANY = 25_000
MANY_MIB = 82
"""Memory of a mount in which `MANY` files wait; 100,000 take 150."""


@contextmanager
def counting() -> Iterator[Callable[[], float]]:
    """Count what is allocated from now on, without garbage; the function returns the bytes for each file."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]

        def allocated() -> float:
            gc.collect()
            return (tracemalloc.get_traced_memory()[0] - before) / FILES

        yield allocated
    finally:
        tracemalloc.stop()


def make_file(filesystem: FileSystem, number: int) -> None:
    handle = filesystem.create(f"/folder/file{number:06d}", 0o644, os.O_WRONLY | os.O_EXCL, ME)
    put(filesystem, handle, 0, b"x" * 100)
    filesystem.flush(handle)
    filesystem.release(handle)


def sleeping(filesystem: FileSystem) -> int:
    journal = filesystem.services.journal
    with journal._changed:
        return len(journal._queue.asleep())


@pytest.mark.usual
@pytest.mark.usefixtures("no_retries")
def test_a_waiting_file_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "RECOVERY_SECONDS", 1000.0)
    monkeypatch.setattr(task_queue, "AWAKE", 0)
    store, cache, image = MemoryStore("box"), tmp_path / "cache", tmp_path / "image"
    cache.mkdir()
    with harness(store, cache, f"{NEVER},drain=0", close_error=LEFT) as filesystem:
        filesystem.mkdir("/folder", 0o755, ME)
        make_file(filesystem, FILES)  # for what the first one allocates
        with counting() as allocated:
            for number in range(FILES):
                make_file(filesystem, number)
            wait_until(lambda: sleeping(filesystem) >= FILES)  # the last one at the next close
            made = allocated()
        copy_live(cache, image)
    with (
        counting() as allocated,
        harness(store, image, f"{NEVER},drain=0", close_error=LEFT) as filesystem,
    ):
        recovered = allocated()
        size = filesystem.getattr("/folder/file000000").size
        shown = allocated()
        waiting = len(filesystem.waiting())
    assert (size, waiting) == (100, FILES + 2)
    assert 0 < made < BYTES
    assert 0 < recovered < NEXT_BYTES
    assert 0 < shown < SHOWN_BYTES


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_waiting_files_take_little_memory(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "pending.py"
    words = ["--files", str(MANY), "--folder", str(tmp_path), "--part", "fill"]
    printed = subprocess.run(
        [sys.executable, script, *words], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"waiting files \| (\d+) MiB", printed)
    assert found is not None
    assert int(found[1]) <= MANY_MIB
