"""A local folder, served by swiftfs's binding; as a program with ROOT MOUNTPOINT CONTROL it mounts it."""

# ruff: noqa: ARG002  the methods have the interface's arguments

import errno
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import requests

from swiftfs.errors import os_error
from swiftfs.fuse import load_binding
from swiftfs.fuse.binding import FUSE
from swiftfs.fuse.filesystem import FileSystem
from swiftfs.objects import Attributes, Caller, FileSpan, FilesystemUsage, PageUse

READERS = 4

NO_SET_ID = "NO_SET_ID"
"""The variable that tells that no file has a setuid or setgid bit."""

KERNEL_SECONDS = "KERNEL_SECONDS"
"""The variable that tells how long the kernel may use names and attributes, by default not at all."""


def binding() -> type[FUSE]:
    """Return the binding of the run, as `support.libfuse` says, which a program cannot import."""
    return load_binding(os.environ.get("TEST_FUSE") or "auto")


FAULTS: dict[str, Callable[[], BaseException]] = {
    "ConnectionError": lambda: requests.ConnectionError("the network\nis away"),
    "TimeoutError": lambda: TimeoutError("x"),
    "KeyError": lambda: KeyError("x"),
    "SystemExit": lambda: SystemExit(3),
    "ENOTEMPTY": lambda: os_error(errno.ENOTEMPTY),
}


def attributes(status: os.stat_result) -> Attributes:
    return Attributes(
        status.st_mode, status.st_size, status.st_mtime_ns, status.st_uid, status.st_gid, status.st_ino
    )


class Passthrough:
    """A FileSystem over a folder: handles are descriptors, those of folders are numbers of their paths."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._folders: dict[int, str] = {}
        self._numbers = itertools.count(1)
        self._barrier = threading.Barrier(READERS)
        self._lookups = threading.Barrier(READERS)
        self._looked_up: set[str] = set()

    def _at(self, path: str) -> str:
        return self._root + path

    def getattr(self, path: str) -> Attributes:
        if path.startswith("/looked-up-together-") and path not in self._looked_up:
            self._looked_up.add(path)
            self._lookups.wait(timeout=20)
        return attributes(os.lstat(self._at(path)))

    def getattr_handle(self, handle: int) -> Attributes:
        return attributes(os.fstat(handle))

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))  # noqa: PTH115

    def opendir(self, path: str) -> int:
        number = next(self._numbers)
        self._folders[number] = self._at(path)
        return number

    def readdir(self, handle: int, start: int = 0) -> Sequence[tuple[str, Attributes]]:
        with os.scandir(self._folders[handle]) as entries:
            found = [(entry.name, attributes(entry.stat(follow_symlinks=False))) for entry in entries]
        return found[start:]

    def known_attributes(self, handle: int, names: Sequence[str]) -> Sequence[Attributes | None]:
        known = (None if name.startswith("unknown-") else name for name in names)
        folder = self._folders[handle]
        return [attributes(os.lstat(f"{folder}/{name}")) if name else None for name in known]

    def releasedir(self, handle: int) -> None:
        del self._folders[handle]

    def fsyncdir(self, handle: int) -> None:
        os.sync()

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        Path(self._at(path)).mkdir(mode)

    def rmdir(self, path: str) -> None:
        Path(self._at(path)).rmdir()

    def unlink(self, path: str) -> None:
        Path(self._at(path)).unlink()

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        if flags:
            raise os_error(errno.EINVAL)
        Path(self._at(old)).rename(self._at(new))

    def hide(self, path: str, hidden: str) -> None:
        self.rename(path, hidden)

    def unhide(self, path: str) -> None:
        """Do nothing: a rename of the folder's file system does not fail."""

    def symlink(self, target: str, path: str, caller: Caller) -> None:
        Path(self._at(path)).symlink_to(target)

    def link(self, old: str, new: str) -> None:
        Path(self._at(new)).hardlink_to(self._at(old))

    def mknod(self, path: str, mode: int, device: int, caller: Caller) -> None:
        os.mknod(self._at(path), mode, device)

    def chmod(self, path: str, mode: int) -> None:
        Path(self._at(path)).chmod(mode)

    def chown(self, path: str, uid: int | None, gid: int | None, caller: Caller) -> None:
        os.lchown(self._at(path), -1 if uid is None else uid, -1 if gid is None else gid)

    def utimens(self, path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
        now = os.lstat(self._at(path))
        times = (
            now.st_atime_ns if atime_ns is None else atime_ns,
            now.st_mtime_ns if mtime_ns is None else mtime_ns,
        )
        os.utime(self._at(path), ns=times, follow_symlinks=False)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def truncate_handle(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> int:
        descriptor = os.open(self._at(path), os.O_CREAT | os.O_RDWR | flags & os.O_EXCL, mode)
        os.fchown(descriptor, caller.uid, caller.gid)
        return descriptor

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & os.O_ACCMODE)

    def path_of_handle(self, handle: int) -> str:
        return os.readlink(f"/proc/self/fd/{handle}").removeprefix(self._root)  # noqa: PTH115

    def page_use(self, handle: int) -> PageUse:
        return PageUse.KEEP

    def is_local(self, handle: int) -> bool:
        return True

    @property
    def cut_off(self) -> Sequence[object]:
        return ()

    @property
    def moves(self) -> Mapping[str, object]:
        return {}

    def wait_for_move(self, path: str, seconds: float, begun_seconds: float) -> bool:
        return False

    def check_exists(self, path: str) -> None:
        pass

    def is_other_inode(self, path: str) -> bool:
        return False

    def read(self, handle: int, offset: int, size: int) -> FileSpan:
        if Path(f"/proc/self/fd/{handle}").readlink().name.startswith("together-"):
            self._barrier.wait(timeout=20)
        return FileSpan(handle, offset, max(0, min(size, os.fstat(handle).st_size - offset)))

    def write(self, handle: int, offset: int, size: int, fill: Callable[[int, int], int]) -> int:
        return fill(handle, offset)

    def flush(self, handle: int) -> None:
        os.close(os.dup(handle))

    def fsync(self, handle: int, data_only: bool) -> None:
        os.fsync(handle)

    def release(self, handle: int) -> None:
        os.close(handle)

    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        if mode:
            raise os_error(errno.EOPNOTSUPP)
        os.posix_fallocate(handle, offset, length)

    def copy_file_range(
        self, handle_in: int, offset_in: int, handle_out: int, offset_out: int, length: int, flags: int
    ) -> int:
        return os.copy_file_range(handle_in, handle_out, length, offset_in, offset_out)

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        return os.lseek(handle, offset, whence)

    def statfs(self, path: str) -> FilesystemUsage:
        return FilesystemUsage(1 << 40, 1 << 39, 1000, 900)

    def getxattr(self, path: str, name: str) -> bytes:
        assert not name.startswith(("security.", "system."))
        return os.getxattr(self._at(path), name, follow_symlinks=False)

    def listxattr(self, path: str) -> list[str]:
        return [name for name in os.listxattr(self._at(path)) if name.startswith("user.")]

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(self._at(path), name, value, flags)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name)


