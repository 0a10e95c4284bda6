"""An oracle for a mount that may be killed, or may fail a call, at any moment.

As long as nothing fails, one state of all paths is right. A call that is running or has failed, and a write
that is not closed, make several states possible; what the mount shows later decides which of them is true.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from support.crash_oracle import CrashOracle, State, States, differences, look
from swiftfs.filecache.block_map import BLOCK as UNIT

Effect = Callable[[States], dict[str, State] | None]
"""Returns the state of all paths after a call; None if the call would have failed in that state."""

GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
"""Errors of system calls on a mount whose process has died."""

PERMISSIONS = 0o644

BLOCK = 4096


@dataclass(frozen=True)
class Piece:
    """One system call of a change: a write at an offset, or without `body` a truncation to `offset` bytes."""

    offset: int
    body: bytes | None = None

    def apply(self, before: bytes) -> bytes:
        """Return the bytes of a file after the call."""
        if self.body is None:
            return before[: self.offset].ljust(self.offset, b"\0")
        head = before[: self.offset].ljust(self.offset, b"\0")
        return head + self.body + before[self.offset + len(self.body) :]

    def make(self, descriptor: int) -> None:
        """Make the system call."""
        if self.body is None:
            os.ftruncate(descriptor, self.offset)
        else:
            os.pwrite(descriptor, self.body, self.offset)


@dataclass(frozen=True)
class Unclosed:
    """A file that is changed in place: what it has held since it was opened."""

    path: str
    bodies: list[bytes]

    def may_be(self, found: bytes) -> bool:
        """Return whether each block of the cache may have what was found, and the file its size."""
        if len(found) not in map(len, self.bodies):
            return False
        bodies = [body.ljust(len(found), b"\0") for body in self.bodies]
        return all(
            any(found[at : at + UNIT] == body[at : at + UNIT] for body in bodies)
            for at in range(0, len(found), UNIT)
        )


def is_dead(root: Path) -> bool:
    """Return whether the process that serves a mount has died."""
    try:
        root.stat()
    except OSError as error:
        return error.errno in GONE
    return False


def distinct(states: Iterable[States]) -> list[States]:
    """Return the states without duplicates."""
    found: list[States] = []
    for one in states:
        if one not in found:
            found.append(one)
    return found


def distinct_values(possible: Iterable[States], path: str) -> list[State | None]:
    """Return the different states of one path."""
    return list(dict.fromkeys(states.get(path) for states in possible))


def different_ranges(found: bytes, wanted: bytes) -> str:
    """Return where the bytes differ, in blocks of 4 KiB, and which of them are zeros."""
    blocks = range(0, max(len(found), len(wanted)), BLOCK)
    wrong = [at for at in blocks if found[at : at + BLOCK] != wanted[at : at + BLOCK]]
    words: list[tuple[int, int, str]] = []
    for at in wrong:
        zeros = " zeros" * (not found[at : at + BLOCK].strip(b"\0"))
        if words and words[-1][1] == at and words[-1][2] == zeros:
            words[-1] = (words[-1][0], at + BLOCK, zeros)
        else:
            words.append((at, at + BLOCK, zeros))
    return ", ".join(f"{start}-{end}{zeros}" for start, end, zeros in words) or "nowhere"


def shortest(explanations: Iterable[list[str]]) -> list[str]:
    """Return the list with the fewest lines."""
    return min(explanations, key=len)


def moved(states: States, old: str, new: str) -> dict[str, State]:
    """Return the states of all paths after a rename of a file, or of a folder and all below it."""
    below = [path for path in states if path == old or path.startswith(f"{old}/")]
    after = {path: state for path, state in states.items() if path not in below}
    return after | {new + path[len(old) :]: states[path] for path in below}


class UncertainOracle(CrashOracle):
    """An oracle that can continue after a crash or a failed call.

    `now` is what the mount shows; `others` are the other states that are possible after a crash.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.others: list[States] = []
        self._unclosed: Unclosed | None = None

    def do(self, call: Callable[[], object], changes: Mapping[str, State | None]) -> None:
        """Make one system call; `changes` has the new state of each path that it changes, None if deleted."""
        self.change(call, self._effect(changes))

    def change(
        self,
        call: Callable[[], object],
        effect: Effect,
        *,
        closed: bool = True,
        halfway: Sequence[Effect] = (),
        failed: Sequence[Effect] = (),
    ) -> None:
        """Make a call with an effect; a crash during the call may leave the `halfway` effects.

        If the call fails and the mount lives, the `failed` effects are possible too. A change that is not
        `closed` may be undone by a crash.
        """
        before = [self.now, *self.others]
        after = [one for state in before if (one := effect(state)) is not None]
        possible = [*before, *after, *_applied(before, halfway)]
        self.soon = dict(after[0])
        self.others = distinct(possible)
        try:
            call()
        except OSError:
            if not is_dead(self.root):
                self.others = distinct([*self.others, *_applied(before, failed)])
            raise
        self.now = self.soon
        self.others = [one for one in distinct(after if closed else possible) if one != self.now]

    def make_certain(self, path: str) -> None:
        """Record that a path's state is stored: it is the only possible one."""
        agreed = [{**one, path: self.now[path]} for one in self.others]
        self.others = [one for one in distinct(agreed) if one != self.now]

    def adopt(self, found: States, *, certain: bool) -> list[str]:
        """Make what was found the current state, if it is possible; else return what is wrong, a line each.

        No other state is possible any more if it is `certain`.
        """
        possible = [*distinct([self.now, *self.others]), *self._torn(found)]
        right = [one for one in possible if not differences(found, one)]
        if not right:
            return self._explain(found, possible)
        self.now = self.soon = {path: _without_folder_time(state) for path, state in found.items()}
        self.others = [] if certain else [one for one in possible if one not in right]
        return []

    def _torn(self, found: States) -> list[States]:
        """Return the states that are possible because a file that was not closed has parts of its changes."""
        unclosed, self._unclosed = self._unclosed, None
        if unclosed is None or unclosed.path not in found:
            return []
        with suppress(OSError):
            body, holds = (self.root / unclosed.path).read_bytes(), found[unclosed.path].holds
            if unclosed.may_be(body):
                self._bodies[holds] = body
                states = [one for one in (self.now, *self.others) if unclosed.path in one]
                return [
                    {**one, unclosed.path: replace(one[unclosed.path], holds=holds, mtime_ns=None)}
                    for one in states
                ]
        return []

    def _explain(self, found: States, possible: Sequence[States]) -> list[str]:
        best = shortest(differences(found, one) for one in possible)
        paths = [path for path in {*found, *self.now} if any(line.startswith(f"{path}: ") for line in best)]
        options = [
            f"{path} might be {one}; {self._compare(path, one)}"
            for path in paths
            for one in distinct_values(possible, path)
        ]
        return [*best, f"({len(possible)} states were possible; this is the nearest)", *options]

    def _compare(self, path: str, wanted: State | None) -> str:
        """Read a path again; return where its bytes differ from the wanted state."""
        try:
            found = (self.root / path).read_bytes()
        except OSError as error:
            return f"now {error}"
        body = self._bodies.get(wanted.holds) if wanted else None
        return "" if body is None else f"differs at {different_ranges(found, body)}"

    def edit(self, path: str, pieces: Sequence[Piece], *, empty: bool, pause: Callable[[], None]) -> None:
        """Change a file in place, or write it anew if `empty`; the change takes effect at the close."""
        flags = os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if empty else 0)
        if empty:
            self._make_anew(path, flags, pieces, pause)
        else:
            self._change_in_place(path, flags, pieces, pause)
        self.settle(path)

    def write(self, path: str, body: bytes, *, offset: int | None = None) -> None:
        """Make a file of these bytes, or write them at `offset` into the existing file."""
        self.edit(path, [Piece(offset or 0, body)], empty=offset is None, pause=lambda: None)

    def _make_anew(self, path: str, flags: int, pieces: Sequence[Piece], pause: Callable[[], None]) -> None:
        """Write a file whose old content stays until the close; a failure may leave any part of the new."""

        def make() -> None:
            descriptor = os.open(self.root / path, flags, PERMISSIONS)
            try:
                for piece in pieces:
                    piece.make(descriptor)
                    pause()
            except OSError:
                with suppress(OSError):
                    os.close(descriptor)
                raise
            os.close(descriptor)

        bodies = self._bodies_after(b"", pieces)
        effects = [self.holding(path, body) for body in (b"", *bodies)]
        self.change(make, effects[-1], failed=effects)

    def _change_in_place(
        self, path: str, flags: int, pieces: Sequence[Piece], pause: Callable[[], None]
    ) -> None:
        """Change a file in place; a crash may leave a part of each step, cut or zero-filled to the old size.

        docs/durability.md does not promise more: the record of a close that is not uploaded yet has the size
        and the changed blocks of that time, while the local file changes.
        """
        body = self.bytes_of(path)
        bodies = self._bodies_after(body, pieces)
        descriptor = os.open(self.root / path, flags)
        self._unclosed = Unclosed(path, [body])
        try:
            for piece, changed in zip(pieces, bodies, strict=True):
                self._unclosed.bodies.append(changed)
                self.change(partial(piece.make, descriptor), self.holding(path, changed), closed=False)
                pause()
        except OSError:
            with suppress(OSError):
                os.close(descriptor)
            raise
        self.change(lambda: os.close(descriptor), self.holding(path, bodies[-1]))
        self._unclosed = None

    def _bodies_after(self, body: bytes, pieces: Sequence[Piece]) -> list[bytes]:
        found = []
        for piece in pieces:
            body = piece.apply(body)
            found.append(body)
        return found

    def holding(self, path: str, body: bytes) -> Effect:
        """Return the effect that a file holds these bytes, and is made if it does not exist."""
        holds = self.body(body)

        def effect(states: States) -> dict[str, State]:
            state = states.get(path, State("file", mode=PERMISSIONS))
            return {**states, path: replace(state, holds=holds, mtime_ns=None)}

        return effect

    def bytes_of(self, path: str) -> bytes:
        """Return the current bytes of a file."""
        return self._bodies[self.now[path].holds]

    def rename(self, old: str, new: str) -> None:
        """Rename a file, or a folder and all below it; a failure may leave it under both names."""
        self.change(
            lambda: (self.root / old).rename(self.root / new),
            lambda states: moved(states, old, new),
            failed=[lambda states: moved(states, old, new) | dict(states)],
        )

    def forget_bodies(self) -> None:
        """Forget bytes that no path can hold any more."""
        held = {state.holds for states in (self.now, *self.others) for state in states.values()}
        self._bodies = {holds: body for holds, body in self._bodies.items() if holds in held}

    def look_at(self, path: str) -> State:
        """Return the state of a path that the mount shows."""
        return look(self.root / path)

    def _effect(self, changes: Mapping[str, State | None]) -> Effect:
        """Return the effect of changes that were computed from `now`, also on other possible states.

        There only the fields that differ from `now` change. The effect is None in a state where a path is
        missing: there the call would have failed.
        """
        base = dict(self.now)

        def effect(states: States) -> dict[str, State] | None:
            after = dict(states)
            for path, change in changes.items():
                if (path in base) != (path in states):
                    return None
                if change is None:
                    after.pop(path, None)
                elif path in base:
                    after[path] = _changed(states[path], base[path], change)
                else:
                    after[path] = change
            return after

        return effect


def _applied(states: Iterable[States], effects: Iterable[Effect]) -> list[States]:
    every = [effect(state) for effect in effects for state in states]
    return [one for one in every if one is not None]


def _without_folder_time(state: State) -> State:
    """Return the state with any time if it is a folder's, which no call has set."""
    return replace(state, mtime_ns=None) if state.kind == "folder" else state


def _changed(state: State, old: State, new: State) -> State:
    """Return the state with the fields in which `new` differs from `old`."""
    fields = {name: value for name, value in vars(new).items() if value != vars(old)[name]}
    return replace(state, **fields)
