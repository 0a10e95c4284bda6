"""Checks of local changes that a new listing contradicts: it is late, or another client changed the name."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from msgspec.structs import replace

from swiftfs.errors import NotFound
from swiftfs.namespace.entry import Defaults, Entry, head_entries, implied_entry, is_marker
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.overlay import PENDING, Contradiction
from swiftfs.namespace.pending_change import SharedState
from swiftfs.objects import ObjectInfo, ObjectName, Row
from swiftfs.paths import Folder, escape, unescape
from swiftfs.store.protocol import ObjectStore, iter_rows

MAX_CHECKED = 500
"""How many local changes that a listing contradicts are checked by HEADs; others wait for the next one."""

MAX_CHILDREN = 8
"""How many names are checked below a folder that this mount deleted or moved but a listing shows."""


class ChangeChecker:
    """Sends a HEAD for each change that a listing contradicts. The lock of `shared` is the namespace's."""

    def __init__(
        self, store: ObjectStore, head_fetcher: HeadFetcher, defaults: Defaults, shared: SharedState
    ) -> None:
        self._store = store
        self._head_fetcher = head_fetcher
        self._defaults = defaults
        self._lock, self._overlay, _ = shared

    def check(
        self, folder: Folder, contradicted: Sequence[Contradiction]
    ) -> list[tuple[Contradiction, Entry | None]]:
        """Return the changes that do not count any more, with the entries that do."""
        asked = contradicted[:MAX_CHECKED]
        entries = self._head_fetcher.map(lambda found: self._current(folder, found), asked)
        return [
            (found, entry)
            for found, entry in zip(asked, entries, strict=True)
            if entry is not found.change.entry
        ]

    def without_others(self, folder: Folder, names: Sequence[str]) -> list[str]:
        """Return the folders in which there is nothing but what this mount has deleted or moved."""
        found = self._head_fetcher.map(lambda name: self._is_there(folder, name), names)
        return [name for name, is_there in zip(names, found, strict=True) if not is_there]

    def implied(self, folder: Folder, components: Sequence[str]) -> list[str]:
        """Return the subfolders that exist because of this mount's changes, though no listing shows them.

        A change that is not in Swift yet always counts. For a stored one a HEAD decides: a listing without it
        lags behind, or another client has deleted the object.
        """
        found = self._head_fetcher.map(lambda one: self._is_implied(folder.subfolder(one)), components)
        return [one for one, is_implied in zip(components, found, strict=True) if is_implied]

    def _is_there(self, folder: Folder, name: str) -> bool:
        """Return whether a folder without a marker, which a listing lacks, has anything in it."""
        # Containers are listed whole, and have no objects that imply them.
        if not folder.container:
            return True
        return self._is_implied(folder.subfolder(unescape(name)[0])) or self._holds_others(folder, name)

    def _is_implied(self, folder: Folder) -> bool:
        stored = []
        with self._lock:
            for change in self._overlay.entries_below(folder):
                if change.at == PENDING:
                    return True
                if change.entry is not None and change.entry.object is not None:
                    stored.append(change.entry.object)
        return any(self._exists(name) for name in stored[:MAX_CHILDREN])

    def _exists(self, name: ObjectName) -> bool:
        with suppress(NotFound):
            self._store.head(name)
            return True
        return False

    def _current(self, folder: Folder, found: Contradiction) -> Entry | None:
        """Return which entry Swift has: that of the change, the listing's, or a third."""
        changed, listed = found.change.entry, found.listed
        seen = changed or listed
        if seen is None or seen.object is None:
            if changed is not None:
                is_newest = listed is not None or self._is_there(folder, found.name)
            else:
                is_newest = listed is None or not self._holds_others(folder, found.name)
            return changed if is_newest else listed
        try:
            info = self._store.head(seen.object)
        except NotFound:  # a folder without its marker may still hold files
            if changed is not None and changed.is_directory and listed is None:
                return self._as_implied(folder, found.name)
            is_newest = changed is None and not (seen.is_directory and self._holds_others(folder, found.name))
            return changed if is_newest else listed
        if changed is not None and changed.etag in ("", info.version.etag):
            return self._as_described(folder, found, changed, info)
        return listed if _shows(listed, info) else self._entry_of(folder, found, info)

    def _as_implied(self, folder: Folder, name: str) -> Entry | None:
        """Return the entry of a folder that has lost its marker, None if nothing is in it."""
        below = folder.subfolder(unescape(name)[0])
        return implied_entry(name, below, self._defaults) if self._is_there(folder, name) else None

    def _as_described(self, folder: Folder, found: Contradiction, changed: Entry, info: ObjectInfo) -> Entry:
        """Return a changed entry, with the attributes that another client has given that version since."""
        now = self._entry_of(folder, found, info)
        if not changed.etag or now is None or now.object != changed.object:
            return changed
        attributes = replace(now.attributes, inode=changed.attributes.inode)
        if attributes == changed.attributes:
            return changed
        return replace(changed, attributes=attributes, meta=now.meta)

    def _entry_of(self, folder: Folder, found: Contradiction, info: ObjectInfo) -> Entry | None:
        """Return the entry of an object that neither the change nor the listing shows."""
        # `a%file` is beside a folder `a`, which may have lost its marker to that file.
        is_folder = found.listed is not None and found.listed.is_directory and not is_marker(info)
        is_shadowed = unescape(found.name)[1] or (is_folder and self._is_there(folder, found.name))
        subdirs = [f"{info.version.name.key}/"] if is_shadowed else []
        entries = head_entries(folder, info, subdirs, self._defaults)
        return next((entry for entry in entries if entry.name == found.name), found.listed)

    def _holds_others(self, folder: Folder, name: str) -> bool:
        """Return whether Swift has an object in the folder `name` that this mount has not deleted.

        The listing may lag behind: only a HEAD of the object proves it.
        """
        below = self._rows_below(folder.container, folder.child(unescape(name)[0]).key + "/")
        names = (ObjectName(folder.container, row.key) for row in below)
        return any(map(self._exists, islice((one for one in names if not self._deletes(one)), MAX_CHILDREN)))

    def _rows_below(self, container: str, prefix: str) -> Iterator[Row]:
        """Yield the rows below a prefix: the first ones from a small page, which is enough in most cases."""
        page = self._store.list_page(container, prefix=prefix, limit=MAX_CHILDREN)
        yield from page.rows
        if not page.last:
            yield from islice(iter_rows(self._store, container, prefix), len(page.rows), None)

    def _deletes(self, name: ObjectName) -> bool:
        """Return whether this mount is about to delete what is at a name.

        After that the name may be another client's: only a HEAD can tell.
        """
        above, slash, component = name.key.rpartition("/")
        with self._lock:
            change = self._overlay.newest(Folder(name.container, above + slash), escape(component))
        return change is not None and change.entry is None and change.at == PENDING


def _shows(listed: Entry | None, info: ObjectInfo) -> bool:
    """Return whether a listing's entry is of the version that a HEAD has shown.

    Of another client's SLO a listing shows no ETag, but the size.
    """
    if listed is None or listed.object != info.version.name:
        return False
    if listed.etag or not info.is_slo:
        return listed.version.etag == info.version.etag
    return listed.attributes.size == info.size
