"""Folders whose files are not in Swift yet, and what a kill leaves of them."""

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from support.harness import ME, copy_live, harness, write
from support.memory_store import MemoryStore
from support.noise import NEW
from support.stored_objects import NEVER, body, keys, ten_minutes_later
from swiftfs.posix.filesystem import FileSystem

OPTIONS = f"{NEVER},segment_size=1M"
FRESH_FOLDERS = [pytest.mark.store(MemoryStore, "box", "box_segments"), pytest.mark.mount_options(OPTIONS)]
"""Marks of tests whose `filesystem` stores nothing before a flush."""

TREE: Mapping[str, bytes] = {"a": b"first", "sub/b": b"second", "sub/deep/c": b"third", "large": NEW}
FOLDERS = ("", "/sub", "/sub/deep", "/empty")


def make(filesystem: FileSystem, top: str) -> None:
    """Make a folder of files, links and folders."""
    for folder in FOLDERS:
        filesystem.mkdir(top + folder, 0o750, ME)
    for name, data in TREE.items():
        write(filesystem, f"{top}/{name}", data)
    filesystem.symlink("target", f"{top}/sub/link", ME)


def tree(top: str) -> dict[str, bytes]:
    """Return the objects that such a folder is, by their keys."""
    markers = {f"{top}{folder}": b"" for folder in FOLDERS}
    files = {f"{top}/{name}": data for name, data in TREE.items()}
    return {**markers, **files, f"{top}/sub/link": b"target"}


def objects(store: MemoryStore) -> dict[str, bytes]:
    """Return the objects in `box` by their keys."""
    return {key: body(store, key) for key in keys(store)}


def sent(store: MemoryStore, job: Callable[[], object]) -> list[str]:
    """Return the methods of the requests that a job sends.

    Not of those for segments: the rest of a large file is uploaded after its close, and may be meanwhile.
    """
    store.requests.clear()
    job()
    return [method for method, subject in store.requests if "_segments" not in str(subject)]


def frozen(store: MemoryStore) -> MemoryStore:
    """Return a store with what the store has now."""
    twin = MemoryStore()
    twin._containers = {
        name: replace(one, objects=dict(one.objects)) for name, one in store._containers.items()
    }
    return twin


def killed(store: MemoryStore, cache: Path, image: Path) -> MemoryStore:
    """Copy the cache folder of a running mount as a kill would leave it; return the store as it was then.

    A segment that was stored after the journal was copied would have no owner there.
    """
    while True:
        twin = frozen(store)
        copy_live(cache, image)
        if twin._containers == store._containers:
            return twin
        shutil.rmtree(image)


def drained(store: MemoryStore, image: Path) -> dict[str, bytes]:
    """Mount again on what a kill has left, until all is stored; return the objects."""
    with harness(store, image, OPTIONS):
        pass
    ten_minutes_later(store, image)
    return objects(store)


class Images:
    """Copies the cache folder and the store, as a kill would leave them, before requests of some kinds."""

    def __init__(self, store: MemoryStore, cache: Path, folder: Path, *methods: str) -> None:
        self.taken: list[tuple[str, MemoryStore, Path]] = []
        self._store, self._cache, self._folder, self._methods = store, cache, folder, methods
        self._lock = threading.Lock()
        store.hook = self._hook

    def take(self, what: str) -> None:
        """Copy both now."""
        with self._lock:
            image = self._folder / f"image{len(self.taken)}"
            self.taken.append((what, killed(self._store, self._cache, image), image))

    def _hook(self, method: str, subject: str) -> None:
        if method in self._methods:
            self.take(f"{method} {subject}")
