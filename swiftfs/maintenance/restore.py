"""Brings older versions of objects back: a COPY of each onto its name, on the server.

What is there now becomes an older version by that, so nothing is lost. Only where a container keeps versions.
"""

import os.path
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import groupby, islice

from msgspec import Struct

from swiftfs.concurrency import Executor
from swiftfs.errors import ConfigurationError, Corrupt, NotFound, StoreError, SwiftfsError
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import History, Manifest, ObjectName, OlderName, VersionRow
from swiftfs.paths import SEGMENTS_FOLDER
from swiftfs.posix.versions import stored_at_ns
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore, iter_rows, iter_versions
from swiftfs.store.trash_names import as_restored, parse

PARALLEL = 8
"""How many objects are copied at once; the server does the work."""


AT_ONCE = 500
"""How many objects wait to be copied at most: a folder may have millions."""


class Outcome(Enum):
    """What restoring does to an object; the values are those of `--json`."""

    RESTORED = "restored"
    UNCHANGED = "unchanged"
    """It is what it was then."""
    LATER = "later"
    """It was made after that time: it stays."""
    ABSENT = "absent"
    """It was deleted at that time: what has been made since stays."""
    FAILED = "failed"


class Result(Struct, frozen=True):
    """What was done to an object, and with which version."""

    name: ObjectName
    outcome: Outcome
    version: VersionRow | None = None
    reason: str = ""


class Kept(Struct, frozen=True):
    """An object with all its versions, the newest first."""

    name: ObjectName
    versions: tuple[VersionRow, ...]

    @property
    def is_file(self) -> bool:
        """Whether it is or was a file, and not only the marker of a folder."""
        return any(not (one.is_deletion or is_marker(one.row)) for one in self.versions)

    def at(self, moment_ns: int) -> VersionRow | None:
        """Return the version that was current at a time (ns since the epoch), None before the first one."""
        return next((one for one in self.versions if stored_at_ns(one) <= moment_ns), None)

    @property
    def current(self) -> VersionRow | None:
        """The version that the object is now, None if it does not exist."""
        return next((one for one in self.versions if one.is_latest and not one.is_deletion), None)


def check_history(store: ObjectStore, container: str) -> None:
    """Raise `ConfigurationError` unless the container keeps versions that can be listed."""
    try:
        history = store.container_usage(container).history
    except NotFound:
        raise ConfigurationError(f"no container {container!r}: check its name") from None
    if history is History.ELSEWHERE:
        raise ConfigurationError(
            f"{container} keeps older versions in another container (X-Versions-Location or "
            "X-History-Location): swiftfs does not read these; copy them from there"
        )
    if history is History.NONE:
        raise ConfigurationError(
            f"{container} keeps no older versions: \"swift post -H 'X-Versions-Enabled: true' {container}\" "
            "lets it keep those of later changes, if the server can"
        )


def kept_object(store: ObjectStore, name: ObjectName) -> Kept:
    """Return an object with its versions, none if it never existed."""
    found = []
    for version in iter_versions(store, name.container, name.key):
        if version.row.key != name.key:  # one that only begins so
            break
        found.append(version)
    return Kept(name, tuple(found))


def kept_below(store: ObjectStore, folder: ObjectName) -> Iterator[Kept]:
    """Yield the objects in a folder and all folders below it; an empty key is the whole container."""
    prefix = f"{folder.key}/" if folder.key else ""
    versions = iter_versions(store, folder.container, prefix)
    for key, rows in groupby(versions, key=lambda version: version.row.key):
        # What a mount has put there by itself.
        if not (key.startswith(f"{SEGMENTS_FOLDER}/") or parse(key, prefix) is not None):
            yield Kept(ObjectName(folder.container, key), tuple(rows))


class Restorer:
    """Restores objects as they were at `moment_ns`, or the one version `version_id`."""

    def __init__(self, store: ObjectStore, moment_ns: int = 0, version_id: str = "") -> None:
        self._store = store
        self._moment_ns = moment_ns
        self._version_id = version_id

    def run(self, objects: Iterator[Kept], pool: Executor, tell: Callable[[Result], None]) -> None:
        """Restore objects, and `tell` each result, in their order."""
        while part := list(islice(objects, AT_ONCE)):
            for result in pool.map(self.restore, part):
                tell(result)

    def restore(self, kept: Kept) -> Result:
        """Restore one object; a failure is a result too."""
        version = self._wanted(kept)
        if version is None:
            return Result(kept.name, Outcome.LATER)
        if version.is_deletion:
            return Result(kept.name, Outcome.ABSENT, version)
        if kept.current is not None and _are_same(kept.current, version):
            return Result(kept.name, Outcome.UNCHANGED, version)
        try:
            self._copy(kept.name, version)
        except StoreError as error:
            return Result(kept.name, Outcome.FAILED, version, str(error))
        return Result(kept.name, Outcome.RESTORED, version)

    def _wanted(self, kept: Kept) -> VersionRow | None:
        if not self._version_id:
            return kept.at(self._moment_ns)
        found = next((one for one in kept.versions if one.version_id == self._version_id), None)
        if found is None:
            raise ConfigurationError(f"{kept.name} has no version {self._version_id}: --list shows them")
        return found

    def _copy(self, name: ObjectName, version: VersionRow) -> None:
        older = OlderName(name.container, name.key, version.version_id)
        info = self._store.head(older)
        if info.is_slo:
            manifest = self._store.manifest(older)
            if gone := missing_segments(self._store, manifest):
                raise Corrupt(
                    f"{name}: {len(gone)} of the {len(manifest.names)} segments of that version are gone, "
                    f"such as {gone[0]}"
                )
        # The manifest, so that the bytes of a large object are not copied: the version's segments stay.
        headers = None if info.is_symlink else as_restored(Headers.of(info), info.version.etag)
        self._store.copy(CopyRequest(older, name, manifest_only=True, headers=headers))


def missing_segments(store: ObjectStore, manifest: Manifest) -> list[ObjectName]:
    """Return the segments of a manifest that do not exist, by listings of where they are."""
    named = sorted(manifest.names)
    found: set[ObjectName] = set()
    for container, names in groupby(named, key=lambda name: name.container):
        keys = [name.key for name in names]
        try:
            # Of the names, which are no paths: those of one upload lie together.
            rows = iter_rows(store, container, os.path.commonprefix(keys))  # noqa: RUF071
            found.update(ObjectName(container, row.key) for row in rows)
        except NotFound:  # so is the container
            continue
    return [name for name in named if name not in found]


def _are_same(current: VersionRow, version: VersionRow) -> bool:
    """Return whether restoring would change nothing: it was done before, for example."""
    rows = current.row, version.row
    return current is version or len({(row.hash, row.size, row.content_type) for row in rows}) == 1


def failure_of(result: Result) -> SwiftfsError | None:
    """Return why a single file was not restored, None if it is as it was asked for."""
    text = {
        Outcome.LATER: "was made after that time: --list shows its versions",
        Outcome.ABSENT: "did not exist at that time: --list shows its versions",
        Outcome.FAILED: result.reason,
    }.get(result.outcome)
    if text is None:
        return None
    return ConfigurationError(text if str(result.name) in text else f"{result.name} {text}")
