"""Checks of local changes that a new listing contradicts: it is late, or another client changed the name."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

from msgspec.structs import replace

from swiftfs.errors import NotFound
from swiftfs.namespace.entry import Defaults, Entry, head_entries, implied_entry, is_marker
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.local_change import PENDING, Contradiction
from swiftfs.namespace.pending_change import SharedState
from swiftfs.objects import ObjectInfo, ObjectName, Row
from swiftfs.paths import Folder, escape, is_second, unescape
from swiftfs.store.protocol import ObjectStore, iter_rows

MAX_CHECKED = 500
"""How many local changes that a listing contradicts are checked by HEADs; others wait for the next one."""

MAX_CHILDREN = 8
"""How many names are checked below a folder that this mount deleted or moved but a listing shows."""

Entries = Mapping[str, Entry | None]
"""What Swift has of names, None for nothing."""


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
    ) -> list[tuple[Contradiction, Entries]]:
        """Return the changes that do not count any more, with the entries that do."""
        asked = contradicted[:MAX_CHECKED]
        entries = self._head_fetcher.map(lambda found: self._current(folder, found), asked)
        return [
            (found, current)
            for found, current in zip(asked, entries, strict=True)
            if len(current) > 1 or current[found.name] is not found.change.entry
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

    def _current(self, folder: Folder, found: Contradiction) -> Entries:
        """Return what Swift has: the entry of the change, the listing's, or a third; maybe one beside it."""
        changed = found.change.entry
        if changed is None:
            return self._without(folder, found)
        if changed.object is None:
            return self._as_folder(found, changed) if self._is_there(folder, found.name) else _listed(found)
        try:
            info = self._store.head(changed.object)
        except NotFound:  # a folder without its marker may still hold files
            if changed.is_directory and found.listed is None:
                return {found.name: self._as_implied(folder, found.name)}
            return _listed(found)
        if not _is_file(info) and changed.is_directory:
            return self._as_folder(found, changed)
        return self._placed(folder, found, self._version(folder, found, changed, info))

    def _version(
        self, folder: Folder, found: Contradiction, changed: Entry, info: ObjectInfo
    ) -> Entry | None:
        """Return the entry of the object that a HEAD has shown: the change, if it is that version."""
        is_of_kind = _is_file(info) and not changed.is_directory
        if is_of_kind and changed.etag in ("", info.version.etag):
            return self._as_described(folder, found, changed, info)
        return found.listed if _shows(found.listed, info) else self._entry_of(folder, found, info)

    def _without(self, folder: Folder, found: Contradiction) -> Entries:
        """Return what Swift has of a deleted name: the file that was beside a folder takes its place."""
        ghost, entry, beside = self._without_ghost(found), self._undeleted(folder, found), found.beside
        is_folder = found.listed is not None and found.listed.is_directory
        if entry is None and is_folder and beside is not None and not ghost:
            return {beside.name: None, found.name: replace(beside, name=found.name)}
        return {**ghost, found.name: entry}

    def _undeleted(self, folder: Folder, found: Contradiction) -> Entry | None:
        """Return what Swift has of a name that this mount has deleted but a listing shows."""
        listed = found.listed
        assert listed is not None
        if listed.object is None:
            return listed if self._holds_others(folder, found.name) else None
        try:
            info = self._store.head(listed.object)
        except NotFound:
            return listed if listed.is_directory and self._holds_others(folder, found.name) else None
        if is_second(found.name) and not _is_file(info):
            return None  # the folder's marker by now
        return listed if _shows(listed, info) else self._entry_of(folder, found, info)

    def _without_ghost(self, found: Contradiction) -> dict[str, Entry | None]:
        """Return that there is no file beside a folder, if the listing shows one that is gone."""
        beside = found.beside
        if beside is None or beside.object is None or self._exists(beside.object):
            return {}
        return {beside.name: None}

    def _as_folder(self, found: Contradiction, changed: Entry) -> Entries:
        """Return a changed folder, and the file that the listing has in its place."""
        listed, beside = found.listed, found.beside
        if beside is not None and beside.object == changed.object:
            return {found.name: changed, beside.name: None}
        if listed is None or listed.is_directory or listed.object == changed.object:
            return {found.name: changed}
        return {found.name: changed, **_beside(listed)}

    def _placed(self, folder: Folder, found: Contradiction, file: Entry | None) -> Entries:
        """Return where a file is shown: beside a folder of its name, if the listing has one that exists."""
        name, listed, beside = found.name, found.listed, found.beside
        if unescape(name)[1]:
            if file is None or beside is None:
                return {name: file}
            # The listing lacks the folder.
            return {name: None, beside.name: replace(file, name=beside.name)}
        if file is None or file.is_directory or listed is None or not listed.is_directory:
            return {name: file}
        if self._is_there(folder, name):
            return {name: self._unmarked(folder, name, listed), **_beside(file)}
        return {name: file, beside.name: None} if beside is not None else {name: file}

    def _unmarked(self, folder: Folder, name: str, listed: Entry) -> Entry:
        """Return the listing's folder, whose marker `d` is a file by now."""
        if listed.object is None or listed.object.key.endswith("/"):
            return listed
        return implied_entry(name, folder.subfolder(unescape(name)[0]), self._defaults)

    def _as_implied(self, folder: Folder, name: str) -> Entry | None:
        """Return the entry of a folder that has lost its marker, None if nothing is in it."""
        below = folder.subfolder(unescape(name)[0])
        return implied_entry(name, below, self._defaults) if self._is_there(folder, name) else None

    def _as_described(self, folder: Folder, found: Contradiction, changed: Entry, info: ObjectInfo) -> Entry:
        """Return a changed entry, with the attributes that another client has given that version since."""
        now = self._entry_of(folder, found, info)
        if not changed.etag or now is None or now.object != changed.object:
            return changed
        # The size of a version does not change, whatever a HEAD says.
        attributes = replace(now.attributes, inode=changed.attributes.inode, size=changed.attributes.size)
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
        """Return whether this mount is about to delete what is at a name; then only a HEAD can tell."""
        with self._lock:
            return self._overlay.deletes(name)


def _listed(found: Contradiction) -> Entries:
    return {found.name: found.listed}


def _beside(file: Entry) -> Entries:
    """Return a file under its name beside a folder."""
    name = escape(unescape(file.name)[0], shadowed=True)
    return {name: replace(file, name=name)}


def _is_file(info: ObjectInfo) -> bool:
    """Return whether an object is a file in the folder above its name, and no folder's marker."""
    return not is_marker(info) and not info.version.name.key.endswith("/")


def _shows(listed: Entry | None, info: ObjectInfo) -> bool:
    """Return whether an entry is of the version that a HEAD has shown; for another's SLO by its size."""
    if listed is None or listed.object != info.version.name or listed.is_directory == _is_file(info):
        return False
    if listed.etag or not info.is_slo:
        return listed.version.etag == info.version.etag
    return listed.attributes.size == info.size
