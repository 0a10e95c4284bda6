"""The expected state: which names exist, what files hold, and what a crash or an error may change.

Names and contents are separate: a name stands for a `Node`, which keeps its content when it is renamed. After
a call that failed, or was running at a crash, several states of the names are possible; each is a `World`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from simulation.node import Node
from simulation.pages import is_mixture
from simulation.words import describe_bytes

MOST_WORLDS = 64

MOST_TWINS = 20

MISSING = b"missing"
"""Stands for the content of a missing file."""


World = Mapping[str, Node]
"""The node of each path. Paths begin with `/`; the root is not among them."""

Effect = Callable[[World], World]


@dataclass(frozen=True, slots=True)
class Moment:
    """What a sync to the disk found: the `worlds`, how many there were before, and what files might hold.

    With the contents of a node comes how many it has had. The nodes that are `there` may not be missing.
    """

    number: int
    worlds: tuple[World, ...]
    bodies: Mapping[Node, tuple[frozenset[bytes], int]]
    there: frozenset[Node]


@dataclass(frozen=True, slots=True)
class AfterCut:
    """What is possible after a power cut: the states of the names since the last sync, in any mixture.

    A `certain` node has existed all the time. A file holds one of its `bodies`, or pages of several. What one
    of the `moves` was moving may be at either place, or at both.
    """

    worlds: list[World]
    certain: set[Node]
    bodies: Mapping[Node, frozenset[bytes]]
    moves: tuple[tuple[str, str], ...]

    def problems(self, found: Mapping[str, bytes | None]) -> list[str]:
        """Return what is wrong in a tree."""
        lines = [
            f"{path} is {describe_bytes(body)} after the power cut"
            for path, body in found.items()
            if " (conflict " not in path and not any(self._fits(node, body) for node in self._at(path))
        ]
        for node in self.certain:
            paths = sorted({path for world in self.worlds for path, one in world.items() if one is node})
            twins = (twin for path in paths for twin in _twins(path, self.moves))
            there = [path for path in (*paths, *twins) if path in found]
            if not there and not node.optional:
                lines.append(f"nothing is left of {' or '.join(paths)}; it held {_describe_any(node)}")
        return lines

    def allows_anywhere(self, body: bytes) -> bool:
        """Return whether any file may hold these bytes."""
        return any(is_mixture(body, bodies) for bodies in self.bodies.values())

    def _at(self, path: str) -> Iterator[Node]:
        for world in self.worlds:
            for one in (path, *_twins(path, self.moves)):
                if one in world:
                    yield world[one]

    def _fits(self, node: Node, body: bytes | None) -> bool:
        if body is None or node.is_folder:
            return body is None and node.is_folder
        return node.foreign or is_mixture(body, self.bodies[node])


class Uncertain(Exception):
    """The worlds disagree about a path."""


class Model:
    """The possible worlds, and all contents that any file has ever had."""

    def __init__(self) -> None:
        self.worlds: list[World] = [{}]
        self.bodies: set[bytes] = {b""}
        self.theirs: set[bytes] = set()
        self.their_paths: set[str] = set()
        self.mixed = False
        self.moving: tuple[str, str] | None = None
        self.moving_folder = False
        self.has_stayed = False
        self._stayed: dict[str, set[bytes]] = {}
        self.undeleted: set[str] = set()
        self._torn_moves: list[tuple[str, str]] = []
        self.due: dict[str, bytes] = {}
        self.changing = False
        self._number = 0
        self._writes = 0
        self._trail: list[World] = []
        self._synced = Moment(0, ({},), {}, frozenset())
        self._fsynced: dict[Node, tuple[int, frozenset[bytes], int]] = {}
        self._cut: AfterCut | None = None

    def fresh(self, size: int) -> bytes:
        """Return bytes that no other write has."""
        self._writes += 1
        word = b"w%d " % self._writes
        return (word * (size // len(word) + 1))[:size]

    def new(self, *, is_folder: bool = False) -> Node:
        """Return a new node."""
        self._number += 1
        return Node(self._number, is_folder)

    def at(self, path: str) -> Node | None:
        """Return the node of a path; raise `Uncertain` if the worlds disagree."""
        found = {world.get(path) for world in self.worlds}
        if len(found) != 1:
            raise Uncertain(path)
        node = found.pop()
        if node is not None and (node.dropped or node.lost):
            raise Uncertain(path)
        return node

    def below(self, path: str) -> list[str]:
        """Return the paths below a folder, in any world."""
        start = path.rstrip("/") + "/"
        return sorted({one for world in self.worlds for one in world if one.startswith(start)})

    def paths_of(self, node: Node) -> set[str]:
        """Return where a node may be."""
        return {path for world in self.worlds for path, one in world.items() if one is node}

    def certain_below(self, path: str) -> list[str]:
        """Return the paths below a folder; raise `Uncertain` if the worlds disagree about one."""
        for one in (below := self.below(path)):
            self.at(one)
        return below

    @contextmanager
    def change(self, effect: Effect) -> Iterator[None]:
        """Make a call that changes names; while it runs, and after an error, both states are possible."""
        before = self.worlds
        after = [effect(world) for world in before]
        self.worlds = distinct([*before, *after])
        self._trail += self.worlds
        self.changing = True
        try:
            yield
        except OSError:
            halves = [{**new, **old} for old, new in zip(before, after, strict=True)]
            self.worlds = distinct([*self.worlds, *halves])
            raise
        else:
            self.worlds = distinct(after)
        finally:
            self.changing = False

    def wrote(self, node: Node, body: bytes) -> None:
        """Record that a file may hold these bytes from now on."""
        self.bodies.add(body)
        node.wrote(body)

    def stored_theirs(self, path: str, body: bytes, *, sure: bool) -> None:
        """Record that another client has stored an object, which we must not destroy.

        At the moment in which a folder moves there is no such guarantee, unless it is `sure` that nothing was
        copied.
        """
        self.theirs.add(body)
        self.their_paths.add(path)
        self.bodies.add(body)
        if sure or not self.moving_folder:
            self.due[path] = body

    def replaced(self, path: str) -> None:
        """Record that a program replaces what is at a path: it may be a file that has stayed there."""
        for one in _twins(path, self._torn_moves) if path in self._stayed else ():
            for node in [world[one] for world in self.worlds if one in world]:
                node.dropped = not node.is_folder

    def lost(self, path: str) -> None:
        """Record that another client has replaced what is to move to a path, before it was copied."""
        for node in [world[path] for world in self.worlds if path in world]:
            node.lost = not node.is_folder

    def touch(self, path: str) -> None:
        """Record that a program changes what is at or below a path, whoever has stored it."""
        for one in [one for one in self.due if one == path or one.startswith(f"{path}/")]:
            del self.due[one]

    def crashed(self) -> None:
        """Record that no handle is open any more, and which requests may still be executed."""
        for node in self._nodes():
            node.handles = node.writer = 0
            node.rewritten = None
            self.bodies.update(node.torn())
        if self.moving is not None:
            self._torn_moves.append(self.moving)
        self.moving, self.changing, self.moving_folder = None, False, False

    def moment(self) -> "Moment":
        """Return what holds now, for `synced`."""
        bodies = {node: (frozenset({*node.kept, *node.unclosed}), len(node.past)) for node in self._nodes()}
        there = frozenset(node for node in bodies if not node.optional)
        return Moment(len(self._trail), tuple(self.worlds), bodies, there)

    def synced(self, moment: "Moment") -> None:
        """Record that what held at a moment survives a power cut."""
        self._synced = moment

    def fsynced(self, node: Node, body: bytes) -> None:
        """Record that a file's bytes, and its name, survive a power cut from now on."""
        self._fsynced[node] = (len(self._trail), frozenset({body}), len(node.past))

    def stayed(self, old: str, new: str) -> None:
        """Record that what a rename has moved is at its old name again, and so is its folder."""
        self.has_stayed = True
        # A program that replaces the file later makes a new one at its new name: the old one stays besides.
        nodes = [world[new] for world in self.worlds if new in world]
        self._stayed[old] = {body for node in nodes for body in (*node.past, *node.kept)}
        # Its folders are there too, although a program may have removed them.
        above = old
        while above := above.rpartition("/")[0]:
            self._stayed.setdefault(above, set())
        self._torn_moves.append((old, new))
        # And so are its folders, up to the one that was renamed.
        while old.rpartition("/")[2] == new.rpartition("/")[2] and old.count("/") > 1 < new.count("/"):
            old, new = old.rpartition("/")[0], new.rpartition("/")[0]
            self._torn_moves.append((old, new))

    def may_be_back(self, path: str, node: Node) -> None:
        """Record that a file, deleted while it was open, may be back: a rename to its name has failed.

        Until that has come, nothing tells the deletion from the first half of such a rename(2).
        """
        back: list[World] = [{**world, path: node} for world in self.worlds if path not in world]
        self.worlds = distinct([*self.worlds, *back])

    def failed(self, old: str, new: str) -> None:
        """Record that a folder was not renamed: copies may be at its new name until they are deleted."""
        self._torn_moves.append((old, new))

    def renamed(self, old: str, new: str) -> None:
        """Record that a rename may have taken along what had stayed, or what had not come to its new name.

        No program knows which of the two is there.
        """
        moved_on = [(path, new + path[len(old) :]) for path in self._stayed if _is_at_or_below(path, old)]
        self._stayed |= {after: self._stayed[path] for path, after in moved_on}
        is_known = self.has_stayed and any(
            _is_at_or_below(path, old) for move in self._torn_moves for path in move
        )
        if is_known:
            self._torn_moves += [(old, new), *moved_on]

    def lost_power(self) -> None:
        """Record a power cut, after `crashed`."""
        synced = self._synced
        worlds = [*synced.worlds, *self._trail[synced.number :], *self.worlds]
        certain = set(synced.there).intersection(*(world.values() for world in worlds))
        bodies = {}
        for node in {one for world in worlds for one in world.values()}:
            number, before, since = 0, *synced.bodies.get(node, (frozenset(node.kept), 0))
            if node in self._fsynced and self._fsynced[node][0] >= synced.number:
                number, before, since = self._fsynced[node]
                later = [*self._trail[number:], *self.worlds]
                if all(node in world.values() for world in later):
                    certain.add(node)
            bodies[node] = before | set(node.past[since:]) | node.kept
        self._cut = AfterCut(worlds, certain, bodies, tuple(self._torn_moves))

    def may_be_mixed(self, body: bytes) -> bool:
        """Return whether a file may hold these bytes after a power cut."""
        return self._cut is not None and self._cut.allows_anywhere(body)

    def unmounted(self) -> None:
        """Record that an orderly end has closed all files."""
        for node in self._nodes():
            node.handles = node.writer = 0
            if not node.is_folder:
                node.hand_in()

    def problems(self, found: Mapping[str, bytes | None], *, torn: bool = False) -> list[str]:
        """Return what is wrong in a tree of bytes (None for folders), compared with the nearest world.

        If `torn`, what a rename was moving at a kill may be at either place, or at both.
        """
        if self._cut is not None:
            return self._cut.problems(found)
        moves = self._torn_moves if torn else ()
        return min((self._differences(found, world, moves) for world in self.worlds), key=len)

    def fitting(self, found: Mapping[str, bytes | None]) -> list[World]:
        """Return the worlds that a tree fits; after a power cut none, for any mixture may be right."""
        if self._cut is not None:
            return []
        return [world for world in self.worlds if not self._differences(found, world, ())]

    def adopt(self, found: Mapping[str, bytes | None]) -> None:
        """Make a tree that is allowed the only possible world."""
        if self._cut is not None:
            self._adopt_anew(found)
            return
        world = min(self.worlds, key=lambda one: len(self._differences(found, one, ())))
        self._torn_moves.clear()
        kept = {path: node for path, node in world.items() if path in found}
        for path, node in kept.items():
            body = found[path]
            if body is not None:
                is_lost, node.now = node.lost, body
                node.closed(body)
                node.lost = is_lost  # the mount may have shown a copy from its disk
                self.bodies.add(body)
        self.worlds = [kept]

    def _adopt_anew(self, found: Mapping[str, bytes | None]) -> None:
        """Begin again with what a power cut has left."""
        self._cut = None
        self._torn_moves.clear()
        world = {}
        for path, body in found.items():
            world[path] = node = self.new(is_folder=body is None)
            if body is not None:
                node.now = body
                node.closed(body)
                self.bodies.add(body)
        self.worlds = [world]
        self._trail.append(world)
        self._synced = self.moment()
        self._fsynced.clear()

    def _is_elsewhere(self, node: Node, path: str, found: Mapping[str, bytes | None], world: World) -> bool:
        """Return whether a file, with bytes that it may hold, is at another path too."""
        others = (one for one, other in world.items() if other is node and one != path)
        return any((body := found.get(one)) is not None and node.allows(body) for one in others)

    def _holds_theirs(self, folder: str, found: Mapping[str, bytes | None]) -> bool:
        return any(body in self.theirs for path, body in found.items() if path.startswith(f"{folder}/"))

    def _nodes(self) -> list[Node]:
        return list({node: None for world in self.worlds for node in world.values()})

    def _differences(
        self, found: Mapping[str, bytes | None], world: World, moves: Sequence[tuple[str, str]]
    ) -> list[str]:
        lines = []
        for path in sorted({*found, *world}):
            twins = _twins(path, moves)
            own = world.get(path)
            node = own or next((world[one] for one in twins if one in world), None)
            body = found.get(path, MISSING)
            if body is MISSING and node is not None:  # what it may not hold is another file of that place
                there = [found[one] for one in twins if one in found]
                body = next((one for one in there if node.may_be(one)), MISSING)
            if body is MISSING:
                if node is not None and not node.optional:
                    lines.append(f"{path} is missing; it should hold {_describe_any(node)}")
                continue
            if body is not None and (body in self.theirs or " (conflict " in path):
                continue
            if (
                moves
                and own is None
                and path in self._stayed
                and (body is None or body in self._stayed[path])
            ):
                continue
            if node is None:
                if (body is None and self._holds_theirs(path, found)) or path in self.undeleted:
                    continue
                lines.append(f"{path} is there, but should not be; it holds {describe_bytes(body)}")
            elif (body is None) != node.is_folder:
                lines.append(f"{path} is {describe_bytes(body)}")
            elif body is not None and own is None and body in node.past:
                continue  # it was not moved, and its new name was written to
            elif body is not None and not node.allows(body):
                if body in node.past and self._is_elsewhere(node, path, found, world):
                    continue  # a copy of a rename that failed: only one of the two was written to
                lines.append(f"{path} holds {describe_bytes(body)}; it should hold {_describe_any(node)}")
        return lines


