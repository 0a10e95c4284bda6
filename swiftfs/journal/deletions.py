"""Deletions of many objects, with their segments, in few requests.

Which of them have segments at all, and which folders' markers are files by now, is found out by a few
listings: a HEAD each would cost more.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile

from msgspec.structs import replace

from swiftfs.concurrency import Executor
from swiftfs.errors import NotFound, StoreError
from swiftfs.filecache.segment_container import SegmentContainer, is_segment_of, places_of
from swiftfs.journal.kept_copies import Trash, has_replaced
from swiftfs.journal.object_moves import ObjectMoves
from swiftfs.journal.operations import Delete
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectName, Page
from swiftfs.store.protocol import ObjectStore, find_object, iter_pages, readable_rows

log = logging.getLogger(__name__)

PER_PAGE = 64
"""How many objects are worth a page of a listing: a page of 10,000 names takes a second."""

FEWEST_MARKERS = 4
"""For fewer markers of a container HEADs are sent, in parallel."""

FEWEST_OBJECTS = 17
"""The same for objects that may have segments: listings of their places come one by one."""


class Deletions:
    """Deletes objects; `moves` checks conditional deletions, and `trash` keeps copies."""

    def __init__(
        self, store: ObjectStore, pool: Executor, moves: ObjectMoves, removal: SegmentRemoval, trash: Trash
    ) -> None:
        self._store = store
        self._pool = pool
        self._moves = moves
        self._removal = removal
        self._trash = trash

    def delete(self, operations: Sequence[Delete]) -> dict[ObjectName, StoreError]:
        """Delete objects, then the segments of the SLOs that are gone; return the failures."""
        failures: dict[ObjectName, StoreError] = {}
        found: dict[ObjectName, set[ObjectName]] = {}
        operations = self._without_files(self._without_changed(operations, failures), failures)
        operations = self._with_known_kinds(operations)
        operations, kept = self._trash.keep_deleted(operations, failures, self._pool)
        for operation, segments in zip(
            operations, self._pool.map(self._find_segments, operations), strict=True
        ):
            if isinstance(segments, StoreError):
                failures[operation.name] = segments
            else:
                found[operation.name] = segments
        shared = self._removal.shared(set().union(*found.values()))
        own = {name: segments - shared for name, segments in found.items()}
        # In two requests: Swift may refuse to delete an object, and go on with the names behind it.
        failed = self._removal.delete_all(own)
        gone = {name: segments for name, segments in own.items() if name not in failed}
        self._removal.discard_with(gone)
        for name in gone:
            self._removal.keep_shared(found[name] & shared, {name})
            self._removal.owners.forget(name)
        self._trash.deleted(kept, failed, self._pool)
        return failures | failed

    def _without_changed(
        self, operations: Sequence[Delete], failures: dict[ObjectName, StoreError]
    ) -> list[Delete]:
        """Return the deletions to execute, without conditional ones of objects that have changed."""
        wanted = []
        for operation in operations:
            try:
                # Another client may replace the object any time: each attempt looks again.
                if not operation.is_conditional or self._moves.is_unchanged(operation):
                    wanted.append(operation)
            except StoreError as error:
                failures[operation.name] = error
        return wanted

    def _without_files(
        self, operations: Sequence[Delete], failures: dict[ObjectName, StoreError]
    ) -> list[Delete]:
        """Return the deletions to execute, without those of markers that another client has made files."""
        markers = [operation.name for operation in operations if operation.is_marker]
        found = made_files(self._store, self._pool, markers) if markers else {}
        for name, answer in found.items():
            if isinstance(answer, StoreError):
                failures[name] = answer
            elif answer:
                log.warning("%s is kept: another client has made a file of the folder", name)
        return [operation for operation in operations if not found.get(operation.name)]

    def _with_known_kinds(self, operations: Sequence[Delete]) -> list[Delete]:
        """Return the deletions; those of objects that have no segments need no HEAD to learn that."""
        owners = self._removal.owners
        unknown = [
            one.name
            for one in operations
            if one.is_slo is None
            and not (self._removal.has_unproven(one.name) or owners.has_claims(one.name))
        ]
        plain = without_segments(self._store, unknown, owners.choice)
        return [replace(one, is_slo=False) if one.name in plain else one for one in operations]

    def _find_segments(self, operation: Delete) -> set[ObjectName] | StoreError:
        """Return the segments that go with an object."""
        name, superseded = operation.name, set(operation.superseded_segments)
        try:
            # A file had been stored there, by an attempt without an answer. Nothing proves that when it is
            # deleted.
            if superseded or (operation.sent and self._removal.has_unproven(name)):
                if has_replaced(self._store, self._removal, name, operation.sent):
                    self._removal.record_replaced(name)
                else:
                    superseded = set()
            return superseded | self._removal.segments_of(name, is_slo=operation.is_slo)
        except StoreError as error:
            return error


def made_files(
    store: ObjectStore, pool: Executor, names: Iterable[ObjectName]
) -> Mapping[ObjectName, bool | StoreError]:
    """Return of the markers of folders whether each is a file now, or the error if nobody knows.

    One that is gone is none. Listings of this moment show most markers, as all of a tree is deleted together;
    a HEAD decides about the others.
    """
    # The object `d/` with bytes is in the folder, which was not empty then.
    plain = [name for name in names if not name.key.endswith("/")]
    listed = {
        ObjectName(container, key)
        for container, keys in _by_container(plain, FEWEST_MARKERS)
        for key in _listed_markers(store, container, keys)
    }
    asked = [name for name in plain if name not in listed]
    return dict(zip(asked, pool.map(lambda name: is_file(store, name), asked), strict=True))


def is_file(store: ObjectStore, name: ObjectName) -> bool | StoreError:
    """Return whether an object exists and is no folder's marker, by a HEAD; its error if it fails."""
    try:
        info = find_object(store, name)
        return info is not None and not is_marker(info) and not name.key.endswith("/")
    except StoreError as error:
        return error


