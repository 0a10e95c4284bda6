"""Object names and paths: which object a path names, and how an object without a POSIX name is called.

A folder's path maps to a prefix, a file's path to an object name, component by component. Three components
are no file names, and an object `a` beside objects `a/…` needs a second name; both get an escape that begins
with `%`. A component that happens to look like an escape gets one `%` more; before `file` each `%` is
doubled, so that an odd number of them is always the second name:

    ""  %empty     "."  %dot     ".."  %dotdot     "%empty"  %%empty
    object "a" beside "a/b"  a%file                "a%file"  a%%file
    object "a%" beside "a%/b"  a%%%file

`unescape(escape(c, shadowed=s)) == (c, s)` for every component `c`, so no two objects share a path.
"""

import errno
import re
from dataclasses import dataclass
from functools import lru_cache

from swiftfs.errors import ConfigurationError, os_error
from swiftfs.objects import ObjectName

SCHEME = "swift:"
"""What a source begins with in fstab and in the list of mounts, by which mount(8) knows what is mounted.

Without it mount(8) would make a path of a source that is also a file in the current folder.
"""

HIDDEN_FOLDER = ".swiftfs"
"""What a mount tells of itself, in its root. No listing shows it; an object of that name gets a `%` more."""

MAX_KEY_BYTES = 1024
"""Swift's default `max_object_name_length`."""

SEGMENTS_FOLDER = ".swiftfs-segments"
"""The folder at a container's top that holds segments where no other container may. No path leads there."""

_ESCAPES = {"": "%empty", ".": "%dot", "..": "%dotdot"}
_UNESCAPES = {escape: component for component, escape in _ESCAPES.items()}
_LOOKS_ESCAPED = re.compile(r"%+(?:empty|dot|dotdot)")
_SHADOW = "%file"
_LOOKS_SHADOWED = re.compile(r"(.*?)(%+)file", re.DOTALL)


def escape(component: str, *, shadowed: bool = False) -> str:
    """Return the file name of a key's component; `shadowed` says that a folder has the plain name."""
    if component in _ESCAPES:
        name = _ESCAPES[component]
    elif _LOOKS_ESCAPED.fullmatch(component):
        name = "%" + component
    elif component.endswith("file") and (match := _LOOKS_SHADOWED.fullmatch(component)):
        name = f"{match[1]}{match[2]}{match[2]}file"
    else:
        name = component
    if not shadowed:
        return name
    percents = len(name) - len(name.rstrip("%"))
    return name + "%" * percents + _SHADOW


def unescape(name: str) -> tuple[str, bool]:
    """Return the component that a file name stands for, and whether it is the shadowed one of that name."""
    if "%" not in name:
        return name, False
    if name.endswith("file") and (match := _LOOKS_SHADOWED.fullmatch(name)):
        percents, second = divmod(len(match[2]), 2)
        plain = match[1] + "%" * percents
        return (unescape(plain)[0], True) if second else (plain + "file", False)
    if name in _UNESCAPES:
        return _UNESCAPES[name], False
    return (name[1:] if _LOOKS_ESCAPED.fullmatch(name) else name), False


_LOOKS_HIDDEN = re.compile(rf"%*{re.escape(HIDDEN_FOLDER)}")


def beside_hidden(name: str) -> str:
    """Return what a name in the root is called beside `HIDDEN_FOLDER`; no two names are called the same."""
    return "%" + name if _LOOKS_HIDDEN.fullmatch(name) else name


def without_hidden(path: str) -> str:
    """Return the path that `path` would be without `HIDDEN_FOLDER`; undoes `beside_hidden`."""
    if not path.startswith("/%"):
        return path
    name, slash, rest = path[1:].partition("/")
    return f"/{name[1:] if _LOOKS_HIDDEN.fullmatch(name) else name}{slash}{rest}"


def split(path: str) -> tuple[str, str]:
    """Return a path's parent and its last component: `/a/b` gives `("/a", "b")`."""
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def join(parent: str, name: str) -> str:
    """Return the path of `name` in the folder `parent`."""
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


def path_below(folder: str, key: str) -> str:
    """Return the path of what is called `key` below a folder, a marker `d/` as the folder that it marks."""
    for component in key.removesuffix("/").split("/"):
        folder = join(folder, escape(component))
    return folder


