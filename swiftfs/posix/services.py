"""What the modules of posix/ share: the parts of the mount, times that no object stores, who owns a new file.

The times are kept in memory, so that a change of them costs no request. A folder's time is stored with the
next change of its marker.
"""

import stat
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.attributes import NS, parse_last_modified
from swiftfs.concurrency import unix_time_ns
from swiftfs.config.options import Options
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.journal.journal import Journal
from swiftfs.namespace.entry import Defaults, Entry
from swiftfs.namespace.inodes import Inodes
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import Attributes, Caller
from swiftfs.paths import Source, split
from swiftfs.posix.open_files import OpenFiles
from swiftfs.store.protocol import Histories, ObjectStore
from swiftfs.store.trash_names import TrashNames

MOST_TIMES = 4000
"""The times of at least this many files are kept, and of at most twice as many: about 2 MB."""

STALE_ACCESS = 86_400 * NS
"""After this time (ns) reading renews the access time in any case, as `relatime` does; see mount(8)."""


class KeptTimes(Struct):
    """What is known of one file or folder, in ns since the epoch; 0 is unknown.

    `changed` is the last change by this mount. `listed` is the time in the listing's row that first showed
    that change: when a row has another time, another client has changed the object. `filled` is when a name
    in a folder was last made or removed. The folder's stored time was `base` then, as the first look at it
    shows; None before that look.
    """

    changed: int = 0
    read: int = 0
    listed: str = ""
    filled: int = 0
    base: int | None = None


class Times:
    """The kept times by inode number, which a file keeps when it is renamed.

    Not locked: of two calls at the same moment one may be lost, as if the other had come later.
    """

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes
        self._recent: dict[int, KeptTimes] = {}
        self._older: dict[int, KeptTimes] = {}

    def shown(self, attributes: Attributes, last_modified: str = "") -> Attributes:
        """Return the attributes with all times; `last_modified` is from the row in the listing, if any.

        The change time is the later one of this mount's change and another client's. What this mount
        has stored does not count as changed when the listing shows it: `tar` reports a file whose change
        time differs after it was read.
        """
        listed = parse_last_modified(last_modified) if last_modified else 0
        kept = self._get(attributes.inode)
        if kept is None:
            return attributes.with_times(attributes.mtime_ns, 0, listed)
        changed = kept.changed
        if listed and changed and not kept.listed:
            kept.listed = last_modified
            self._keep(attributes.inode, kept)
        if last_modified != kept.listed or not changed:
            changed = max(changed, listed)
        return attributes.with_times(_filled(kept, attributes.mtime_ns), kept.read, changed)

    def of_entry(self, entry: Entry, numbered: Attributes) -> Attributes:
        """Return `shown` of an entry's attributes with its own number."""
        if numbered is entry.attributes and self._get(numbered.inode) is None:
            return entry.listed
        return self.shown(numbered, entry.last_modified)

    def dated(self, path: str, entry: Entry) -> Entry:
        """Return the entry of a folder with the time of the last change in it."""
        kept = self._get(self._number(path, is_folder=True)) if entry.is_directory else None
        if kept is None:
            return entry
        mtime_ns = _filled(kept, entry.attributes.mtime_ns)
        return replace(entry, attributes=replace(entry.attributes, mtime_ns=mtime_ns))

    def created(self, path: str, now: int, *, is_folder: bool = False) -> None:
        """Record that a file or folder was made, and so its folder was changed."""
        number = self._number(path, is_folder=is_folder)
        self._older.pop(number, None)
        self._keep(number, KeptTimes(now))
        self.filled(path, now)

    def filled(self, path: str, now: int | None = None) -> None:
        """Record that the name `path` was made or removed, or is another file's: its folder was changed."""
        kept = self._kept(split(path)[0], is_folder=True)
        kept.filled = kept.changed = now or unix_time_ns()
        kept.base, kept.listed = None, ""

    def changed(self, path: str, *, is_folder: bool) -> None:
        """Record that the attributes or the name of a file or folder were changed."""
        kept = self._kept(path, is_folder=is_folder)
        kept.changed, kept.listed = unix_time_ns(), ""

    def set(self, path: str, atime_ns: int | None, mtime_ns: int | None, *, is_folder: bool) -> None:
        """Record that a program has set the times; None for those that it has not."""
        self.changed(path, is_folder=is_folder)
        kept = self._kept(path, is_folder=is_folder)
        if atime_ns is not None:
            kept.read = atime_ns
        if mtime_ns is not None:
            kept.filled = 0

    def wrote(self, path: str, now: int, before: int = 0) -> None:
        """Record that bytes of a file were changed; `before` was its modification time, 0 if it was recorded.

        So the access time stays where it was: a mail program finds new mail by that.
        """
        kept = self._kept(path, is_folder=False)
        kept.read = kept.read or before
        kept.changed, kept.listed = max(kept.changed, min(now, unix_time_ns())), ""

    def accessed(self, path: str, attributes: Attributes) -> None:
        """Record that a file is read, unless it was since its last change and within a day (`relatime`)."""
        now, kept = unix_time_ns(), self._kept(path, is_folder=False)
        before = kept.read or attributes.mtime_ns
        if before <= max(attributes.mtime_ns, kept.changed) or now - before > STALE_ACCESS:
            kept.read = now

    def _number(self, path: str, *, is_folder: bool) -> int:
        return self._inodes.number(path, is_folder=is_folder)

    def _get(self, number: int) -> KeptTimes | None:
        return self._recent.get(number) or self._older.get(number)

    def _kept(self, path: str, *, is_folder: bool) -> KeptTimes:
        """Return what is kept of a path, to be changed."""
        number = self._number(path, is_folder=is_folder)
        return self._keep(number, self._get(number) or KeptTimes())

    def _keep(self, number: int, kept: KeptTimes) -> KeptTimes:
        if len(self._recent) >= MOST_TIMES:
            self._older, self._recent = self._recent, {}
        self._recent[number] = kept
        return kept


def _filled(kept: KeptTimes, mtime_ns: int) -> int:
    """Return a folder's time: that of the last change in it, unless another time was stored since."""
    if not kept.filled:
        return mtime_ns
    if kept.base is None:
        kept.base = mtime_ns
    return kept.filled if kept.base == mtime_ns else mtime_ns


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


class Part:
    """A part of the file system, with the services at hand that most parts need."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._store = services.store
        self._namespace = services.namespace
        self._file_cache = services.file_cache
        self._journal = services.journal
        self._defaults = services.defaults
        self._source = services.source
        self._open_files = services.open_files
        self._inodes = services.inodes
        self._times = services.times


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
