"""Maps paths to object names and back.

A folder's path maps to a prefix, a file's path to an object name, component by component. Three components
are not valid file names, and an object `a` beside objects `a/…` needs a name other than the folder's. Both
get an escape that begins with `%`. A component that looks like an escape gets one more `%`; before `file`
each `%` is doubled, so that an odd number of them always marks the escape:

    ""  %empty     "."  %dot     ".."  %dotdot     "%empty"  %%empty
    object "a" beside "a/b"  a%file                "a%file"  a%%file
    object "a%" beside "a%/b"  a%%%file

`unescape(escape(c, shadowed=s)) == (c, s)` for every component `c`, so no two objects share a path.
"""

import errno
import re
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

from swiftfs.errors import ConfigurationError, os_error
from swiftfs.objects import ObjectName

SCHEME = "swift:"
"""The prefix of a source in fstab and in the mount table, by which mount(8) knows that it is mounted.

Without the prefix, mount(8) turns a source into a path if the current directory has a file of that name.
"""

REPLACED = ".replaced_"
"""How the names begin that libfuse has for a moment for open files which another client has replaced."""

HIDDEN_FOLDER = ".swiftfs"
"""The control directory in a mount's root. No listing shows it; an object of that name gets one more `%`."""

VERSIONS_FOLDER = ".versions"
"""The folder with older versions in each folder of a container that keeps them. No listing shows it."""

MAX_KEY_BYTES = 1024
"""Swift's default `max_object_name_length`."""

MAX_NAME_BYTES = 255
"""The longest new name in a folder: `NAME_MAX` of Linux, to which programs cut the names that they make.

Names of other clients may have up to `FUSE_NAME_MAX` of the kernel, 1024.
"""

SEGMENTS_SUFFIX = "_segments"
"""The ending of the container with another one's segments; the swift CLI uses it too."""

SEGMENTS_FOLDER = ".swiftfs-segments"
"""The folder at the top of a container for segments that may be in no other container. It has no path."""

_URL = re.compile(r"(?:https?|s3|swift)://", re.IGNORECASE)

_ESCAPES = {"": "%empty", ".": "%dot", "..": "%dotdot"}
_UNESCAPES = {escape: component for component, escape in _ESCAPES.items()}
_LOOKS_ESCAPED = re.compile(r"%+(?:empty|dot|dotdot)")
_SHADOW = "%file"
_LOOKS_SHADOWED = re.compile(r"(.*?)(%+)file", re.DOTALL)


def escape(component: str, *, shadowed: bool = False) -> str:
    """Return the file name for a component of a key; `shadowed` if a folder has the plain name."""
    if component in _ESCAPES:
        name = _ESCAPES[component]
    elif "%" not in component:
        name = component
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
    """Return the component of a key that a file name stands for, and whether it is shadowed; see `escape`."""
    if "%" not in name:
        return name, False
    if name.endswith("file") and (match := _LOOKS_SHADOWED.fullmatch(name)):
        percents, second = divmod(len(match[2]), 2)
        plain = match[1] + "%" * percents
        return (unescape(plain)[0], True) if second else (plain + "file", False)
    if name in _UNESCAPES:
        return _UNESCAPES[name], False
    return (name[1:] if _LOOKS_ESCAPED.fullmatch(name) else name), False


def is_second(name: str) -> bool:
    """Return whether a file name is the second one of an object, which it has beside a folder."""
    return name.endswith(_SHADOW) and unescape(name)[1]


_LOOKS_HIDDEN = re.compile(rf"%*{re.escape(HIDDEN_FOLDER)}")


def beside_hidden(name: str) -> str:
    """Return a name for the root that is not `HIDDEN_FOLDER`: `name`, or with one more `%`."""
    return "%" + name if _LOOKS_HIDDEN.fullmatch(name) else name


def without_hidden(path: str) -> str:
    """Return the path without the `%` that `beside_hidden` has added."""
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


