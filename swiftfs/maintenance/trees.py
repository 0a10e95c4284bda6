"""A listing and a local folder as trees: files and folders in one order, by the names that a mount shows.

In a listing there are also folders that only their children show. A file's position is its key, a folder's
its key and a slash; folders come before files of the same position (the file `d/` is an object with bytes of
that name). Positions are compared as texts, as Swift does.
"""

import heapq
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from stat import S_ISDIR

from msgspec import Struct

from swiftfs.concurrency import new_pool
from swiftfs.errors import NotFound
from swiftfs.filecache.segment_container import RCLONE_FOLDER
from swiftfs.namespace.entry import is_marker, is_slash_marker
from swiftfs.objects import ObjectName, Page, Row
from swiftfs.paths import (
    HIDDEN_FOLDER,
    SEGMENTS_FOLDER,
    SEGMENTS_SUFFIX,
    Source,
    is_utf8,
    unescape,
    without_hidden,
)
from swiftfs.store.protocol import ObjectStore, iter_containers, iter_pages

_OF_SEGMENTS = (f"{SEGMENTS_FOLDER}/", f"{RCLONE_FOLDER}/")

Place = tuple[str, bool]
"""A position, and whether it is that of a file: the order of both trees."""


class Remote(Struct, frozen=True):
    """A file, or a folder, whose marker is `row` if there is one; `unreadable`: only its name is certain."""

    position: str
    is_folder: bool
    container: str
    row: Row | None = None
    unreadable: bool = False

    @property
    def place(self) -> Place:
        """Its place in the order."""
        return self.position, not self.is_folder

    @property
    def name(self) -> ObjectName:
        """The object of a file, or a folder's marker."""
        assert self.row is not None
        return ObjectName(self.container, self.row.key)


class _Listed(Struct, frozen=True):
    row: Row
    unreadable: bool


def remote_tree(store: ObjectStore, source: Source, path: str = "") -> Iterator[Remote]:
    """Yield all files and folders of a source in order, or those at and below a key in it.

    Errors are those of `list_page`. Containers of segments are left out of an account.
    """
    if not source.is_account:
        yield from _below(store, source, path, "")
        return
    wanted, _, rest = path.partition("/")
    containers = [name for name in iter_containers(store) if not name.endswith(SEGMENTS_SUFFIX)]
    for container in sorted(containers, key=lambda name: f"{name}/"):
        if not path or container == wanted:
            if not rest:
                yield Remote(f"{container}/", True, container)
            yield from _below(store, Source(container), rest, f"{container}/")


def _below(store: ObjectStore, source: Source, path: str, base: str) -> Iterator[Remote]:
    tree = _Tree(source, base)
    if not path:
        yield from tree.items(_rows(store, source.container, source.prefix))
        return
    tree.enter(path)
    yield from tree.items(_at_and_below(store, source.container, source.prefix + path))


def _at_and_below(store: ObjectStore, container: str, key: str) -> Iterator[_Listed]:
    # Two listings: others whose names begin so may be between the object and what is below it.
    page = store.list_page(container, prefix=key, limit=1)
    yield from (_Listed(row, row.key in page.unreadable) for row in page.rows if row.key == key)
    yield from _rows(store, container, f"{key}/")


def _rows(store: ObjectStore, container: str, prefix: str) -> Iterator[_Listed]:
    for page in _ahead(iter_pages(store, container, prefix)):
        unreadable = frozenset(page.unreadable)
        for row in page.rows:
            yield _Listed(row, row.key in unreadable)


def _ahead(pages: Iterator[Page]) -> Iterator[Page]:
    """Yield the pages, each of which is requested while the one before it is used."""
    with new_pool("listing", 1) as pool:
        following = pool.submit(next, pages, None)
        while (page := following.result()) is not None:
            following = pool.submit(next, pages, None)
            yield page


class _Tree:
    """Brings the rows of one container into the order of a tree."""

    def __init__(self, source: Source, base: str) -> None:
        self._source = source
        self._base = base
        self._cut = len(source.prefix)
        # A marker `d` belongs before `d/…`: rows such as `d-0` are between the two.
        self._markers: list[tuple[str, Row]] = []
        self._entered = [base] if base else []

    def enter(self, path: str) -> None:
        """Record that the folders above `path` need not be yielded."""
        self._entered += [self._base + folder for folder in folders_above(path)]

    def items(self, rows: Iterable[_Listed]) -> Iterator[Remote]:
        """Yield the tree of the rows."""
        for one in rows:
            key = one.row.key[self._cut :]
            if not self._cut and key.startswith(_OF_SEGMENTS):
                continue
            position = self._base + key
            if is_marker(one.row) and not one.unreadable and not key.endswith("/"):
                heapq.heappush(self._markers, (f"{position}/", one.row))
                continue
            is_folder = not key or (key.endswith("/") and is_slash_marker(one.row))
            yield from self._markers_up_to(position)
            yield from self._at(position, is_folder, one.row, unreadable=one.unreadable)
        yield from self._markers_up_to(None)

    def _markers_up_to(self, position: str | None) -> Iterator[Remote]:
        while self._markers and (position is None or self._markers[0][0] <= position):
            marked, row = heapq.heappop(self._markers)
            yield from self._at(marked, True, row)

    def _at(self, position: str, is_folder: bool, row: Row, *, unreadable: bool = False) -> Iterator[Remote]:
        container = self._source.container
        while self._entered and not position.startswith(self._entered[-1]):
            self._entered.pop()
        above = self._entered[-1] if self._entered else ""
        for folder in folders_above(position[:-1] if is_folder else position):
            if len(folder) > len(above):
                yield Remote(folder, True, container)
                self._entered.append(folder)
        if not is_folder:
            yield Remote(position, False, container, row, unreadable)
        elif position != (self._entered[-1] if self._entered else self._base):
            # Two markers of one folder, and what only its children showed, are one folder.
            yield Remote(position, True, container, row, unreadable)
            self._entered.append(position)


