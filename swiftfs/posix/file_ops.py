"""System calls on files: their bytes, and links and special files."""

import errno
import os
import stat
from functools import partial

from msgspec.structs import replace

from swiftfs.attributes import SPECIAL_TYPES, Stored, guess_type, type_after_rename
from swiftfs.concurrency import unix_time_ns
from swiftfs.errors import AlreadyExists, CutFile, NotFound, PreconditionFailed, Sealed, StoreError, os_error
from swiftfs.filecache.block_map import BaseVersion
from swiftfs.filecache.cached_file import CachedFile, Fill
from swiftfs.filecache.sparse_file import check_descriptor, punch_hole
from swiftfs.journal.operations import CopyFile, PutSpecial
from swiftfs.namespace.entry import Entry, moved_entry
from swiftfs.namespace.inodes import recent_inode_of
from swiftfs.objects import Attributes, Caller, FileSpan, ObjectName
from swiftfs.paths import check_new_name, split
from swiftfs.posix.open_file import Changes, OpenFile
from swiftfs.posix.pending import PendingChanges, stored_entry, trash_key, unstored_entry
from swiftfs.posix.prefetch import Prefetch
from swiftfs.posix.services import Part, Services, in_folder
from swiftfs.posix.write_back import AttributeChanges, WriteBack
from swiftfs.store.protocol import ObjectMeta

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
"""Modes of fallocate(2), from `linux/falloc.h`."""

_ZEROS = 1024 * 1024
"""Bytes that are made zeros at a time: a write waits until so much fits on the disk."""


