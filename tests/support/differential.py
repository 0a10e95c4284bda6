"""The same system calls in a mount and in a local folder: their errnos, results, and files afterwards."""

import contextlib
import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

Step = tuple[str, ...]
"""A system call of `Caller` and its arguments as text, so that a printed failure can become a test."""

PATHS = ("a", "b", "d", "d/x", "d/y", "d/e", "d/e/z", "l", "a/below", "missing/x")
SIZES = ("0", "1", "10", "5000", "70000")
MODES = ("0600", "0644", "0755")
TIMES = ("0", "1700000000123456789", "999999999")
FLAG_NAMES = ("O_RDONLY", "O_WRONLY", "O_RDWR")
MORE_FLAG_NAMES = ("O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_DIRECTORY", "O_NOFOLLOW")


def flags_of(text: str) -> int:
    """Return the value of flags in the form `O_RDWR|O_CREAT`."""
    return sum(getattr(os, name) for name in text.split("|"))


def all_flags() -> Iterator[str]:
    """Yield every access mode with every set of the other flags."""
    for access in FLAG_NAMES:
        for count in range(len(MORE_FLAG_NAMES) + 1):
            for more in combinations(MORE_FLAG_NAMES, count):
                yield "|".join((access, *more))


class Caller:
    """Makes system calls in one folder. Handles have names, the same in both folders.

    The methods are system calls; arguments are text, results can be compared, failures are `OSError`.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self._handles: dict[str, int] = {}

    def call(self, step: Step) -> object:
        """Return the result of a step, or the name of its errno."""
        name, *arguments = step
        method: Callable[..., object] = getattr(self, name)
        try:
            return method(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def close_all(self) -> None:
        """Close all handles."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def _at(self, path: str) -> str:
        return f"{self.top}/{path}"

    def open(self, handle: str, path: str, flags: str) -> str:
        opened = os.open(self._at(path), flags_of(flags), 0o640)
        with contextlib.suppress(KeyError):
            os.close(self._handles.pop(handle))
        self._handles[handle] = opened
        return "opened"

    def _handle(self, handle: str) -> int:
        if handle not in self._handles:
            raise OSError(errno.EBADF, "no such handle")
        return self._handles[handle]

    def close(self, handle: str) -> None:
        os.close(self._handles.pop(handle, -1))

    def read(self, handle: str, size: str) -> bytes:
        return os.read(self._handle(handle), int(size))

    def write(self, handle: str, text: str) -> int:
        return os.write(self._handle(handle), text.encode())

    def seek(self, handle: str, place: str) -> int:
        return os.lseek(self._handle(handle), int(place), os.SEEK_SET)

    def ftruncate(self, handle: str, size: str) -> None:
        os.ftruncate(self._handle(handle), int(size))

    def fstat(self, handle: str) -> object:
        return _comparable(os.fstat(self._handle(handle)))

    def stat(self, path: str) -> object:
        return _comparable(os.stat(self._at(path)))

    def lstat(self, path: str) -> object:
        return _comparable(os.lstat(self._at(path)))

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._at(path)))

    def mkdir(self, path: str) -> None:
        os.mkdir(self._at(path), 0o750)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rename(self, source: str, target: str) -> None:
        os.rename(self._at(source), self._at(target))

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._at(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def truncate(self, path: str, size: str) -> None:
        os.truncate(self._at(path), int(size))

    def chmod(self, path: str, mode: str) -> None:
        os.chmod(self._at(path), int(mode, 8))

    def utime(self, path: str, time: str) -> int:
        os.utime(self._at(path), ns=(0, int(time)))
        return os.stat(self._at(path)).st_mtime_ns

    def access(self, path: str, mode: str) -> bool:
        return os.access(self._at(path), int(mode))

    def content(self, path: str) -> bytes:
        with open(self._at(path), "rb", buffering=0) as stream:
            return stream.readall() or b""


def _comparable(found: os.stat_result) -> tuple[object, ...]:
    """Return what must be equal in both folders: folders have sizes and link counts of their own."""
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return stat.filemode(found.st_mode), size, found.st_uid, found.st_gid


def tree(top: Path) -> dict[str, object]:
    """Return attributes and content of each path in a folder."""
    caller = Caller(top)
    found: dict[str, object] = {}
    for folder, folders, names in os.walk(top):
        for name in folders + names:
            path = str(Path(folder, name).relative_to(top))
            content: object = ""
            if os.path.islink(top / path):
                content = os.readlink(top / path)
            elif os.path.isfile(top / path):
                content = caller.call(("content", path))
            found[path] = caller.lstat(path), content
    return found


def compare(mounted: Caller, native: Caller, steps: list[Step]) -> str:
    """Make the calls in both folders; return the first difference and the calls before it, or ""."""
    for number, step in enumerate(steps):
        ours, theirs = mounted.call(step), native.call(step)
        if ours != theirs:
            return f"{step} gave {_short(ours)}, Linux {_short(theirs)}, after {steps[:number]}"
    return ""


def _short(value: object) -> str:
    return repr(value)[:200]


def random_steps(seed: int, count: int) -> list[Step]:
    """Return random system calls on few paths and handles, so that they often concern the same one."""
    chance = random.Random(seed)

    def path() -> str:
        return chance.choice(PATHS)

    def handle() -> str:
        return chance.choice("123")

    def text() -> str:
        return chance.choice("xyz") * int(chance.choice(SIZES))

    makers: list[Callable[[], Step]] = [
        lambda: ("open", handle(), path(), chance.choice(_FLAGS)),
        lambda: ("open", handle(), path(), "O_RDWR|O_CREAT"),
        lambda: ("open", handle(), chance.choice("ab"), "O_RDWR|O_CREAT"),
        lambda: ("close", handle()),
        lambda: ("read", handle(), chance.choice(SIZES)),
        *[lambda: ("write", handle(), text())] * 2,
        lambda: ("seek", handle(), chance.choice(SIZES)),
        lambda: ("ftruncate", handle(), chance.choice(SIZES)),
        lambda: ("fstat", handle()),
        lambda: ("stat", path()),
        lambda: ("lstat", path()),
        lambda: ("listdir", path()),
        lambda: ("listdir", ""),
        lambda: ("mkdir", path()),
        lambda: ("mkdir", chance.choice(("d", "d/e"))),
        lambda: ("rmdir", path()),
        lambda: ("unlink", path()),
        *[lambda: ("rename", path(), path())] * 2,
        lambda: ("symlink", path(), path()),
        lambda: ("readlink", path()),
        lambda: ("truncate", path(), chance.choice(SIZES)),
        lambda: ("chmod", path(), chance.choice(MODES)),
        lambda: ("utime", path(), chance.choice(TIMES)),
        lambda: ("content", path()),
    ]
    return [chance.choice(makers)() for _ in range(count)]


_FLAGS = list(all_flags())
