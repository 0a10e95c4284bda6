"""Other clients see a file as it was at a close, or when an upload began: never a mixture of two states."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from support.harness import put, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import body
from swiftfs.errors import Unavailable
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Body, Headers

FIRST = b"first" * 8
OPTIONS = "settle=0.05"


class SeenStore(MemoryStore):
    """A store that keeps every body that other clients could see."""

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.seen: list[bytes] = []

    def put(self, name: ObjectName, body: Body, headers: Headers, **how: Any) -> ObjectInfo:
        info = super().put(name, body, headers, **how)
        parts: list[bytes] = []
        self.get(name, lambda _offset, data: parts.append(data))
        self.seen.append(b"".join(parts))
        return info


pytestmark = [pytest.mark.store(SeenStore, "box"), pytest.mark.mount_options(OPTIONS)]


def cut(filesystem: FileSystem) -> None:
    filesystem.truncate("/file", 3)


def patch(filesystem: FileSystem) -> None:
    handle = filesystem.open("/file", os.O_RDWR)
    put(filesystem, handle, 10, b"second" * 8)
    filesystem.flush(handle)
    filesystem.release(handle)


CHANGES = [(cut, FIRST[:3]), (patch, FIRST[:10] + b"second" * 8)]


@pytest.mark.matrix(3)
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(("change", "last"), CHANGES)
def test_a_file_that_changes_when_its_put_is_sent(
    filesystem: FileSystem, store: SeenStore, change: Callable[[FileSystem], None], last: bytes, *, lost: bool
) -> None:
    def hook(method: str, subject: str) -> None:
        if (method, subject) == ("put", "box/file"):
            store.hook = None
            change(filesystem)
            if lost:
                raise Unavailable("no answer")

    store.hook = hook
    write(filesystem, "/file", FIRST)
    wait_until(lambda: not filesystem.waiting())
    assert {*store.seen} <= {FIRST, last}
    assert body(store, "file") == last
