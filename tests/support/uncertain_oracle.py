"""An oracle for a mount that may be killed, or may refuse a call, at any moment.

As long as nothing fails, one state of all paths is right. A call that is under way or has failed, and a write
that is not closed, make several possible; a look at the mount tells which of them has become true.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from support.crash_oracle import CrashOracle, State, States, differences, look
from swiftfs.filecache.block_map import BLOCK as UNIT

Effect = Callable[[States], dict[str, State] | None]
"""What a call makes of a state of all paths; None when it could not have succeeded there."""

GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
"""What system calls of a mount answer whose process has died."""

PERMISSIONS = 0o644

BLOCK = 4096


@dataclass(frozen=True)
class Piece:
    """One system call of a change: bytes written at an offset, or the file cut or grown to a size."""

    offset: int
    body: bytes | None = None

    def apply(self, before: bytes) -> bytes:
        """Return what a file holds afterwards."""
        if self.body is None:
            return before[: self.offset].ljust(self.offset, b"\0")
        head = before[: self.offset].ljust(self.offset, b"\0")
        return head + self.body + before[self.offset + len(self.body) :]

    def parts(self) -> list["Piece"]:
        """Return what is written in each block of the cache, if it is in several."""
        if self.body is None:
            return []
        end = self.offset + len(self.body)
        cuts = [self.offset, *range((self.offset // UNIT + 1) * UNIT, end, UNIT), end]
        parts = [
            Piece(one, self.body[one - self.offset : other - self.offset]) for one, other in pairwise(cuts)
        ]
        return parts if len(parts) > 1 else []

    def make(self, descriptor: int) -> None:
        """Make the system call."""
        if self.body is None:
            os.ftruncate(descriptor, self.offset)
        else:
            os.pwrite(descriptor, self.body, self.offset)


def is_dead(root: Path) -> bool:
    """Return whether the process that serves a mount has died."""
    try:
        root.stat()
    except OSError as error:
        return error.errno in GONE
    return False


def distinct(states: Iterable[States]) -> list[States]:
    """Return the states without repetitions."""
    found: list[States] = []
    for one in states:
        if one not in found:
            found.append(one)
    return found


def distinct_values(possible: Iterable[States], path: str) -> list[State | None]:
    """Return what a path is in the states, without repetitions."""
    return list(dict.fromkeys(states.get(path) for states in possible))


def different_ranges(found: bytes, wanted: bytes) -> str:
    """Return where the bytes differ, in blocks of 4 KiB, and where zeros were found."""
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
    """Return the list that has the fewest lines."""
    return min(explanations, key=len)


def moved(states: States, old: str, new: str) -> dict[str, State]:
    """Return the states after a rename of a file, or of a folder and all below it."""
    below = [path for path in states if path == old or path.startswith(f"{old}/")]
    after = {path: state for path, state in states.items() if path not in below}
    return after | {new + path[len(old) :]: states[path] for path in below}


class UncertainOracle(CrashOracle):
    """An oracle that goes on after a crash or a failed call.

    `now` is what the mount shows, `others` what may be there instead after a crash.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.others: list[States] = []

    def do(self, call: Callable[[], object], changes: Mapping[str, State | None]) -> None:
        """Make one system call, by which paths become other states, or go."""
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
        """Make a call with an effect; of a call under way the effects `halfway` may be seen after a crash.

        When it fails and the mount lives, the `failed` effects are possible too. What is not `closed` may be
        undone by a crash.
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
        """Record that a path will be as it is now whatever happens: it was stored."""
        agreed = [{**one, path: self.now[path]} for one in self.others]
        self.others = [one for one in distinct(agreed) if one != self.now]

    def adopt(self, found: States, *, certain: bool) -> list[str]:
        """Take what was found for true if it is possible; else return what is wrong, a line each.

        Nothing else is possible any more when it is `certain`.
        """
        possible = distinct([self.now, *self.others])
        right = [one for one in possible if not differences(found, one)]
        if not right:
            return self._explain(found, possible)
        self.now = self.soon = {path: _without_folder_time(state) for path, state in found.items()}
        self.others = [] if certain else [one for one in possible if one not in right]
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
        """Return where a path's bytes differ from what was wanted, read anew."""
        try:
            found = (self.root / path).read_bytes()
        except OSError as error:
            return f"now {error}"
        body = self._bodies.get(wanted.holds) if wanted else None
        return "" if body is None else f"differs at {different_ranges(found, body)}"

    def edit(self, path: str, pieces: Sequence[Piece], *, empty: bool, pause: Callable[[], None]) -> None:
        """Change a file in place, or make it anew when `empty`; what counts is its close."""
        flags = os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if empty else 0)
        if empty:
            self._make_anew(path, flags, pieces, pause)
        else:
            self._change_in_place(path, flags, pieces, pause)
        self.settle(path)

    def write(self, path: str, body: bytes, *, offset: int | None = None) -> None:
        """Make a file of these bytes, or write them at `offset` into the file that is there."""
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
        """Change a file of which a crash may show a part of each step, cut or filled with zeros to its size.

        That is what docs/durability.md does not promise: the record of a close that waits for Swift has its
        size and its changed blocks, and the local file is changed meanwhile.
        """
        body = self.bytes_of(path)
        had = Piece(len(body))
        bodies = self._bodies_after(body, pieces)
        descriptor = os.open(self.root / path, flags)
        try:
            for piece in pieces:
                parts = piece.parts()
                torn = [self.applying(path, part, *cut) for part in parts for cut in ((), (had,))]
                self.change(
                    partial(piece.make, descriptor),
                    self.applying(path, piece),
                    closed=False,
                    halfway=[*torn, self.applying(path, piece, had)],
                )
                pause()
        except OSError:
            with suppress(OSError):
                os.close(descriptor)
            raise
        self.change(lambda: os.close(descriptor), self.holding(path, bodies[-1]))

    def _bodies_after(self, body: bytes, pieces: Sequence[Piece]) -> list[bytes]:
        found = []
        for piece in pieces:
            body = piece.apply(body)
            found.append(body)
        return found

    def holding(self, path: str, body: bytes) -> Effect:
        """Return the effect that a file holds these bytes, made when it is not there."""
        holds = self.body(body)

        def effect(states: States) -> dict[str, State]:
            state = states.get(path, State("file", mode=PERMISSIONS))
            return {**states, path: replace(state, holds=holds, mtime_ns=None)}

        return effect

    def applying(self, path: str, *pieces: Piece) -> Effect:
        """Return the effect that a file, whatever it holds, is changed by these pieces."""

        def effect(states: States) -> dict[str, State] | None:
            if (state := states.get(path)) is None:
                return None
            body = self._bodies[state.holds]
            for piece in pieces:
                body = piece.apply(body)
            return {**states, path: replace(state, holds=self.body(body), mtime_ns=None)}

        return effect

    def bytes_of(self, path: str) -> bytes:
        """Return what a file holds now."""
        return self._bodies[self.now[path].holds]

    def rename(self, old: str, new: str) -> None:
        """Rename a file, or a folder and all below it; when it fails, it may be there under both names."""
        self.change(
            lambda: (self.root / old).rename(self.root / new),
            lambda states: moved(states, old, new),
            failed=[lambda states: moved(states, old, new) | dict(states)],
        )

    def forget_bodies(self) -> None:
        """Forget the bytes that no path can hold any more."""
        held = {state.holds for states in (self.now, *self.others) for state in states.values()}
        self._bodies = {holds: body for holds, body in self._bodies.items() if holds in held}

    def look_at(self, path: str) -> State:
        """Return what the mount shows."""
        return look(self.root / path)

    def _effect(self, changes: Mapping[str, State | None]) -> Effect:
        """Return the effect of changes that were computed from `now`, in other states of the paths too.

        There only what differs from `now` changes; where a path is missing the call would have failed.
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
    """Return a state that does not insist on a folder's time, which nobody has set."""
    return replace(state, mtime_ns=None) if state.kind == "folder" else state


def _changed(state: State, old: State, new: State) -> State:
    """Return a state with those fields new in which `new` differs from `old`."""
    fields = {name: value for name, value in vars(new).items() if value != vars(old)[name]}
    return replace(state, **fields)
