"""Segments that no manifest names: left by clients that died or that overwrote a large object.

An orphan is recognized by its name, by its age, and because no manifest in the whole account names it. A
segment of a mount whose journal is not on this machine is not an orphan: it may be the only copy of a file
that is not stored yet. Nor is one that an older version names, in a container with versioning.
"""

import difflib
import sqlite3
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice

from msgspec import Struct

from swiftfs.attributes import decode_type, is_directory_type, parse_last_modified
from swiftfs.concurrency import new_pool
from swiftfs.errors import AccessDenied, BadRequest, ConfigurationError, NotFound
from swiftfs.filecache.segment_container import AUTO, SEGMENT_NAME, SegmentContainer, places_of
from swiftfs.filecache.upload_record import NO_JOURNAL, journal_of
from swiftfs.maintenance.trees import listed_row
from swiftfs.objects import History, ObjectName, OlderName, Row
from swiftfs.paths import SEGMENTS_SUFFIX, Source
from swiftfs.store.protocol import ObjectStore, iter_containers, iter_pages, iter_versions, readable_rows

PARALLEL = 16
"""Parallel requests: all answers are small."""

DELETED_AT_ONCE = VERSIONS_AT_ONCE = 1000

LAST = "\U0010ffff"
"""Sorts after every other character in a listing and in the database."""

DRIFT_NS = 3600 * 10**9
"""The largest difference, in ns, between the server's clock and ours for which no change is overlooked."""


class OrphanUpload(Struct, frozen=True):
    """Orphans of one upload: their prefix, number, bytes, and the time of the newest in ns."""

    prefix: ObjectName
    segments: int
    size: int
    newest_ns: int


class ScanProgress(Struct):
    """What has been checked so far; `unknown` are objects beside segments whose names have no known form.

    `versions` are older versions of objects.
    """

    containers: int = 0
    objects: int = 0
    versions: int = 0
    manifests: int = 0
    unknown: int = 0


class OrphanCandidates:
    """Segments that no manifest has named so far, in a private database on disk: there may be millions."""

    def __init__(self) -> None:
        # An empty name: SQLite keeps the database in a temporary file, and deletes it when it is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(
            "CREATE TABLE candidates (container, key, upload, size, modified, PRIMARY KEY (container, key))"
            " WITHOUT ROWID"
        )
        self._database.execute("CREATE INDEX uploads ON candidates (container, upload)")

    def add(self, container: str, rows: Iterable[tuple[str, Row]]) -> None:
        """Add listed segments, each with the prefix of its upload."""
        self._database.executemany(
            "INSERT OR REPLACE INTO candidates VALUES (?, ?, ?, ?, ?)",
            [
                (container, row.key, upload, row.size, parse_last_modified(row.last_modified))
                for upload, row in rows
            ],
        )

    def clear(self, names: Iterable[ObjectName]) -> None:
        """Drop segments that a manifest names."""
        self._database.executemany(
            "DELETE FROM candidates WHERE container = ? AND key = ?",
            [(name.container, name.key) for name in names],
        )

    def clear_below(self, prefix: ObjectName) -> None:
        """Drop all segments whose name begins with `prefix`."""
        self._database.execute(
            "DELETE FROM candidates WHERE container = ? AND key >= ? AND key < ?",
            (prefix.container, prefix.key, prefix.key + LAST),
        )

    def clear_younger(self, limit_ns: int) -> None:
        """Drop uploads that have a segment younger than `limit_ns`: they may still be running."""
        self._database.execute(
            "DELETE FROM candidates WHERE (container, upload) IN"
            " (SELECT container, upload FROM candidates WHERE modified > ?)",
            (limit_ns,),
        )

    def __bool__(self) -> bool:
        return bool(self._database.execute("SELECT EXISTS (SELECT 1 FROM candidates)").fetchone()[0])

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM candidates").fetchone()[0])

    def set_unfinished_aside(self, journals: Collection[str]) -> list[OrphanUpload]:
        """Drop uploads of mounts whose journal is not among `journals`, and return them.

        Such a journal may need them: then they have bytes of files that are not stored yet.
        """
        made = [(upload, journal_of(upload.prefix.key)) for upload in self.uploads()]
        known = {None, NO_JOURNAL, *journals}
        aside = [upload for upload, journal in made if journal not in known]
        for upload in aside:
            self.clear_below(upload.prefix)
        return aside

    def uploads(self) -> Iterator[OrphanUpload]:
        """Yield the remaining segments, an upload at a time."""
        rows = self._database.execute(
            "SELECT container, upload, count(*), sum(size), max(modified) FROM candidates"
            " GROUP BY container, upload ORDER BY container, upload"
        )
        for container, upload, count, size, newest in rows:
            yield OrphanUpload(ObjectName(container, f"{upload}/"), count, size, newest)

    def names(self) -> Iterator[ObjectName]:
        """Yield the names of the remaining segments."""
        rows = self._database.execute("SELECT container, key FROM candidates ORDER BY container, key")
        return (ObjectName(container, key) for container, key in rows)

    def close(self) -> None:
        """Drop the database."""
        self._database.close()


