"""A file of a mount that a test changes while it is uploaded."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from support.deadlines import within
from support.harness import put
from support.memory_store import MemoryStore
from support.noise import noise
from swiftfs.errors import QuotaExceeded
from swiftfs.posix.filesystem import FileSystem

SOON = "settle=0.01,segment_size=1M"
"""Mount options: uploads begin at once."""


class Gate:
    """Holds each PUT of an object or manifest until `open` is set; then it fails with `error`, if given."""

    def __init__(self, store: MemoryStore, error: Exception | None) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._error = error
        store.hook = self

    def __call__(self, method: str, _subject: str) -> None:
        if method in ("put", "put_manifest"):
            self.reached.set()
            assert self.open.wait(within(30))
            if self._error is not None:
                raise self._error


@dataclass
class Edited:
    """A file of a mount, and `model`, the bytes that it must have."""

    filesystem: FileSystem
    model: bytearray
    path: str = "/file"

    def write(self, offset: int, data: bytes) -> None:
        """Write at an offset, with an open and a close."""
        self.within(lambda handle: put(self.filesystem, handle, offset, data))
        self.model.extend(bytes(max(0, offset + len(data) - len(self.model))))
        self.model[offset : offset + len(data)] = data

    def append(self, data: bytes) -> None:
        """Write at the end."""
        self.write(len(self.model), data)

    def truncate(self, size: int) -> None:
        """Set the size."""
        self.within(lambda handle: self.filesystem.truncate_handle(handle, size))
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def cut_and_grow(self, size: int, data: bytes) -> None:
        """Set the size, and write 5000 bytes behind it, between one open and close."""

        def change(handle: int) -> None:
            self.filesystem.truncate_handle(handle, size)
            put(self.filesystem, handle, size + 5000, data)

        self.within(change)
        del self.model[size:]
        self.model.extend(bytes(5000) + data)

    def within(self, change: Callable[[int], None]) -> None:
        """Open the file, make a change with its handle, flush and close."""
        handle = self.filesystem.open(self.path, os.O_RDWR)
        try:
            change(handle)
            with suppress(QuotaExceeded):  # the reason why an earlier close is parked is reported once
                self.filesystem.flush(handle)
        finally:
            self.filesystem.release(handle)


CHANGES: dict[str, Callable[[Edited, int], None]] = {
    "append": lambda file, number: file.append(noise(1000, number)),
    "append much": lambda file, number: file.append(noise(2_000_000, number)),
    "grow": lambda file, number: file.truncate(len(file.model) + 200_000 * number),
    "cut": lambda file, _: file.truncate(len(file.model) // 2),
    "cut and grow": lambda file, number: file.cut_and_grow(len(file.model) // 2, noise(300_000, number)),
    "patch": lambda file, number: file.write(400 * number, noise(300, number)),
    "shrink below a segment": lambda file, number: file.truncate(900_000 // number),
}
