"""A store in memory that loses requests and executes them late, when a test calls `land`."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from support.harness import ANY_END, LEFT, copy_live, harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from swiftfs.errors import AccessDenied, StoreError, SwiftfsError, TimedOut, Unavailable
from swiftfs.journal.late_requests import LOOKS, LateRequests
from swiftfs.journal.salvage import copy_journal
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, ObjectVersion
from swiftfs.paths import SEGMENTS_FOLDER
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Body, CopyRequest, Headers

FILE = ObjectName("box", "file")

OPTIONS = "settle=0.01,segment_size=1M,drain=1"


class LateStore(MemoryStore):
    """A store that loses requests: they fail with `TimedOut`, and `land` executes them later.

    `loses` has how many requests of a method about a key are lost next; `on_loss` is called at each loss.
    Of those in `answers_only` only the answer is lost. Copies to keys in `refused_copies` are refused.
    """

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.loses: dict[tuple[str, str], int] = {}
        self.answers_only: set[tuple[str, str]] = set()
        self.on_loss: Callable[[], None] | None = None
        self.refused_copies: set[str] = set()
        self._late: list[Callable[[], object]] = []

    def lose(self, method: str, key: str, times: int = 1, *, lands: bool = False) -> None:
        """Lose the next requests of a method about a key; `delete` includes deletions in bulk.

        A key that ends in its only `/` stands for all keys below it, and for the segments of such an object.
        If it `lands`, it is executed at once, and only the answer is lost.
        """
        self.loses[method, key] = times
        (self.answers_only.add if lands else self.answers_only.discard)((method, key))

    @property
    def lost(self) -> int:
        """How many lost requests are not executed yet."""
        return len(self._late)

    def land(self) -> None:
        """Execute the lost requests in their order, as late ones; their errors are ignored."""
        late, self._late = self._late, []
        for one in late:
            try:
                one()
            except StoreError:
                continue

    def put(self, name: ObjectName, body: Body, headers: Headers, **how: Any) -> ObjectInfo:
        sent = bytes(body)
        parent = super().put
        self._lose("put", name, lambda: parent(name, sent, headers, **how))
        return parent(name, body, headers, **how)

    def put_manifest(self, name: ObjectName, manifest: Manifest, headers: Headers, **how: Any) -> ObjectInfo:
        parent = super().put_manifest
        self._lose("put_manifest", name, lambda: parent(name, manifest, headers, **how))
        return parent(name, manifest, headers, **how)

    def post(self, name: ObjectName, headers: Headers) -> None:
        parent = super().post
        self._lose("post", name, lambda: parent(name, headers))
        parent(name, headers)

    def copy(self, request: CopyRequest) -> ObjectVersion:
        parent = super().copy
        if request.target.key in self.refused_copies:
            raise AccessDenied(f"copy {request.target}")
        self._lose("copy", request.target, lambda: parent(request))
        return parent(request)

    def delete(self, name: ObjectName) -> None:
        parent = super().delete
        self._lose("delete", name, lambda: parent(name))
        parent(name)

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        names = list(names)
        parent = super().delete_many
        for name in names:
            self._lose("delete", name, lambda: parent(names))
        return parent(names)

    def _lose(self, method: str, name: ObjectName, late: Callable[[], object]) -> None:
        folder = name.key.removeprefix(f"{SEGMENTS_FOLDER}/").partition("/")[0]
        asked = ((method, name.key), (method, f"{folder}/"))
        if one := next((one for one in asked if self.loses.get(one, 0) > 0), None):
            self.loses[one] -= 1
            if one in self.answers_only:
                late()
            else:
                self._late.append(late)
            if self.on_loss is not None:
                self.on_loss()
            raise TimedOut(f"{method} {name}: timed out")


LATE = [pytest.mark.store(LateStore, "box"), pytest.mark.mount_options("settle=0.01,segment_size=1M")]
"""Marks of tests whose `store` loses requests and whose `filesystem` stores a file soon."""


def late(filesystem: FileSystem) -> LateRequests:
    """Return the part of a mount that looks for late requests."""
    return filesystem.services.journal.late


def look(filesystem: FileSystem, seconds: float = LOOKS[0] + 5) -> None:
    """Look for late requests as if so many seconds had passed."""
    late(filesystem).look(time.time() + seconds)


def away(_method: str, _subject: str) -> None:
    """Fail every request, as a hook of a store, as if the server did not answer."""
    raise Unavailable("no answer")


@contextmanager
def killed(store: MemoryStore, cache: Path, options: str) -> Iterator[FileSystem]:
    """Yield a mount that ends without a request, as after a kill -9, and leaves its changes in the cache."""
    with harness(store, cache, f"{options},drain=0", close_error=LEFT) as filesystem:
        try:
            yield filesystem
        finally:
            store.hook = away
    store.hook = None


def kill_during(
    store: LateStore, cache: Path, method: str, key: str, job: Callable[[FileSystem], object] | None = None
) -> Path:
    """Kill a mount while it sends a request that is executed later (`land`); return its cache folder.

    The request is the first one of a method about a key during `job`, or without a job during its recovery.
    """
    died = cache.with_name(f"{cache.name}-died")

    def kill() -> None:
        store.hook = away  # before the copy: what is stored now has no local file any more
        copy_live(cache, died)
        store.on_loss = None

    def prepare() -> None:
        store.lose(method, key)
        store.on_loss = kill

    if job is None:
        prepare()
    # Nothing answers at its end, so waiting for the changes that are left would be for nothing.
    with harness(store, cache, f"{OPTIONS},drain=0", close_error=ANY_END) as filesystem:
        if job is not None:
            prepare()
            with suppress(SwiftfsError, OSError):
                job(filesystem)
        wait_until(lambda: store.on_loss is None)
    assert store.on_loss is None
    store.loses.clear()
    store.hook = None
    return died


def settle(filesystem: FileSystem) -> None:
    """Return when Swift has all changes."""
    filesystem.setxattr("/", "swift.flush", b"1", 0)
    wait_until(lambda: not filesystem.waiting())


def repair(filesystem: FileSystem, seconds: float = LOOKS[0] + 5) -> None:
    """Look for late requests; return when Swift has what that restores."""
    look(filesystem, seconds)
    settle(filesystem)


def store_file(filesystem: FileSystem, data: bytes, path: str = "/file") -> None:
    """Write a file; return when Swift has it."""
    write(filesystem, path, data)
    settle(filesystem)


def remove(filesystem: FileSystem, path: str = "/file") -> None:
    """Delete a file; return when Swift has deleted it."""
    filesystem.unlink(path)
    settle(filesystem)


def heads(store: LateStore) -> int:
    """Return how many HEADs the store has got."""
    return sum(method == "head" for method, _ in store.requests)


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the messages of this level in the log."""
    return [one.getMessage() for one in caplog.records if one.levelno == level]


def recorded(cache: Path) -> int:
    """Return how many names the journal of a cache folder records as affected by lost requests."""
    folder = cache / "copy"
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(copy_journal(cache / "journal.sqlite", folder))) as database:
        return int(database.execute("SELECT count(*) FROM ambiguous").fetchone()[0])


def store_body(store: LateStore, name: ObjectName) -> bytes:
    """Return an object's bytes."""
    parts: list[bytes] = []
    store.get(name, lambda _offset, data: parts.append(data))
    return b"".join(parts)
