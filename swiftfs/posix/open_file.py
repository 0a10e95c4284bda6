"""An open file, which all its handles share."""

from collections.abc import Mapping
from enum import Enum
from functools import partial

from msgspec import Struct, field
from msgspec.structs import replace

from swiftfs.attributes import Stored
from swiftfs.concurrency import Lock, Rank, new_lock
from swiftfs.errors import check_transition
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.operations import PutFile
from swiftfs.namespace.entry import Entry
from swiftfs.objects import Attributes, ObjectName
from swiftfs.store.object_meta import ObjectMeta


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
        """Return the operation that stores the file as it is now.

        If the file has no X-Delete-At yet it gets `expires`, empty for none.
        """
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
