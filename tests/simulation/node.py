"""A file or folder of the model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from simulation.pages import is_mixture
from swiftfs.filecache.block_map import BLOCK


@dataclass(eq=False)
class Node:
    """A file or a folder. `now` is what a program reads; that of a `foreign` one is unknown.

    After a crash a file holds one of `kept`, its contents at the last close, or of `unclosed`, later contents
    in place. `rewritten` are contents written after a truncation to 0, which count from the close on.
    `past` are all contents in their order. Of a `lost` one another client has replaced the object. Of an
    `unfinished` one a kill has interrupted the writer: an upload of the moment before may still show.
    """

    number: int
    is_folder: bool = False
    now: bytes = b""
    kept: set[bytes] = field(default_factory=set)
    unclosed: list[bytes] = field(default_factory=list)
    rewritten: list[bytes] | None = None
    handles: int = 0
    writer: int = 0
    vague: bool = False
    dropped: bool = False
    lost: bool = False
    foreign: bool = False
    unfinished: bool = False
    past: list[bytes] = field(default_factory=list)

    @property
    def optional(self) -> bool:
        """Whether the file may be missing after a crash: never closed, or its only close was refused."""
        return not self.is_folder and (not self.kept or self.dropped or self.lost)

    def allows(self, body: bytes) -> bool:
        """Return whether the file may hold these bytes after a crash; a `foreign` one may hold anything."""
        return (
            self.foreign
            or body in self.kept
            or body in self.unclosed
            or any(body == torn for torn in self.torn())
            or self.may_have_part(body)
        )

    def may_have_part(self, body: bytes) -> bool:
        """Return whether these are the bytes with a part of a change in place that a kill has interrupted."""
        return self.unfinished and is_mixture(body, [*self.kept, *self.unclosed])

    def may_be(self, body: bytes | None) -> bool:
        """Return whether it may be what has these bytes, None for a folder, in any state it has had."""
        if body is None or self.is_folder:
            return body is None and self.is_folder
        return self.allows(body) or body in self.past

    def torn(self) -> Iterator[bytes]:
        """Yield what a change in place may leave: its bytes with the size of the last close, or some of them.

        A block that the last close did not change is stored as it was, also if it was changed since.
        """
        for body in self.unclosed:
            for kept in self.kept:
                changed = body[: len(kept)].ljust(len(kept), b"\0")
                yield changed
                yield from map(b"".join, product(*map(_either, _blocks(kept), _blocks(changed))))

    def wrote(self, body: bytes) -> None:
        """Record new contents that are not closed."""
        self.past.append(body)
        (self.unclosed if self.rewritten is None else self.rewritten).append(body)

    def hand_in(self) -> None:
        """Record that the file may have been handed in without a close."""
        if self.rewritten is not None:
            self.past.append(b"")
            self.unclosed += [b"", *self.rewritten]
            self.rewritten = None

    def closed(self, body: bytes) -> None:
        """Record that a close or fsync has returned."""
        self.past.append(body)
        self.kept, self.unclosed, self.rewritten = {body}, [], None
        self.vague = self.dropped = self.lost = self.unfinished = False

    def seen(self, body: bytes) -> None:
        """Record what a new mount shows of the file."""
        is_lost, is_unfinished, others = self.lost, self.unfinished, {*self.kept, *self.unclosed}
        self.now = body
        self.closed(body)
        self.lost = is_lost  # the mount may have shown a copy from its disk
        if is_unfinished:
            self.kept |= others
            self.unfinished = self.vague = True

    def refused(self) -> None:
        """Record that a close has failed: the old or new state may remain, a new file may be missing."""
        self.dropped = self.optional
        self.hand_in()
        self.kept |= {self.now, *self.unclosed}
        self.vague = True


def _blocks(body: bytes) -> Iterator[bytes]:
    return (body[at : at + BLOCK] for at in range(0, len(body), BLOCK))


def _either(one: bytes, other: bytes) -> tuple[bytes, ...]:
    return (one,) if one == other else (one, other)
