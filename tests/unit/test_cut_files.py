"""A kill just after a pending file was cut: the next mount stores the file as it was at its close, or cut.

And a local file that somebody has deleted: its upload fails, and does not hang.
"""

import os
from pathlib import Path

import pytest

from support.harness import LEFT, change, copy_live, harness, read, sync_all, write
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import NEVER, body, refuse
from swiftfs.errors import AccessDenied

MIB = 1024 * 1024

SEGMENTS = f"{NEVER},segment_size=1M"


@pytest.mark.parametrize("size", [MIB + 40, 10])
def test_the_bytes_behind_a_cut_are_never_stored_as_zeros(tmp_path: Path, size: int) -> None:
    """The record of the last close names what was appended, and the base version has the rest."""
    store, image = MemoryStore("box", "box_segments"), tmp_path / "image"
    old = noise(2 * MIB + 100)
    closed = old + noise(MIB)
    (tmp_path / "cache").mkdir()
    with harness(store, tmp_path / "cache", "segment_size=1M") as filesystem:
        write(filesystem, "/file", old)
    with harness(store, tmp_path / "cache", SEGMENTS, close_error=LEFT) as filesystem:
        change(filesystem, "/file", len(old), closed[len(old) :])
        handle = filesystem.open("/file", os.O_RDWR)
        filesystem.truncate_handle(handle, size)
        copy_live(tmp_path / "cache", image)
        refuse(store, "put_manifest" if size > MIB else "put", AccessDenied)
    store.hook = None
    with harness(store, image, SEGMENTS) as filesystem:
        assert read(filesystem, "/file") == closed[:size]
    assert body(store, "file") == closed[:size]


def test_a_pending_file_whose_local_file_is_gone_is_reported(tmp_path: Path) -> None:
    store = MemoryStore("box")
    with harness(store, tmp_path, NEVER, close_error=LEFT) as filesystem:
        write(filesystem, "/file", b"text")
        for local in (tmp_path / "content").iterdir():
            local.unlink()
        with pytest.raises(OSError, match="Input/output error"):
            sync_all(filesystem)
        (waiting,) = filesystem.waiting()
        assert "Input/output error" in waiting.reason
