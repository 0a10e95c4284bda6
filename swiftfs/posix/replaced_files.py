"""Open files that another client has replaced, and how the kernel comes to know them by other names.

libfuse has one node for each name, the kernel one inode for each node, and an inode has one size. So an open
file and the version that has replaced it need two names: the name of the open file is moved away, by a
rename(2) in the mount itself, and removed there. The kernel then looks the name up anew. libfuse hides an
open file that is unlinked in the same way; the filesystem changes nothing at either call.

rename(2) waits for the lookups in the folder and for the opens of the file that are being answered. So none
of them may wait long for the rename: until it is done, the old version is shown at the name, and no call may
change the new one there: the kernel would give the open file the size of the new one, so that its readers
would miss its end, or read zeros behind it.
"""

import errno
import itertools
import math
import os
from collections import deque
from collections.abc import Mapping
from typing import Generic, TypeVar

from cachetools import LRUCache
from msgspec import Struct

from swiftfs.concurrency import Condition, monotonic
from swiftfs.errors import os_error
from swiftfs.paths import REPLACED, is_below, join, split
from swiftfs.posix.open_file import OpenFile

Call = TypeVar("Call")

MOST_ASIDE = 10_000
"""Limit of the files that are known by other names; further ones share the inode of their name."""

LOOKS_WHEN_BEGUN = 2
"""How often an alias is looked up until its folder is locked: see `Move`."""

REMOVED_NAMES = 1000
"""Limit of the names by which libfuse hid files that may still have to be removed."""


class Move(Struct, eq=False):
    """The move of a name: libfuse's node at `path` becomes `alias` in the same folder.

    `asked` is when it was asked for, and `begun` when rename(2) had locked the folder, -inf before (monotonic
    seconds). The mover looks the alias up once before that call, and the kernel again within it; `looks`
    counts these lookups. `is_accepted` means that the rename has arrived.
    """

    path: str
    alias: str
    asked: float
    begun: float = -math.inf
    looks: int = 0
    is_accepted: bool = False

    @property
    def target(self) -> str:
        """The path that libfuse's node gets."""
        return join(split(self.path)[0], self.alias)


class AskedCalls(Generic[Call]):
    """A queue of calls in the mount, which one thread makes, one after the other.

    Nothing is asked for before `serve`. `changed` guards every field, and is notified of every new call.
    """

    def __init__(self, changed: Condition) -> None:
        self._changed = changed
        self._queue: deque[Call] = deque()
        self._is_served = False

    def serve(self) -> None:
        """Begin to ask for calls: a thread calls `next` from now on."""
        with self._changed:
            self._is_served = True

    def stop(self) -> None:
        """Ask for no more calls; `next` returns None."""
        with self._changed:
            self._is_served = False
            self._queue.clear()
            self._changed.notify_all()

    def next(self) -> Call | None:
        """Wait for the next call that is still asked for, and return it; None at the end."""
        with self._changed:
            while self._is_served:
                self._changed.wait_for(lambda: bool(self._queue) or not self._is_served)
                while self._queue:
                    if self.is_asked(call := self._queue.popleft()):
                        return call
            return None

    def is_asked(self, call: Call) -> bool:
        """Return whether a call is still to be made."""
        raise NotImplementedError

    def _ask(self, call: Call) -> None:
        """Add a call. Lock held."""
        self._queue.append(call)
        self._changed.notify_all()


