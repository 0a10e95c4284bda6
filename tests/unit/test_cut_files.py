"""A kill just after a pending file was cut: the next mount stores the file as it was at its close, or cut.

And a local file that somebody has deleted: its upload fails, and does not hang.
"""

import errno
import os
from pathlib import Path

import pytest

from support.harness import LEFT, ME, change, copy_live, harness, put, read, sync_all, write
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
        with pytest.raises(OSError, match="is gone"):
            sync_all(filesystem)
        (waiting,) = filesystem.waiting()
        assert "is gone: write the file anew, or delete it" in waiting.reason


@pytest.mark.parametrize("damage", ["cut", "gone"])
@pytest.mark.parametrize("how", ["open", "create", "truncate", "rewrite"])
def test_a_pending_file_whose_local_file_is_damaged_can_be_written_anew(
    tmp_path: Path, damage: str, how: str
) -> None:
    store = MemoryStore("box")
    with harness(store, tmp_path, NEVER, close_error=LEFT) as filesystem:
        write(filesystem, "/file", b"the bytes that are lost")
        refuse(store, "put", AccessDenied)
    store.hook = None
    (local,) = (tmp_path / "content").iterdir()
    if damage == "cut":
        os.truncate(local, 5)
    else:
        local.unlink()
    with harness(store, tmp_path, NEVER) as filesystem:
        said = f"its local file {local} is {'too short' if damage == 'cut' else 'gone'}"
        for flags in (os.O_RDONLY, os.O_RDWR):
            with pytest.raises(OSError, match=said) as caught:
                filesystem.open("/file", flags)
            assert caught.value.errno == errno.EIO
        with pytest.raises(OSError, match=f"^{said}: write the file anew, or delete it$"):
            sync_all(filesystem)
        (waiting,) = filesystem.waiting()
        assert waiting.reason == f"{said}: write the file anew, or delete it"
        if how == "truncate":
            filesystem.truncate("/file", 0)
        elif how == "create":
            handle = filesystem.create("/file", 0o644, os.O_WRONLY | os.O_TRUNC, ME)
            put(filesystem, handle, 0, b"new")
            filesystem.flush(handle)
            filesystem.release(handle)
        else:
            write(filesystem, "/file", b"new", os.O_WRONLY | os.O_TRUNC)
        if how == "rewrite":
            write(filesystem, "/file", b"newer", os.O_WRONLY | os.O_TRUNC)
        expected = {"truncate": b"", "rewrite": b"newer"}.get(how, b"new")
        assert read(filesystem, "/file") == expected
        sync_all(filesystem)
        assert list(filesystem.waiting()) == []
    assert body(store, "file") == expected
    assert not list((tmp_path / "content").glob("open-*"))