def is_below(path: str, folder: str) -> bool:
    """Say whether `path` lies in `folder` or deeper, or is it."""
    return folder in ("/", path) or path.startswith(folder + "/")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder in Swift: the keys of `container` that begin with `prefix` (empty, or ending in `/`)."""

    container: str
    prefix: str

    def child(self, component: str) -> ObjectName:
        """Return the object of that component in this folder."""
        return ObjectName(self.container, self.prefix + component)

    def is_below(self, other: "Folder") -> bool:
        """Say whether this folder lies in `other` or deeper, or is it."""
        return self.container == other.container and self.prefix.startswith(other.prefix)


@dataclass(frozen=True, slots=True)
class Source:
    """What is mounted: a container, a prefix in it (ending in `/`), or the account (no container)."""

    container: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read `container`, `container/prefix` or `/`; raise `ConfigurationError` for anything else."""
        if text == "/":
            return cls("")
        container, _, prefix = text.partition("/")
        if not container:
            raise ConfigurationError(
                f"source {text!r}: say CONTAINER, CONTAINER/PREFIX, or / for the account"
            )
        if len(container.encode()) > 256:
            raise ConfigurationError(f"source: the container's name {container!r} is longer than 256 bytes")
        prefix = prefix.rstrip("/")
        return cls(container, prefix + "/" if prefix else "")

    @property
    def is_account(self) -> bool:
        """True when the top folders are containers."""
        return not self.container

    def __str__(self) -> str:
        return "/" if self.is_account else f"{self.container}/{self.prefix}".rstrip("/")

    def folder(self, path: str) -> Folder:
        """Return the folder that `path` names; for an account's `/` its container is empty."""
        return _folder(self, path)

    def object(self, path: str) -> ObjectName:
        """Return the object that holds the file at `path`.

        Raise `OSError` ENAMETOOLONG for a key of more than 1024 bytes, EPERM where only containers are, and
        for `SEGMENTS_FOLDER`.
        """
        parent, name = split(path)
        folder = self.folder(parent)
        if not folder.container:
            raise os_error(errno.EPERM, path)
        target = folder.child(unescape(name)[0])
        if target.key == SEGMENTS_FOLDER:
            raise os_error(errno.EPERM, path)
        if len(target.key.encode()) > MAX_KEY_BYTES:
            raise os_error(errno.ENAMETOOLONG, path)
        return target

    def path(self, name: ObjectName) -> str | None:
        """Return the path of the file or folder that an object makes, None for one that has none here.

        A file beside a folder of the same name has another path, which its name alone does not tell.
        """
        if (self.container and name.container != self.container) or not name.key.startswith(self.prefix):
            return None
        components = name.key.removeprefix(self.prefix).removesuffix("/").split("/")
        if components == [""] or (components[0] == SEGMENTS_FOLDER and not self.prefix):
            return None
        return "/" + "/".join(map(escape, [name.container, *components] if self.is_account else components))


@lru_cache(maxsize=4096)
def _folder(source: Source, path: str) -> Folder:
    """Return `Source.folder`: the kernel asks for the names of one folder after another."""
    keys = _components(path)
    container, keys = (keys[0], keys[1:]) if source.is_account and keys else (source.container, keys)
    if keys[:1] == [SEGMENTS_FOLDER] and not source.prefix:
        raise os_error(errno.EPERM, path)
    return Folder(container, source.prefix + "".join(key + "/" for key in keys))


def _components(path: str) -> list[str]:
    components = []
    for name in path.strip("/").split("/") if path != "/" else ():
        component, shadowed = unescape(name)
        if shadowed:
            raise os_error(errno.ENOTDIR, path)
        components.append(component)
    return components


def plain_marker(folder: Folder) -> ObjectName | None:
    """Return the marker `d` of a folder, or None where only `d/` can mark it (an empty last component)."""
    key = folder.prefix[:-1]
    return ObjectName(folder.container, key) if key and not key.endswith("/") else None


def slash_marker(folder: Folder) -> ObjectName:
    """Return the marker `d/` of a folder."""
    return ObjectName(folder.container, folder.prefix)


def parent_markers(name: ObjectName) -> tuple[ObjectName, ...]:
    """Return the names that a marker of the folder may have in which the object `name` lies."""
    parent = name.key.removesuffix("/").rpartition("/")[0]
    folder = Folder(name.container, parent + "/")
    plain = plain_marker(folder)
    return (*([plain] if plain else []), slash_marker(folder)) if parent else ()
