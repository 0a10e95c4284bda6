"""Open files: nodes, which the handles of one file share, and the table of them all."""

import itertools
import threading
from dataclasses import dataclass, field, replace

from cachetools import TTLCache

from swiftfs.attributes import Stored
from swiftfs.barrier import Barrier
from swiftfs.content.content import Content
from swiftfs.journal.intents import Delete, Description
from swiftfs.journal.queue import Done
from swiftfs.model import Attributes, ObjectName
from swiftfs.namespace.entry import Entry
from swiftfs.naming import is_below, split

RELEASED_SECONDS = 1.0
RELEASED_FILES = 1000
"""How long, and how many, files count as just released."""


@dataclass(slots=True)
class Node:
    """A file that is open: what it is now, which may be ahead of the journal.

    `entry` is what the namespace has of it, None for a new file before its first flush. `dirty` says that
    bytes or attributes are not in the journal yet, `failed` that close() or fsync() has told why. A `hidden`
    node was unlinked or renamed over: it lives until its last handle goes, and then its `deletion` is
    executed and `settled` is told how that went. `replaces` is the entry that a new file takes the place of.
    With `inherit` the object has headers of another client that nobody has asked for.
    The lock keeps writers apart from what hands the file to the journal.
    """

    path: str
    name: ObjectName
    content: Content
    stat: Attributes
    description: Description
    entry: Entry | None
    dirty: bool = False
    failed: bool = False
    hidden: bool = False
    deletion: Delete | None = None
    settled: Done | None = None
    replaces: Entry | None = None
    inherit: bool = False
    users: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def attributes(self) -> Attributes:
        """The attributes with the size as it is at this moment."""
        return replace(self.stat, size=self.content.size)

    def follow(self, entry: Entry) -> None:
        """Take the name that the object was moved to."""
        assert entry.object is not None
        self.entry, self.name = entry, entry.object
        self.content.rename(entry.object)

    def describe(self) -> Description:
        """Return what an upload would store besides the bytes.

        Headers that another client gave the object stay with its name as xattrs do, Content-Encoding too: the
        mount shows and takes the encoded bytes. But a DLO's manifest header would have its segments served
        instead of the bytes.
        """
        stat = self.stat
        stored = Stored(stat.mode, stat.mtime_ns, stat.uid, stat.gid)
        kept = {name: value for name, value in self.description.kept.items() if name != "X-Object-Manifest"}
        return replace(self.description, stored=stored, kept=kept)


@dataclass(frozen=True, slots=True)
class Handle:
    """One open(): its node, and whether it may write."""

    node: Node
    writable: bool
    append: bool


class OpenFiles:
    """The open files by handle and by path. The lock guards the tables and the counts of users.

    The `barrier` keeps what hands their changes in apart from the renames of folders above them.
    """

    def __init__(self) -> None:
        self.barrier = Barrier()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}
        self._nodes: dict[str, Node] = {}
        self._released: TTLCache[str, None] = TTLCache(RELEASED_FILES, RELEASED_SECONDS)

    def at(self, path: str) -> Node | None:
        """Return the open file at `path`, if there is one."""
        return self._nodes.get(path)

    def handle(self, number: int) -> Handle:
        """Return what a handle's number stands for."""
        return self._handles[number]

    def open(self, node: Node, *, writable: bool, append: bool = False) -> tuple[int, Node]:
        """Add a handle on `node`, or on the node that is open at its path already; return both."""
        with self._lock:
            shared = self._nodes.setdefault(node.path, node)
            shared.users += 1
            number = next(self._numbers)
            self._handles[number] = Handle(shared, writable, append)
            return number, shared

    def release(self, number: int) -> Node | None:
        """Remove a handle; return its node when that was the last one."""
        with self._lock:
            node = self._handles.pop(number).node
            node.users -= 1
            if node.users:
                return None
            if self._nodes.get(node.path) is node:
                del self._nodes[node.path]
            self._released[node.path] = None
            return node

    def was_just_released(self, path: str) -> bool:
        """Say whether the last handle of the file at `path` went a moment ago."""
        with self._lock:
            return path in self._released

    def move(self, old: str, new: str) -> None:
        """Let the nodes at `old` and below it be found at `new`."""
        with self._lock:
            for path in [path for path in self._nodes if is_below(path, old)]:
                node = self._nodes.pop(path)
                node.path = new + path[len(old) :]
                self._nodes[node.path] = node

    def stored(self, promised: Entry, entry: Entry) -> None:
        """Let the node that waited for `promised` to be stored know what it is now."""
        with self._lock:
            for node in self._nodes.values():
                if node.entry is promised:
                    node.entry = entry

    def below(self, folder: str) -> list[Node]:
        """Return the nodes in a folder and in all folders below it."""
        with self._lock:
            return [node for path, node in self._nodes.items() if is_below(path, folder)]

    def unstored_in(self, folder: str) -> list[Node]:
        """Return the nodes of a folder that no listing shows, because nobody has flushed them yet."""
        nodes = self.below(folder)
        return [n for n in nodes if n.entry is None and not n.hidden and split(n.path)[0] == folder]

    def hidden(self, name: ObjectName) -> list[Node]:
        """Return the unlinked nodes whose last close would delete the object `name`."""
        return [node for node in self.all() if node.deletion is not None and node.deletion.name == name]

    def all(self) -> list[Node]:
        """Return every open node."""
        with self._lock:
            return list(self._nodes.values())
