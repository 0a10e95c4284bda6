"""System calls on attributes and xattrs.

A change is one POST. Swift drops all metadata that a POST does not repeat, so it contains all of it.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from msgspec.structs import replace

from swiftfs.attributes import (
    CACHE_ATTRIBUTE,
    EXPIRY_ATTRIBUTE,
    FLUSH_ATTRIBUTE,
    PID_ATTRIBUTE,
    PIN_ATTRIBUTE,
    PINNED_ATTRIBUTE,
    REFRESH_ATTRIBUTE,
    RETRY_ATTRIBUTE,
    STATE_ATTRIBUTE,
    STATUS_ATTRIBUTE,
    THAW_ATTRIBUTE,
    UNPIN_ATTRIBUTE,
    header_to_xattr,
    with_xattr,
    without_xattr,
    xattr_of,
    xattr_to_header,
)
from swiftfs.concurrency import new_pool
from swiftfs.errors import NotFound, Sealed, os_error
from swiftfs.filecache.version_cache import Pin
from swiftfs.namespace.entry import Entry
from swiftfs.objects import (
    SEALED,
    UNSEALED,
    UNSEALING,
    Attributes,
    Caller,
    Limits,
    ObjectInfo,
    ObjectName,
    Retrieval,
)
from swiftfs.paths import join
from swiftfs.posix.directory_ops import DirectoryOps
from swiftfs.posix.open_file import OpenFile
from swiftfs.posix.pending import PendingChanges
from swiftfs.posix.services import Part, Services
from swiftfs.posix.write_back import AttributeChanges, MetaChange, Update, parse_moment, show_moment
from swiftfs.store.protocol import ObjectMeta, ObjectStore, iter_dlo_segments
from swiftfs.store.retry import PATIENT, deadline

log = logging.getLogger(__name__)

T = TypeVar("T")

XATTR_CREATE = 1
XATTR_REPLACE = 2

OWN_METADATA_ITEMS = 4
OWN_METADATA_BYTES = 100
"""Space for `mtime`, `mode`, `uid` and `gid`: it must be possible to change them."""

MOST_ITEMS = 80
"""More metadata of an object could not be read: `http.client` refuses an answer of more than 100 headers."""

MOST_BYTES = 60_000
"""More could not be sent: a server takes 64 KiB of header lines, with those that are not metadata."""

_LINE_BYTES = len("X-Object-Meta-: \r\n")


class AttributeOps(Part):
    """Returns and changes the attributes and xattrs of files and folders."""

    def __init__(
        self,
        services: Services,
        pending: PendingChanges,
        directories: DirectoryOps,
        changes: AttributeChanges,
    ) -> None:
        super().__init__(services)
        self._pending = pending
        self._directories = directories
        self._changes = changes
        # Other processes ask the mount by xattrs of its root.
        self._answers: Mapping[str, Callable[[], object]] = {
            PID_ATTRIBUTE: os.getpid,
            CACHE_ATTRIBUTE: services.cache_dir.absolute,
            STATUS_ATTRIBUTE: lambda: services.journal.report().to_json(),
        }
        self._pins = services.file_cache.pinned
        self._pinning: Mapping[str, Callable[[str], str]] = {
            PINNED_ATTRIBUTE: self._is_pinned,
            PIN_ATTRIBUTE: self._pin,
            UNPIN_ATTRIBUTE: self._unpin,
        }
        self._orders = {FLUSH_ATTRIBUTE: services.journal.flush_all, RETRY_ATTRIBUTE: services.journal.retry}

    def getattr(self, path: str) -> Attributes:
        """Return the attributes of `path`."""
        if self._open_files.is_concerned(path):  # rarely: this runs at every lookup
            file = self._open_files.replaced.at(path)
            if file is None:
                path = self._open_files.resolve(path)
                file = self._open_files.current(path, for_stat=True) or self._open_files.replaced.shown(path)
            if file is not None:
                return self._attributes(file)
        return self._of_entry(path, self._look_up(path))

    def known_attributes(self, handle: int, names: Sequence[str]) -> list[Attributes | None]:
        """Return what `getattr` returns, None where that could have to wait; send no request."""
        folder = self._directories.path_of(handle)
        if folder is None:
            return [None] * len(names)
        paths = [join(folder, name) for name in names]
        # Before the entries: that of a file that is closed meanwhile may be older than its last write.
        unlike = list(filter(self._open_files.is_concerned, paths))
        entries = self._namespace.known_in(folder, names)
        return [
            self._of_entry(path, entry)
            if entry is not None and entry.complete and path not in unlike and not self._is_watched(entry)
            else None
            for path, entry in zip(paths, entries, strict=True)
        ]

    def _is_watched(self, entry: Entry) -> bool:
        return entry.object is not None and self._journal.late.is_watched(entry.object)

    def _of_entry(self, path: str, entry: Entry) -> Attributes:
        entry = self._namespace.dated(entry)
        attributes = entry.attributes
        self._open_files.shown_sizes.show(path, attributes.size)
        return self._defaults.shown(self._times.of_entry(entry, self._inodes.of(path, attributes)))

    def _look_up(self, path: str) -> Entry:
        """Return the entry of `path`; what a late request has done to it is undone first."""
        entry = self._pending.look_up(path)
        if entry.object is None or not self._journal.late.look_at(entry.object, entry.etag):
            return entry
        return self._namespace.lookup(path)

    def getattr_handle(self, handle: int) -> Attributes:
        """Return the attributes of an open file, whether or not it still has a path."""
        return self._attributes(self._open_files.handle(handle).file)

    def _attributes(self, file: OpenFile) -> Attributes:
        path, attributes = file.known_as, file.current_attributes
        if file.dirty:  # by many writes, of which only the first was recorded
            self._times.wrote(path, attributes.mtime_ns)
        self._open_files.shown_sizes.show(path, attributes.size)
        numbered = self._inodes.of_open(path, attributes)
        last_modified = file.entry.last_modified if file.entry is not None and not file.dirty else ""
        return self._defaults.shown(self._times.shown(numbered, last_modified))

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits."""
        self._change(path, lambda old: replace(old, mode=stat.S_IFMT(old.mode) | stat.S_IMODE(mode)))

    def chown(self, path: str, uid: int | None, gid: int | None, caller: Caller) -> None:
        """Set owner and group, None for unchanged; only root may give a file away."""

        def update(old: Attributes) -> Attributes:
            if caller.uid != 0 and uid not in (None, old.uid):
                raise os_error(errno.EPERM, path)
            return replace(old, uid=old.uid if uid is None else uid, gid=old.gid if gid is None else gid)

        self._change(path, update)

    def utimens(self, path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Set the times in ns, None for unchanged; the access time is not stored."""
        path = self._open_files.resolve(path)
        with self._pending.changing(path):
            # First: a folder gets the time that is asked for, even if Swift has it already.
            self._times.set(path, atime_ns, mtime_ns, is_folder=self._is_folder(path))
            if mtime_ns is not None:
                self._submit(path, lambda old: replace(old, mtime_ns=mtime_ns))

    def getxattr(self, path: str, name: str) -> bytes:
        """Return an xattr's value; raise `OSError` ENODATA if there is none."""
        path = self._open_files.resolve(path)
        if path == "/" and name in self._answers:
            return os.fsencode(str(self._answers[name]()))
        if path == "/" and name in self._orders:
            # With the option `ro` the kernel refuses setxattr(2), so getxattr(2) starts it too.
            self._orders[name]()
            return b""
        if name in self._pinning:
            return self._pinning[name](path).encode()
        if name == EXPIRY_ATTRIBUTE and (moment := self._meta(path).delete_at):
            return show_moment(moment)
        if name in _COMPUTED:
            return str(_COMPUTED[name](self._store, self._stored(path))).encode()
        header = xattr_to_header(name)
        value = xattr_of(self._metadata(path), header) if header else None
        if value is None:
            raise os_error(errno.ENODATA, path)
        return value

    def listxattr(self, path: str) -> list[str]:
        """Return the names of the xattrs."""
        metadata = self._metadata(self._open_files.resolve(path))
        names = (header_to_xattr(header) for header in metadata)
        return [name for name in names if name is not None]

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Set an xattr; raise `OSError` EOPNOTSUPP unless it is `user.`, E2BIG beyond Swift's limits."""
        path = self._open_files.resolve(path)
        with self._pending.changing(path):
            if name == REFRESH_ATTRIBUTE:
                self._refresh(path)
            elif path == "/" and name in self._orders:
                self._orders[name]()
            elif name == EXPIRY_ATTRIBUTE:
                self._set_expiry(path, parse_moment(value, path), flags)
            else:
                self._set_metadata(path, name, value, flags)

    def removexattr(self, path: str, name: str) -> None:
        """Remove an xattr; raise `OSError` ENODATA if there is none."""
        path = self._open_files.resolve(path)
        with self._pending.changing(path):
            if name == EXPIRY_ATTRIBUTE:
                self._set_expiry(path, "", XATTR_REPLACE)
                return
            header = xattr_to_header(name)
            metadata = self._metadata(path)
            if header is None or header not in metadata:
                raise os_error(errno.ENODATA, path)
            self._store_metadata(path, without_xattr(metadata, header))

    def _set_expiry(self, path: str, moment: str, flags: int) -> None:
        """Let Swift delete a file at `moment`, never if it is empty; raise `OSError` as setxattr(2) does."""
        meta = self._meta(path)
        if self._is_folder(path):
            raise os_error(errno.EOPNOTSUPP, path)
        if moment and self._services.histories.is_versioned(self._source.object(path).container):
            raise os_error(errno.EOPNOTSUPP, path)
        if flags & XATTR_CREATE and meta.delete_at:
            raise os_error(errno.EEXIST, path)
        if flags & XATTR_REPLACE and not meta.delete_at:
            raise os_error(errno.ENODATA, path)
        self._store_meta(path, lambda old: old.with_delete_at(moment))

    def _change(self, path: str, update: Update) -> None:
        """Give `path` the attributes that `update` makes from its current ones."""
        path = self._open_files.resolve(path)
        with self._pending.changing(path):
            self._submit(path, update)

    def _is_folder(self, path: str) -> bool:
        entry = self._namespace.find(path) if self._open_files.at(path) is None else None
        return entry is not None and entry.is_directory

    def _pin_of(self, path: str) -> Pin:
        """Return the pin of a path; raise `OSError` ENOENT if there is nothing."""
        if self._open_files.at(path) is None and self._namespace.lookup(path, complete=False).is_directory:
            folder = self._source.folder(path)
            return Pin(folder.container, folder.prefix)
        name = self._source.object(path)
        return Pin(name.container, name.key)

    def _is_pinned(self, path: str) -> str:
        pin = self._pin_of(path)
        return str(int(self._pins.covers(ObjectName(pin.container, pin.key))))

    def _pin(self, path: str) -> str:
        """Keep the copies of a file, or of what is in a folder, in the cache; Swift does not learn of it."""
        if not self._pins.pin(self._pin_of(path)):
            raise os_error(errno.E2BIG, path)  # not ENOSPC: that is a full disk
        return "1"

    def _unpin(self, path: str) -> str:
        self._pins.unpin(self._pin_of(path))
        return self._is_pinned(path)

    def _refresh(self, path: str) -> None:
        if path == "/":
            self._namespace.invalidate_all()
        else:
            self._namespace.invalidate(path)

    def _stored(self, path: str) -> ObjectInfo:
        """Return Swift's current object at `path`; raise `OSError` ENODATA if it has none."""
        file = self._open_files.at(path)
        entry = file.entry if file is not None else self._namespace.lookup(path, complete=False)
        if entry is None or entry.object is None or (file is not None and file.unlinked):
            raise os_error(errno.ENODATA, path)
        # Otherwise the answer would be the state before the pending changes.
        self._journal.flush([entry.object])
        try:
            return self._store.head(entry.object)
        except NotFound:
            raise os_error(errno.ENODATA, path) from None

    def _metadata(self, path: str) -> Mapping[str, str]:
        return self._meta(path).metadata

    def _meta(self, path: str) -> ObjectMeta:
        file = self._open_files.at(path)
        if file is not None and (file.dirty or file.unlinked):
            self._learn_headers(file)
            return file.meta
        entry = file.entry if file is not None else None
        return self._changes.meta(entry or self._pending.look_up(path))

    def _set_metadata(self, path: str, name: str, value: bytes, flags: int) -> None:
        header = xattr_to_header(name)
        if header is None:
            raise os_error(errno.EOPNOTSUPP, path)
        limits = self._store.limits()
        metadata = self._metadata(path)
        if flags & XATTR_CREATE and header in metadata:
            raise os_error(errno.EEXIST, path)
        if flags & XATTR_REPLACE and header not in metadata:
            raise os_error(errno.ENODATA, path)
        metadata = with_xattr(metadata, header, value, limits.metadata_value_bytes)
        # Swift would answer 400 when the change is sent, long after this call.
        if not _fits(metadata, limits):
            log.info(
                "%s: no room for %s of %d bytes: the server takes %d bytes of metadata for each object, "
                "names included, in %d items, and names of %d bytes",
                *(path, name, len(value), min(limits.metadata_bytes, MOST_BYTES)),
                *(min(limits.metadata_items, MOST_ITEMS), limits.metadata_name_bytes),
            )
            raise os_error(errno.E2BIG, path)
        self._store_metadata(path, metadata)

    def _store_metadata(self, path: str, metadata: Mapping[str, str]) -> None:
        self._store_meta(path, lambda old: replace(old, metadata=metadata))

    def _store_meta(self, path: str, change: MetaChange) -> None:
        self._submit(path, _unchanged, change)

    def _submit(self, path: str, update: Update, change: MetaChange | None = None) -> None:
        """Hand in what `update` makes of the attributes at `path`, and `change` of the meta."""
        since = self._pending.begin_change()
        file = self._open_files.at(path)
        if file is None:
            entry = self._times.dated(path, self._namespace.dated(self._pending.look_up(path)))
            self._changes.submit(path, entry, update, change, since)
            self._times.changed(path, is_folder=entry.is_directory)
            return
        with file.lock:
            # A dirty file's attributes go with its upload.
            is_stored = not file.dirty and not file.unlinked
            if is_stored and file.entry is not None:
                file.entry = self._changes.submit(path, file.entry, update, change, file.since)
            # An open file has attributes of its own, which its next flush sends.
            file.attributes = update(file.attributes)
            if change is not None:
                if is_stored and file.entry is not None:
                    new = self._changes.meta(file.entry)
                else:
                    new = change(file.meta)
                    file.expiry_changed |= new.delete_at != file.meta.delete_at
                kept = new.preserved_headers
                file.meta = replace(file.meta, metadata=new.metadata, preserved_headers=kept)
                file.foreign_headers_unknown = False
        self._times.changed(path, is_folder=False)

    def _learn_headers(self, file: OpenFile) -> None:
        """Get the headers that another client gave an open file's object, before they are changed."""
        if file.foreign_headers_unknown:
            with suppress(NotFound):
                file.meta = file.meta.inherit(self._store.head(file.name))
            file.foreign_headers_unknown = False


def _fits(metadata: Mapping[str, str], limits: Limits) -> bool:
    """Return whether the server takes the metadata, and the attributes besides."""
    size = OWN_METADATA_BYTES + sum(
        len(name.encode()) + len(text.encode()) for name, text in metadata.items()
    )
    is_short = all(
        len(name) <= limits.metadata_name_bytes and len(text.encode()) <= limits.metadata_value_bytes
        for name, text in metadata.items()
    )
    is_few = len(metadata) + OWN_METADATA_ITEMS <= min(limits.metadata_items, MOST_ITEMS)
    is_sent = size + len(metadata) * _LINE_BYTES <= MOST_BYTES
    return is_short and is_few and is_sent and size <= limits.metadata_bytes


def _ask_for(store: ObjectStore, info: ObjectInfo) -> str:
    archive = Archive(store, info)
    archive.ask()
    return archive.state()


_COMPUTED: Mapping[str, Callable[[ObjectStore, ObjectInfo], object]] = {
    "swift.etag": lambda _, info: info.version.etag,
    "swift.content_type": lambda _, info: info.content_type,
    "swift.segments": lambda store, info: sum(1 for _ in segments_of(store, info)),
    STATE_ATTRIBUTE: lambda store, info: Archive(store, info).state(),
    THAW_ATTRIBUTE: _ask_for,
}
"""Read-only xattrs. They are not listed, so that no program copies them."""


def _unchanged(attributes: Attributes) -> Attributes:
    return attributes


PARALLEL = 16
"""Parallel requests about the segments of a large object: each is sealed, or is not."""

_ORDER = (UNSEALED, UNSEALING, SEALED)
"""The states, the one from which an object can be read first before the others."""


class _CanBeRead(Exception):
    """Bytes have come: the object is not sealed."""


class Archive:
    """One object of an archive, with its segments, each of which must be restored before it can be read.

    OVH's Public Cloud Archive is one. `info` is from a HEAD.
    """

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store = store
        self._info = info
        self._segments: list[ObjectName] | None = None

    def state(self) -> str:
        """Return `unsealed`, `sealed`, or `unsealing` and the seconds if known; raise `StoreError`."""
        found = [self._info.retrieval, *self._heads()]
        states = [one for one in found if one is not None]
        # Any other word of the server counts as a state in which nothing can be read.
        rank = max((_rank(one) for one in states), default=0)
        seconds = max((one.seconds or 0.0 for one in states if _rank(one) == rank), default=0.0)
        return f"{_ORDER[rank]} {seconds:.0f}" if rank and seconds else _ORDER[rank]

    def ask(self) -> None:
        """Have the archive restore what is sealed, by a GET of each object; raise `StoreError`."""
        if self._info.is_slo or self._info.dlo_prefix is not None:
            self._store.check_manifest(self._info.version)  # another's objects are not thawed for it
        names = [self._info.version.name, *self._named()]
        self._in_parallel(self._ask_one, names if self._info.retrieval is not None else names[1:])
        self._info = self._store.head(self._info.version.name)

    def _ask_one(self, name: ObjectName) -> None:
        retrieval = self._store.head(name).retrieval
        if retrieval is not None and retrieval.state == SEALED:
            with suppress(Sealed, _CanBeRead):
                self._store.get(name, _refuse)

    def _heads(self) -> list[Retrieval | None]:
        names = self._named()
        if not names:
            return []
        first = self._retrieval(names[0])
        # A server without an archive sends no such header.
        if first is None and self._info.retrieval is None:
            return []
        return [first, *self._in_parallel(self._retrieval, names[1:])]

    def _retrieval(self, name: ObjectName) -> Retrieval | None:
        with suppress(NotFound):  # it cannot be thawed
            return self._store.head(name).retrieval
        return None

    def _named(self) -> list[ObjectName]:
        """Return the segments, each once; they are requested once."""
        if self._segments is None:
            self._segments = list(dict.fromkeys(segments_of(self._store, self._info)))
        return self._segments

    def _in_parallel(self, work: Callable[[ObjectName], T], names: Sequence[ObjectName]) -> list[T]:
        with new_pool("thaw", PARALLEL) as pool:
            return list(pool.map(work, names))


def segments_of(store: ObjectStore, info: ObjectInfo) -> Iterator[ObjectName]:
    """Yield the objects that a large object consists of, in its order; none for an ordinary one."""
    if info.is_slo:
        yield from (one.name for one in store.manifest(info.version.name).segments if not one.data)
    elif (prefix := info.dlo_prefix) is not None:
        with deadline(PATIENT.deadline):  # of all pages: there may be no end of them
            yield from (ObjectName(prefix.container, row.key) for row in iter_dlo_segments(store, prefix))


def _rank(retrieval: Retrieval) -> int:
    return _ORDER.index(retrieval.state) if retrieval.state in _ORDER else len(_ORDER) - 1


def _refuse(_offset: int, _data: bytes) -> None:
    raise _CanBeRead
