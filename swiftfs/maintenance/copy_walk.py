"""Finds what `swiftfs cp` has to copy, and to which names, by the rules of cp(1); copies many objects at
once.
"""

import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct, field

from swiftfs.attributes import SPECIAL_TYPES, decode_type, parse_last_modified
from swiftfs.concurrency import Executor, Future, new_pool
from swiftfs.errors import ConfigurationError, NotFound, SwiftfsError, Unavailable
from swiftfs.filecache.segment_container import RCLONE_FOLDER
from swiftfs.maintenance.copy_records import CopyRecords
from swiftfs.maintenance.object_copy import (
    Changed,
    ObjectCopier,
    ReplacedSegments,
    Transfer,
    check_kinds,
    is_folder_marker,
)
from swiftfs.maintenance.orphan_segments import may_be_manifest
from swiftfs.objects import ObjectName, Row
from swiftfs.paths import SEGMENTS_FOLDER
from swiftfs.store.protocol import ObjectStore, iter_rows

SEGMENT_FOLDERS = (f"{SEGMENTS_FOLDER}/", f"{RCLONE_FOLDER}/")
"""Folders at the top of a container with the segments of its files, which are copied with the files."""


class Named(Struct, frozen=True):
    """A file or folder that the command line names as `text`; an empty key is the container.

    It `must_be_folder` if the text ends in a slash. `contents` means what is in the folder (`photos/.`), and
    `is_file` an object beside a folder of the same name.
    """

    text: str
    name: ObjectName
    must_be_folder: bool = False
    contents: bool = False
    is_file: bool = False

    @property
    def prefix(self) -> str:
        """How the keys in the folder begin."""
        return f"{self.name.key}/" if self.name.key else ""

    @property
    def last(self) -> str:
        """The last component, under which it is copied into a folder; empty for `contents`."""
        if self.contents:
            return ""
        return self.name.key.rpartition("/")[2] if self.name.key else self.name.container


class Found(Struct, frozen=True):
    """What is there: the object itself, and whether it is a folder."""

    row: Row | None
    is_folder: bool

    @property
    def exists(self) -> bool:
        """Whether anything is there."""
        return self.row is not None or self.is_folder


class WalkOptions(Struct, frozen=True):
    """Folders too if `recursive`; nothing over others if `no_clobber`, only over older ones if `update`."""

    recursive: bool = False
    no_clobber: bool = False
    update: bool = False


class Skipped(Struct, frozen=True):
    """An object that is not copied, because it stands at its target already, or the options say so."""

    name: ObjectName


class Refused(Struct, frozen=True):
    """What was named and cannot be copied, and why."""

    text: str
    reason: str


Step = Transfer | Skipped | Refused


