"""`conflict=keep`: what this mount itself has stored is not taken for another client's."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import change, copy_live, harness, put, write
from support.late_store import LateStore, away, killed
from support.stored_objects import body, foreign, keys, segments, segments_of
from swiftfs.errors import Unavailable
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem

MIB = 1024 * 1024
OPTIONS = "segment_size=1M,settle=1000,conflict=keep"


pytestmark = pytest.mark.store(LateStore, "box", "box_segments")


def nothing(_filesystem: FileSystem, data: bytes) -> bytes:
    return data


def write_anew(filesystem: FileSystem, data: bytes) -> bytes:
    new = os.urandom(3 * MIB - 1000)
    write(filesystem, "/file", new)
    return new


def write_little(filesystem: FileSystem, _data: bytes) -> bytes:
    write(filesystem, "/file", b"little")
    return b"little"


def patch(filesystem: FileSystem, data: bytes) -> bytes:
    change(filesystem, "/file", MIB, b"patched")
    return data[:MIB].ljust(MIB, b"\0") + b"patched" + data[MIB + 7 :]


def cut(filesystem: FileSystem, data: bytes) -> bytes:
    filesystem.truncate("/file", 2 * MIB)
    return data[: 2 * MIB].ljust(2 * MIB, b"\0")


def rename_over(filesystem: FileSystem, data: bytes) -> bytes:
    new = os.urandom(len(data))
    write(filesystem, "/other", new)
    filesystem.rename("/other", "/file")
    return new


def remove_first(filesystem: FileSystem, data: bytes) -> bytes:
    filesystem.unlink("/file")
    return write_anew(filesystem, data)


NEXT = [nothing, write_anew, write_little, patch, cut, rename_over, remove_first]
MAKES = [(0, write_little), (0, write_anew), (3 * MIB, write_anew), (3 * MIB, patch), (3 * MIB, cut)]
Change = Callable[[FileSystem, bytes], bytes]


def flush(filesystem: FileSystem) -> None:
    filesystem.services.journal.flush_below(Folder("box", ""))


def kill_at_upload(store: LateStore, cache: Path, make: Change, data: bytes, *, lands: bool) -> bytes:
    """Change the file in a mount that is killed when it has sent the object; return the new bytes."""

    def lost() -> None:
        copy_live(cache, cache.with_name("image"))
        store.hook, store.on_loss = away, None

    with killed(store, cache, OPTIONS) as filesystem:
        data = make(filesystem, data)
        for method in ("put", "put_manifest"):
            store.lose(method, "file", lands=lands)
        store.on_loss = lost
        with pytest.raises(Unavailable):
            flush(filesystem)
    store.loses.clear()
    return data


def folder(root: Path, name: str) -> Path:
    (root / name).mkdir()
    return root / name


def stored(store: LateStore, root: Path, size: int) -> bytes:
    data = os.urandom(size)
    with harness(store, folder(root, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", data)
    return data


@pytest.mark.matrix(5)
@pytest.mark.parametrize("then", NEXT)
@pytest.mark.parametrize("lands", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("size", "make"), MAKES)
def test_a_file_whose_upload_was_sent_before_a_kill(
    store: LateStore, tmp_path: Path, make: Change, then: Change, lands: bool, size: int
) -> None:
    data = stored(store, tmp_path, size)
    data = kill_at_upload(store, folder(tmp_path, "cache"), make, data, lands=lands)
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        data = then(filesystem, data)
        store.land()
        flush(filesystem)
    assert keys(store) == ["file"]
    assert body(store, "file") == data
    assert segments_of(store) <= segments(store)


@pytest.mark.parametrize("then", [nothing, write_anew, remove_first])
def test_the_version_of_another_client_over_it_is_kept(
    store: LateStore, tmp_path: Path, then: Change
) -> None:
    data = stored(store, tmp_path, 3 * MIB)
    data = kill_at_upload(store, folder(tmp_path, "cache"), write_anew, data, lands=True)
    foreign(store, "file", b"theirs")
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        data = then(filesystem, data)
        flush(filesystem)
    (beside,) = (key for key in keys(store) if key != "file")
    assert (body(store, "file"), body(store, beside)) == (data, b"theirs")


def test_what_a_program_wrote_while_the_upload_looked_for_conflicts_is_its_own(
    store: LateStore, tmp_path: Path
) -> None:
    """The record names the version that is sent, not the one that was there when the attempt began."""
    stored(store, tmp_path, 5000)

    def append(filesystem: FileSystem, data: bytes) -> bytes:
        handle = filesystem.open("/file", os.O_WRONLY)
        put(filesystem, handle, 0, b"first")
        filesystem.flush(handle)

        def look(method: str, subject: str) -> None:
            if (method, subject) == ("head", "box/file"):
                store.hook = None
                put(filesystem, handle, 5000, b"second")
                filesystem.flush(handle)

        store.hook = look
        return data

    kill_at_upload(store, folder(tmp_path, "cache"), append, b"", lands=True)
    assert store.head(ObjectName("box", "file")).size == 5006
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        change(filesystem, "/file", 0, b"third")
        flush(filesystem)
    assert keys(store) == ["file"]