class ReplacedFiles(AskedCalls[Move]):
    """The open files that are found only by their handles, and the moves of their names.

    A file stays at its name if nothing moves names, as in a read-only mount, or if the move fails: then it
    shares the kernel's inode with the version that has replaced it, and is *cut off*. Else it is moving for a
    moment, and then *aside*.

    `changed` guards every field, and is notified of every end of a move and of every new one. The list
    `cut_off` may be read without it, and so may whether there are any files at all.
    """

    def __init__(self, changed: Condition) -> None:
        super().__init__(changed)
        self._files: list[OpenFile] = []
        self._aside: dict[str, OpenFile] = {}
        self._moves: dict[str, Move] = {}
        self._aliases: dict[str, Move] = {}
        self._is_mounted = False
        self._prefix = f"{REPLACED}{os.urandom(8).hex()}_"
        self._numbers = itertools.count(1)
        self._removed: LRUCache[str, None] = LRUCache(REMOVED_NAMES)
        self.cut_off: list[OpenFile] = []

    def add(self, file: OpenFile) -> None:
        """Add a file that was replaced, and ask for the move of its name."""
        with self._changed:
            self._files.append(file)
            # A move that is not accepted yet takes this file along.
            if file.path not in self._moves:
                self._ask_for_move(file.path)

    def _ask_for_move(self, path: str) -> None:
        if self._is_served and len(self._aside) < MOST_ASIDE:
            move = Move(path, self._new_alias(), monotonic())
            self._moves[move.path] = self._aliases[move.alias] = move
            self._ask(move)
        elif self._is_mounted:
            self._cut_off(path)

    def _cut_off(self, path: str) -> None:
        """Cut off the files at the name: the kernel gets the size of another version for them. Lock held."""
        for file in self._at_name(path):
            if not file.is_cut_off:
                file.is_cut_off = True
                self.cut_off.append(file)

    def _new_alias(self) -> str:
        return f"{self._prefix}{next(self._numbers)}"

    def remove(self, file: OpenFile) -> bool:
        """Forget a file whose last handle was closed; return False if it was not replaced."""
        if not self._files:
            return False
        with self._changed:
            if file not in self._files:
                return False
            self._files.remove(file)
            if file.is_cut_off:
                self.cut_off.remove(file)
            if self._aside.get(file.aside) is file:
                del self._aside[file.aside]
            move = self._moves.get(file.path)
            if move is not None and not move.is_accepted and not self._at_name(file.path):
                self._end(move)
            return True

    def all(self) -> list[OpenFile]:
        """Return the files."""
        with self._changed:
            return list(self._files)

    def at(self, path: str) -> OpenFile | None:
        """Return the file that libfuse knows as `path`, another path than its own.

        Raise `OSError` ENOENT if that is the target of a move: the mover looks it up just before it begins.
        """
        if (
            self._aliases
            and (move := self._aliases.get(split(path)[1])) is not None
            and path not in self._aside
        ):
            with self._changed:
                move.looks += 1
                if move.looks == LOOKS_WHEN_BEGUN:
                    move.begun = monotonic()
                    self._changed.notify_all()
            raise os_error(errno.ENOENT, path)
        return self._aside.get(path)

    @property
    def moves(self) -> Mapping[str, Move]:
        """The moves that are being made, by their paths."""
        return self._moves

    def holds(self, file: OpenFile) -> bool:
        """Return whether a file was replaced and is still open."""
        if not self._files:  # mostly; without the lock, as the other questions about each open file
            return False
        with self._changed:
            return file in self._files

    def is_other_inode(self, path: str) -> bool:
        """Return whether the kernel should look a name up again, as it may not have the current inode."""
        return path in self._moves or path in self._aside

    @property
    def has_names(self) -> bool:
        """Whether any name is being moved, or that of a file that is aside."""
        return bool(self._aliases or self._aside)

    def concerns(self, path: str) -> bool:
        """Return whether a path is one of these names, or will be one."""
        return self.is_other_inode(path) or split(path)[1] in self._aliases

    def shares_inode(self, path: str) -> bool:
        """Return whether the kernel has pages and the size of an older version at `path`."""
        if not self._files:
            return False
        with self._changed:
            return bool(self._at_name(path))

    def refuse_change(self, path: str) -> None:
        """Raise `OSError` EBUSY if the kernel has an older version at `path`, and let its name be moved."""
        if not self._files:
            return
        with self._changed:
            if self._is_served and self._at_name(path):
                if path not in self._moves:
                    self._ask_for_move(path)
                raise os_error(errno.EBUSY, path)

    def wait(self, path: str, seconds: float, begun_seconds: float) -> bool:
        """Wait for the move of a name, and return whether it has ended.

        It is waited for until `seconds` after it was asked for, and `begun_seconds` after it has begun.
        """
        with self._changed:
            if (move := self._moves.get(path)) is None:
                return False
            self._changed.wait_for(
                lambda: not self.is_asked(move) or move.begun > -math.inf, _left(move.asked + seconds)
            )
            return self._changed.wait_for(lambda: not self.is_asked(move), _left(move.begun + begun_seconds))

    def shown(self, path: str) -> OpenFile | None:
        """Return the older file that is to be shown at `path`, as its name is being moved; else None."""
        if path not in self._moves:
            return None
        with self._changed:
            move = self._moves.get(path)
            if move is None:
                return None
            # The kernel may have a newer one there already, since the move was accepted.
            return next(iter(self._at_name(path)), self._aside.get(move.target))

    def _at_name(self, path: str) -> list[OpenFile]:
        """Return the files that share the inode of `path`, the oldest first. Lock held."""
        return [file for file in self._files if file.path == path and not file.aside]

    def renamed(self, old: str, new: str) -> bool:
        """Record a rename(2) that changes only what libfuse calls a replaced file; return False for others.

        Raise `OSError` EBUSY for a move that nobody waits for.
        """
        name = split(new)[1]
        if name.startswith(self._prefix):
            with self._changed:
                move = self._aliases.get(name)
                if move is None or (move.path, move.target) != (old, new) or not self._put_aside(old, new):
                    raise os_error(errno.EBUSY, new)
                move.is_accepted = True
            return True
        if not split(old)[1].startswith(self._prefix):
            return False
        # The name is removed: libfuse hides it as long as the file is open.
        with self._changed:
            if (file := self._aside.pop(old, None)) is not None:
                self._aside[new] = file
            for file in self._files:
                if file.aside == old:
                    file.aside = new
            self._removed[new] = None
        return True

    def hide(self, path: str, hidden: str) -> None:
        """Record that libfuse has hidden what it has at `path`, as the name is removed or replaced here."""
        with self._changed:
            if (move := self._moves.get(path)) is not None:
                self._end(move)
            if self._put_aside(path, hidden):
                self._removed[hidden] = None

    def _put_aside(self, path: str, aside: str) -> bool:
        """Let the files at the name be known by another one; return False if there is none. Lock held."""
        files = self._at_name(path)
        for file in files:
            file.aside = aside
        if files:
            self._aside[aside] = files[0]
        return bool(files)

    def is_removed(self, path: str) -> bool:
        """Return whether unlink(2) of `path` only ends a name that libfuse had for a replaced file."""
        return path in self._removed or split(path)[1].startswith(self._prefix)

    def path_moved(self, old: str, new: str, *, is_folder: bool) -> None:
        """Record that the file `old`, or what is below the folder `old`, is at `new` now."""
        with self._changed:
            for file in self._files:
                # Writes to a file that is aside are stored at the path at which it was opened.
                if is_below(file.path, old) and (is_folder or not file.aside):
                    file.path = new + file.path[len(old) :]
                if is_folder and is_below(file.aside, old):
                    file.aside = new + file.aside[len(old) :]
            for path in [path for path in self._moves if is_below(path, old)]:
                move = self._moves.pop(path)
                move.path = new + path[len(old) :]
                if not move.is_accepted:
                    # The mover begins again, and what it did by the old path counts no more.
                    del self._aliases[move.alias]
                    move.alias, move.asked = self._new_alias(), monotonic()
                    self.begin_again(move)
                    self._aliases[move.alias] = move
                self._moves[move.path] = move
            for path in [path for path in self._aside if is_folder and is_below(path, old)]:
                self._aside[new + path[len(old) :]] = self._aside.pop(path)

    def serve(self, *, moves: bool = True) -> None:
        """Begin, now that the kernel knows the files; with `moves` a thread calls `next` from now on."""
        with self._changed:
            self._is_mounted, self._is_served = True, moves

    def stop(self) -> None:
        """Ask for no more moves; `next` returns None."""
        with self._changed:
            self._is_mounted = False
            super().stop()
            for move in list(self._moves.values()):
                self._end(move)

    def is_asked(self, call: Move) -> bool:
        """Return whether a move is still to be made."""
        return self._moves.get(call.path) is call

    def names(self, move: Move) -> tuple[str, str]:
        """Return the path of a move and its alias, which may change until it is accepted."""
        with self._changed:
            return move.path, move.alias

    def begin_again(self, move: Move) -> tuple[str, str]:
        """Record that the mover begins; return what `names` does."""
        with self._changed:
            move.looks, move.begun = 0, -math.inf
            return self.names(move)

    def end_move(self, move: Move, *, is_moved: bool) -> None:
        """Record that a move has ended."""
        with self._changed:
            if not self.is_asked(move):
                return
            if not is_moved and move.is_accepted:
                self._aside.pop(move.target, None)
                for file in self._files:
                    if file.aside == move.target:
                        file.aside = ""
            self._end(move)
            if not is_moved:
                self._cut_off(move.path)
            # Another version may have been replaced since the rename was accepted.
            elif self._at_name(move.path):
                self._ask_for_move(move.path)

    def _end(self, move: Move) -> None:
        del self._moves[move.path], self._aliases[move.alias]
        self._changed.notify_all()


def _left(until: float) -> float:
    return max(0.0, until - monotonic())


class WrongPages(AskedCalls[OpenFile]):
    """Open files of which the kernel may have bytes in its page cache that arrived wrong.

    The local file is repaired, or its bytes are refused, but the kernel answers reads from its own pages. An
    open makes it drop the pages of the file, also for existing handles and mappings. Programs may not open
    the file again, so a thread does it. If none serves them, only the opens of programs drop pages.
    """

    def add(self, file: OpenFile) -> None:
        """Add a file that is to be opened."""
        with self._changed:
            if self._is_served and not any(one is file for one in self._queue):
                self._ask(file)

    def is_asked(self, call: OpenFile) -> bool:
        """Return whether a file is still open."""
        return bool(call.users)
