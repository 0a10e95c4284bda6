"""The filesystem: system calls on paths and handles. No kernel is needed to run it.

Paths are absolute in the mount. Failures are `OSError` with an errno, or `SwiftfsError`, whose errno
`swiftfs.errors.errno_of` returns.
"""

import errno
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from cachetools import LRUCache
from msgspec.structs import replace

from swiftfs.concurrency import Rank, monotonic, new_event, new_lock, new_thread
from swiftfs.errors import AccessDenied, NotFound, StoreError, SwiftfsError, in_words, os_error, pluralize
from swiftfs.filecache.range_copier import CopySource
from swiftfs.filecache.segment_container import AUTO, place_beside
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.journal.earlier_changes import EarlierChanges
from swiftfs.journal.queue_report import QueuedChange
from swiftfs.objects import FilesystemUsage, Usage
from swiftfs.paths import MAX_NAME_BYTES, Source
from swiftfs.posix.attribute_ops import AttributeOps
from swiftfs.posix.directory_ops import DirectoryOps, UnlinkOps
from swiftfs.posix.file_ops import FileOps
from swiftfs.posix.open_file import OpenFile
from swiftfs.posix.open_files import OpenFiles
from swiftfs.posix.pending import PendingChanges, ProtectedPaths
from swiftfs.posix.rename_ops import RenameOps
from swiftfs.posix.services import Services
from swiftfs.posix.version_tree import VersionTree
from swiftfs.posix.write_back import AttributeChanges, WriteBack
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.retry import deadline

log = logging.getLogger(__name__)

ROOT_SECONDS = 8.0
"""How long a mount tries to get its root: whoever mounts waits for it."""


