"""Changes that Swift refuses."""

from collections.abc import Callable
from pathlib import Path

from support.harness import harness
from support.memory_store import MemoryStore
from support.stored_objects import NEVER
from swiftfs.errors import StoreError, SwiftfsError
from swiftfs.posix.filesystem import FileSystem


def refuse(store: MemoryStore, error: type[StoreError], *methods: str) -> None:
    def hook(called: str, _subject: str) -> None:
        if called in methods:
            raise error("no")

    store.hook = hook


def ended(store: MemoryStore, cache: Path, job: Callable[[FileSystem], None], options: str = NEVER) -> str:
    """Return what the end of a mount complains about after a job."""
    try:
        with harness(store, cache, options) as filesystem:
            job(filesystem)
    except SwiftfsError as error:
        return str(error)
    raise AssertionError("nothing is told")
