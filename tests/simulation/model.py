"""The expected state: which names exist, what files hold, and what a crash or an error may change.

Names and contents are separate: a name stands for a `Node`, which keeps its content when it is renamed. After
a call that failed, or was running at a crash, several states of the names are possible; each is a `World`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from simulation.node import Node
from simulation.pages import is_mixture
from simulation.remnants import Remnants
from simulation.words import describe_bytes

MOST_WORLDS = 64

CONFLICT = " (conflict "
"""In the names of versions that `conflict=keep` keeps."""

MISSING = b"missing"
"""Stands for the content of a missing file."""

UNREADABLE = b"unreadable"
"""Stands for the content of a file of several clients that one of them has deleted or replaced."""


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

    A `certain` node has existed all the time. A file holds one of its `bodies`, or pages of several; what is
    at another name too may be older there.
    """

    worlds: list[World]
    certain: set[Node]
    bodies: Mapping[Node, frozenset[bytes]]
    remnants: Remnants

    def problems(self, found: Mapping[str, bytes | None]) -> list[str]:
        """Return what is wrong in a tree."""
        lines = [
            f"{path} is {describe_bytes(body)} after the power cut"
            for path, body in found.items()
            if CONFLICT not in path and not self._is_right(path, body, found)
        ]
        for node in self.certain:
            if not self._places(node).intersection(found) and not node.optional:
                places = " or ".join(sorted(self._places(node)))
                lines.append(f"nothing is left of {places}; it held {_describe_any(node)}")
        return lines

    def allows_anywhere(self, body: bytes) -> bool:
        """Return whether any file may hold these bytes."""
        return any(is_mixture(body, bodies) for bodies in self.bodies.values())

    def _is_right(self, path: str, body: bytes | None, found: Mapping[str, bytes | None]) -> bool:
        if path in self.remnants.undeleted or self.remnants.may_be_left(path, body):
            return True
        if path in self.remnants.overtaken and not any(self._at(path)):
            return True
        return any(
            self._fits(node, body) or (body in node.past and self._is_elsewhere(node, path, found))
            for node in self._at(path)
        )

    def _is_elsewhere(self, node: Node, path: str, found: Mapping[str, bytes | None]) -> bool:
        others = self._places(node).intersection(found) - {path}
        return any(found[one] is not None and self._fits(node, found[one]) for one in others)

    def _places(self, node: Node) -> set[str]:
        paths = {path for world in self.worlds for path, one in world.items() if one is node}
        return paths.union(*map(self.remnants.twins, paths))

    def _at(self, path: str) -> Iterator[Node]:
        places = (path, *self.remnants.twins(path))
        return (world[one] for world in self.worlds for one in places if one in world)

    def _fits(self, node: Node, body: bytes | None) -> bool:
        if body is None or node.is_folder:
            return body is None and node.is_folder
        return node.foreign or is_mixture(body, self.bodies[node])


class Difference(NamedTuple):
    """What is wrong at a path, and what it has and should have. Most are never put into words."""

    text: str
    path: str
    body: bytes | None
    node: Node | None = None

    def words(self) -> str:
        """Return it in words."""
        right = _describe_any(self.node) if self.node is not None else ""
        return self.text.format(self.path, describe_bytes(self.body), right)


class Uncertain(Exception):
    """The worlds disagree about a path."""


