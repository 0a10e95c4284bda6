"""What the modules of posix/ share: the parts of the mount, and who owns a new file."""

import stat
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.config.options import Options
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.journal.journal import Journal
from swiftfs.namespace.entry import Defaults
from swiftfs.namespace.inodes import Inodes
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import Caller
from swiftfs.paths import Source, split
from swiftfs.posix.open_files import OpenFiles
from swiftfs.posix.times import Times
from swiftfs.store.histories import Histories
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.trash_names import TrashNames


class Services(Struct, frozen=True):
    """The parts of one mount that every kind of call needs; `service/build.py` makes them.

    `layout` limits the size of a file. `defaults` are the attributes of objects that store none.
    `set_uploads` changes how many segments are uploaded at once at most, and of small files four times as
    many.
    """

    store: ObjectStore
    namespace: Namespace
    file_cache: FileCache
    journal: Journal
    layout: SegmentLayout
    options: Options
    defaults: Defaults
    cache_dir: Path
    source: Source
    open_files: OpenFiles
    inodes: Inodes
    times: Times
    histories: Histories
    trash: TrashNames
    set_uploads: Callable[[int], None]


def in_folder(namespace: Namespace, path: str, mode: int, caller: Caller) -> tuple[int, Caller]:
    """Return the mode and the owner of what a call makes at `path`, as inode_init_owner() of Linux does.

    The kernel leaves that to file systems. It has just looked up the folder, so this asks Swift for nothing.
    """
    try:
        folder = namespace.lookup(split(path)[0]).attributes
    except FileNotFoundError:  # another client has deleted its marker
        return mode, caller
    if not folder.mode & stat.S_ISGID:
        return mode, caller
    if stat.S_ISDIR(mode):
        mode |= stat.S_ISGID
    elif folder.gid != caller.gid and caller.uid != 0:
        mode &= ~stat.S_ISGID  # nobody may make a program that runs with a group that is not theirs
    return mode, replace(caller, gid=folder.gid)
