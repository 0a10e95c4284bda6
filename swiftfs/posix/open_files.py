"""Open files: nodes, which the handles of one file share, and the table of them all."""

import itertools
from dataclasses import dataclass, field, replace
from functools import partial

from cachetools import TTLCache

from swiftfs.attributes import Stored
from swiftfs.concurrency import Lock, Rank, monotonic, new_lock
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.operations import Delete, Description
from swiftfs.journal.tasks import Done
from swiftfs.namespace.entry import Entry
from swiftfs.objects import UNCACHED_HANDLES, Attributes, ObjectName
from swiftfs.paths import is_below, split
from swiftfs.posix.rename_barrier import RenameBarrier

UNCACHED_SECONDS = 5.0
"""How long libfuse may go by times and sizes that are not true any more, and longer."""

RELEASED_SECONDS = 1.0
RELEASED_FILES = 1000
"""How long, and how many, files count as just released."""


@dataclass(slots=True)
class OpenFile:
    """A file that is open: what it is now, which may be ahead of the journal.

    `entry` is what the namespace has of it, None for a new file before its first flush. `dirty` says that
    bytes or attributes are not in the journal yet, `failed` that close() or fsync() has told why. A
    `unlinked` node was `unlinked_path` from that path, or renamed over: it lives until its last handle goes,
    and then its `deletion`, which the journal has as `held`, is executed and `settled` is told how that went.
    `replaces` is the entry that a new file takes the place of. With `foreign_headers_unknown` the object has
    headers of another client that nobody has asked for. The lock keeps writers apart from what hands the file
    to the journal.
    """

    path: str
    name: ObjectName
    content: CachedFile
    attributes: Attributes
    description: Description
    entry: Entry | None
    dirty: bool = False
    failed: bool = False
    unlinked: bool = False
    unlinked_path: str = ""
    deletion: Delete | None = None
    settled: Done | None = None
    held: int = 0
    replaces: Entry | None = None
    foreign_headers_unknown: bool = False
    users: int = 0
    lock: Lock = field(default_factory=partial(new_lock, Rank.FILE, reentrant=True))

    @property
    def current_attributes(self) -> Attributes:
        """The attributes with the size as it is at this moment."""
        return replace(self.attributes, size=self.content.size)

    def rename_object(self, entry: Entry) -> None:
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
        stat = self.attributes
        stored = Stored(stat.mode, stat.mtime_ns, stat.uid, stat.gid)
        kept = {
            name: value
            for name, value in self.description.preserved_headers.items()
            if name != "X-Object-Manifest"
        }
        return replace(self.description, stored=stored, preserved_headers=kept)


@dataclass(frozen=True, slots=True)
class Handle:
    """One open(): its node, and whether it may write."""

    node: OpenFile
    writable: bool
    append: bool


class OpenFiles:
    """The open files by handle and by path. The lock guards the tables and the counts of users.

    The `barrier` keeps what hands their changes in apart from the renames of folders above them.

    A node that was `replaced` by a newer version is found by its handles only. The kernel has one cache for
    all that is opened at a path: after that, handles there are uncached until the file changes once more and
    nobody reads the old version any more.
    """

    def __init__(self) -> None:
        self.barrier = RenameBarrier()
        self._lock = new_lock(Rank.OPEN_FILES)
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}
        self._nodes: dict[str, OpenFile] = {}
        self._replaced: list[OpenFile] = []
        self._mixed: dict[str, tuple[tuple[int, int], float]] = {}
        self._released: TTLCache[str, None] = TTLCache(RELEASED_FILES, RELEASED_SECONDS, monotonic)

    def at(self, path: str) -> OpenFile | None:
        """Return the open file at `path`, if there is one."""
        return self._nodes.get(path)

    def handle(self, number: int) -> Handle:
        """Return what a handle's number stands for."""
        return self._handles[number]

    def open(self, node: OpenFile, *, writable: bool, append: bool = False) -> tuple[int, OpenFile]:
        """Add a handle on `node`, or on the node that is open at its path already; return both."""
        with self._lock:
            shared = self._nodes.setdefault(node.path, node)
            shared.users += 1
            number = next(self._numbers) + (UNCACHED_HANDLES if self._is_mixed(shared) else 0)
            self._handles[number] = Handle(shared, writable, append)
            return number, shared

    def replace(self, node: OpenFile) -> None:
        """Let `node` be found by its handles only: its path is another version's from now on."""
        with self._lock:
            if self._nodes.get(node.path) is node:
                del self._nodes[node.path]
                self._replaced.append(node)

    def _is_mixed(self, node: OpenFile) -> bool:
        """Say whether the kernel may hold pages of another version under the path of a node.

        libfuse's auto_cache lets it drop them at an open, when time or size are not those of the open before.
        But libfuse looks only once in a while.
        """
        mark, now = (node.attributes.mtime_ns, node.content.size), monotonic()
        before, opened = self._mixed.get(node.path, (mark, now))
        if any(one.path == node.path for one in self._replaced):
            self._mixed[node.path] = mark, now
        elif before != mark and opened + UNCACHED_SECONDS < now:
            del self._mixed[node.path]
        elif node.path in self._mixed:
            self._mixed[node.path] = mark, now
        return node.path in self._mixed

    def release(self, number: int) -> OpenFile | None:
        """Remove a handle; return its node when that was the last one."""
        with self._lock:
            node = self._handles.pop(number).node
            node.users -= 1
            if node.users:
                return None
            if node in self._replaced:
                self._replaced.remove(node)
                return node
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
            for node in self._replaced:
                if is_below(node.path, old):
                    node.path = new + node.path[len(old) :]
            for path in [path for path in self._mixed if is_below(path, old)]:
                self._mixed[new + path[len(old) :]] = self._mixed.pop(path)

    def stored(self, promised: Entry, entry: Entry) -> None:
        """Let the node that waited for `promised` to be stored know what it is now."""
        with self._lock:
            for node in [*self._nodes.values(), *self._replaced]:
                if node.entry is promised:
                    node.entry = entry

    def below(self, folder: str) -> list[OpenFile]:
        """Return the nodes in a folder and in all folders below it."""
        with self._lock:
            nodes = [*self._nodes.values(), *self._replaced]
            return [node for node in nodes if is_below(node.path, folder)]

    def unstored_in(self, folder: str) -> list[OpenFile]:
        """Return the nodes of a folder that no listing shows, because nobody has flushed them yet."""
        nodes = self.below(folder)
        return [n for n in nodes if n.entry is None and not n.unlinked and split(n.path)[0] == folder]

    def unlinked(self, name: ObjectName) -> list[OpenFile]:
        """Return the unlinked nodes whose last close would delete the object `name`."""
        return [node for node in self.all() if node.deletion is not None and node.deletion.name == name]

    def all(self) -> list[OpenFile]:
        """Return every open node."""
        with self._lock:
            return [*self._nodes.values(), *self._replaced]
