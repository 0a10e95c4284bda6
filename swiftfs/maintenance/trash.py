"""The trash without its mount: what is in it, back to where it was, and away for good.

A large object there names segments. They are deleted with it if its metadata say that it owns them: then no
other object names them. Other segments are left to `swiftfs gc`.

What is restored is copied to a name where nobody must lose anything: nothing is there, or a known version.
Swift has no condition for the target of a COPY. A PUT has one, `If-None-Match: *`: a large object is stored
by its manifest, and a small one by its bytes. For the others a HEAD comes directly before the COPY.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import Executor, new_event, new_pool, new_thread, unix_time_ns
from swiftfs.errors import (
    AlreadyExists,
    BadRequest,
    ConfigurationError,
    Corrupt,
    NotFound,
    Offline,
    StoreError,
    SwiftfsError,
    UnknownManifest,
    pluralize,
)
from swiftfs.filecache.segment_container import is_segment_of
from swiftfs.journal.segment_records import are_kept
from swiftfs.maintenance.orphan_segments import may_be_manifest
from swiftfs.maintenance.trees import listed_row
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, Row
from swiftfs.paths import Source, beside_hidden, escape, unescape, without_hidden
from swiftfs.store.protocol import (
    CopyRequest,
    Headers,
    Histories,
    ObjectStore,
    iter_containers,
    iter_pages,
    iter_rows,
)
from swiftfs.store.server_copies import prove_copy
from swiftfs.store.trash_names import (
    OWNER,
    TRASH_PREFIX,
    Trashed,
    TrashNames,
    as_restored,
    is_over,
    is_restored,
    parse,
)

if TYPE_CHECKING:
    from swiftfs.posix.filesystem import FileSystem

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0
AGAIN_SECONDS = 3600.0
"""The pause after a failure."""

END_SECONDS = 2.0
"""How long an unmount waits for a running request."""

SMALL = 1024**2
"""Bytes of an object that is read and stored again: that takes as many requests as a HEAD and a COPY, and
hardly more time."""


def copy_to_free_name(store: ObjectStore, source: ObjectInfo, target: ObjectName, headers: Headers) -> None:
    """Copy an object, whose headers are `headers` now; return when its copy is certainly there.

    Raise `AlreadyExists` if there is an object at `target`, and other errors of the store.
    """
    if source.is_slo and (manifest := _manifest(store, source)) is not None:
        stored = store.put_manifest(target, manifest, headers, if_absent=True)
        if stored.version.etag != manifest.etag:
            raise Corrupt(f"{target}: the server did not store the manifest as it was sent", may_land=True)
    elif _is_small(source):
        store.put(target, _read(store, source), headers, if_absent=True)
    else:
        copy_over(store, source, target, None)


def copy_over(
    store: ObjectStore, source: ObjectInfo, target: ObjectName, replaces: ObjectInfo | None
) -> None:
    """Copy an object over the version `replaces`; return when its copy is certainly there.

    Raise `AlreadyExists` if there is another object at `target` directly before, and other errors of the
    store.
    """
    found = None
    with suppress(NotFound):
        found = store.head(target)
    if found is not None and (replaces is None or found.version != replaces.version):
        raise AlreadyExists(f"{target}: another client has stored it meanwhile")
    request = CopyRequest(source.version.name, target, manifest_only=True)
    store.copy(request)
    # The ETag in the answer is another one for a DLO, and for a symlink of Swift.
    prove_copy(request, source, store.head)


def _manifest(store: ObjectStore, source: ObjectInfo) -> Manifest | None:
    """Return the manifest of a large object, None if it cannot be stored as it is."""
    try:
        manifest = store.manifest(source.version.name)
    except (BadRequest, Corrupt, UnknownManifest):
        return None
    return manifest if manifest.etag == source.version.etag else None


def _is_small(source: ObjectInfo) -> bool:
    is_plain = not (source.is_slo or source.is_symlink or source.unreadable) and source.dlo_prefix is None
    return is_plain and source.retrieval is None and source.size <= SMALL


def _read(store: ObjectStore, source: ObjectInfo) -> bytes:
    body = bytearray(source.size)

    def take(offset: int, data: bytes) -> None:
        body[offset : offset + len(data)] = data

    store.get(source.version.name, take, etag=source.version.etag, size=source.size)
    return bytes(body)


PARALLEL = 16
"""Parallel requests for large objects: all answers are small."""

AT_ONCE = 1000
"""How many objects are looked at, and then deleted together."""


class Occupied(ConfigurationError):
    """There is a file where another one is to be restored."""


class TrashedFile(Struct, frozen=True):
    """A file in the trash: its object, as listed, and where it came from."""

    name: ObjectName
    row: Row
    origin: Trashed

    @property
    def target(self) -> ObjectName:
        """The object that it was."""
        return ObjectName(self.name.container, self.origin.key)

    def path(self, source: Source) -> str:
        """Return its path in a mount, without the first slash; `%file` is at its end beside a folder."""
        first, *rest = map(escape, self._inside(source).split("/"))
        return "/".join((beside_hidden(first), *rest))

    def lies_at(self, source: Source, path: str) -> bool:
        """Return whether it has this path in a mount of `source`, or lies below it."""
        components = [unescape(name) for name in without_hidden(f"/{path}")[1:].split("/")]
        inside, wanted = self._inside(source), "/".join(component for component, _ in components)
        is_beside_folder = components[-1][1]
        return inside == wanted or (not is_beside_folder and inside.startswith(wanted + "/"))

    def _inside(self, source: Source) -> str:
        inside = self.origin.key.removeprefix(source.prefix)
        return f"{self.name.container}/{inside}" if source.is_account else inside

    def entry(self, source: Source) -> str:
        """Return the name by which a command finds this version of the file: its path in the trash."""
        inside = self.name.key.removeprefix(source.prefix + TRASH_PREFIX)
        return f"{self.name.container}/{inside}" if source.is_account else inside


class TrashBin:
    """The trash of `source`, of an account in each container."""

    def __init__(self, store: ObjectStore, source: Source) -> None:
        self._store = store
        self._source = source
        self._histories = Histories(store)

    def files(self) -> Iterator[TrashedFile]:
        """Yield all files in the trash, the oldest day of each container first. Raise `StoreError`."""
        for container in self._containers():
            yield from self._files(container, TRASH_PREFIX)

    def ended(self, days: int, now_ns: int) -> Iterator[TrashedFile]:
        """Yield the files that have been there for so many days: a request, and one for each such day."""
        for container in self._containers():
            prefix = self._source.prefix + TRASH_PREFIX
            for page in iter_pages(self._store, container, prefix, delimiter="/"):
                for subdir in page.subdirs:
                    if is_over(subdir.removeprefix(prefix)[:-1], days, now_ns):
                        yield from self._files(container, TRASH_PREFIX + subdir.removeprefix(prefix))

    def restore(self, file: TrashedFile, *, force: bool = False) -> None:
        """Put a file back under its old name, with all it had; the copy in the trash is deleted.

        Raise `Occupied` if there is a file, unless `force`: then that goes into the trash. Raise it too if
        another client has stored one meanwhile. Raise `NotFound` if Swift has deleted the copy, and
        `StoreError`; the copy then stays.
        """
        info = self._store.head(file.name)
        current = self._current(file.target)
        if current is not None and is_restored(current) and current.version.etag == info.version.etag:
            self._store.delete(file.name)  # an earlier attempt ended before this
            return
        if current is not None and not force:
            raise Occupied(f"{file.path(self._source)}: there is a file; --force moves that into the trash")
        before, plain = Headers.of(info), _without_marks(info)
        # First: from now on the copy neither ends by itself nor takes the segments along.
        self._store.post(file.name, plain)
        try:
            kept = self._place(info, file.target, plain, current)
        except StoreError as error:
            if not error.may_land:
                with suppress(StoreError):
                    self._store.post(file.name, before)
            if isinstance(error, AlreadyExists):
                text = "another client has stored a file meanwhile, which stays"
                raise Occupied(f"{file.path(self._source)}: {text}") from None
            raise
        if kept is not None:
            self._give_segments(kept)
        self._store.delete(file.name)

    def _place(
        self, info: ObjectInfo, target: ObjectName, headers: Headers, current: ObjectInfo | None
    ) -> ObjectName | None:
        """Store the file at `target`; return the copy of what it replaces there."""
        if current is None:
            copy_to_free_name(self._store, info, target, headers)
            return None
        kept = self._keep(current)
        copy_over(self._store, info, target, current)
        return kept

    def delete(self, files: Iterable[TrashedFile]) -> dict[ObjectName, StoreError]:
        """Delete files of the trash with their segments; return the failures."""
        failures: dict[ObjectName, StoreError] = {}
        remaining = iter(files)
        with new_pool("trash", PARALLEL) as pool:
            while chunk := list(islice(remaining, AT_ONCE)):
                failures |= self._delete(chunk, pool)
        return failures

    def _delete(self, files: list[TrashedFile], pool: Executor) -> dict[ObjectName, StoreError]:
        large = [file.name for file in files if may_be_manifest(file.row)]
        failures: dict[ObjectName, StoreError] = {}
        segments: dict[ObjectName, set[ObjectName]] = {}
        for name, found in zip(large, pool.map(self._own_segments, large), strict=True):
            if isinstance(found, StoreError):
                failures[name] = found
            else:
                segments[name] = found
        self._spare_named_elsewhere(files, segments, failures, pool)
        # The objects first: a manifest must not be left without its segments.
        failures |= self._store.delete_many([file.name for file in files if file.name not in failures])
        # Of a file of which a copy stays, that may name the segments of the others.
        kept = {file.target for file in files if file.name in failures}
        gone = [segments.get(file.name, set()) for file in files if file.target not in kept]
        if unused := set[ObjectName]().union(*gone):
            failures |= self._store.delete_many(unused)
        return failures

    def _spare_named_elsewhere(
        self,
        files: list[TrashedFile],
        segments: dict[ObjectName, set[ObjectName]],
        failures: dict[ObjectName, StoreError],
        pool: Executor,
    ) -> None:
        """Leave out segments that the file itself, or another copy of it in the trash, names too.

        Two mounts may have put the same version there, and a restore may have been killed.
        """
        targets = {file.target for file in files if segments.get(file.name)}
        if not targets:
            return
        ending = {file.name for file in files}
        others = [one for one in self.files() if one.target in targets and one.name not in ending]
        holders = [*((target, target) for target in targets), *((one.target, one.name) for one in others)]
        needed: dict[ObjectName, set[ObjectName]] = {}
        unknown: dict[ObjectName, StoreError] = {}
        answers = pool.map(self._named, [name for _, name in holders])
        for (target, _), found in zip(holders, answers, strict=True):
            if isinstance(found, StoreError):
                unknown[target] = found
            else:
                needed.setdefault(target, set()).update(found)
        for file in files:
            if segments.get(file.name) and file.target in unknown:
                failures[file.name] = unknown[file.target]
            elif file.name in segments:
                segments[file.name] -= needed.get(file.target, set())

    def _named(self, name: ObjectName) -> set[ObjectName] | StoreError:
        """Return the segments that a large object names, none of another one."""
        try:
            if not self._store.head(name).is_slo:
                return set()
            return self._store.manifest(name).names
        except NotFound as error:
            return set() if listed_row(self._store, name) is None else error
        except BadRequest:
            return set()
        except StoreError as error:
            return error

    def _own_segments(self, name: ObjectName) -> set[ObjectName] | StoreError:
        """Return the segments of an object that go with it."""
        try:
            info = self._store.head(name)
            if not info.is_slo or OWNER not in info.metadata:
                return set()
            named = self._store.manifest(name).names
            return set() if are_kept(self._histories, {name}, named) else named
        except (NotFound, BadRequest):  # Swift has deleted it, and lists it still
            return set()
        except StoreError as error:
            return error

    def _current(self, name: ObjectName) -> ObjectInfo | None:
        try:
            return self._store.head(name)
        except NotFound:
            return None

    def _keep(self, current: ObjectInfo) -> ObjectName | None:
        """Copy the file that is to be replaced into the trash; return the copy, None for an empty file."""
        name = current.version.name
        key = TrashNames(self._source, 1).entry_of(name, current.size)
        if not key:
            return None
        kept = ObjectName(name.container, key)
        self._store.copy(CopyRequest(name, kept, manifest_only=True))
        return kept

    def _give_segments(self, kept: ObjectName) -> None:
        """Mark the copy of a large object that was replaced as the owner of segments of its old name."""
        info = self._store.head(kept)
        origin = parse(kept.key, self._source.prefix)
        if not info.is_slo or origin is None:
            return
        owner = ObjectName(kept.container, origin.key)
        if all(is_segment_of(segment, owner) for segment in self._store.manifest(kept).names):
            headers = Headers.of(info)
            self._store.post(kept, replace(headers, metadata={**headers.metadata, OWNER: "yes"}))

    def _containers(self) -> Iterable[str]:
        return iter_containers(self._store) if self._source.is_account else [self._source.container]

    def _files(self, container: str, folder: str) -> Iterator[TrashedFile]:
        for row in iter_rows(self._store, container, self._source.prefix + folder):
            if (origin := parse(row.key, self._source.prefix)) is not None:
                yield TrashedFile(ObjectName(container, row.key), row, origin)


def sweep(trash: TrashBin, days: int, clock_ns: Callable[[], int] = unix_time_ns) -> tuple[int, int]:
    """Delete the files that are `days` days in the trash; return their number, and that of the failures."""
    files = list(trash.ended(days, clock_ns()))
    return len(files), len(trash.delete(files)) if files else 0


class TrashSweep:
    """The thread that empties a mount's trash of what has been there long enough: at first, and then daily.

    Swift deletes plain objects by itself. It would delete only the manifests of large ones.
    """

    def __init__(self, filesystem: "FileSystem") -> None:
        services = filesystem.services
        self._days = services.options.trash
        self._store, self._source = services.store, services.source
        self._trash = services.journal.trash
        self._prefix = services.source.prefix
        self._stopping = new_event()
        # A daemon: its running request must not delay the unmount.
        self._thread = new_thread(self._run, "trash", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, before the store is closed."""
        self._stopping.set()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            pause = DAY_SECONDS if self._sweep() else AGAIN_SECONDS

    def _sweep(self) -> bool:
        """Empty the trash once; return whether that succeeded."""
        now = unix_time_ns()
        try:
            count, failed = sweep(TrashBin(self._store, self._source), self._days, lambda: now)
        except Offline as error:  # the log has said that the server is away
            log.debug("the trash: %s", error)
            return False
        except SwiftfsError as error:
            if not self._stopping.is_set():
                log.warning("the trash could not be emptied, and is tried again in an hour: %s", error)
            return False
        except Exception:  # the next attempt may succeed
            if not self._stopping.is_set():
                log.exception("the trash: unexpected error")
            return False
        self._trash.forget_ended(self._prefix, self._days, now)
        if count:
            log.info("deleted from the trash, as their time is over: %s", pluralize(count, "file"))
        if failed:
            log.warning(
                "the trash: %s could not be deleted; the next attempt is in an hour",
                pluralize(failed, "object"),
            )
        return not failed


def newest(files: Iterable[TrashedFile]) -> list[TrashedFile]:
    """Return the last deleted one of each name."""
    found: dict[ObjectName, TrashedFile] = {}
    for file in files:
        if file.target not in found or found[file.target].origin.deleted < file.origin.deleted:
            found[file.target] = file
    return list(found.values())


def _without_marks(info: ObjectInfo) -> Headers:
    """Return the headers of an object in the trash for its restore, without those that only count there.

    The trash gives a large object no X-Delete-At. If it has one, it had that before, and so have its
    segments.
    """
    headers = Headers.of(info)
    is_large = info.is_slo or info.dlo_prefix is not None
    ends = () if is_large else ("X-Delete-At",)
    kept = {name: value for name, value in headers.preserved_headers.items() if name not in ends}
    metadata = {name: value for name, value in headers.metadata.items() if name != OWNER}
    return as_restored(replace(headers, metadata=metadata, preserved_headers=kept), info.version.etag)