class Faulty:
    """A Passthrough whose operations fail: a file in `control`, named like the operation, says how."""

    def __init__(self, root: Path, control: Path) -> None:
        inner = Passthrough(root)
        for name in (name for name in vars(FileSystem) if not name.startswith("_")):
            found = getattr(inner, name)
            setattr(self, name, partial(self._call, control, name, found) if callable(found) else found)

    @staticmethod
    def _call(control: Path, name: str, method: Callable[..., Any], *args: Any) -> Any:
        try:
            kind = (control / name).read_text()
        except FileNotFoundError:
            return method(*args)
        with (control / "calls").open("a") as calls:
            calls.write(f"{name}\n")
        raise FAULTS[kind]()


def serve(*folders: str) -> None:
    """Mount, write a line to stdout, and serve until the unmount; the folders are those of the program."""
    root, mountpoint, control = map(Path, folders)
    logging.basicConfig(filename=control / "log", level=logging.INFO, format="%(levelname)s %(message)s")
    filesystem: Any = Faulty(root, control)

    def live() -> None:
        print("live", flush=True)

    kind = binding()

    def getxattr(self: Any, path: bytes, name: bytes, *rest: Any) -> int:
        with (control / "xattrs").open("ab") as asked:
            asked.write(name + b"\n")
        return kind.getxattr(self, path, name, *rest)

    type("Counting", (kind,), {"getxattr": getxattr})(
        filesystem,
        mountpoint,
        source="con,tain\\er",
        attr_timeout=float(os.environ.get(KERNEL_SECONDS, "0")),
        entry_timeout=float(os.environ.get(KERNEL_SECONDS, "0")),
        on_init=live,
        on_destroy=lambda: print("destroyed", flush=True),
        has_set_id=not os.environ.get(NO_SET_ID),
    )
    print("returned", flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