class Model:
    """The possible worlds, and all contents that any file has ever had."""

    def __init__(self) -> None:
        self.worlds: list[World] = [{}]
        self.bodies: set[bytes] = {b""}
        self.theirs: set[bytes] = set()
        self.their_paths: set[str] = set()
        self.their_folders: set[str] = set()
        self.mixed = self.has_their_deletions = False
        self.moving: tuple[str, str] | None = None
        self.moving_folder = False
        self.remnants = Remnants()
        self.due: dict[str, bytes] = {}
        self.changing = self._had_cut = False
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
        copied; nor at the new name of a file that is renamed.
        """
        self.replaced(path)
        self.theirs.add(body)
        self.their_paths.add(path)
        self.bodies.add(body)
        is_target = self.moving is not None and self.moving[1] == path
        if sure or not (self.moving_folder or is_target):
            self.due[path] = body

    def replaced(self, path: str) -> list[Node]:
        """Record that what is at a path is replaced; return the files that may have stayed there."""
        places = self.remnants.twins_of_left(path)
        nodes = [world[one] for one in places for world in self.worlds if one in world]
        files = [node for node in nodes if not node.is_folder]
        for node in files:
            node.dropped = True
        return files

    def lost(self, path: str) -> None:
        """Record that another client has replaced what is to move to a path, before it was copied."""
        for node in [world[path] for world in self.worlds if path in world]:
            node.lost = not node.is_folder

    def deleted_theirs(self, path: str) -> None:
        """Record that another client has deleted what is at a path, also what it has stored there itself."""
        self.has_their_deletions = True
        self.their_paths.add(path)  # a change of it waits for a person
        self.due.pop(path, None)
        self.lost(path)
        self.replaced(path)

    @property
    def lost_paths(self) -> set[str]:
        """Return where files may be that cannot be read until the mount gives up their moves."""
        return {path for world in self.worlds for path, node in world.items() if node.lost}

    def shared(self, path: str) -> None:
        """Record that two mounts change what is at a path: then no promise about its bytes is left."""
        for node in [world[path] for world in self.worlds if path in world]:
            if not node.is_folder:
                node.foreign = node.vague = self.mixed = True

    def touch(self, path: str) -> None:
        """Record that a program changes what is at or below a path, whoever has stored it."""
        for one in [one for one in self.due if one == path or one.startswith(f"{path}/")]:
            del self.due[one]

    def renamed(self, old: str, new: str, due: Collection[str]) -> None:
        """Record that a rename has succeeded, with what others had stored before at the paths `due`."""
        self.remnants.moved_on(old, new)
        self._take_along(old, new, due)

    def _take_along(self, old: str, new: str, due: Collection[str]) -> None:
        for one in [one for one in self.due if one == old or one.startswith(f"{old}/")]:
            if one in due:
                self.due[new + one[len(old) :]] = self.due.pop(one)

    def crashed(self) -> None:
        """Record that no handle is open any more, and which requests may still be executed."""
        for node in self._nodes():
            node.unfinished |= node.writer > 0
            node.handles = node.writer = 0
            node.rewritten = None
            self.bodies.update(node.torn())
        if self.moving is not None:
            self.remnants.torn(*self.moving)
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
        # A program that replaces the file later makes a new one at its new name: the old one stays besides.
        nodes = [world[new] for world in self.worlds if new in world]
        self._take_along(new, old, {new})
        self.remnants.refused(old, new, (body for node in nodes for body in (*node.past, *node.kept)))

    def may_be_back(self, path: str, node: Node) -> None:
        """Record that a file, deleted while it was open, may be back: a rename to its name has failed.

        Until that has come, nothing tells the deletion from the first half of such a rename(2).
        """
        back: list[World] = [{**world, path: node} for world in self.worlds if path not in world]
        self.worlds = distinct([*self.worlds, *back])

    def lost_power(self) -> None:
        """Record a power cut, after `crashed`."""
        self._had_cut = True
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
            bodies[node] = before | {*node.past[since:], *node.unclosed} | node.kept
        self._cut = AfterCut(worlds, certain, bodies, self.remnants)

    def may_be_mixed(self, body: bytes) -> bool:
        """Return whether a file may hold these bytes after a power cut, or a kill while it was changed."""
        is_part = any(node.may_have_part(body) for node in self._nodes() if not node.is_folder)
        return is_part or (self._cut is not None and self._cut.allows_anywhere(body))

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
        nearest = min((self._differences(found, world, torn=torn) for world in self.worlds), key=len)
        return [one.words() for one in nearest]

    def fitting(self, found: Mapping[str, bytes | None]) -> list[World]:
        """Return the worlds that a tree fits; after a power cut none, for any mixture may be right."""
        if self._cut is not None:
            return []
        return [world for world in self.worlds if not self._differences(found, world)]

    def adopt(self, found: Mapping[str, bytes | None]) -> None:
        """Make a tree that is allowed the only possible world."""
        if self._cut is not None:
            self._adopt_anew(found)
            return
        world = min(self.worlds, key=lambda one: len(self._differences(found, one)))
        for path, theirs in [(path, theirs) for path, theirs in self.due.items() if path not in found]:
            for twin in [one for one in self.remnants.twins(path) if found.get(one) == theirs]:
                self._take_along(path, twin, {path})  # a kill has interrupted the rename
        self.remnants.forget()
        # What another client has replaced before it was copied may be shown for long: it cannot be read.
        kept = {path: node for path, node in world.items() if path in found or node.lost}
        for path, node in kept.items():
            body = found.get(path)
            if body is not None:
                node.seen(body)
                self.bodies.add(body)
        self.worlds = [kept]

    def _adopt_anew(self, found: Mapping[str, bytes | None]) -> None:
        """Begin again with what a power cut has left."""
        self._cut = None
        self.remnants.forget()
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

    def _is_theirs(self, path: str, body: bytes) -> bool:
        is_unreadable = body == UNREADABLE and path in self.their_paths
        return body in self.theirs or is_unreadable or (CONFLICT in path and self._may_be_kept)

    @property
    def _may_be_kept(self) -> bool:
        """Return whether the mount may keep a version under another name: whoever stored it."""
        return bool(self.their_paths) or self.mixed or self._had_cut

    def _may_be_theirs(self, folder: str, found: Mapping[str, bytes | None]) -> bool:
        """Return whether another client has made a folder, or something in it."""
        if any(one == folder or one.startswith(f"{folder}/") for one in self.their_folders):
            return True
        return any(body in self.theirs for path, body in found.items() if path.startswith(f"{folder}/"))

    def _nodes(self) -> list[Node]:
        return list({node: None for world in self.worlds for node in world.values()})

    def _differences(
        self, found: Mapping[str, bytes | None], world: World, *, torn: bool = False
    ) -> "list[Difference]":
        lines = list[Difference]()
        for path in sorted({*found, *world}):
            twins = self.remnants.twins(path) if torn else []
            own = world.get(path)
            node = own or next((world[one] for one in twins if one in world), None)
            body = found.get(path, MISSING)
            if body is MISSING and node is not None:  # what it may not hold is another file of that place
                there = [found[one] for one in twins if one in found]
                body = next((one for one in there if node.may_be(one)), MISSING)
            if body is MISSING:
                if node is not None and not node.optional:
                    lines.append(Difference("{0} is missing; it should hold {2}", path, None, node))
                continue
            if body is not None and self._is_theirs(path, body):
                continue
            # Also below a file that no program has closed yet.
            if torn and (own is None or own.optional) and self.remnants.may_be_left(path, body):
                continue
            if node is None:
                is_left = path in self.remnants.undeleted | self.remnants.overtaken
                if is_left or (body is None and self._may_be_theirs(path, found)):
                    continue
                lines.append(Difference("{0} is there, but should not be; it holds {1}", path, body))
            elif (body is None) != node.is_folder:
                lines.append(Difference("{0} is {1}", path, body))
            elif body is not None and own is None and body in node.past:
                continue  # it was not moved, and its new name was written to
            elif body is not None and not node.allows(body):
                if body in node.past and self._is_elsewhere(node, path, found, world):
                    continue  # a copy of a rename that failed: only one of the two was written to
                lines.append(Difference("{0} holds {1}; it should hold {2}", path, body, node))
        return lines


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