class FileSystem:
    """One mount of `services`; `left` are the changes that an earlier process left in the journal.

    The methods that `fuse/operations.py` calls are those of the parts, without a call in between; a call that
    only reads may be about older versions instead.
    """

    def __init__(self, services: Services, left: EarlierChanges) -> None:
        self.services = services
        self._left = left
        protected = ProtectedPaths(services)
        self._pending = pending = PendingChanges(services, protected)
        self._write_back = write_back = WriteBack(services, pending)
        changes = AttributeChanges(services, pending, write_back)
        self._files = files = FileOps(services, pending, write_back, changes)
        directories = DirectoryOps(services, pending, write_back)
        unlinks = UnlinkOps(services, pending, write_back, directories)
        renames = RenameOps(services, pending, write_back, directories, unlinks, changes)
        attributes = AttributeOps(services, pending, directories, changes)
        self._set_reads(VersionTree(services, files, protected), attributes, directories, files)
        self._set_page_calls(services.open_files)

        self.getattr_handle = attributes.getattr_handle
        self.chmod, self.chown, self.utimens = attributes.chmod, attributes.chown, attributes.utimens
        self.setxattr, self.removexattr = attributes.setxattr, attributes.removexattr
        self.mkdir, self.rmdir = directories.mkdir, directories.rmdir
        self.create, self.mknod = files.create, files.mknod
        self.symlink, self.link = files.symlink, files.link
        self.read, self.write, self.lseek = files.read, files.write, files.lseek
        self.truncate, self.truncate_handle = files.truncate, files.truncate_handle
        self.flush, self.fsync, self.release = files.flush, files.fsync, files.release
        self.fallocate, self.set_prefetch = files.fallocate, files.set_prefetch
        self.copy_file_range = RangeCopies(services.open_files, services.layout, files).copy_file_range
        self.unlink, self.unhide = unlinks.unlink, unlinks.unhide
        self.rename, self.hide = renames.rename, renames.hide

        self._usage = UsageReport(services.store, services.source, services.options.segments)
        self.statfs = self._usage.of
        self.drain_seconds = services.options.drain
        self.waiting, self.retry = services.journal.waiting, services.journal.retry
        self.refresh = services.namespace.invalidate_all

    def _set_reads(
        self, versions: VersionTree, attributes: AttributeOps, directories: DirectoryOps, files: FileOps
    ) -> None:
        """Set the calls that may be about older versions."""
        before, handles = versions.before, versions.handles
        self.getattr = before(versions.getattr, attributes.getattr)
        self.getxattr = before(versions.getxattr, attributes.getxattr)
        self.listxattr = before(versions.listxattr, attributes.listxattr)
        self.open = before(versions.open, files.open)
        self.readlink = before(versions.readlink, files.readlink)
        self.opendir = before(versions.opendir, directories.opendir)
        self.readdir = handles(versions.readdir, directories.readdir)
        self.known_attributes = handles(versions.known_attributes, attributes.known_attributes)
        self.fsyncdir = handles(versions.fsyncdir, directories.fsyncdir)
        self.releasedir = handles(versions.releasedir, directories.releasedir)

    def _set_page_calls(self, opened: OpenFiles) -> None:
        """Set the calls by which the kernel's pages and inodes follow the versions of open files."""
        replaced = opened.replaced
        self.path_of_handle, self.page_use = opened.path_of_handle, opened.page_use
        self.is_local, self.check_exists = opened.is_local, opened.check_exists
        self.is_other_inode, self.wait_for_move = replaced.is_other_inode, replaced.wait
        self.moves, self.cut_off = replaced.moves, replaced.cut_off

    def written(self) -> list[OpenFile]:
        """Return the open files with changes that the journal does not have."""
        return [file for file in self.services.open_files.all() if file.dirty]

    def begin(self, usage: Usage | None = None) -> None:
        """Ask Swift for the root, and continue with the changes that an earlier process left.

        Without `usage`, the answer about the source's container or account, ask for that, too. Raise
        `NotFound` if the container does not exist.
        """
        with deadline(ROOT_SECONDS):
            self._learn_root(usage)
        self._recover()

    def begin_offline(self, usage: Usage) -> bool:
        """Begin without the server, as it answered before; return False if too little is known."""
        if not self.services.namespace.recall_root():
            return False
        self._usage.assume(usage)
        self._learn_history(usage)
        self._recover()
        return True

    def come_back(self, usage: Usage) -> None:
        """Continue with the server, which was away: learn of the root, and store what waits."""
        with suppress(StoreError), deadline(ROOT_SECONDS):
            self._learn_root(usage)
        self.retry()

    def _learn_root(self, usage: Usage | None) -> None:
        container = self.services.source.container
        if usage is None and container:
            usage = self.services.store.container_usage(container)
        if usage is not None:
            self._learn_history(usage)
        self.services.namespace.load_root(usage)

    def _learn_history(self, usage: Usage) -> None:
        if container := self.services.source.container:
            histories = self.services.histories
            histories.learn(container, usage.history, versioning=usage.versioning)

    def _recover(self) -> None:
        self.services.journal.recover(self._left, self._pending)

    def close(self, progress: Callable[[int], None] = lambda _: None, why: str = "") -> None:
        """Store all pending changes and end every thread; the mount is gone.

        `progress` is called with the number of pending changes. After `drain_seconds`, which may be changed
        until then, no request is begun any more, for whatever: changes stay on the disk for the next mount;
        `why` is the reason if none can be stored. Raise `SwiftfsError` if there are such changes, if files
        could not be handed in, or if Swift refused changes that were not reported yet.
        """
        journal, seconds = self.services.journal, self.drain_seconds
        journal.begin_closing()
        with _calling_after(seconds, self.services.store.close):
            # Files first: they hand in changes. Then the journal stores these, which needs the cache and the
            # namespace.
            drain = self._write_back.drain
            lost = [file.path for file in self.services.open_files.all() if not drain(file)]
            self._files.close()
            left = journal.close(seconds, progress)
            self.services.file_cache.close()
            self.services.namespace.close()
        problems = []
        if lost:
            problems.append(f"{pluralize(len(lost), 'file')} could not be stored: {', '.join(lost[:5])}")
        if left:
            stay, them = ("stays", "it") if len(left) == 1 else ("stay", "them")
            why = why or f"not sent within {in_words(seconds)} (drain)"
            problems.append(
                f"{pluralize(len(left), 'change')} {stay} in {self.services.cache_dir}, "
                f"and the next mount continues with {them}; {_first(left, why)}"
            )
        if refused := journal.refused():
            were = "was" if len(refused) == 1 else "were"
            changes = pluralize(len(refused), "change")
            problems.append(f"{changes} {were} refused and given up; {_first(refused, why)}")
        if problems:
            raise SwiftfsError("; ".join(problems))


