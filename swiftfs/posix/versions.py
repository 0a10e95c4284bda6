"""The older versions of objects, from listings that are kept for a moment, and their names as files."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath

from cachetools import TTLCache
from msgspec import Struct, field
from msgspec.structs import replace

from swiftfs.attributes import parse_last_modified
from swiftfs.concurrency import Rank, monotonic, new_lock
from swiftfs.errors import FolderTooLarge
from swiftfs.namespace.entry import Defaults, Entry, file_entry, is_marker
from swiftfs.objects import ObjectName, OlderName, VersionPage, VersionRow
from swiftfs.paths import Folder, escape
from swiftfs.store.protocol import ObjectStore

MOST_KEPT = 50_000
"""How many versions, with their names, are kept at most."""

MOST_LISTED = 500_000
"""How many versions a folder may have: they are held in memory, some 0.5 KB each, while it is read."""

AT_ONCE = 1000
"""How many versions are asked for to look up one name."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Node(Struct):
    """What a container has kept of a key: older `versions` by their names as files, the newest first.

    It `has_children` if keys lie below.
    """

    versions: dict[str, VersionRow] = field(default_factory=dict)
    has_children: bool = False

    def __bool__(self) -> bool:
        return bool(self.versions) or self.has_children

    def add(self, version: VersionRow) -> None:
        """Add what is shown of a version of the key."""
        if _is_shown(version):
            self.versions[version_name(version.row.key, version)] = version


class OlderVersions:
    """Lists older versions, and keeps the answers for `ttl` seconds. The lock guards what is kept."""

    def __init__(self, store: ObjectStore, ttl: float) -> None:
        self._store = store
        self._lock = new_lock(Rank.USAGE)
        self._nodes: TTLCache[ObjectName, Node] = TTLCache(MOST_KEPT, ttl, monotonic, _size)

    def node(self, name: ObjectName) -> Node:
        """Return what is kept of a key."""
        with self._lock:
            if (node := self._nodes.get(name)) is not None:
                return node
        node, below = Node(), name.key + "/"
        for entry in self._entries(name.container, name.key, AT_ONCE):
            key = entry if isinstance(entry, str) else entry.row.key
            if key != name.key:
                # Names that only begin so may come before the folder, each with its versions.
                node.has_children = key == below or (key < below and self._is_folder(name.container, below))
                break
            if isinstance(entry, VersionRow):
                node.add(entry)
        self._keep({name: node})
        return node

    def _is_folder(self, container: str, prefix: str) -> bool:
        page = self._store.list_versions(container, prefix=prefix, limit=1)
        return bool(page.rows)

    def children(self, folder: Folder) -> dict[str, Node]:
        """Return what is kept in a folder, by component; components without older versions are left out.

        Raise `FolderTooLarge` beyond `MOST_LISTED` versions.
        """
        found: dict[str, Node] = defaultdict(Node)
        for number, entry in enumerate(self._entries(folder.container, folder.prefix, 0)):
            if number == MOST_LISTED:
                raise FolderTooLarge(f"{folder.container}/{folder.prefix}: more than {MOST_LISTED} versions")
            if isinstance(entry, str):
                found[entry[len(folder.prefix) : -1]].has_children = True
            else:
                found[entry.row.key.removeprefix(folder.prefix)].add(entry)
        nodes = {component: node for component, node in found.items() if node}
        self._keep({folder.child(component): node for component, node in nodes.items()})
        return nodes

    def _entries(self, container: str, prefix: str, limit: int) -> Iterator[VersionRow | str]:
        marker, version_marker, last = "", "", False
        while not last:
            page = self._store.list_versions(
                container,
                prefix=prefix,
                delimiter="/",
                marker=marker,
                version_marker=version_marker,
                limit=limit,
            )
            yield from _in_order(page)
            marker, version_marker, last = page.marker, page.version_marker, page.last

    def _keep(self, nodes: dict[ObjectName, Node]) -> None:
        with self._lock:
            self._nodes.update((name, node) for name, node in nodes.items() if _size(node) < MOST_KEPT)


def _size(node: Node) -> int:
    return 1 + len(node.versions)


def _in_order(page: VersionPage) -> list[VersionRow | str]:
    entries: list[VersionRow | str] = [*page.rows, *page.subdirs]
    return sorted(entries, key=lambda one: one if isinstance(one, str) else one.row.key)


def _is_shown(version: VersionRow) -> bool:
    """Return whether it is an older version of a file, and not of a folder's marker."""
    return not (version.is_deletion or version.is_latest or is_marker(version.row))


def stored_at_ns(version: VersionRow) -> int:
    """Return when a version was stored, in ns since the epoch: that is its id."""
    try:
        return int(Decimal(version.version_id.partition("_")[0]) * 10**9)
    except ArithmeticError:  # `null`, or an id of another kind
        return parse_last_modified(version.row.last_modified)


def stored_at(version: VersionRow) -> str:
    """Return when a version was stored as it is shown, such as `2026-11-28T10:15:30.123450Z`."""
    moment = _EPOCH + timedelta(microseconds=stored_at_ns(version) // 1000)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"


def version_name(key: str, version: VersionRow) -> str:
    """Return the name of a version as a file: its time, and the ending by which programs know its kind."""
    endings = PurePosixPath(escape(key.rpartition("/")[2])).suffixes
    count = 2 if endings[-2:-1] == [".tar"] else 1
    return stored_at(version) + "".join(endings[-count:])


def version_entry(container: str, version: VersionRow, defaults: Defaults) -> Entry:
    """Return the entry of a version as a file, with the inode number of the object."""
    key = version.row.key
    entry = file_entry(version_name(key, version), container, version.row, defaults)
    return replace(entry, object=OlderName(container, key, version.version_id))
