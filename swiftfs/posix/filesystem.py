"""The file system: POSIX meaning over paths and handles. No kernel is needed to run it.

Paths are absolute in the mount. Failures are `OSError` with an errno, or `SwiftfsError`, whose errno
`swiftfs.errors.errno_of` tells.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from swiftfs.attributes import SPECIAL_TYPES, Stored
from swiftfs.concurrency import unix_time_ns
from swiftfs.errors import SwiftfsError, os_error
from swiftfs.filecache.cached_file import Fill
from swiftfs.journal.database import Record
from swiftfs.journal.operations import Description, PutSpecial
from swiftfs.journal.report import PendingChange
from swiftfs.namespace.entry import inode_of
from swiftfs.namespace.inodes import Inodes
from swiftfs.objects import Attributes, Caller, FileSpan, FilesystemUsage, ObjectName
from swiftfs.paths import Source, escape, join, split, unescape
from swiftfs.posix.attribute_ops import AttributeOps
from swiftfs.posix.directory_ops import DirectoryOps
from swiftfs.posix.file_ops import FileOps
from swiftfs.posix.open_files import OpenFile, OpenFiles
from swiftfs.posix.pending import PendingChanges, file_change
from swiftfs.posix.rename_ops import RenameOps, deletion_of
from swiftfs.posix.services import Services
from swiftfs.posix.statfs import UsageReport

HIDDEN_NAME = re.compile(r"\.fuse_hidden[0-9a-f]{16}")
"""libfuse renames an open file so before it is unlinked or renamed over; such a name never reaches Swift."""


class FileSystem:
    """One mounted source; `records` are what an earlier process promised."""

    def __init__(self, rooms: Services, source: Source, records: Iterable[Record] = ()) -> None:
        self._services = rooms
        self._records = records
        self._source = source
        self._namespace = rooms.namespace
        self._journal = rooms.journal
        self._inodes = Inodes(source)
        table = OpenFiles()
        self._pending = PendingChanges(rooms, table)
        self._file_ops = FileOps(rooms, self._pending, table)
        self._directory_ops = DirectoryOps(rooms, source, self._file_ops, self._pending, self._inodes)
        self._rename_ops = RenameOps(rooms, self._file_ops, self._directory_ops, self._pending)
        self._attribute_ops = AttributeOps(rooms, source, self._file_ops, self._pending)
        self._usage = UsageReport(rooms.store, source)

    @property
    def services(self) -> Services:
        """What it is made of, for who watches it."""
        return self._services

    def written(self) -> list[OpenFile]:
        """Return the open files with changes that the journal has not got."""
        return [node for node in self._file_ops.table.all() if node.dirty]

    def begin(self) -> None:
        """Ask Swift for the root, and go on with what an earlier process left.

        Raise `NotFound` when the container does not exist.
        """
        self._namespace.load_root()
        self._journal.recover(self._records, self._pending.recovered)

    def refresh(self) -> None:
        """Ask Swift again for all that is remembered of its listings."""
        self._namespace.invalidate_all()

    def getattr(self, path: str) -> Attributes:
        """Return the attributes of `path`."""
        node = self._file_ops.current(path, ask=False)
        if node is not None:
            return self._inodes.of_open(path, node.current_attributes)
        return self._inodes.of(path, self._namespace.lookup(path).attributes)

    def getattr_handle(self, handle: int) -> Attributes:
        """Return the attributes of an open file, whether or not it has a path still."""
        node = self._file_ops.table.handle(handle).node
        return self._inodes.of_open(node.path, node.current_attributes)

    def readlink(self, path: str) -> str:
        """Return the target of a symbolic link."""
        entry = self._namespace.lookup(path)
        if not entry.attributes.is_symlink or entry.object is None:
            raise os_error(errno.EINVAL, path)
        if entry.target is not None:
            return entry.target
        if (waiting := self._journal.body(entry.object)) is not None:
            return waiting.decode()
        body = bytearray(entry.attributes.size)

        def sink(offset: int, data: bytes) -> None:
            body[offset : offset + len(data)] = data

        self._services.store.get(entry.object, sink, etag=entry.etag)
        return body.decode()

    def opendir(self, path: str) -> int:
        """Open a folder for `readdir`."""
        return self._directory_ops.open(path)

    def readdir(self, handle: int) -> Iterator[tuple[str, Attributes]]:
        """Yield the names in an open folder, with attributes as far as its listing knows them."""
        return self._directory_ops.read(handle)

    def fsyncdir(self, handle: int) -> None:
        """Return when Swift has the folder and all that was closed below it, or raise why it has not."""
        self._directory_ops.flush(handle)

    def releasedir(self, handle: int) -> None:
        """Close a folder."""
        self._directory_ops.release(handle)

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """Make a folder, or at the top of an account a container."""
        with self._changing(path):
            self._directory_ops.make(path, mode, caller)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder or container."""
        with self._changing(path):
            self._directory_ops.remove(path)
        self._inodes.forget(path, is_folder=True)

    def mknod(self, path: str, mode: int, device: int, caller: Caller) -> None:
        """Make an empty file, a FIFO or a socket; a device node is EPERM unless root makes it."""
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFREG:
            handle = self.create(path, mode, os.O_WRONLY | os.O_EXCL, caller)
            try:
                self.flush(handle)
            finally:
                self.release(handle)
        elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
            self._put_small(path, b"", stat.S_IMODE(mode) | kind, caller)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK) and caller.uid == 0:
            self._put_small(path, b"", stat.S_IMODE(mode) | kind, caller, device=device)
        else:
            raise os_error(errno.EPERM, path)

    def symlink(self, target: str, path: str, caller: Caller) -> None:
        """Make a symbolic link at `path`."""
        self._put_small(path, target.encode(), stat.S_IFLNK | 0o777, caller, target)

    def unlink(self, path: str) -> None:
        """Delete a file, a link or a special file."""
        with self._changing(path):
            self._unlink(path)

    def _unlink(self, path: str) -> None:
        entry = self._namespace.find(path)
        if entry is not None and entry.is_directory:
            raise os_error(errno.EISDIR, path)
        if self._file_ops.table.at(path) is not None:
            self._hide(path, f"{path}.fuse_hidden")
        elif entry is None or entry.object is None:
            raise os_error(errno.ENOENT, path)
        else:
            self._directory_ops.keep_parent(path)
            self._pending.submit(path, deletion_of(entry), None)
            self._inodes.forget(path)

    def rename(self, old: str, new: str) -> None:
        """Rename a file or folder over whatever POSIX lets it replace."""
        if old == new:
            return
        moving = self._namespace.find(old) if self._file_ops.table.at(old) is None else None
        if moving is not None and moving.is_directory:
            with self._file_ops.table.barrier.closed(old, new):
                self._directory_ops.rename(old, new, moving, self._namespace.find(new))
                self._inodes.move_folder(old, new)
        else:
            with self._changing(old, new):
                self._rename_file(old, new)

    def _rename_file(self, old: str, new: str) -> None:
        node = self._file_ops.table.at(old)
        # A program that writes a file of such a name does so under a temporary name that holds the name.
        if HIDDEN_NAME.fullmatch(split(new)[1]) and split(new)[1] not in split(old)[1]:
            if node is not None:
                self._hide(old, new)
                return
            # libfuse counts a handle as open until after its release: then nobody will unlink `new`.
            if self._file_ops.table.was_just_released(old):
                self._unlink(old)
                return
        moving, target = self._namespace.find(old), self._namespace.find(new)
        if target is not None and target.is_directory:
            raise os_error(errno.EISDIR, new)
        if node is not None:
            with node.lock:
                self._rename_ops.rename_open(node, new, self._new_name(new), target)
        elif moving is not None:
            self._rename_ops.move(old, new, self._new_name(new), moving, target)
        else:
            raise os_error(errno.ENOENT, old)
        self._inodes.move(old, new)

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits."""
        self._change(path, lambda stat_: replace(stat_, mode=stat.S_IFMT(stat_.mode) | stat.S_IMODE(mode)))

    def chown(self, path: str, uid: int | None, gid: int | None, caller: Caller) -> None:
        """Set owner and group, None for unchanged; to give a file away is root's privilege."""
        if caller.uid != 0 and uid not in (None, self.getattr(path).uid):
            raise os_error(errno.EPERM, path)
        self._change(
            path,
            lambda stat_: replace(
                stat_, uid=stat_.uid if uid is None else uid, gid=stat_.gid if gid is None else gid
            ),
        )

    def utimens(self, path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Set the time of modification in ns, None for unchanged; a time of access is not kept."""
        if mtime_ns is not None:
            self._change(path, lambda stat_: replace(stat_, mtime_ns=mtime_ns))

    def getxattr(self, path: str, name: str) -> bytes:
        """Return the value of a `user.*` attribute; raise `OSError` ENODATA when there is none."""
        return self._attribute_ops.get_xattr(path, name)

    def listxattr(self, path: str) -> list[str]:
        """Return the names of the `user.*` attributes."""
        return self._attribute_ops.list_xattrs(path)

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Set a `user.*` attribute; `flags` as in setxattr(2)."""
        with self._changing(path):
            self._attribute_ops.set_xattr(path, name, value, flags)

    def removexattr(self, path: str, name: str) -> None:
        """Remove a `user.*` attribute; raise `OSError` ENODATA when there is none."""
        with self._changing(path):
            self._attribute_ops.remove_xattr(path, name)

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> int:
        """Create and open a file; without O_EXCL one that came to be meanwhile is opened."""
        with self._changing(path):
            return self._create(path, mode, flags, caller)

    def _create(self, path: str, mode: int, flags: int, caller: Caller) -> int:
        name = self._new_name(path)
        existing = self._namespace.find(path)
        if self._file_ops.current(path) is not None or existing is not None:
            if flags & os.O_EXCL:
                raise os_error(errno.EEXIST, path)
            return self.open(path, flags)
        permissions = stat.S_IMODE(mode) | stat.S_IFREG
        attributes = Attributes(permissions, 0, unix_time_ns(), caller.uid, caller.gid, inode_of(name))
        return self._file_ops.create(path, name, attributes, flags)

    def open(self, path: str, flags: int) -> int:
        """Open an existing file, emptied with O_TRUNC."""
        node = self._file_ops.current(path)
        if node is not None:
            return self._file_ops.reopen(node, flags)
        entry = self._namespace.lookup(path)
        if entry.is_directory:
            raise os_error(errno.EISDIR, path)
        if entry.missing and not flags & os.O_TRUNC:
            raise os_error(errno.ENOENT, path)
        return self._file_ops.open(path, entry, flags)

    def read(self, handle: int, offset: int, size: int) -> FileSpan:
        """Return where the bytes lie in a local file; fewer come only where the file ends."""
        return self._file_ops.read(handle, offset, size)

    def write(self, handle: int, offset: int, size: int, fill: Fill) -> int:
        """Let `fill(descriptor, position)` copy the bytes; return how many it copied."""
        return self._file_ops.write(handle, offset, size, fill)

    def truncate(self, path: str, size: int) -> None:
        """Make a file `size` bytes long; a file nobody has open is stored before this returns."""
        with self._changing(path):
            handle = self.open(path, os.O_WRONLY)
            try:
                self.truncate_handle(handle, size)
                self.flush(handle)
            finally:
                self.release(handle)

    def truncate_handle(self, handle: int, size: int) -> None:
        """Make an open file `size` bytes long."""
        self._file_ops.truncate(self._file_ops.table.handle(handle).node, size)

    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        """Extend the file to `offset + length` bytes; only mode 0 is known."""
        if mode:
            raise os_error(errno.EOPNOTSUPP)
        node = self._file_ops.table.handle(handle).node
        self._file_ops.truncate(node, max(node.content.size, offset + length))

    def flush(self, handle: int) -> None:
        """Hand in what was written through any handle of the file; part of close()."""
        opened = self._file_ops.table.handle(handle)
        if opened.writable:
            self._file_ops.flush(opened.node)

    def fsync(self, handle: int, data_only: bool) -> None:
        """Return when the file's bytes are in Swift, or raise why they are not."""
        self._file_ops.flush(self._file_ops.table.handle(handle).node, durable=True)

    def release(self, handle: int) -> None:
        """End a handle."""
        node = self._file_ops.table.handle(handle).node
        self._file_ops.release(handle)
        if node.unlinked and not node.users:
            self._inodes.forget(node.path)

    def statfs(self, path: str) -> FilesystemUsage:
        """Return size and free space as the quotas tell them."""
        return self._usage.of(path)

    def waiting(self) -> list[PendingChange]:
        """Return the changes that Swift has not got yet."""
        return self._journal.waiting()

    def retry(self) -> None:
        """Try again what was parked."""
        self._journal.retry()

    def close(self, progress: Callable[[int], None] = lambda _: None) -> None:
        """Store what is not in Swift yet and end every thread; the mount is gone.

        `progress` is called with the number of changes that wait. What cannot be stored within the option
        `drain` stays on the disk for the next mount; raise `SwiftfsError` that says so, and which changes
        Swift refused without anybody being told.
        """
        lost = [node.path for node in self._file_ops.table.all() if not self._file_ops.drain(node)]
        self._file_ops.close()
        left = self._journal.close(self._services.options.drain, progress, self._services.store.close)
        self._services.contents.close()
        self._namespace.close()
        refused = self._journal.refused()
        problems = []
        if lost:
            problems.append(f"{len(lost)} files were not stored: {', '.join(lost[:5])}")
        if left:
            first = left[0]
            problems.append(
                f"{len(left)} changes stay in {self._services.cache}, and the next mount goes on with them; "
                f"the first is {first.path}: {first.reason or 'there was no time'}"
            )
        if refused:
            first = refused[0]
            problems.append(
                f"{len(refused)} changes were refused and given up; the first is {first.path}: {first.reason}"
            )
        if problems:
            raise SwiftfsError("; ".join(problems))

    def _hide(self, path: str, hidden: str) -> None:
        """Take the name from an open file, which keeps its number until its last handle goes."""
        self._rename_ops.hide(path, hidden)
        self._inodes.move(path, hidden)

    @contextmanager
    def _changing(self, *paths: str) -> Iterator[None]:
        """Make a change about `paths` when no folder above them is moving.

        Raise `OSError` ENOENT when the folder of one has moved away meanwhile.
        """
        with self._file_ops.table.barrier.passing(lambda: paths) as waited:
            if waited:
                for path in paths:
                    self._namespace.lookup(split(path)[0], complete=False)
            yield

    def _change(self, path: str, update: Callable[[Attributes], Attributes]) -> None:
        with self._changing(path):
            self._attribute_ops.change(path, update)

    def _new_name(self, path: str) -> ObjectName:
        """Return the object for a new file; the second name `a%file` exists only beside a folder `a`."""
        parent, name = split(path)
        component, shadowed = unescape(name)
        if escape(component, shadowed=shadowed) != name:
            raise os_error(errno.EINVAL, path)
        if shadowed:
            folder = self._namespace.find(join(parent, escape(component)))
            if folder is None or not folder.is_directory:
                raise os_error(errno.EINVAL, path)
        return self._source.object(path)

    def _put_small(
        self,
        path: str,
        body: bytes,
        mode: int,
        caller: Caller,
        target: str | None = None,
        device: int | None = None,
    ) -> None:
        with self._changing(path):
            self._make_small(path, body, mode, caller, target, device)

    def _make_small(
        self, path: str, body: bytes, mode: int, caller: Caller, target: str | None, device: int | None
    ) -> None:
        name = self._new_name(path)
        if self._file_ops.table.at(path) is not None or self._namespace.find(path) is not None:
            raise os_error(errno.EEXIST, path)
        self._file_ops.settle_hidden(name)
        stored = Stored(mode, unix_time_ns(), caller.uid, caller.gid, target, device=device)
        description = Description(SPECIAL_TYPES[stat.S_IFMT(mode)], stored)
        entry = file_change(path, name, len(body), description, self._services.defaults)
        self._pending.submit(path, PutSpecial(name, body, description, creates=True), entry)