def _listed_markers(store: ObjectStore, container: str, keys: Collection[str]) -> set[str]:
    found: set[str] = set()
    try:
        for page in _pages(store, container, "", keys):
            found |= {row.key for row in page.rows if row.key in keys and is_marker(row)}
    except StoreError:  # HEADs tell more
        return set()
    return found


def without_segments(store: ObjectStore, names: Collection[ObjectName], choice: str) -> set[ObjectName]:
    """Return those objects of which no segment exists in the places where other clients and mounts put them.

    `choice` is as in `SegmentContainerChooser`. An object that is not returned may have none either. Segments
    that no listing shows yet are not found.
    """
    found: set[ObjectName] = set()
    for container, keys in _by_container(names, FEWEST_OBJECTS):
        left = keys
        for place in places_of(container, choice):
            left = left and left & _plain(store, container, keys, place, choice)
        found |= {ObjectName(container, key) for key in left}
    return found


def _plain(
    store: ObjectStore, container: str, keys: Collection[str], place: SegmentContainer, choice: str
) -> set[str]:
    """Return the keys of those objects that certainly have no segment in a place."""
    plain = set(keys)
    page: Page | None = None
    try:
        for page in _pages(store, place.container, place.prefix, keys):
            plain -= _owners(page, container, keys, place, choice)
    except NotFound:
        return plain
    except StoreError:
        return set()
    if page is None or page.last:
        return plain
    # Beyond the last page nothing is known.
    return {key for key in plain if f"{place.prefix}{key}0" <= page.marker}


def _owners(
    page: Page, container: str, keys: Collection[str], place: SegmentContainer, choice: str
) -> set[str]:
    """Return the keys of those objects for which a segment on the page was uploaded."""
    found = set()
    for row in readable_rows(page, place.container):
        segment = ObjectName(place.container, row.key)
        key = row.key[len(place.prefix) :]
        while key := key.rpartition("/")[0]:
            if key in keys and is_segment_of(segment, ObjectName(container, key), choice):
                found.add(key)
    return found


def _by_container(names: Iterable[ObjectName], fewest: int) -> list[tuple[str, set[str]]]:
    """Return the keys of the names by container, without containers that have fewer of them."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        found[name.container].add(name.key)
    return [(container, keys) for container, keys in found.items() if len(keys) >= fewest]


def _pages(store: ObjectStore, container: str, prefix: str, keys: Collection[str]) -> Iterator[Page]:
    """Yield the pages of what begins as all keys do, behind `prefix`, but no more than they are worth."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(min(keys), max(keys), strict=False))
    pages = iter_pages(store, container, prefix + "".join(one for one, _ in pairs))
    for page in islice(pages, 1 + len(keys) // PER_PAGE):
        yield page
        if page.last:
            return
