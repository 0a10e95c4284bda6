"""A large file that is changed after another mount has moved or replaced it."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.harness import change, harness, write
from support.late_store import settle
from support.memory_store import MemoryStore
from support.stored_objects import body, keys
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

SIZE = 4_000_000


def append(filesystem: FileSystem, model: bytearray) -> None:
    change(filesystem, "/old", SIZE, b"tail")
    model.extend(b"tail")


def patch(filesystem: FileSystem, model: bytearray) -> None:
    change(filesystem, "/old", 1_500_000, b"P" * 100)
    model[1_500_000:1_500_100] = b"P" * 100


def cut(filesystem: FileSystem, model: bytearray) -> None:
    filesystem.truncate("/old", 1_200_000)
    del model[1_200_000:]


@pytest.mark.matrix(3)
@pytest.mark.parametrize("step", [append, patch, cut])
@pytest.mark.parametrize("replaced", [True, False])
def test_each_name_has_its_bytes_whoever_changes_the_other(
    tmp_path: Path, step: Callable[[FileSystem, bytearray], None], replaced: bool
) -> None:
    store, options = MemoryStore("box", "box_segments"), "settle=0.01,segment_size=1M,ttl=1000"
    data = os.urandom(SIZE)
    with ExitStack() as mounts:
        one, other = (mounts.enter_context(harness(store, folder(tmp_path, name), options)) for name in "ab")
        write(other, "/old", data)
        settle(other)
        one.rename("/old", "/new")
        if replaced:
            store.put(ObjectName("box", "old"), b"theirs", Headers("a/b"))
        model = bytearray(data)
        step(other, model)
        settle(other)
        assert body(store, "old") == model
        assert body(store, "new") == data
        change(one, "/new", 0, b"changed")
        settle(one)
        assert body(store, "old") == model
        assert body(store, "new") == b"changed" + data[7:]
        one.unlink("/new")
        settle(one)
        assert body(store, "old") == model
        other.unlink("/old")
        settle(other)
    assert keys(store) == []
    assert keys(store, "box_segments") == []


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name
