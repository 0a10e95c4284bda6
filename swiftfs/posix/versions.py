"""The older versions of objects, from listings that are kept for a moment, and their names as files."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath

from cachetools import TTLCache

from swiftfs.attributes import parse_last_modified
from swiftfs.concurrency import Rank, monotonic, new_lock
from swiftfs.namespace.entry import Defaults, Entry, file_entry, is_marker
from swiftfs.objects import ObjectName, OlderName, VersionPage, VersionRow
from swiftfs.paths import SEGMENTS_FOLDER, Folder, escape
from swiftfs.store.protocol import ObjectStore

MOST_NODES = 20_000
"""How many names with their versions are kept."""

AT_ONCE = 1000
"""How many versions are asked for to look up one name."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Node:
    """What a container has kept of a key: older `versions`, the newest first, and whether keys lie below."""

    versions: tuple[VersionRow, ...] = ()
    has_children: bool = False

    def __bool__(self) -> bool:
        return bool(self.versions) or self.has_children


@dataclass(slots=True)
class _Kept:
    versions: list[VersionRow] = field(default_factory=list)
    has_children: bool = False

    def node(self) -> Node:
        return Node(tuple(self.versions), self.has_children)


class OlderVersions:
    """Lists older versions, and keeps the answers for `ttl` seconds. The lock guards what is kept."""

    def __init__(self, store: ObjectStore, ttl: float) -> None:
        self._store = store
        self._lock = new_lock(Rank.USAGE)
        self._nodes: TTLCache[ObjectName, Node] = TTLCache(MOST_NODES, ttl, monotonic)

    def node(self, name: ObjectName) -> Node:
        """Return what is kept of a key."""
        with self._lock:
            if (node := self._nodes.get(name)) is not None:
                return node
        found, below = _Kept(), name.key + "/"
        # Sorted by key: the names that begin with this one follow, some of them before its folder.
        for entry in self._entries(name.container, name.key, AT_ONCE):
            key = entry if isinstance(entry, str) else entry.row.key
            if key >= below:
                found.has_children = key == below
                break
            if isinstance(entry, VersionRow) and key == name.key and _is_shown(entry):
                found.versions.append(entry)
        self._keep({name: found.node()})
        return found.node()

    def children(self, folder: Folder) -> dict[str, Node]:
        """Return what is kept in a folder, by component; components without older versions are left out."""
        found: dict[str, _Kept] = defaultdict(_Kept)
        for entry in self._entries(folder.container, folder.prefix, 0):
            key = entry.removesuffix("/") if isinstance(entry, str) else entry.row.key
            kept = found[key.removeprefix(folder.prefix)]
            if isinstance(entry, str):
                kept.has_children = True
            elif _is_shown(entry):
                kept.versions.append(entry)
        if not folder.prefix:
            found.pop(SEGMENTS_FOLDER, None)
        nodes = {component: node for component, kept in found.items() if (node := kept.node())}
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
            self._nodes.update(nodes)


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


def version_name(key: str, version: VersionRow) -> str:
    """Return the name of a version as a file: its time, and the ending by which programs know its kind."""
    moment = _EPOCH + timedelta(microseconds=stored_at_ns(version) // 1000)
    endings = PurePosixPath(escape(key.rpartition("/")[2])).suffixes
    count = 2 if endings[-2:-1] == [".tar"] else 1
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}{''.join(endings[-count:])}"


def version_entry(container: str, version: VersionRow, defaults: Defaults) -> Entry:
    """Return the entry of a version as a file, with the inode number of the object."""
    key = version.row.key
    entry = file_entry(version_name(key, version), container, version.row, defaults)
    return replace(entry, object=OlderName(container, key, version.version_id))


def find_version(key: str, versions: Sequence[VersionRow], name: str) -> VersionRow | None:
    """Return the version with a name, None if there is none."""
    return next((one for one in versions if version_name(key, one) == name), None)