class Walk:
    """Finds the objects to copy; `store` is asked for listings, and HEADs where these are not enough.

    `records` tell which folders an earlier run has begun to copy; then `tell` is called with a line.
    """

    def __init__(
        self, store: ObjectStore, options: WalkOptions, records: CopyRecords, tell: Callable[[str], None]
    ) -> None:
        self._store = store
        self._records = records
        self._tell = tell
        self._options = options
        self._begun: set[ObjectName] = set()

    def steps(self, sources: Sequence[Named], target: Named) -> Iterator[Step]:
        """Yield what to do for each object; raise `ConfigurationError` if the target fits no source."""
        there = self.look(target, folder_matters=True)
        self._check_target(sources, target, there)
        for source in sources:
            yield from self._steps_of(source, target, there)

    def look(self, named: Named, *, folder_matters: bool) -> Found:
        """Return what is at a name; without `folder_matters` an object that is a file is all that counts.

        Raise `ConfigurationError` if there is no such container.
        """
        container, key = named.name.container, named.name.key
        try:
            if not key:
                self._store.container_usage(container)
                return Found(None, is_folder=True)
            row = self._row(named.name)
            is_marker = row is not None and is_folder_marker(row)
            if is_marker or named.is_file or (row is not None and not folder_matters):
                return Found(row, is_folder=is_marker and not named.is_file)
            below = self._store.list_page(container, prefix=f"{key}/", limit=1)
            return Found(row, is_folder=bool(below.rows or below.unreadable))
        except NotFound as error:
            raise ConfigurationError(f"{named.text}: no container {container!r} ({error})") from None

    def _row(self, name: ObjectName) -> Row | None:
        for row in self._store.list_page(name.container, prefix=name.key, limit=1).rows:
            if row.key == name.key:
                return row
        try:
            info = self._store.head(name)  # a listing may lag
        except NotFound:
            return None
        return Row(name.key, info.size, info.version.etag, info.content_type, "")

    def _check_target(self, sources: Sequence[Named], target: Named, there: Found) -> None:
        parts = target.name.key.removesuffix("/").split("/") if target.name.key else []
        if any(part in ("", ".", "..") for part in parts):
            raise ConfigurationError(f"target {target.text}: a part of a name is empty, '.' or '..'")
        if there.is_folder:
            return
        is_single_folder = len(sources) == 1 and self._options.recursive
        if len(sources) > 1 or (target.must_be_folder and (there.exists or not is_single_folder)):
            what = "not a folder" if there.exists else "no such folder"
            raise ConfigurationError(f"target {target.text}: {what}")

    def _steps_of(self, source: Named, target: Named, there: Found) -> Iterator[Step]:
        wants_folder = self._options.recursive or source.must_be_folder or source.contents
        found = self.look(source, folder_matters=wants_folder)
        is_file = found.row is not None and not is_folder_marker(found.row)
        if not found.exists and not self._options.recursive:
            found = self.look(source, folder_matters=True)
        if not found.exists:
            yield Refused(source.text, "no such file or folder")
        elif found.is_folder and not (is_file and not wants_folder):
            yield from self._folder_steps(source, found, target, there)
        elif source.must_be_folder or source.contents:
            yield Refused(source.text, "not a folder")
        elif found.row is not None:
            yield from self._file_steps(source, found.row, target, there)

    def _file_steps(self, source: Named, row: Row, target: Named, there: Found) -> Iterator[Step]:
        name, before = target.name, there.row
        if there.is_folder:
            name = ObjectName(target.name.container, f"{target.prefix}{source.last}")
            inner = Named(str(name), name)
            inside = self.look(inner, folder_matters=True)
            if inside.is_folder:
                yield Refused(source.text, f"cannot overwrite the folder {name} with a file")
                return
            before = inside.row
        if name == source.name:
            yield Refused(source.text, f"{source.text} and {target.text} are the same file")
            return
        if before is not None and _is_link(before) and not _is_link(row):
            yield Refused(source.text, f"{name} is a symbolic link: give the path to which it leads")
            return
        if not self._begin(name):
            yield Refused(source.text, f"another source is copied to {name}")
            return
        yield self._step(Transfer(source.name, row, name, before))

    def _folder_steps(self, source: Named, found: Found, target: Named, there: Found) -> Iterator[Step]:
        if not self._options.recursive:
            yield Refused(source.text, "-r not specified; omitting the folder")
            return
        if there.exists and not there.is_folder:
            yield Refused(source.text, f"cannot overwrite the file {target.text} with a folder")
            return
        goes_on = there.exists and bool(source.last) and self._goes_on(source, target)
        is_inside = there.is_folder and bool(source.last) and not goes_on
        key = f"{target.prefix}{source.last}" if is_inside else target.name.key
        into = ObjectName(target.name.container, key)
        prefix = f"{key}/" if key else ""
        same_container = into.container == source.name.container
        if same_container and into == source.name:
            yield Refused(source.text, f"{source.text} and {target.text} are the same folder")
            return
        if same_container and prefix.startswith(source.prefix):
            yield Refused(source.text, f"cannot copy a folder, {source.text}, into itself, {into}")
            return
        if source.last and not self._begin(into):
            yield Refused(source.text, f"another source is copied to {into}")
            return
        if not there.exists:
            self._records.begin_folder(source.name, into)
        if found.row is not None and is_folder_marker(found.row) and key and not source.contents:
            before = self._row(into) if is_inside else there.row
            yield self._step(Transfer(source.name, found.row, into, before))
        yield from self._steps_below(source, ObjectName(into.container, prefix))

    def _goes_on(self, source: Named, target: Named) -> bool:
        """Return whether an earlier run has begun to copy the source to the target, which is there since."""
        if not self._records.resumes_folder(source.name, target.name):
            return False
        self._tell(f"an earlier copy of {source.text} to {target.text} goes on")
        return True

    def _begin(self, target: ObjectName) -> bool:
        """Record what a source is copied to; return False if an earlier one is."""
        is_new = target not in self._begun
        self._begun.add(target)
        return is_new

    def _steps_below(self, source: Named, into: ObjectName) -> Iterator[Step]:
        """Yield a step for each object below a folder, in the order of the listings of both sides."""
        there = _Merged(iter_rows(self._store, into.container, into.key), into.key)
        for row in iter_rows(self._store, source.name.container, source.prefix):
            if not source.prefix and row.key.startswith(SEGMENT_FOLDERS):
                continue
            rest = row.key.removeprefix(source.prefix)
            target = ObjectName(into.container, into.key + rest)
            if target.key:
                name = ObjectName(source.name.container, row.key)
                yield self._step(Transfer(name, row, target, there.at(rest)))

    def _step(self, transfer: Transfer) -> Step:
        before = transfer.replaces
        if before is not None:
            is_older = self._options.update and _time(before) >= _time(transfer.row)
            if self._options.no_clobber or is_older or is_same(transfer.row, before):
                return Skipped(transfer.source)
        return transfer


