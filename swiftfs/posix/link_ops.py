"""`link`: an object has one name, so a second one is a copy, if the option `hardlinks` asks for it."""

import errno
import stat
from dataclasses import replace

from swiftfs.attributes import type_after_rename
from swiftfs.errors import AlreadyExists, os_error
from swiftfs.journal.operations import CopyFile
from swiftfs.namespace.entry import Entry, moved_entry
from swiftfs.objects import ObjectName
from swiftfs.paths import check_new_name, split
from swiftfs.posix.attribute_changes import AttributeChanges
from swiftfs.posix.pending import PendingChanges, stored_entry
from swiftfs.posix.services import Services
from swiftfs.posix.write_back import WriteBack


class LinkOps:
    """Makes copies on the server in place of hard links."""

    def __init__(
        self, services: Services, pending: PendingChanges, write_back: WriteBack, changes: AttributeChanges
    ) -> None:
        self._copies = services.options.hardlinks == "copy"
        self._namespace = services.namespace
        self._journal = services.journal
        self._open_files = services.open_files
        self._times = services.times
        self._pending = pending
        self._write_back = write_back
        self._changes = changes

    def link(self, old: str, new: str) -> None:
        """Give the file `old` a copy at `new`, which is in Swift when this returns.

        Raise `OSError` EPERM without the option, and for a folder; errors of the upload of `old`, which is
        stored first, and of the copy.
        """
        self._pending.refuse_change(old, new)
        if not self._copies:
            raise os_error(errno.EPERM, new)
        old = self._open_files.resolve(old)
        self._journal.undo_late_requests(old)
        with self._pending.changing(old, new):
            name = self._free_name(new)
            source = self._stored(old)
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

    def _free_name(self, path: str) -> ObjectName:
        """Return the object for a new path, of which no change waits; raise `OSError` EEXIST if it exists."""
        if self._open_files.at(path) is not None or self._namespace.find(path) is not None:
            raise os_error(errno.EEXIST, path)
        check_new_name(path)
        name = self._namespace.new_object(path)
        self._write_back.free_name(name)
        self._journal.flush([name])  # its deletion must not come after the copy
        return name

    def _stored(self, path: str) -> Entry:
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