class FileOps(Part):
    """Creates, opens, reads and writes files."""

    def __init__(
        self, services: Services, pending: PendingChanges, write_back: WriteBack, changes: AttributeChanges
    ) -> None:
        super().__init__(services)
        self._pending = pending
        self._write_back = write_back
        self._changes = changes
        self._prefetch = Prefetch(services.namespace, self._file_cache, self._open_files, services.options)
        self.set_prefetch = self._prefetch.switch

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> int:
        """Create and open a file; without O_EXCL, open one that was created meanwhile."""
        with self._pending.changing(path):
            name = self._namespace.new_object(path)
            existing = self._namespace.find(path)
            # The kernel sends CREATE only for names that it does not know: another program may have made the
            # file since.
            if self._open_files.current(path) is not None or existing is not None:
                if flags & os.O_EXCL:
                    raise os_error(errno.EEXIST, path)
                return self.open(path, flags)
            self._open_files.replaced.refuse_change(path)
            check_new_name(path)
            permissions, owner = in_folder(self._namespace, path, stat.S_IMODE(mode) | stat.S_IFREG, caller)
            now, inode = unix_time_ns(), recent_inode_of(name)
            attributes = Attributes(permissions, 0, now, owner.uid, owner.gid, inode)
            meta = ObjectMeta(guess_type(name.key))
            cached_file = self._permitted(self._file_cache.new(name, None))
            file = OpenFile(path, name, cached_file, attributes, meta, None, Changes.DIRTY)
            self._times.created(path, now)
            return self._add_handle(file, flags)

    def _permitted(self, cached_file: CachedFile) -> CachedFile:
        """Return a file that is being opened; if too many are, release it and raise `OSError` EMFILE."""
        try:
            check_descriptor(cached_file.descriptor)
        except OSError:
            self._file_cache.release(cached_file)
            raise
        return cached_file

    def open(self, path: str, flags: int) -> int:
        """Open an existing file; with O_TRUNC it is empty, but its object is unchanged until the flush.

        Raise `OSError` EBUSY for a change if the kernel still has an older version at `path`.
        """
        handle = None
        is_read = flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY
        if not is_read:
            self._pending.refuse_change(path)
        older = self._open_files.replaced.at(path)  # by /proc/self/fd, for example
        if older is None and is_read:
            # The kernel has the inode and the size of that version, and does not look again.
            older = self._open_files.replaced.shown(path)
        if older is not None:
            handle = self._open_files.share(older, **_access(flags))
        path = self._open_files.resolve(path)
        while handle is None:  # again when the last handle of an open file is closed meanwhile
            file = self._open_files.current(path)
            if not is_read:
                self._open_files.replaced.refuse_change(path)
            if file is not None:
                handle = self._open_files.share(file, **_access(flags))
            else:
                handle = self._open_stored(path, flags)
        file = self._open_files.handle(handle).file
        if flags & os.O_TRUNC:
            self._truncate_opened(handle, file)
        elif not flags & (os.O_ACCMODE | os.O_NOATIME):
            self._times.accessed(file.known_as, file.attributes)
        return handle

    def _open_stored(self, path: str, flags: int) -> int:
        """Open a file that is not open yet."""
        since = self._pending.begin_change()
        entry = self._pending.look_up(path)
        if entry.is_directory:
            raise os_error(errno.EISDIR, path)
        if entry.object is not None and self._journal.undo_late_request(entry.object):
            entry = self._namespace.lookup(path)
        # A ghost has no bytes, but it can be overwritten.
        if entry.missing and not flags & os.O_TRUNC:
            raise os_error(errno.ENOENT, path)
        file = self._open_object(path, entry, is_read=not flags & os.O_TRUNC)
        self._permitted(file.cached_file)
        file.since = since
        # A read with the kernel's pages would end at the size that is shown.
        file.pages.is_bypassed = file.cached_file.size != file.attributes.size
        if flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY:
            self._prefetch.opened(path)
        return self._add_handle(file, flags)

    def open_version(self, path: str, entry: Entry) -> int:
        """Open an older version of an object for reading; nothing ever replaces it."""
        handle = None
        while handle is None:
            if (file := self._open_files.at(path)) is not None:
                handle = self._open_files.share(file, writable=False)
            else:
                file = self._open_object(path, entry)
                self._permitted(file.cached_file)
                handle = self._add_handle(file, os.O_RDONLY)
        return handle

    def read(self, handle: int, offset: int, size: int) -> FileSpan:
        """Return where the bytes are in a local file; fewer only at the file's end."""
        file = self._open_files.handle(handle).file
        if file.is_cut_off:
            raise os_error(errno.ESTALE, file.path)
        name = file.name
        try:
            return file.cached_file.read(offset, size)
        except Sealed:
            self._prefetch.stop()  # it would have the archive bring back what nobody reads
            raise
        except (NotFound, PreconditionFailed) as error:
            # The object may be gone because a folder above it moves: then its bytes are under the new name in
            # a moment.
            self._open_files.barrier.wait(lambda: file.path)
            if file.name != name:  # its folder moved: the bytes are under another name now
                return self.read(handle, offset, size)
            if isinstance(error, PreconditionFailed):
                if file.entry is not None and file.cached_file.is_untouched():
                    # It may be gone, or never have been there.
                    self._namespace.check(file.path, file.entry)
                # The next open must not find the version that is gone.
                self._namespace.invalidate(file.path)
            raise

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        """Return where data or a hole begins, as `FileState.seek` does."""
        return self._open_files.handle(handle).file.cached_file.seek(offset, whence)

    def write(self, handle: int, offset: int, size: int, fill: Fill) -> int:
        """Let `fill(descriptor, position)` copy bytes, with O_APPEND to the end; return how many."""
        opened = self._open_files.handle(handle)
        file = opened.file
        if offset + size > self._services.layout.largest_file:
            raise os_error(errno.EFBIG, file.path)
        with file.lock:
            # The end of the file as it is now: the kernel's offset is from an attribute that may be old.
            copied = file.cached_file.write(file.cached_file.size if opened.append else offset, size, fill)
            self.touch(file)
        return copied

    def truncate(self, path: str, size: int) -> None:
        """Make a file `size` bytes long; a file that is not open is handed in before this returns.

        Raise `OSError` ESTALE, or EBUSY as `open` does, if the kernel has to look the name up again: it is
        about to cut an older version.
        """
        self._pending.refuse_change(path)
        if self._open_files.replaced.at(path) is not None:
            raise os_error(errno.ESTALE, path)
        path = self._open_files.resolve(path)
        with self._pending.changing(path):
            # With O_TRUNC nothing of the old bytes is needed.
            handle = self.open(path, os.O_WRONLY if size else os.O_WRONLY | os.O_TRUNC)
            try:
                self.truncate_handle(handle, size)
                self.flush(handle)
            finally:
                self.release(handle)

    def truncate_handle(self, handle: int, size: int) -> None:
        """Make an open file `size` bytes long."""
        file = self._open_files.handle(handle).file
        # Before the file's lock: a shorter file may be handed in.
        with self._open_files.barrier.passing(lambda: (file.path,)):
            self._truncate(file, size)

    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        """Extend the file to `offset + length` bytes, or make that range zeros; no space is reserved.

        `mode` has the bits of fallocate(2). Raise `OSError` EOPNOTSUPP for those that move bytes.
        """
        if mode & ~(_KEEP_SIZE | _PUNCH_HOLE | _ZERO_RANGE):
            raise os_error(errno.EOPNOTSUPP)
        file, end = self._open_files.handle(handle).file, offset + length
        with file.lock:
            before = file.cached_file.size
            if not mode & _KEEP_SIZE:
                self._truncate(file, max(before, end))
            if mode & (_PUNCH_HOLE | _ZERO_RANGE):
                self._zero(file, offset, min(end, before))

    def flush(self, handle: int) -> None:
        """Hand in changes through any handle of the file; part of close()."""
        opened = self._open_files.handle(handle)
        if opened.writable:
            self._write_back.flush(opened.file)

    def fsync(self, handle: int, data_only: bool) -> None:  # noqa: ARG002
        """Return when the file's bytes are in Swift, or raise the error."""
        self._write_back.flush(self._open_files.handle(handle).file, durable=True)

    def release(self, handle: int) -> None:
        """Close a handle; with the last one, hand in changes after its flush, such as those of a mapping.

        While other handles are open, their flushes hand the file in.
        """
        file = self._open_files.handle(handle).file
        # Only then release(2) hands something in, and has to wait for a rename of the folder.
        if file.dirty or file.held_deletion is not None:
            with self._open_files.barrier.passing(lambda: (file.path,)):
                self._write_back.close(handle, file)
        else:
            self._write_back.close(handle, file)
        if (file.unlinked or file.aside) and not file.users:
            self._inodes.forget(file.known_as)

    def mknod(self, path: str, mode: int, device: int, caller: Caller) -> None:
        """Create an empty file, a FIFO or a socket; EPERM for a device node, but of root with `special`."""
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFREG:
            handle = self.create(path, mode, os.O_WRONLY | os.O_EXCL, caller)
            try:
                self.flush(handle)
            finally:
                self.release(handle)
            return
        is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        may_make = caller.uid == 0 and self._services.options.special
        if kind not in (stat.S_IFIFO, stat.S_IFSOCK) and not (is_device and may_make):
            raise os_error(errno.EPERM, path)
        self._make_special(path, stat.S_IMODE(mode) | kind, caller, device=device if is_device else None)

    def symlink(self, target: str, path: str, caller: Caller) -> None:
        """Create a symbolic link at `path`."""
        self._make_special(path, stat.S_IFLNK | 0o777, caller, target=target)

    def link(self, old: str, new: str) -> None:
        """Give the file `old` a copy at `new`, which is in Swift when this returns: an object has one name.

        Raise `OSError` EPERM without the option, and for a folder; errors of the upload of `old`, which is
        stored first, and of the copy.
        """
        self._pending.refuse_change(old, new)
        if self._services.options.hardlinks != "copy":
            raise os_error(errno.EPERM, new)
        old = self._open_files.resolve(old)
        self._journal.undo_late_requests(old)
        with self._pending.changing(old, new):
            name = self._free_for_link(new)
            source = self._stored_as_it_is(old)
            assert source.object is not None
            try:
                info = self._journal.run_unjournaled(CopyFile(source.object, name))
            except AlreadyExists:
                self._namespace.invalidate(new)
                raise
            assert info is not None
            meta = source.meta.without_dlo() if source.meta is not None else None
            entry = stored_entry(moved_entry(replace(source, meta=meta), split(new)[1], name), info)
            self._namespace.record(new, entry)
            self._times.created(new, source.attributes.mtime_ns)
            self._times.changed(new, is_folder=False)
            media_type = type_after_rename(entry.media_type, source.object.key, name.key)
            if media_type != entry.media_type and stat.S_ISREG(entry.attributes.mode):
                self._changes.retype(new, entry, media_type)

    def _free_for_link(self, path: str) -> ObjectName:
        """Return the object for a new path, of which no change waits; raise `OSError` EEXIST if it exists."""
        if self._open_files.at(path) is not None or self._namespace.find(path) is not None:
            raise os_error(errno.EEXIST, path)
        check_new_name(path)
        name = self._namespace.new_object(path)
        self._write_back.free_name(name)
        self._journal.flush([name])  # its deletion must not come after the copy
        return name

    def _stored_as_it_is(self, path: str) -> Entry:
        """Store the file at `path` as it is now, and return its entry."""
        with self._write_back.held_open(path) as file:
            if file is not None:
                self._write_back.hand_in_changes(file)
        entry = self._namespace.lookup(path)
        if entry.is_directory:
            raise os_error(errno.EPERM, path)
        assert entry.object is not None
        self._journal.flush([entry.object])
        self._journal.raise_refusal(entry.object)
        return self._namespace.lookup(path)

    def readlink(self, path: str) -> str:
        """Return the target of a symbolic link."""
        entry = self._pending.look_up(path)
        if not entry.attributes.is_symlink or entry.object is None:
            raise os_error(errno.EINVAL, path)
        if entry.target is not None:
            return entry.target
        if (pending := self._journal.body(entry.object)) is not None:
            return pending.decode()
        return self.target_of(path, entry)

    def target_of(self, path: str, entry: Entry) -> str:
        """Return the target of the symbolic link `entry`, as Swift has it."""
        if entry.target is not None:
            return entry.target
        assert entry.object is not None
        body = bytearray(entry.attributes.size)

        def sink(offset: int, data: bytes) -> None:
            body[offset : offset + len(data)] = data

        self._store.get(entry.object, sink, etag=entry.etag, size=len(body))
        target = body.decode("utf-8", "replace")
        if "\0" in target or target.encode() != body:
            raise os_error(errno.EIO, path)
        return target

    def close(self) -> None:
        """Close every file, and end the threads."""
        # Files that are unlinked have their deletion handed in here.
        for file in self._open_files.all():
            self._write_back.dispose(file)
        self._prefetch.close()

    def _make_special(
        self, path: str, mode: int, caller: Caller, *, target: str | None = None, device: int | None = None
    ) -> None:
        with self._pending.changing(path):
            name = self._namespace.new_object(path)
            if self._open_files.at(path) is not None or self._namespace.find(path) is not None:
                raise os_error(errno.EEXIST, path)
            check_new_name(path)
            self._write_back.free_name(name)
            mode, owner = in_folder(self._namespace, path, mode, caller)
            stored = Stored(mode, unix_time_ns(), owner.uid, owner.gid, target, device=device)
            meta, body = ObjectMeta(SPECIAL_TYPES[stat.S_IFMT(mode)], stored), (target or "").encode()
            entry = unstored_entry(path, name, len(body), meta, self._defaults)
            self._pending.submit(path, PutSpecial(name, body, meta, creates=True), entry)
            self._times.created(path, entry.attributes.mtime_ns)

    def _add_handle(self, file: OpenFile, flags: int) -> int:
        """Return a handle on the new `file`, or on the one that another thread opened meanwhile."""
        handle, shared = self._open_files.open(file, **_access(flags))
        if shared is not file:
            self._file_cache.release(file.cached_file)
        return handle

    def _open_object(self, path: str, entry: Entry, *, is_read: bool = True) -> OpenFile:
        """Return the open file of an object, with the bytes that are in the cache or not stored yet."""
        assert entry.object is not None
        # First: what waits in the journal is newer than what Swift has.
        try:
            cached_file = self._journal.acquire_pending(entry.object)
        except CutFile:
            if is_read:
                raise
            # Its bytes are not needed: the next flush replaces the record.
            cached_file = self._file_cache.new(entry.object, None)
        if cached_file is None:
            if not (entry.etag or entry.hash):  # it was stored since `entry` was looked up
                entry = self._namespace.lookup(path)
            entry = self._verified(path, entry)
            version, size = entry.version, entry.attributes.size
            manifest = None
            # Now, not at the first read: by then a program that copies has created its target.
            if is_read and _is_large(entry) and version not in self._file_cache:
                manifest = self._store.check_manifest(version)
            if manifest is not None and manifest.etag != entry.etag:
                manifest = None
            base = BaseVersion(version.name, entry.etag, size, size, manifest)
            cached_file = self._prefetch.acquire(version) or self._file_cache.new(version.name, base)
        cached_file.forget_get_info()  # headers from a download of an earlier open may be stale
        meta = entry.meta or ObjectMeta(entry.media_type)
        file = OpenFile(path, entry.version.name, cached_file, entry.attributes, meta, entry)
        file.foreign_headers_unknown = entry.meta is None
        if (dlo_prefix := meta.dlo_prefix) is not None:
            cached_file.uploads.record.keep_out_of(dlo_prefix)
        return file

    def _verified(self, path: str, entry: Entry) -> Entry:
        """Return the entry with its true version before cached bytes are used for the file.

        Without cached bytes the download finds the version. While Swift does not answer the cache is used.
        """
        if not entry.hinted:
            return entry
        try:
            return self._namespace.verify(path, entry, ask=entry.version in self._file_cache)
        except StoreError as error:
            if not error.retryable:
                raise
            return entry

    def _truncate_opened(self, handle: int, file: OpenFile) -> None:
        """Make a file empty that is being opened; close the handle if that fails."""
        try:
            self._truncate(file, 0)
        except BaseException:
            self._write_back.close(handle, file)
            raise

    def _truncate(self, file: OpenFile, size: int) -> None:
        if size > self._services.layout.largest_file:
            raise os_error(errno.EFBIG, file.path)
        with file.lock:
            if size == 0 and not file.trash:
                file.trash = trash_key(file.entry, self._services.trash)
            if size == 0 and self._file_cache.is_pinned(file.cached_file):
                # The journal needs the bytes of its record until the next flush replaces them.
                before, file.cached_file = file.cached_file, self._file_cache.new(file.name, None)
                self._file_cache.release(before)
            elif size != file.cached_file.size:
                file.cached_file.truncate(size, partial(self._record_cut, file))
            self.touch(file)

    def _zero(self, file: OpenFile, start: int, end: int) -> None:
        """Make a range of an open file zeros, which take no space in its local file; its lock is held."""

        def punch(descriptor: int, position: int) -> int:
            punch_hole(descriptor, position, size)
            return size

        while start < end:
            size = min(_ZEROS - start % _ZEROS, end - start)
            file.cached_file.write(start, size, punch)
            self.touch(file)
            start += size

    def _record_cut(self, file: OpenFile) -> bool:
        """Hand in a file that becomes shorter, if the journal has a record of its local file.

        Otherwise the next mount, after a kill, would store zeros under the size of that record. Return
        whether a power cut would bring back the file as it was: then its bytes must stay for now.
        """
        if self._file_cache.is_pinned(file.cached_file) and not file.unlinked:
            self.touch(file)
            self._write_back.hand_in(file)
        return self._journal.needs_older(file.cached_file)

    def touch(self, file: OpenFile) -> None:
        """Record that the bytes of an open file have changed; its lock is held."""
        before, now = file.attributes, unix_time_ns()
        file.attributes = before.modified(now)
        # Once for each hand-in, which does it again: this runs for every write.
        if not file.dirty:
            self._times.wrote(file.known_as, now, before.mtime_ns)
        # A new change is a new attempt.
        if file.changes is not Changes.DIRTY:
            file.become(Changes.DIRTY)


def _access(flags: int) -> dict[str, bool]:
    """Return what a handle may do by the flags of open(2)."""
    return {"writable": flags & os.O_ACCMODE != os.O_RDONLY, "append": bool(flags & os.O_APPEND)}


def _is_large(entry: Entry) -> bool:
    """Return whether the object is known to be an SLO or a DLO."""
    return bool(entry.is_slo) or (entry.meta is not None and entry.meta.is_dlo)
