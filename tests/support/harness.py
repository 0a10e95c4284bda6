"""A file system over the store in memory, put together as a mount does it, used without a kernel."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.memory_store import MemoryStore
from support.options import parse_options
from swiftfs.config.cache_dir import JOURNAL
from swiftfs.errors import SwiftfsError
from swiftfs.journal.salvage import copy_journal
from swiftfs.objects import Attributes, Caller, Usage
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem
from swiftfs.service.build import build
from swiftfs.service.mountpoint import MountRequest
from swiftfs.store.connect import ConnectedAccount
from swiftfs.store.retry import RetryingStore, RetryPolicy
from swiftfs.store.server_state import Presence, ServerState

SHORT_RETRIES = RetryPolicy(deadline=0.1, first_pause=0.01, longest_pause=0.02)
"""Failures that tests cause end soon."""

LEFT = r"^\d+ changes? stays? in "
"""What the close of a mount says that leaves changes to the next one."""

ANY_END = ""
"""For a mount that counts as killed: what its close says is ignored."""

ME = Caller(os.getuid(), os.getgid())


@contextmanager
def harness(
    store: MemoryStore,
    cache: Path,
    options: str = "",
    source: str = "box",
    progress: Callable[[int], None] = lambda _left: None,
    *,
    close_error: str | None = None,
    presence: Presence | None = None,
) -> Iterator[FileSystem]:
    """Build `source` of the store as a mount does, without a kernel; requests are repeated for 0.1 s.

    Without a `settle` in the options a flush returns when the store has the file. `progress` is called at the
    end, with the number of pending changes, as long as there are any.

    `close_error` is a regular expression that the error of `FileSystem.close` must match, or `ANY_END`;
    without it there must be no error. An `AssertionError` says so. An error of the test itself is raised as
    it is: so neither needs `suppress` or `raises` around this, which would hide failures of the test.

    While the server is away by `presence`, it begins and ends offline.
    """
    presence = presence or Presence()
    if "settle" not in options:
        options = f"{options},sync".lstrip(",")
    state = ServerState(presence=presence)
    connected = ConnectedAccount(RetryingStore(store, SHORT_RETRIES, state), "memory", state)
    request = MountRequest(Source.parse(source), Path("/nowhere"), parse_options([options]))
    filesystem = build(connected, request, cache)
    try:
        if presence.away is None:
            filesystem.begin()
        else:
            assert filesystem.begin_offline(Usage(0, 0)), "nothing is known of the source"
        yield filesystem
    except BaseException:
        if presence.away is not None:
            filesystem.drain_seconds = 0.0
        with suppress(SwiftfsError):  # it may follow from the first error, and must not replace it
            filesystem.close(progress)
        raise
    if presence.away is not None:
        filesystem.drain_seconds = 0.0
    _close(filesystem, progress, close_error)


def _close(filesystem: FileSystem, progress: Callable[[int], None], error: str | None) -> None:
    """Close a file system; assert that it raises an error that matches `error`, or none."""
    found = None
    try:
        filesystem.close(progress)
    except SwiftfsError as raised:
        found = str(raised)
    if error is None:
        assert found is None
    elif error != ANY_END:
        assert found is not None, "the close raised no error"
        assert re.search(error, found), found


def copy_live(cache: Path, image: Path) -> None:
    """Copy the cache folder of a running mount, as a kill would leave it; files may disappear meanwhile.

    The journal comes first: later it could name bytes that a copied file does not have.
    """
    image.mkdir(parents=True)
    if (cache / JOURNAL).exists():
        copy_journal(cache / JOURNAL, image)
    others = shutil.ignore_patterns(f"{JOURNAL}*")
    shutil.copytree(cache, image, copy_function=_copy_unless_gone, ignore=others, dirs_exist_ok=True)


def _copy_unless_gone(source: str, target: str) -> None:
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def write(filesystem: FileSystem, path: str, data: bytes, flags: int = os.O_WRONLY) -> None:
    """Create a file of these bytes, or replace one; `flags` are those of open(2)."""
    handle = filesystem.create(path, 0o644, flags | os.O_TRUNC, ME)
    try:
        put(filesystem, handle, 0, data)
        filesystem.flush(handle)
    finally:
        filesystem.release(handle)


def put(filesystem: FileSystem, handle: int, offset: int, data: bytes) -> None:
    """Write bytes at an offset through a handle."""
    copied = filesystem.write(
        handle, offset, len(data), lambda file, position: os.pwrite(file, data, position)
    )
    assert copied == len(data)


def change(filesystem: FileSystem, path: str, offset: int, data: bytes) -> None:
    """Open a file, write bytes at an offset, and close it."""
    handle = filesystem.open(path, os.O_RDWR)
    try:
        put(filesystem, handle, offset, data)
        filesystem.flush(handle)
    finally:
        filesystem.release(handle)


def get(filesystem: FileSystem, handle: int, offset: int = 0, size: int = 1 << 30) -> bytes:
    """Read up to `size` bytes from an offset through a handle."""
    span = filesystem.read(handle, offset, size)
    return os.pread(span.descriptor, span.length, span.position)


def read(filesystem: FileSystem, path: str) -> bytes:
    """Return a file's bytes."""
    handle = filesystem.open(path, os.O_RDONLY)
    try:
        return get(filesystem, handle)
    finally:
        filesystem.release(handle)


def sync_all(filesystem: FileSystem) -> None:
    """Return when everything that was closed is in the store, as `fsync` of the root does."""
    handle = filesystem.opendir("/")
    try:
        filesystem.fsyncdir(handle)
    finally:
        filesystem.releasedir(handle)


def listed(filesystem: FileSystem, path: str) -> dict[str, Attributes]:
    """Return what a folder's listing says of its names, in its order; assert that none is there twice."""
    found: list[tuple[str, Attributes]] = []
    handle = filesystem.opendir(path)
    try:
        while part := filesystem.readdir(handle, len(found)):
            found += part
    finally:
        filesystem.releasedir(handle)
    assert len(dict(found)) == len(found)
    return dict(found)


def names(filesystem: FileSystem, path: str) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(listed(filesystem, path))