def is_utf8(text: str) -> bool:
    """Return whether text is UTF-8, so that it can be sent: it has no surrogates."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def check_new_name(path: str) -> None:
    """Raise `OSError` ENAMETOOLONG if a file or folder of this name must not be made."""
    if len(split(path)[1].encode()) > MAX_NAME_BYTES:
        raise os_error(errno.ENAMETOOLONG, path)


def path_below(folder: str, key: str) -> str:
    """Return the path of the object `key` below a folder; a marker `d/` has the path of its folder."""
    for component in key.removesuffix("/").split("/"):
        folder = join(folder, escape(component))
    return folder


def is_below(path: str, folder: str) -> bool:
    """Return whether `path` is `folder` or lies below it."""
    return folder in ("/", path) or path.startswith(folder + "/")


class Folder(Struct, frozen=True):
    """A folder in Swift: the keys of `container` that begin with `prefix` (empty, or ending in `/`)."""

    container: str
    prefix: str

    def child(self, component: str) -> ObjectName:
        """Return the object of that component in this folder."""
        return ObjectName(self.container, self.prefix + component)

    def split(self) -> tuple["Folder", str]:
        """Return the folder above this one and its component there; it must not be a container."""
        parent, slash, component = self.prefix[:-1].rpartition("/")
        return Folder(self.container, parent + slash), component

    def subfolder(self, component: str) -> "Folder":
        """Return the folder of that component in this one."""
        return Folder(self.container, f"{self.prefix}{component}/")

    def is_below(self, other: "Folder") -> bool:
        """Return whether this folder is `other` or lies below it."""
        return self.container == other.container and self.prefix.startswith(other.prefix)


class Source(Struct, frozen=True):
    """What is mounted: a container, a prefix in it (ending in `/`), or the account (no container)."""

    container: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read `container`, `container/prefix` or `/`, with or without `SCHEME` before it.

        Raise `ConfigurationError` for anything else.
        """
        if _URL.match(text):
            raise ConfigurationError(f"source {text!r} is a URL: write CONTAINER or CONTAINER/PREFIX alone")
        text = text.removeprefix(SCHEME)
        if text == "/":
            return cls("")
        container, _, prefix = text.partition("/")
        if not is_utf8(text):
            raise ConfigurationError(f"source {text!r} is not UTF-8: no object has such a name")
        if not container:
            raise ConfigurationError(
                f"source {text!r}: use CONTAINER, CONTAINER/PREFIX, or / for the account"
            )
        if len(container.encode()) > 256:
            raise ConfigurationError(f"source: the container's name {container!r} is longer than 256 bytes")
        prefix = prefix.rstrip("/")
        return cls(container, prefix + "/" if prefix else "")

    @property
    def is_account(self) -> bool:
        """Whether the top folders are containers."""
        return not self.container

    def identity(self, account: str) -> str:
        """Return what tells it from the sources of other accounts, too."""
        return f"{self} of {account}"

    def __str__(self) -> str:
        return "/" if self.is_account else f"{self.container}/{self.prefix}".rstrip("/")

    def folder(self, path: str) -> Folder:
        """Return the folder at `path`; the container of an account's `/` is empty."""
        return _folder(self, path)

    def object(self, path: str) -> ObjectName:
        """Return the object that holds the file at `path`.

        Raise `OSError` ENAMETOOLONG for a key of more than 1024 bytes, EPERM for `SEGMENTS_FOLDER` and at the
        top of an account, where only containers may be.
        """
        parent, name = split(path)
        folder = self.folder(parent)
        if not folder.container:
            raise os_error(errno.EPERM, path)
        target = folder.child(unescape(name)[0])
        # No listing shows this name: a file there would vanish.
        if target.key == SEGMENTS_FOLDER:
            raise os_error(errno.EPERM, path)
        if len(target.key.encode()) > MAX_KEY_BYTES:
            raise os_error(errno.ENAMETOOLONG, path)
        return target

    def path(self, name: ObjectName) -> str | None:
        """Return the path of an object's file or folder, None for an object that has none here.

        A file beside a folder of the same name has another path; its name alone does not show that.
        """
        if (self.container and name.container != self.container) or not name.key.startswith(self.prefix):
            return None
        components = name.key.removeprefix(self.prefix).removesuffix("/").split("/")
        if components == [""] or (components[0] == SEGMENTS_FOLDER and not self.prefix):
            return None
        return "/" + "/".join(map(escape, [name.container, *components] if self.is_account else components))


@lru_cache(maxsize=4096)
def _folder(source: Source, path: str) -> Folder:
    """Return `Source.folder`, cached: the kernel looks up many names of one folder in a row."""
    keys = _components(path)
    container, keys = (keys[0], keys[1:]) if source.is_account and keys else (source.container, keys)
    if keys[:1] == [SEGMENTS_FOLDER] and not source.prefix:
        raise os_error(errno.EPERM, path)
    return Folder(container, source.prefix + "".join(key + "/" for key in keys))


def _components(path: str) -> list[str]:
    components = []
    for name in path.strip("/").split("/") if path != "/" else ():
        component, shadowed = unescape(name)
        # `a%file` is an object beside the folder `a`, never a folder.
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


def markers_above(names: Iterable[ObjectName]) -> set[ObjectName]:
    """Return the possible names of the markers of all folders above the objects."""
    found, new = set[ObjectName](), {*names}
    while new := {marker for name in new for marker in parent_markers(name)} - found:
        found |= new
    return found


def parent_markers(name: ObjectName) -> tuple[ObjectName, ...]:
    """Return the possible names of the marker of the folder that contains the object `name`."""
    parent = name.key.removesuffix("/").rpartition("/")[0]
    folder = Folder(name.container, parent + "/")
    plain = plain_marker(folder)
    return (*([plain] if plain else []), slash_marker(folder)) if parent else ()
