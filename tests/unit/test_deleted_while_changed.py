"""Another client deletes a file that is open and changed: it comes back when it is closed."""

import os
from pathlib import Path

import pytest

from support.harness import get, harness, put, write
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import body
from swiftfs.objects import ObjectName


@pytest.mark.parametrize("size", [3_000, 200_000, 900_000, 2_500_000])
@pytest.mark.parametrize("options", ["segment_size=1M", "segment_size=1M,settle=0.01"])
def test_what_is_here_completely_is_stored(tmp_path: Path, options: str, size: int) -> None:
    store = MemoryStore("box", "box_segments")
    name = ObjectName("box", "file")
    with harness(store, tmp_path, options) as filesystem:
        write(filesystem, "/file", noise(size))
    with harness(store, tmp_path, options) as filesystem:
        handle = filesystem.open("/file", os.O_RDWR)
        assert get(filesystem, handle, 0, size) == noise(size)
        put(filesystem, handle, 0, b"ZZ")
        store.delete(name)
        filesystem.flush(handle)
        filesystem.release(handle)
    assert body(store, "file") == b"ZZ" + noise(size)[2:]
