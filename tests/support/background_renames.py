"""A folder that is large enough to move in the background."""

from collections.abc import Callable

from support.deadlines import within
from support.halted_moves import Halt
from support.harness import ME, names, write
from support.memory_store import MemoryStore
from support.stored_objects import foreign
from swiftfs.errors import AccessDenied
from swiftfs.posix.filesystem import FileSystem

COUNT = 30
OPTIONS = "settle=0.05,background_rename=10"

ALL = [*(f"{number:02}" for number in range(COUNT)), "sub"]


def folder_of_many() -> MemoryStore:
    """Return a store with the folder `d`, which moves in the background."""
    store = MemoryStore("box")
    for number in range(COUNT):
        foreign(store, f"d/{number:02}", b"%d" % number)
    foreign(store, "d/sub/x", b"below")
    return store


def is_quiet(filesystem: FileSystem) -> Callable[[], bool]:
    """Return a function that tells whether nothing waits."""
    return lambda: not filesystem.waiting()


def held(
    filesystem: FileSystem,
    store: MemoryStore,
    method: str = "copy",
    *,
    error: type[Exception] | None = None,
    subject: str = "",
) -> Halt:
    """Rename the folder, and hold the copies of its objects back, or other requests as `Halt` does."""
    halt = Halt(store, method, error, subject)
    filesystem.rename("/d", "/e")
    assert halt.reached.wait(within(20))
    return halt


def moved_keys(*others: str) -> list[str]:
    """Return the keys when the folder is `e`, and those of `others`."""
    return sorted([*(f"e/{number:02}" for number in range(COUNT)), "e/sub/x", *others])


def refuse(store: MemoryStore, *numbers: str) -> None:
    """Let Swift refuse the copies of some objects."""

    def hook(method: str, subject: str) -> None:
        if method == "copy" and subject.rpartition("/")[2] in numbers:
            raise AccessDenied(f"{subject} is refused")

    store.hook = hook


def remake(filesystem: FileSystem, folder: str, path: str) -> None:
    """Make the folder anew that has moved away, and a file in it."""
    filesystem.mkdir(folder, 0o755, ME)
    assert names(filesystem, folder) == []
    write(filesystem, path, b"new")
    assert names(filesystem, folder) == [path.rpartition("/")[2]]