def _is_at_or_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _twins(path: str, moves: Sequence[tuple[str, str]]) -> list[str]:
    """Return where else a path may be whose moves a kill has interrupted, or Swift has refused."""
    found, waiting = {path: None}, [path]
    while waiting and len(found) < MOST_TWINS:
        one = waiting.pop(0)
        for here, there in (*moves, *(pair[::-1] for pair in moves)):
            twin = there + one[len(here) :]
            if (one == here or one.startswith(f"{here}/")) and twin not in found:
                found[twin] = None
                waiting.append(twin)
    return [one for one in found if one != path]


def moved(old: str, new: str) -> Effect:
    """Return the effect of a rename of a file or folder."""

    def effect(world: World) -> World:
        if old not in world:
            return world
        below = [path for path in world if path == old or path.startswith(f"{old}/")]
        after = {path: node for path, node in world.items() if path not in below}
        return {**after, **{new + path[len(old) :]: world[path] for path in below}}

    return effect


def added(path: str, node: Node) -> Effect:
    """Return the effect of making a file or folder."""
    return lambda world: {**world, path: node}


def removed(path: str) -> Effect:
    """Return the effect of an unlink or rmdir."""
    return lambda world: {one: node for one, node in world.items() if one != path}


def _describe_any(node: Node) -> str:
    if node.is_folder:
        return "a folder"
    return " or ".join(describe_bytes(body) for body in dict.fromkeys([*sorted(node.kept), *node.unclosed]))


def distinct(worlds: list[World]) -> list[World]:
    found: list[World] = []
    for world in worlds:
        if world not in found:
            found.append(world)
    return found[:MOST_WORLDS]
