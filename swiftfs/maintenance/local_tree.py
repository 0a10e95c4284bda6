"""A local folder in the order of `remote_tree`, by the names that a mount shows."""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR

from swiftfs.lazy_dataclass import dataclass
from swiftfs.maintenance.remote_tree import Place
from swiftfs.paths import HIDDEN_FOLDER, unescape, without_hidden
from swiftfs.store.wire.object_headers import is_utf8


@dataclass(frozen=True, slots=True)
class Local:
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


@dataclass(frozen=True, slots=True)
class _Child:
    position: str
    is_folder: bool
    path: str
    has_no_object: bool


def local_tree(root: Path, path: str = "") -> Iterator[Local]:
    """Yield what is below a folder in order, or what is at and below `path` in it.

    Symbolic links are not followed, except `root`. Memory is that of the names of one folder at each level.
    """
    if not path:
        yield from _below(str(root), "", is_root=True)
        return
    place, positions = str(root), ""
    for name in path.split("/"):
        place, positions = f"{place}/{name}", f"{positions}{unescape(name)[0]}/"
    try:
        is_folder = S_ISDIR(os.lstat(place).st_mode)
    except OSError:
        return  # only there
    one = _Child(positions if is_folder else positions[:-1], is_folder, place, has_no_object=False)
    yield from _with_below(one)


def _below(folder: str, position: str, *, is_root: bool = False) -> Iterator[Local]:
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


def _with_below(one: _Child) -> Iterator[Local]:
    yield _look(one)
    if one.is_folder:
        yield from _below(one.path, one.position)


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