class _Merged:
    """The rows of the target's listing, by what follows `prefix`; asked for in bytewise order."""

    def __init__(self, rows: Iterator[Row], prefix: str) -> None:
        self._rows = rows
        self._prefix = prefix
        self._row: Row | None = None
        self._ended = False

    def at(self, rest: str) -> Row | None:
        """Return the row, None if nothing is listed there."""
        wanted = rest.encode()
        while not self._ended and (self._row is None or self._rest() < wanted):
            self._row = next(self._rows, None)
            self._ended = self._row is None
        return self._row if self._row is not None and self._rest() == wanted else None

    def _rest(self) -> bytes:
        assert self._row is not None
        return self._row.key.removeprefix(self._prefix).encode()


def is_same(source: Row, target: Row) -> bool:
    """Return whether two rows show the same; of a large object the ETag must be in the type."""
    if (source.size, source.content_type) != (target.size, target.content_type):
        return False
    return source.hash == target.hash or decode_type(source.content_type)[1].slo is not None


def _is_link(row: Row) -> bool:
    return decode_type(row.content_type)[0] == SPECIAL_TYPES[stat.S_IFLNK]


def _time(row: Row) -> int:
    """Return when a file was changed, in ns: the time that it stores, else that of the object."""
    stored = decode_type(row.content_type)[1].mtime_ns
    return parse_last_modified(row.last_modified) if stored is None else stored


PARALLEL = 16
"""Objects, and segments of large ones, that are copied at once: the server does the work."""

AHEAD = 4 * PARALLEL
"""Objects that are found before they are copied: more would only fill the memory."""


class Tally(Struct):
    """What was done: objects `copied` and `skipped`, `failures` by name, and whether it was `stopped`.

    It was stopped if the server does not answer: then the next object would fail as well.
    """

    copied: int = 0
    skipped: int = 0
    failures: list[Refused] = field(default_factory=list)
    stopped: bool = False


class CopyProgress(Struct, frozen=True):
    """Called with the objects and bytes that were found to copy, and with the objects that are done."""

    found: Callable[[int, int], None]
    done: Callable[[int], None]


class CopyRun:
    """Copies with `copier`, which has threads of its own for segments, `segments`."""

    def __init__(
        self,
        copier: ObjectCopier,
        records: CopyRecords,
        replaced: ReplacedSegments,
        segments: Executor,
        progress: CopyProgress,
    ) -> None:
        self.tally = Tally()
        self._copier = copier
        self._records = records
        self._replaced = replaced
        self._segments = segments
        self._progress = progress
        self._pending: deque[tuple[Transfer, Future[bool]]] = deque()

    def run(self, steps: Iterable[Step]) -> None:
        """Copy everything; a failure ends only its object, unless the server does not answer.

        After an interruption nothing else begins, and nobody waits for what the server is doing.
        """
        pool = new_pool("copy", PARALLEL)
        try:
            for step in steps:
                self._take(step, pool)
                while len(self._pending) >= AHEAD:
                    self._wait()
                if self.tally.stopped:
                    break
            while self._pending:
                self._wait()
        except BaseException as error:
            self._segments.shutdown(wait=False, cancel_futures=True)
            pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        pool.shutdown()
        if not self.tally.failures:
            self._records.end_folders()
        self._replaced.finish()

    def _take(self, step: Step, pool: Executor) -> None:
        if isinstance(step, Skipped):
            self.tally.skipped += 1
        elif isinstance(step, Refused):
            self.tally.failures.append(step)
        else:
            self._begin(step, pool)

    def _begin(self, transfer: Transfer, pool: Executor) -> None:
        try:
            check_kinds(transfer)
        except SwiftfsError as error:
            self.tally.failures.append(Refused(str(transfer.source), str(error)))
            return
        if transfer.replaces is not None and may_be_manifest(transfer.replaces):
            self._replaced.open()
        self._progress.found(1, transfer.size)
        self._pending.append((transfer, pool.submit(self._copy, transfer)))

    def _copy(self, transfer: Transfer) -> bool:
        # The objects behind one that got no answer would all wait as long for theirs.
        if self.tally.stopped:
            raise Unavailable(f"{transfer.source} was not copied: the server does not answer")
        return self._copier.copy(transfer)

    def _wait(self) -> None:
        transfer, future = self._pending.popleft()
        try:
            if future.result():
                self.tally.copied += 1
            else:
                self.tally.skipped += 1
        except SwiftfsError as error:
            self.tally.failures.append(Refused(str(transfer.source), str(error)))
            self.tally.stopped |= isinstance(error, Unavailable) and not isinstance(error, Changed)
        self._progress.done(1)
