"""The modes, times and tags that files may have: what a call has set stays, also after a kill and a rename.

A tag is an extended attribute, 0 if there is none. To see one takes a HEAD.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from simulation.model import Model, World
from simulation.node import Node

MODES = (0o600, 0o640, 0o755)
NEW_MODE = 0o644
TIMES = (1_600_000_000, 1_600_000_001, 1_700_000_000)
"""Seconds. Few, for two versions of a file may have one time, as after `cp -p`."""

TAGS = (1, 2, 3)

TAG = "user.tag"

Seen = tuple[int, ...]
"""The permissions of a file, its time in ns, and its tag if any program sets one."""


@dataclass(eq=False)
class Values:
    """The values that an attribute may have, and all that it has had; none if any is right."""

    possible: frozenset[int] = frozenset()
    past: frozenset[int] = frozenset()

    @contextmanager
    def change(self, value: int, *, is_handed_in: bool) -> Iterator[None]:
        """Make a call that sets it. While that runs, and after an error, both values are possible.

        So they are as long as a program has the file open for writing, unless it `is_handed_in`.
        """
        if self.possible:
            self.possible |= {value}
        self.past |= {value}
        yield
        if is_handed_in:
            self.possible = frozenset({value})

    def add(self, other: "Values") -> None:
        """Let the values of another file be right, too."""
        self.possible = self.possible | other.possible if self.possible and other.possible else frozenset()
        self.past |= other.past

    def forget(self) -> None:
        """Let any value be right."""
        self.possible = frozenset()

    def allows(self, value: int, *, also_past: bool) -> bool:
        """Return whether a value is right; `also_past` if a change may have been refused."""
        return not self.possible or value in self.possible or (also_past and value in self.past)


class KnownAttributes:
    """What is known of the attributes of the model's files; with `has_refusals` Swift refuses changes."""

    def __init__(self, model: Model, *, has_refusals: bool) -> None:
        self._model = model
        self._has_refusals = has_refusals
        self._modes: dict[Node, Values] = {}
        self._times: dict[Node, Values] = {}
        self._tags: dict[Node, Values] = {}
        self._kinds = (("mode", self._modes), ("time", self._times), ("tag", self._tags))
        self._calls = 0

    def created(self, node: Node, stayed: Collection[Node] = ()) -> None:
        """Record that a file is made. If one of `stayed` is there, it is truncated, and keeps what it has."""
        for values, value in ((self._modes, NEW_MODE), (self._tags, 0)):
            values[node] = Values(frozenset({value}), frozenset({value}))
            for one in stayed:
                values[node].add(values.get(one, Values()))

    def written(self, node: Node) -> None:
        """Record that the bytes of a file change, and so its time."""
        self._times.setdefault(node, Values()).forget()

    @contextmanager
    def change_mode(self, node: Node) -> Iterator[int]:
        """Call chmod with the mode that this yields."""
        yield from self._change(self._modes, node, MODES, 1)

    @contextmanager
    def change_time(self, node: Node) -> Iterator[int]:
        """Call utimens with the time in ns that this yields."""
        yield from self._change(self._times, node, TIMES, 10**9)

    @contextmanager
    def change_tag(self, node: Node) -> Iterator[int]:
        """Call setxattr with the tag that this yields."""
        yield from self._change(self._tags, node, TAGS, 1)

    def _change(
        self, all_values: dict[Node, Values], node: Node, choice: tuple[int, ...], unit: int
    ) -> Iterator[int]:
        value = choice[self._calls % len(choice)] * unit
        self._calls += 1
        with all_values.setdefault(node, Values()).change(value, is_handed_in=not node.writer):
            yield value

    def problems(self, found: Mapping[str, bytes | None], seen: Mapping[str, Seen]) -> list[str]:
        """Return which files of a tree that the model allows have attributes that they should not have."""
        return min(
            (self._wrong(world, found, seen) for world in self._model.fitting(found)), key=len, default=[]
        )

    def adopt(self, seen: Mapping[str, Seen]) -> None:
        """Take what is seen for the only possible attributes of the model's only world."""
        for path, attributes in seen.items():
            if (node := self._model.worlds[0].get(path)) is not None:
                for (_, values), value in zip(self._kinds, attributes, strict=False):
                    past = values[node].past if node in values else frozenset[int]()
                    values[node] = Values(frozenset({value}), past | {value})

    def _wrong(self, world: World, found: Mapping[str, bytes | None], seen: Mapping[str, Seen]) -> list[str]:
        return [
            line
            for path, attributes in seen.items()
            if (node := world.get(path)) is not None and found[path] not in self._model.theirs
            for line in self._wrong_of(path, node, attributes)
        ]

    def _wrong_of(self, path: str, node: Node, seen: Seen) -> Iterable[str]:
        if node.foreign:
            return
        also_past = self._has_refusals or node.vague
        for (what, values), value in zip(self._kinds, seen, strict=False):
            known = values.get(node)
            if known is not None and not known.allows(value, also_past=also_past):
                right = " or ".join(map(str, sorted(known.possible)))
                yield f"{path} has the {what} {value}; it should have {right}"