def folders_above(path: str) -> Iterator[str]:
    """Yield the folders that contain `path`, each with its slash, the outermost first."""
    end = path.find("/")
    while end >= 0:
        yield path[: end + 1]
        end = path.find("/", end + 1)


def listed_row(store: ObjectStore, name: ObjectName) -> Row | None:
    """Return the row of an object, None if the listing does not show it any more."""
    try:
        page = store.list_page(name.container, prefix=name.key, limit=1)
    except NotFound:
        return None
    return next((row for row in page.rows if row.key == name.key), None)


class Local(Struct, frozen=True):
    """A local file or folder; `position` is as in `remote_tree`.

    `status` is None if it cannot be read, for the reason `error`. If it `has_no_object`, its name is not
    UTF-8, or has no meaning in a mount.
    """

    position: str
    is_folder: bool
    path: str
    status: os.stat_result | None
    error: str = ""
    has_no_object: bool = False

    @property
    def place(self) -> Place:
        """Its place in the order."""
        return self.position, not self.is_folder


class _Child(Struct, frozen=True):
    position: str
    is_folder: bool
    path: str
    has_no_object: bool


def local_tree(root: Path, path: str = "") -> Iterator[Local]:
    """Yield what is below a folder in order, or what is at and below `path` in it.

    Symbolic links are not followed, except `root`. Memory is that of the names of one folder at each level.
    """
    if not path:
        yield from _in_folder(str(root), "", is_root=True)
        return
    place, positions = str(root), ""
    for name in path.split("/"):
        place, positions = f"{place}/{name}", f"{positions}{unescape(name)[0]}/"
    try:
        is_folder = S_ISDIR(os.lstat(place).st_mode)
    except OSError:
        return  # only there
    one = _Child(positions if is_folder else positions[:-1], is_folder, place, has_no_object=False)
    yield _look(one)
    if one.is_folder:
        yield from _in_folder(one.path, one.position)


def _in_folder(folder: str, position: str, *, is_root: bool = False) -> Iterator[Local]:
    # Not recursive: a tree may be deeper than Python's stack.
    stack = [iter(_children(folder, position, is_root=is_root))]
    while stack:
        one = next(stack[-1], None)
        if one is None:
            stack.pop()
        elif isinstance(one, Local):
            yield one
        else:
            yield _look(one)
            if one.is_folder and not one.has_no_object:
                stack.append(iter(_children(one.path, one.position)))


def _look(one: _Child) -> Local:
    try:
        return Local(one.position, one.is_folder, one.path, os.lstat(one.path), "", one.has_no_object)
    except OSError as error:
        return Local(one.position, one.is_folder, one.path, None, error.strerror or "", one.has_no_object)


def _children(folder: str, position: str, *, is_root: bool = False) -> list[_Child | Local]:
    """Return a folder's contents in order; a failure is a `Local` of the folder itself."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        return [Local(position, True, folder, None, error.strerror or "")]
    folders = {name for name, is_folder in found if is_folder}
    children = []
    for name, is_folder in found:
        component = _component(name, folders, is_folder=is_folder, is_root=is_root)
        key = position + (name if component is None else component) + ("/" if is_folder else "")
        children.append(_Child(key, is_folder, f"{folder}/{name}", component is None))
    children.sort(key=lambda one: (one.position, not one.is_folder))
    return list(children)


def _component(name: str, folders: set[str], *, is_folder: bool, is_root: bool) -> str | None:
    """Return the part of a key that a name stands for, None if no object can have the name."""
    if not is_utf8(name):
        return None
    if is_root and name.endswith(HIDDEN_FOLDER):
        name = without_hidden(f"/{name}")[1:]
    if "%" not in name:
        return name
    component, shadowed = unescape(name)
    # `a%file` is the object `a` beside the folder `a`, and nothing without it.
    return None if shadowed and (is_folder or component not in folders) else component