def _first(changes: Sequence[QueuedChange], why: str) -> str:
    """Return the first change and its reason, `why` if it has none of its own."""
    one = changes[0]
    return f"{'it' if len(changes) == 1 else 'the first'} is {one.path}: {one.reason or why}"


@contextmanager
def _calling_after(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Call `call`, in another thread, if the block takes longer than `seconds`."""
    ended = new_event()

    def watch() -> None:
        if not ended.wait(seconds):
            call()

    thread = new_thread(watch, "time limit")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


WITHOUT_QUOTA = 2**50
"""Free bytes that are shown when no quota is set: 1 PiB."""

WITHOUT_OBJECT_QUOTA = 2**31
"""The same for objects."""

USAGE_SECONDS = 60.0
"""Seconds for which an answer is used again; Swift's own figures lag behind as much."""

USAGE_TIMEOUT = 5.0
"""Seconds after which the last answer is used again, so that `df` works in an outage."""

MAX_USAGES = 1000
"""How many answers are kept; a mount of an account has one for each container."""


class UsageReport:
    """Answers `statfs` from the headers of container and account, in an outage with the last answer.

    `segments` is where segments are (`SegmentContainerChooser`). The lock guards the answers.
    """

    def __init__(self, store: ObjectStore, source: Source, segments: str = AUTO) -> None:
        self._store = store
        self._source = source
        self._counts_beside = segments == AUTO
        self._lock = new_lock(Rank.USAGE)
        # With the time until which an answer counts without another request (monotonic seconds).
        self._answers: LRUCache[str, tuple[float, FilesystemUsage]] = LRUCache(MAX_USAGES)

    def of(self, path: str) -> FilesystemUsage:
        """Return size and free space at `path`; raise `StoreError` if Swift never has answered."""
        container = self._source.folder(path).container
        with self._lock:
            until, last = self._answers.get(container, (0.0, None))
        if last is not None and monotonic() < until:
            return last
        try:
            with deadline(USAGE_TIMEOUT if last else math.inf):
                answer = self._ask(container)
        except StoreError as error:
            if last is None or not error.retryable:
                raise
            answer = last
        with self._lock:
            self._answers[container] = monotonic() + USAGE_SECONDS, answer
        return answer

    def assume(self, usage: Usage) -> None:
        """Let `usage`, an earlier answer about the source, count until Swift answers."""
        with self._lock:
            self._answers[self._source.container] = -math.inf, _shown([usage], usage)

    def _ask(self, container: str) -> FilesystemUsage:
        account = self._store.account_usage()
        scopes = [account, self._store.container_usage(container)] if container else [account]
        shown = scopes[-1]
        if container and self._counts_beside:
            shown = replace(shown, bytes_used=shown.bytes_used + self._bytes_beside(container))
        return _shown(scopes, shown)

    def _bytes_beside(self, container: str) -> int:
        """Return the bytes of the segments of a container's large files: Swift counts them elsewhere."""
        try:
            return self._store.container_usage(place_beside(container).container).bytes_used
        except (NotFound, AccessDenied):
            return 0


def _shown(scopes: Sequence[Usage], shown: Usage) -> FilesystemUsage:
    """Return what is free by the quotas of `scopes`, of which the tightest counts, and used by `shown`."""
    free = [scope.quota_bytes - scope.bytes_used for scope in scopes if scope.quota_bytes is not None]
    free_bytes = max(0, min(free, default=WITHOUT_QUOTA))
    more = [scope.quota_objects - scope.objects for scope in scopes if scope.quota_objects is not None]
    free_objects = max(0, min(more, default=WITHOUT_OBJECT_QUOTA))
    return FilesystemUsage(
        total_bytes=shown.bytes_used + free_bytes,
        free_bytes=free_bytes,
        total_objects=shown.objects + free_objects,
        free_objects=free_objects,
        name_bytes=MAX_NAME_BYTES,
    )


LEAST = 1024 * 1024
"""Smaller objects without segments are not copied by the server. Its copy takes two COPYs, and ten minutes
later a HEAD and a part of a bulk delete, instead of one GET and one PUT with the bytes."""

CHUNK = 1024 * 1024
"""Bytes in each step of a copy through this machine."""


class RangeCopies:
    """Lets the server copy ranges of files; EOPNOTSUPP lets the kernel read and write them instead."""

    def __init__(self, open_files: OpenFiles, layout: SegmentLayout, files: FileOps) -> None:
        self._open_files = open_files
        self._layout = layout
        self._files = files

    def copy_file_range(
        self, handle_in: int, offset_in: int, handle_out: int, offset_out: int, length: int, flags: int
    ) -> int:
        """Copy bytes from one file to another; return how many, 0 at the end of the source.

        Fewer are copied where the rest is cheaper in another way. Raise `OSError` EOPNOTSUPP for what the
        server cannot copy, or not cheaper: the caller reads and writes the bytes then.
        """
        if flags:
            raise os_error(errno.EINVAL)
        source, opened = self._open_files.handle(handle_in).file, self._open_files.handle(handle_out)
        if not opened.writable or opened.append:
            raise os_error(errno.EBADF)
        length = min(length, source.cached_file.size - offset_in)
        if length <= 0:
            return 0
        target = opened.file
        if source is target:
            raise os_error(errno.EOPNOTSUPP)
        with target.lock:
            copied = self._copy(source, offset_in, target, offset_out, length)
            if copied:
                self._files.touch(target)
                return copied
        raise os_error(errno.EOPNOTSUPP)

    def _copy(self, source: OpenFile, offset_in: int, target: OpenFile, offset_out: int, length: int) -> int:
        """Copy and return how many bytes; the target's lock is held."""
        if offset_out < target.cached_file.size or target.unlinked:
            return 0
        here: int | None = 0
        if self._is_segmented(source, offset_in, offset_out, length):
            here = self._before_segment(offset_out, length)
            if here is None:
                return 0
        elif offset_in or offset_out or not self._is_worth_it(source, length):
            return 0
        if (found := self._version_of(source)) is None:
            return 0
        if here:
            return self._copy_here(source, offset_in, target, offset_out, here)
        return target.cached_file.ranges.copy(found, offset_in, offset_out, length)

    def _is_segmented(self, source: OpenFile, offset_in: int, offset_out: int, length: int) -> bool:
        """Return whether the target will be a large object, as far as is known."""
        # A program may copy a large file in small steps.
        rest = source.cached_file.size if offset_in == offset_out else 0
        return max(offset_out + length, rest) > self._layout.bounds(0)[1]

    def _before_segment(self, offset: int, length: int) -> int | None:
        """Return how many bytes come before the first segment of the target that begins among these.

        Return None if none does, or if it does not end among them and something is before it.
        """
        if offset + length > self._layout.largest_file:
            return None
        index = self._layout.index(offset)
        if self._layout.bounds(index)[0] == offset:
            return 0
        start, end = self._layout.bounds(index + 1)
        return start - offset if end <= offset + length else None

    def _is_worth_it(self, source: OpenFile, length: int) -> bool:
        """Return whether the server should copy a file of one object."""
        is_whole = length == source.cached_file.size
        return is_whole and length >= LEAST and not source.cached_file.ranges.is_present(0, length)

    def _version_of(self, source: OpenFile) -> CopySource | None:
        """Return the version that the server may copy for what a reader of `source` gets; None if none."""
        entry = source.entry
        if entry is not None and entry.meta is not None and entry.meta.is_dlo:
            return None  # its ETag says nothing of the bytes
        is_slo = entry.is_slo if entry is not None else None
        try:
            return source.cached_file.ranges.source(is_slo=is_slo)
        except StoreError as error:
            log.info("%s is not copied by the server: %s", source.path, error)
            return None

    def _copy_here(
        self, source: OpenFile, offset_in: int, target: OpenFile, offset_out: int, length: int
    ) -> int:
        """Copy the bytes before the next segment of the target, as a reader and a writer would."""
        copied = 0
        while copied < length:
            span = source.cached_file.read(offset_in + copied, min(CHUNK, length - copied))
            data = os.pread(span.descriptor, span.length, span.position)

            def fill(descriptor: int, position: int, data: bytes = data) -> int:
                # All that a full disk takes of it has to count: not `write_all`, which raises an error then.
                return os.pwrite(descriptor, data, position)

            if not data or not (size := target.cached_file.write(offset_out + copied, len(data), fill)):
                break
            copied += size
        return copied