class Search:
    """Searches orphans of the files in `source`; `progress` is called now and then."""

    def __init__(self, store: ObjectStore, source: Source, progress: Callable[[ScanProgress], None]) -> None:
        self.looked = ScanProgress()
        self.candidates = OrphanCandidates()
        self.unfinished: list[OrphanUpload] = []
        self._store = store
        self._source = source
        self._progress = progress
        self._searched: list[SegmentContainer] = []
        self._pool = new_pool("orphans", PARALLEL)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
        self.candidates.close()

    def run(
        self,
        *,
        elsewhere: str,
        limit_ns: int,
        journaled: Iterable[ObjectName],
        now_ns: int,
        journals: Collection[str] | None = None,
    ) -> None:
        """Find the orphans that are older than `limit_ns`; they are in `candidates` then.

        `elsewhere` is a container that was given for segments, or empty; `journaled` are names that a journal
        needs. Uploads of a mount whose journal is not among `journals`, by their ids, are
        `unfinished`; with None they are orphans too. Raise `AccessDenied` if a container cannot
        be read: its manifests may name any segment.
        """
        containers = self._containers()
        self._searched = list(self._places(containers, elsewhere))
        # Segments first, and manifests after them: a segment that is uploaded meanwhile is no candidate.
        for place in self._searched:
            self._collect(place)
        # Of the whole upload, as its last segment may be stored days after its first one.
        self.candidates.clear_younger(limit_ns)
        for prefix in journaled:
            self.candidates.clear_below(prefix)
        for container in containers:
            self._look_at(container, 0)
        # An object that is replaced or deleted meanwhile is a version by now.
        for container in containers:
            self._look_at_versions(container)
        # An object renamed meanwhile may have moved from a part not read yet to one already read.
        for container in containers:
            self._look_at(container, now_ns - DRIFT_NS)
        if journals is not None:
            # Last, so that only what no manifest names is listed as unfinished.
            self.unfinished = self.candidates.set_unfinished_aside(journals)

    def delete(self) -> dict[ObjectName, Exception]:
        """Delete the orphans; return the failures."""
        failures: dict[ObjectName, Exception] = {}
        names = self.candidates.names()
        while chunk := list(islice(names, DELETED_AT_ONCE)):
            failures |= self._store.delete_many(chunk)
        return failures

    def _containers(self) -> list[str]:
        """Return the account's containers, those most likely to name the segments first."""
        found = list(iter_containers(self._store))
        own = self._source.container
        if own and own not in found and own + SEGMENTS_SUFFIX not in found:
            near = difflib.get_close_matches(own, found, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ": check its name"
            raise ConfigurationError(f"no container {own!r}, and no container for its segments{hint}")
        # The search ends as soon as nothing is left that could be an orphan.
        return sorted(found, key=lambda name: (name != own, name.endswith(SEGMENTS_SUFFIX), name))

    def _places(self, containers: list[str], elsewhere: str) -> Iterator[SegmentContainer]:
        owners = [self._source.container]
        if self._source.is_account:
            owners = [name.removesuffix(SEGMENTS_SUFFIX) for name in containers]
        places = {
            SegmentContainer(place.container, place.prefix + self._source.prefix)
            for owner in owners
            for place in places_of(owner, elsewhere or AUTO)
            if place.container in containers
        }
        for place in sorted(places, key=str):
            # What lies in another one is found there.
            if not any(other != place and other.holds(place.name("")) for other in places):
                yield place

    def _collect(self, place: SegmentContainer) -> None:
        """Add the segments in a segment container to the candidates."""
        for rows in self._pages(place.container, place.prefix):
            matched = [(SEGMENT_NAME.fullmatch(row.key), row) for row in rows]
            self.candidates.add(place.container, [(match[1], row) for match, row in matched if match])
            self.looked.unknown += sum(match is None for match, _ in matched)
            self._tell()

    def _look_at(self, container: str, since_ns: int) -> None:
        """Drop the candidates that manifests in `container` name, if these changed since `since_ns`."""
        if not self.candidates:
            return
        self.looked.containers += not since_ns
        for rows in self._pages(container, ""):
            if not self.candidates:
                return
            self.looked.objects += 0 if since_ns else len(rows)
            self._read(
                (ObjectName(container, row.key), row)
                for row in rows
                if parse_last_modified(row.last_modified) >= since_ns
            )

    def _look_at_versions(self, container: str) -> None:
        """Drop the candidates that the manifests of older versions name."""
        try:
            if not self.candidates or self._store.container_usage(container).history is not History.KEPT:
                return
        except NotFound:  # deleted meanwhile
            return
        versions = iter_versions(self._store, container)
        while self.candidates and (part := list(islice(versions, VERSIONS_AT_ONCE))):
            older = [one for one in part if not one.is_deletion]
            self.looked.versions += len(older)
            self._read((OlderName(container, one.row.key, one.version_id), one.row) for one in older)

    def _read(self, objects: Iterable[tuple[ObjectName, Row]]) -> None:
        """Drop the candidates that objects name."""
        asked = [(name, row) for name, row in objects if may_be_manifest(row) and not self._is_segment(name)]
        for named, prefix in self._pool.map(lambda one: self._named_by(*one), asked):
            self.looked.manifests += bool(named or prefix)
            self.candidates.clear(named)
            if prefix is not None:
                self.candidates.clear_below(prefix)
        self._tell()

    def _pages(self, container: str, prefix: str) -> Iterator[tuple[Row, ...]]:
        with suppress(NotFound):  # the container was deleted meanwhile
            for page in iter_pages(self._store, container, prefix):
                yield readable_rows(page, container)

    def _is_segment(self, name: ObjectName) -> bool:
        return bool(SEGMENT_NAME.fullmatch(name.key)) and any(place.holds(name) for place in self._searched)

    def _named_by(self, name: ObjectName, row: Row) -> tuple[list[ObjectName], ObjectName | None]:
        """Return the segments that an object names, and the prefix of a DLO's segments."""
        try:
            # Only what the Content-Type says: it may have come with a copy.
            with suppress(BadRequest):
                if decode_type(row.content_type)[1].slo is not None:
                    return self._segments_of(name), None
            info = self._store.head(name)
            if info.dlo_prefix is not None:
                return [], info.dlo_prefix
            return (self._segments_of(name) if info.is_slo else []), None
        except NotFound:
            # A symlink of Swift names nothing itself: its target has a row of its own.
            if not row.is_symlink:
                self._check_gone(name)
            return [], None
        except BadRequest:  # another client changed it; the second pass finds its new state
            return [], None

    def _check_gone(self, name: ObjectName) -> None:
        """Raise `ConfigurationError` if the listing still shows what the server does not find.

        It may be that only these replicas lack it: what it names is needed.
        """
        if isinstance(name, OlderName) or listed_row(self._store, name) is not None:
            raise ConfigurationError(
                f"{name} is listed, but the server does not find it, so no segment is certain to be an "
                "orphan: try again later, or delete it"
            )

    def _segments_of(self, name: ObjectName) -> list[ObjectName]:
        """Return the segments of an SLO, and those of SLOs that are its segments.

        An SLO with a segment's name is not asked by `_look_at`, so that a file costs no request a segment.
        """
        segments = list(self._store.manifest(name).segments)
        asked = {name}
        for segment in segments:  # the list grows meanwhile
            if segment.nested and segment.name not in asked and self._is_segment(segment.name):
                asked.add(segment.name)
                with suppress(NotFound, BadRequest):  # it is gone, or another object by now
                    segments += self._store.manifest(segment.name).segments
        return [segment.name for segment in segments if not segment.data]

    def _tell(self) -> None:
        self._progress(self.looked)


def may_be_manifest(row: Row) -> bool:
    """Return whether a listed object may name segments: our own SLOs show it, a DLO lists as empty."""
    base, stored = decode_type(row.content_type)
    if stored.mode is None:
        return not is_directory_type(base) or row.size > 0
    return stored.slo is not None or (row.size == 0 and stat.S_ISREG(stored.mode))


def explain_refusal(error: AccessDenied) -> ConfigurationError:
    """Return the failure of a search that may not read every container."""
    return ConfigurationError(
        f"{error}: a manifest there may name any segment, so no segment is certain to be an orphan; "
        "use an account that may list every container"
    )
