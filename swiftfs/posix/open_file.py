"""An open file, which all its handles share, and what the kernel may have of files in its page cache."""

from collections.abc import Mapping
from enum import Enum
from functools import partial

from cachetools import LRUCache
from msgspec import Struct, field
from msgspec.structs import replace

from swiftfs.attributes import Stored
from swiftfs.concurrency import Lock, Rank, monotonic, new_lock
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.operations import PutFile
from swiftfs.namespace.entry import Entry
from swiftfs.objects import Attributes, ObjectName, PageUse, check_transition
from swiftfs.store.protocol import ObjectMeta


class HeldDeletion(Struct, frozen=True):
    """The deletion of an unlinked file's object `name`, which has the number `seq` in the journal.

    It waits for the last close while bytes of the file are missing, else for a moment.
    """

    seq: int
    name: ObjectName


class Changes(Enum):
    """Where the changes of an open file are."""

    HANDED_IN = "handed in"
    """The journal has them all."""
    DIRTY = "dirty"
    """Bytes or attributes are not in the journal yet."""
    FAILED = "failed"
    """They are not in the journal, and close() or fsync() has raised the error."""


FOLLOWING: Mapping[Changes, tuple[Changes, ...]] = {
    # In sync mode the journal may give up what it had.
    Changes.HANDED_IN: (Changes.DIRTY, Changes.FAILED),
    Changes.DIRTY: (Changes.DIRTY, Changes.HANDED_IN, Changes.FAILED),
    Changes.FAILED: (Changes.DIRTY, Changes.HANDED_IN, Changes.FAILED),
}


class FilePages(Struct):
    """What the kernel has of one open file in its page cache.

    At `began` (monotonic seconds) an open first made the kernel drop pages of other versions, -inf if there
    were none; None while there may be some. The last such open was after `finds` finds of wrong bytes.
    `is_bypassed` means that no handle uses the pages: the file may be written without them, or stat(2) shows
    another size than the file has.
    """

    began: float | None = None
    finds: int = 0
    is_bypassed: bool = False


class OpenFile(Struct):
    """The current state of an open file, which may be newer than the journal's.

    `entry` is its entry in the namespace, None for a new file before its first flush. Only `become` changes
    where its `changes` are. A file that is `unlinked` has lost its name by unlink(2) or rename(2), and lives
    until its last handle is closed; `held_deletion` is that of its object, until the journal was told to
    execute it. `replaces` is the entry that a new file replaces. If what these two entries show
    was given up after `since`, as in `GivenUp`, nothing of it is at the file's name. With
    `foreign_headers_unknown` the object may have headers of another client that were not requested yet.
    `expiry_changed` is whether its segments may have another X-Delete-At than `meta`. An `aliased` file was
    hidden and is back: libfuse knows it by two names. `aside` is libfuse's path for a file that another
    client has replaced, "" if it is its own path; such a file whose name cannot be moved `is_cut_off`: nobody
    reads it any more. `users` counts the handles. `pages` is what the kernel has of the file. `trash` is the
    key to which the stored object is copied before the next upload, empty if it is not kept. Until
    `unchecked_until` (monotonic seconds) stat(2) does not ask whether it was replaced: the last answer was an
    error.

    The lock excludes writers while the file is handed in. It is the only lock that may be held during a
    request.
    """

    path: str
    name: ObjectName
    cached_file: CachedFile
    attributes: Attributes
    meta: ObjectMeta
    entry: Entry | None
    changes: Changes = Changes.HANDED_IN
    unlinked: bool = False
    held_deletion: HeldDeletion | None = None
    replaces: Entry | None = None
    since: int = 0
    foreign_headers_unknown: bool = False
    expiry_changed: bool = False
    aliased: bool = False
    aside: str = ""
    is_cut_off: bool = False
    users: int = 0
    pages: FilePages = field(default_factory=FilePages)
    unchecked_until: float = 0.0
    trash: str = ""
    lock: Lock = field(default_factory=partial(new_lock, Rank.FILE, reentrant=True))

    def become(self, changes: Changes) -> None:
        """Record where the changes are; raise `RuntimeError` if that cannot follow."""
        check_transition("an open file", FOLLOWING, self.changes, changes)
        self.changes = changes

    @property
    def dirty(self) -> bool:
        """Whether changes are not in the journal."""
        return self.changes is not Changes.HANDED_IN

    @property
    def known_as(self) -> str:
        """The path by which libfuse knows it."""
        return self.aside or self.path

    @property
    def current_attributes(self) -> Attributes:
        """The attributes with the current size."""
        return replace(self.attributes, size=self.cached_file.size)

    def rename_object(self, entry: Entry) -> None:
        """Change to the name that the object was moved to."""
        assert entry.object is not None
        self.entry = entry
        self.take_name(entry.object)

    def take_name(self, name: ObjectName) -> None:
        """Change to an object's name that `entry` has already."""
        self.name = name
        self.cached_file.rename(name)

    def current_meta(self) -> ObjectMeta:
        """Return what an upload would store in addition to the bytes.

        Headers that another client gave the object are preserved as xattrs are. Content-Encoding is one of
        them: the mount shows and takes the encoded bytes. A DLO's manifest header is not preserved: with it
        Swift would serve the DLO's segments instead of the bytes.
        """
        stat = self.attributes
        stored = Stored(stat.mode, stat.mtime_ns, stat.uid, stat.gid)
        return replace(self.meta, stored=stored).without_dlo()

    def put(self, expires: str) -> PutFile:
        """Return the operation that stores the file now; without an X-Delete-At it gets `expires`."""
        if expires and not self.meta.delete_at and not self.foreign_headers_unknown:
            self.meta = self.meta.with_delete_at(expires)
        replaced = self.entry or self.replaces
        return PutFile(
            self.name,
            self.cached_file.to_record(),
            self.current_meta(),
            replaces_large=replaced.is_slo if replaced else False,
            replaces_etag=(replaced.etag or None) if replaced else None,
            creates=replaced is None,
            foreign_headers_unknown=self.foreign_headers_unknown,
            trash=self.trash,
            expires=expires if self.foreign_headers_unknown else "",
            expiry_changed=self.expiry_changed,
        )


