"""What a folder must hold after a crash: the effects of the system calls that returned, and no others."""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

UNSHARED = threading.Lock()
"""Held while a file is written and while a process is started: the child would inherit the descriptor, and
close it, which is a flush for a mount."""


@dataclass(frozen=True)
class State:
    """What a path is: a `file`, `folder` or `link`, and what it holds.

    `holds` is the `digest` of a file or the target of a link; a `mode` or `mtime_ns` of None allows any.
    """

    kind: str
    holds: str = ""
    mode: int | None = None
    mtime_ns: int | None = None
    tags: tuple[tuple[str, bytes], ...] = ()

    def allows(self, found: "State") -> bool:
        """Return whether `found` agrees with this state."""
        known = replace(
            found,
            mode=None if self.mode is None else found.mode,
            mtime_ns=None if self.mtime_ns is None else found.mtime_ns,
        )
        return known == self


States = Mapping[str, State]
"""The state of each path, relative to the mount point."""


def digest(body: bytes | bytearray) -> str:
    """Return a file's size and MD5."""
    return f"{len(body)} bytes {hashlib.md5(body, usedforsecurity=False).hexdigest()}"


def look(path: Path) -> State:
    """Return the state of a path, by stat(2) and read(2)."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return State("link", os.readlink(path))  # noqa: PTH115
    kind = "folder" if stat.S_ISDIR(found.st_mode) else "file"
    holds = "" if kind == "folder" else digest(path.read_bytes())
    tags = tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
    return State(kind, holds, stat.S_IMODE(found.st_mode), found.st_mtime_ns, tags)


def look_below(root: Path) -> dict[str, State]:
    """Return the states of all paths below a folder."""
    paths = [Path(parent, name) for parent, *names in os.walk(root) for name in (*names[0], *names[1])]
    return {str(path.relative_to(root)): look(path) for path in paths}


def differences(found: States, wanted: States) -> list[str]:
    """Return the differences of two states of a tree, a line for each path."""
    lines = [f"{path}: {found[path]} is too much" for path in sorted(found.keys() - wanted.keys())]
    lines += [f"{path}: {wanted[path]} is missing" for path in sorted(wanted.keys() - found.keys())]
    both = sorted(found.keys() & wanted.keys())
    return lines + [f"{p}: {found[p]} is not {wanted[p]}" for p in both if not wanted[p].allows(found[p])]


class CrashOracle:
    """Makes system calls in a folder, and records what it must hold then.

    `now` holds after the calls that returned, `soon` if the current call has taken effect. While a program
    runs, whose calls are not known, each path may be as before or after it, and files whose names begin with
    `.` may exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now: dict[str, State] = {}
        self.soon: dict[str, State] = {}
        self._program_runs = False
        self._bodies: dict[str, bytes] = {}

    def check(self, found: States) -> list[str]:
        """Return what is wrong, a line each; nothing if all is right."""
        if self._program_runs:
            return list(self._loose_differences(found))
        before, after = differences(found, self.now), differences(found, self.soon)
        if not before or not after:
            return []
        return before if self.now == self.soon else [*before, "nor is it as after the call:", *after]

    def _loose_differences(self, found: States) -> Iterator[str]:
        for path in sorted({*found, *self.now, *self.soon}):
            allowed = [states.get(path) for states in (self.now, self.soon)]
            state = found.get(path)
            if state is None:
                right = None in allowed
            elif allowed == [None, None]:
                right = Path(path).name.startswith(".")
            else:
                right = any(one and replace(one, mode=None, mtime_ns=None).allows(state) for one in allowed)
            if not right:
                yield f"{path}: {state} is none of {allowed}"

    def do(self, call: Callable[[], object], changes: Mapping[str, State | None]) -> None:
        """Make one system call; `changes` has the new state of each path that it changes, None if deleted."""
        soon = {**self.now, **changes}
        self.soon = {path: state for path, state in soon.items() if state is not None}
        call()
        self.now = self.soon

    def run(self, program: Callable[[], object], changes: Mapping[str, State | None]) -> None:
        """Run a program; `changes` as in `do`."""
        self._program_runs = True
        self.do(program, changes)
        self._program_runs = False

    def settle(self, *paths: str) -> None:
        """Record the times and modes that paths have now: they must not change any more."""
        for path in paths:
            state = look(self.root / path)
            assert self.now[path].allows(state), path
            self.now = self.soon = {**self.now, path: state}

    def write(self, path: str, body: bytes, *, offset: int | None = None) -> None:
        """Make a file of these bytes, which takes effect at its close.

        With an `offset` they are written into the existing file, which may show them before the close, as a
        local disk does.
        """
        before = self._bodies.get(self.now[path].holds, b"") if path in self.now else b""
        at = 0 if offset is None else offset
        whole = body if offset is None else before[:at].ljust(at, b"\0") + body + before[at + len(body) :]
        state = self.now.get(path, State("file", mode=0o644))
        new = replace(state, holds=self.body(whole), mtime_ns=None)
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if offset is None else 0)
        with UNSHARED:
            descriptor = os.open(self.root / path, flags, 0o644)
            if offset is not None:
                self.soon = {**self.now, path: new}
            try:
                os.pwrite(descriptor, body, at)
            except OSError:
                with suppress(OSError):
                    os.close(descriptor)
                raise
            self.do(lambda: os.close(descriptor), {path: new})
        self.settle(path)

    def body(self, body: bytes) -> str:
        """Remember the bytes of a file; return their digest."""
        self._bodies[digest(body)] = body
        return digest(body)

    def touch(self, path: str, mtime_ns: int) -> None:
        """Set the modification time of a file or folder."""
        new = replace(self.now[path], mtime_ns=mtime_ns)
        self.do(lambda: os.utime(self.root / path, ns=(mtime_ns, mtime_ns)), {path: new})

    def chmod(self, path: str, mode: int) -> None:
        """Set the mode of a file or folder."""
        self.do(lambda: (self.root / path).chmod(mode), {path: replace(self.now[path], mode=mode)})

    def tag(self, path: str, name: str, value: bytes) -> None:
        """Set another `user.*` attribute of a file."""
        new = replace(self.now[path], tags=(*self.now[path].tags, (name, value)))
        self.do(lambda: os.setxattr(self.root / path, name, value), {path: new})

    def mkdir(self, path: str) -> None:
        """Make a folder."""
        self.do(lambda: (self.root / path).mkdir(0o755), {path: State("folder", mode=0o755)})

    def symlink(self, path: str, target: str) -> None:
        """Make a symbolic link."""
        self.do(lambda: (self.root / path).symlink_to(target), {path: State("link", target)})

    def unlink(self, path: str) -> None:
        """Delete a file or link."""
        self.do((self.root / path).unlink, {path: None})

    def rmdir(self, path: str) -> None:
        """Delete an empty folder."""
        self.do((self.root / path).rmdir, {path: None})

    def rename(self, old: str, new: str) -> None:
        """Rename a file, or a folder and all below it."""
        changes: dict[str, State | None] = {}
        for path in self.below(old):
            changes[path], changes[new + path[len(old) :]] = None, self.now[path]
        self.do(lambda: (self.root / old).rename(self.root / new), changes)

    def below(self, folder: str) -> list[str]:
        """Return the paths of a file or folder and of all below it."""
        return [path for path in self.now if path == folder or path.startswith(f"{folder}/")]
