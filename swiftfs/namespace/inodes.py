"""Inode numbers, which files keep when they are renamed.

The number of a name is a hash of it, the same in every mount. Only changes by renames are kept here: the
numbers of files that come from another name than their current one.
"""

import itertools
from collections import OrderedDict
from functools import lru_cache
from hashlib import blake2b

from msgspec.structs import replace

from swiftfs.concurrency import Rank, new_lock
from swiftfs.objects import Attributes, ObjectName
from swiftfs.paths import Folder, Source, split, unescape

REMEMBERED = 65_536
"""Files with another number than their name's: about 20 MB. Beyond that, the least recently used ones get
their name's number again."""

REMEMBERED_FOLDERS = 4096
"""Folders that moved, or whose name a moved folder had. Beyond that all get their names' numbers again."""


def inode_of(name: ObjectName, *, folder: bool = False) -> int:
    """Return the inode number of an object or folder; it is the same in every mount."""
    # The object `a/` is a file in the folder `a/`.
    end = "/" if folder else "\0" if name.key.endswith("/") else ""
    return _inode(name.container, name.key + end)


def folder_inode(folder: Folder) -> int:
    """Return the inode number of a folder. It does not depend on the folder's marker."""
    return _inode(folder.container, folder.prefix)


def _inode(container: str, text: str) -> int:
    digest = blake2b(f"{container}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # 63 bits: a program may keep it as a signed number, as SQLite and Java do. Never 0, which would hide the
    # entry from readdir(3).
    return int.from_bytes(digest, "big") >> 1 | 2


recent_inode_of = lru_cache(maxsize=16)(inode_of)
"""`inode_of` for a file that is being made, for which it is asked three times."""

_NOWHERE = "\0"
"""No container's name begins with this, so numbers made of such names belong to no object."""


class Inodes:
    """The numbers of all files in `source`, by paths of the mount. Any thread may call any method.

    A name's *place* is the number that is its hash. When a folder moves, all names below it keep their
    places: `_places` maps a folder to the folder whose names give its places, and no two folders share one.

    INVARIANT: `_numbers` (from a place to the number used instead) and `_owners` (from such a number to the
    place) are inverse to each other. So no number is given twice.

    The lock guards every field; no other lock is taken while it is held.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = new_lock(Rank.INODES)
        self._places: dict[Folder, Folder] = {}
        self._numbers: OrderedDict[int, int] = OrderedDict()
        self._owners: dict[int, int] = {}
        self._fresh = itertools.count(1)

    def of(self, path: str, attributes: Attributes) -> Attributes:
        """Return the attributes of the file or folder at `path` with its number instead of its name's."""
        # Without the lock: mostly no file has a number of its own, and this runs at every stat(2).
        if not self._numbers and not self._places:
            return attributes
        with self._lock:
            is_folder = attributes.is_directory
            place = self._place(path, is_folder=is_folder) if self._places else attributes.inode
            number = self._number(place)
        return attributes if number == attributes.inode else replace(attributes, inode=number)

    def of_open(self, path: str, attributes: Attributes) -> Attributes:
        """Return the attributes of an open file, now at `path`, with its number."""
        number = self.number(path, is_folder=False)
        return attributes if number == attributes.inode else replace(attributes, inode=number)

    def number(self, path: str, *, is_folder: bool) -> int:
        """Return the number of the file or folder at `path`, whether or not there is one."""
        if not self._numbers and not self._places:  # as in `of`
            return _own_place(self._source, path, is_folder)
        with self._lock:
            return self._number(self._place(path, is_folder=is_folder))

    def move(self, old: str, new: str) -> None:
        """Record that the file `old` is now named `new`, and that an earlier file `new` is gone."""
        with self._lock:
            self._move(old, new, is_folder=False)

    def move_folder(self, old: str, new: str) -> None:
        """Record that the folder `old` is named `new` now, with all that is below it."""
        with self._lock:
            self._move(old, new, is_folder=True)
            source, target = self._source.folder(old), self._source.folder(new)
            # Before anything below is changed: it is looked up by the same table.
            taken = self._folder_place(source)
            for folder in [folder for folder in self._places if folder.is_below(target)]:
                del self._places[folder]
            for folder in [folder for folder in self._places if folder.is_below(source)]:
                place = self._places.pop(folder)
                if folder != source:
                    below = folder.prefix.removeprefix(source.prefix)
                    self._places[Folder(target.container, target.prefix + below)] = place
            if taken != self._folder_place(target):
                self._places[target] = taken
            left = self._folder_place(source)
            # A new folder of the old name must not have the places of what has just moved.
            if taken.is_below(left) or any(place.is_below(left) for place in self._places.values()):
                self._places[source] = Folder(f"{_NOWHERE}{next(self._fresh)}", "")
            if len(self._places) > REMEMBERED_FOLDERS:
                self._places.clear()

    def forget(self, path: str, *, is_folder: bool = False) -> None:
        """Record that what was at `path` is gone."""
        if self._numbers:
            with self._lock:
                self._release(self._place(path, is_folder=is_folder))

    def _move(self, old: str, new: str, *, is_folder: bool) -> None:
        source, target = self._place(old, is_folder=is_folder), self._place(new, is_folder=is_folder)
        number = self._number(source)
        self._release(source)
        self._release(target)
        self._give(target, number)

    def _number(self, place: int) -> int:
        number = self._numbers.get(place)
        if number is not None:
            self._numbers.move_to_end(place)
            return number
        if place not in self._owners:
            return place
        # The number of this name was taken along by the file that had it before.
        number = inode_of(ObjectName(_NOWHERE, str(next(self._fresh))))
        self._give(place, number)
        return number

    def _give(self, place: int, number: int) -> None:
        if number == place:
            return
        self._numbers[place] = number
        self._owners[number] = place
        while len(self._numbers) > REMEMBERED:
            self._release(next(iter(self._numbers)))

    def _release(self, place: int) -> None:
        number = self._numbers.pop(place, None)
        if number is not None:
            del self._owners[number]

    def _place(self, path: str, *, is_folder: bool) -> int:
        if not self._places:
            return _own_place(self._source, path, is_folder)
        if is_folder and not (folder := self._source.folder(path)).prefix.removeprefix(self._source.prefix):
            return folder_inode(folder)  # the root, or a container: neither moves
        parent, name = split(path)
        above = self._folder_place(self._source.folder(parent))
        return inode_of(above.child(unescape(name)[0]), folder=is_folder)

    def _folder_place(self, folder: Folder) -> Folder:
        """Return the folder in which the names of `folder` have their places."""
        prefix = folder.prefix
        while prefix:
            if (place := self._places.get(Folder(folder.container, prefix))) is not None:
                return Folder(place.container, place.prefix + folder.prefix.removeprefix(prefix))
            prefix = prefix[: prefix[:-1].rfind("/") + 1]
        return folder


@lru_cache(maxsize=16)
def _own_place(source: Source, path: str, is_folder: bool) -> int:
    """Return the place of a name while no folder has moved: of a new file it is asked for several times."""
    if is_folder:
        return folder_inode(source.folder(path))
    parent, name = split(path)
    return recent_inode_of(source.folder(parent).child(unescape(name)[0]))
