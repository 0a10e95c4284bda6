"""The filesystem: system calls on paths and handles. No kernel is needed to run it.

Paths are absolute in the mount. Failures are `OSError` with an errno, or `SwiftfsError`, whose errno
`swiftfs.errors.errno_of` returns.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from swiftfs.errors import StoreError, SwiftfsError, in_words, pluralize
from swiftfs.journal.commits import Record
from swiftfs.journal.queue_report import QueuedChange
from swiftfs.objects import Usage
from swiftfs.posix.attribute_changes import AttributeChanges
from swiftfs.posix.attribute_ops import AttributeOps
from swiftfs.posix.directory_ops import DirectoryOps
from swiftfs.posix.file_ops import FileOps
from swiftfs.posix.link_ops import LinkOps
from swiftfs.posix.open_file import OpenFile
from swiftfs.posix.pending import PendingChanges
from swiftfs.posix.rename_ops import RenameOps
from swiftfs.posix.services import Services
from swiftfs.posix.statfs import UsageReport
from swiftfs.posix.trash_guard import TrashGuard
from swiftfs.posix.unlink_ops import UnlinkOps
from swiftfs.posix.version_tree import VersionTree
from swiftfs.posix.write_back import WriteBack
from swiftfs.store.retry import deadline

ROOT_SECONDS = 8.0
"""How long a mount tries to get its root: whoever mounts waits for it."""


class FileSystem:
    """One mount; `records` are the changes that an earlier process left in the journal.

    The methods that `fuse/operations.py` calls are bound directly to those of the parts.
    """

    def __init__(self, services: Services, records: Iterable[Record] = ()) -> None:
        self._services = services
        self._records = records
        self._pending = pending = PendingChanges(services)
        self._write_back = write_back = WriteBack(services, pending)
        self._files = files = FileOps(services, pending, write_back)
        directories = DirectoryOps(services, pending, write_back)
        unlinks = UnlinkOps(services, pending, write_back, directories)
        changes = AttributeChanges(services, pending, write_back)
        renames = RenameOps(services, pending, write_back, files, directories, unlinks, changes)
        attributes = AttributeOps(services, pending, files, changes)

        versions, guard = VersionTree(services, files), TrashGuard(services.source, services.trash)
        before, read_only, handles = versions.before, versions.read_only, versions.handles

        self.getattr = before(versions.getattr, attributes.getattr)
        self.getattr_handle = attributes.getattr_handle
        self.chmod = read_only(guard.refusing(attributes.chmod))
        self.chown = read_only(guard.refusing(attributes.chown))
        self.utimens = read_only(guard.refusing(attributes.utimens))
        self.getxattr = before(versions.getxattr, attributes.getxattr)
        self.listxattr = before(versions.listxattr, attributes.listxattr)
        self.setxattr = read_only(guard.refusing(attributes.setxattr))
        self.removexattr = read_only(guard.refusing(attributes.removexattr))

        self.opendir = before(versions.opendir, directories.opendir)
        self.readdir = handles(versions.readdir, directories.readdir)
        self.fsyncdir = handles(versions.fsyncdir, directories.fsyncdir)
        self.releasedir = handles(versions.releasedir, directories.releasedir)
        self.mkdir = read_only(guard.refusing(directories.mkdir))
        self.rmdir = read_only(guard.refusing(directories.rmdir))

        self.create = read_only(guard.refusing(files.create))
        self.open = before(versions.open, guard.reading(files.open))
        self.page_use = services.open_files.page_use
        self.is_other_inode = services.open_files.replaced.is_other_inode
        self.moves = services.open_files.replaced.moves
        self.wait_for_move = services.open_files.replaced.wait
        self.read, self.write = files.read, files.write
        self.truncate = read_only(guard.refusing(files.truncate))
        self.truncate_handle = files.truncate_handle
        self.flush, self.fsync = files.flush, files.fsync
        self.fallocate, self.release = files.fallocate, files.release
        self.mknod = read_only(guard.refusing(files.mknod))
        self.symlink = read_only(guard.refusing(files.symlink), first=1, last=1)
        self.readlink = before(versions.readlink, files.readlink)

        self.link = read_only(guard.refusing(LinkOps(services, pending, write_back, changes).link), last=1)
        self.unlink, self.unhide = read_only(guard.refusing(unlinks.unlink)), unlinks.unhide
        self.rename = read_only(guard.refusing(renames.rename), last=1)
        self.hide = read_only(guard.refusing(renames.hide))
        self._usage = UsageReport(services.store, services.source, services.options.segments)
        self.statfs = self._usage.of

        self.drain_seconds = services.options.drain

        self.waiting, self.retry = services.journal.waiting, services.journal.retry
        self.refresh = services.namespace.invalidate_all

    @property
    def services(self) -> Services:
        """The parts of the mount, for its status."""
        return self._services

    def set_prefetch(self, on: bool) -> None:
        """Download small files before they are opened, or not."""
        self._files.set_prefetch(on)

    def written(self) -> list[OpenFile]:
        """Return the open files with changes that the journal does not have."""
        return [file for file in self._services.open_files.all() if file.dirty]

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
        if not self._services.namespace.recall_root():
            return False
        self._usage.assume(usage)
        self._learn_history(usage)
        self._recover()
        return True

    def come_back(self, usage: Usage) -> None:
        """Continue with the server, which was away: learn of the root, and store what waits."""
        with suppress(StoreError), deadline(ROOT_SECONDS):
            self._learn_root(usage)
        self._services.journal.retry()

    def _learn_root(self, usage: Usage | None) -> None:
        container = self._services.source.container
        if usage is None and container:
            usage = self._services.store.container_usage(container)
        if usage is not None:
            self._learn_history(usage)
        self._services.namespace.load_root(usage)

    def _learn_history(self, usage: Usage) -> None:
        if container := self._services.source.container:
            self._services.histories.learn(container, usage.history)

    def _recover(self) -> None:
        records, self._records = deque(self._records), ()  # there may be 100,000
        self._services.journal.recover(records, self._pending.recovered, self._pending.show_moved)

    def close(self, progress: Callable[[int], None] = lambda _: None, why: str = "") -> None:
        """Store all pending changes and end every thread; the mount is gone.

        `progress` is called with the number of pending changes. Changes that cannot be stored within
        `drain_seconds`, which may be changed until then, stay on the disk for the next mount; `why` is the
        reason if none can be. Raise
        `SwiftfsError` if there are such changes, if files could not be handed in, or if Swift refused changes
        that were not reported yet.
        """
        journal = self._services.journal
        # Files first: they hand in changes. Then the journal stores these, which needs the cache and the
        # namespace.
        lost = [file.path for file in self._services.open_files.all() if not self._write_back.drain(file)]
        self._files.close()
        left = journal.close(self.drain_seconds, progress, self._services.store.close)
        self._services.file_cache.close()
        self._services.namespace.close()
        problems = []
        if lost:
            problems.append(f"{pluralize(len(lost), 'file')} could not be stored: {', '.join(lost[:5])}")
        if left:
            stay, them = ("stays", "it") if len(left) == 1 else ("stay", "them")
            why = why or f"not sent within {in_words(self.drain_seconds)} (drain)"
            problems.append(
                f"{pluralize(len(left), 'change')} {stay} in {self._services.cache_dir}, "
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