class Handle(Struct, frozen=True):
    """One open(): its file, whether it may write, and whether every write is at the end (O_APPEND)."""

    file: OpenFile
    writable: bool
    append: bool


CLOSED_FILES = 10_000
"""Limit of the closed files whose pages the kernel may use again."""

ATTRIBUTE_SECONDS = 1.0
"""How long the kernel caches a size."""

ANSWER_SECONDS = 1.0
"""After this time an open has been answered, and the kernel has dropped its pages."""

UNKNOWN_SIZE = -1
"""In place of a shown size: the kernel may have any size."""


class ShownSizes:
    """The sizes that were shown in the last one or two `ATTRIBUTE_SECONDS`, by path: the kernel may use them.

    Not locked: each method is called for every stat(2), and one lost size does no harm.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._older: dict[str, int] = {}
        self._until = 0.0

    def show(self, path: str, size: int) -> None:
        """Record the size that a file is shown with, or that the kernel has from the writes it has sent."""
        now = monotonic()
        if now > self._until:
            self._older, self._sizes, self._until = self._sizes, {}, now + ATTRIBUTE_SECONDS
        self._sizes[path] = size

    def differs(self, path: str, size: int) -> bool:
        """Return whether the kernel may have another size of the file at `path`."""
        shown = self._sizes.get(path, self._older.get(path, size))
        return shown != size

    def move(self, old: str, new: str) -> None:
        """Take the size of a file to its new path."""
        self._older.pop(new, None)
        size = self._sizes.pop(old, self._older.pop(old, None))
        if size is None:
            self._sizes.pop(new, None)
        else:
            self._sizes[new] = size


class KernelPages:
    """Which version the kernel's pages are of, by path. The caller's lock guards it.

    The kernel keeps the pages of a closed file. libfuse lets it use them at an open if mtime and size are the
    same as when libfuse last looked. But another version can have the same mtime and size, such as a restored
    backup, and that look may be older than a change. So only pages of the version that is opened are kept.

    Pages that are older than the last discovery of wrong bytes, in any file, are dropped too: that is rare,
    and the bytes are still in the local files.
    """

    def __init__(self, shown_sizes: ShownSizes) -> None:
        self._shown_sizes = shown_sizes
        self._versions: LRUCache[str, str] = LRUCache(CLOSED_FILES)
        self._finds = 0

    def open(self, file: OpenFile, *, writable: bool, is_mixed: bool) -> PageUse:
        """Return how the kernel opens a file; `is_mixed` if it may read pages of two versions at its path."""
        path, pages, cached_file = file.path, file.pages, file.cached_file
        # The kernel knows the size of a file that is open already: it has sent the writes itself.
        is_resized = pages.began is None and self._shown_sizes.differs(path, cached_file.size)
        if is_resized or is_mixed or pages.is_bypassed:
            # Pages that others read meanwhile do not get what is written past them.
            pages.is_bypassed |= writable
            self.forget(path, pages)
            return PageUse.LOOK_AGAIN if is_resized else PageUse.BYPASS
        now = monotonic()
        if pages.began is None:
            known = self._versions.get(path, "")
            pages.began = -float("inf") if known and known == _version(cached_file) else now
        elif pages.finds != self._finds:
            pages.began = now
        pages.finds = self._finds
        # The open before may not have been answered yet.
        return PageUse.KEEP if pages.began + ANSWER_SECONDS < now else PageUse.DROP

    def close(self, file: OpenFile) -> None:
        """Record what the kernel has of a file when its last handle is closed."""
        path, pages, cached_file = file.path, file.pages, file.cached_file
        if pages.began is not None:
            self._shown_sizes.show(path, cached_file.size)
        is_right = pages.began is not None and pages.finds == self._finds
        version = _version(cached_file) if is_right else ""
        if version:
            self._versions[path] = version
        else:
            self._versions.pop(path, None)

    def forget(self, path: str, pages: FilePages | None = None) -> None:
        """Let the next open of `path`, and of the file that is open there, drop the pages."""
        self._versions.pop(path, None)
        if pages is not None:
            pages.began = None

    def found_wrong(self) -> None:
        """Let the next open of each file drop its pages: downloaded bytes were wrong."""
        self._finds += 1
        self.forget_all()

    def forget_all(self) -> None:
        """Let the next open of each closed file drop its pages."""
        self._versions.clear()


def _version(cached_file: CachedFile) -> str:
    """Return the ETag of the version that a file's bytes are; "" with changes that are not stored."""
    base = cached_file.base
    return "" if base is None or cached_file.is_dirty() else base.etag
