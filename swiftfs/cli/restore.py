"""`swiftfs restore`: bring back files as they were, where the server keeps older versions.

A version is brought back by a COPY onto the object's name, on the server. What is there now becomes an older
version by that, so nothing is lost.
"""

import json
import os.path
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from enum import Enum
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace
from rich.filesize import decimal

from swiftfs.attributes import stored_at, stored_at_ns
from swiftfs.cli.command_line import complain, spinner
from swiftfs.cli.connection import Place, account_options, connected, find_place
from swiftfs.concurrency import Executor, new_pool, unix_time
from swiftfs.config.options import parse_age, parse_date
from swiftfs.errors import (
    ConfigurationError,
    Corrupt,
    NotFound,
    StoreError,
    SwiftfsError,
    pluralize,
    printable,
)
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import History, Manifest, ObjectName, OlderName, VersionRow
from swiftfs.paths import SEGMENTS_FOLDER
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


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Wish(Struct, frozen=True):
    """What to restore: the state at `moment_ns` or the version `version_id`; without both it is listed."""

    moment_ns: int | None
    version_id: str
    recursive: bool
    as_json: bool


def run(path: str, at: str | None, flags: Mapping[str, Any], wish: Wish, *, lists: bool) -> None:
    """Restore or list; exit with code 1 if something could not be restored."""
    if (at is not None) + bool(wish.version_id) + lists != 1:
        raise click.UsageError("give one of --at, --version and --list")
    if at is not None:
        wish = replace(wish, moment_ns=moment_of(at))
    options = account_options(flags)
    place = find_place(path)
    with spinner("waiting until the mount has stored what was written there"):
        place.flush()
    with connected(options) as account:
        place.check_account(account.label, account.place)
        check_history(account.store, place.name.container)
        kept, is_file = _find(account.store, place, wish)
        if wish.moment_ns is None and not wish.version_id:
            _print_versions(kept, as_json=wish.as_json)
            return
        try:
            results = _restore(account.store, kept, wish)
        finally:
            _refresh(place, wish)
        _report(results, is_file=is_file, as_json=wish.as_json)


def moment_of(text: str) -> int:
    """Return the time that a text names, in ns since the epoch; raise `click.UsageError` for other text.

    A time without a zone is local, and a date is its midnight. `2d` is two days ago.
    """
    with suppress(ValueError):
        return int((unix_time() - parse_age(text)) * 10**9)
    try:
        moment = parse_date(text)
    except ValueError:
        raise click.UsageError(
            f"invalid value for '--at': {text!r}: expected a time such as 2026-11-28 or 2026-11-28T10:15, "
            "or an age such as 12h, 7d or 2w"
        ) from None
    if moment.timestamp() > unix_time():
        raise click.UsageError(f"invalid value for '--at': {text!r} is in the future")
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _find(store: ObjectStore, place: Place, wish: Wish) -> tuple[Iterator[Kept], bool]:
    """Return the objects that a path means, and whether that is one file."""
    name = place.name
    own = kept_object(store, name) if name.key else Kept(name, ())
    if own.is_file and not (place.must_be_folder or wish.recursive):
        return iter((own,)), True
    below = kept_below(store, name)
    first = None if place.is_file else next(below, None)
    if first is None:
        if own.is_file and not place.must_be_folder:
            return iter((own,)), True
        if not own.versions:
            raise ConfigurationError(f"{place.text}: there are no versions of such a file or folder")
    if not wish.recursive:
        raise click.UsageError(f"{place.text} is a folder: -r is for all that is in it")
    if wish.version_id:
        raise click.UsageError(f"{place.text} is a folder: --version is for a file")
    return chain((own,) if own.versions else (), (first,) if first is not None else (), below), False


def _restore(store: ObjectStore, objects: Iterator[Kept], wish: Wish) -> list[Result]:
    results: list[Result] = []
    with spinner("restoring") as show, new_pool("restore", PARALLEL) as pool:

        def tell(result: Result) -> None:
            results.append(result)
            show(f"restoring: {len(results):,} looked at")

        Restorer(store, wish.moment_ns or 0, wish.version_id).run(objects, pool, tell)
    return results


def _refresh(place: Place, wish: Wish) -> None:
    """Let the mount look again: at the folder, or at all folders."""
    if wish.recursive and place.mount is not None:
        place = replace(place, path=Path(place.mount.mountpoint))
    place.refresh()


def _report(results: list[Result], *, is_file: bool, as_json: bool) -> None:
    counts = Counter(result.outcome for result in results)
    failed = [result for result in results if result.outcome is Outcome.FAILED]
    if as_json:
        done = [one for one in results if one.outcome is Outcome.RESTORED]
        restored = [_fields(one.name, one.version) for one in done if one.version is not None]
        others = {one.value: counts[one] for one in (Outcome.UNCHANGED, Outcome.LATER, Outcome.ABSENT)}
        errors = [{"path": str(one.name), "error": one.reason} for one in failed]
        click.echo(json.dumps({"restored": restored, **others, "failed": errors}, indent=2))
    else:
        for one in results:
            if one.outcome is Outcome.RESTORED and one.version is not None:
                click.echo(f"restored {printable(str(one.name))} of {stored_at(one.version)}")
        click.echo(_summary(counts))
    if is_file and (failure := failure_of(results[0])) is not None:
        raise failure
    for one in failed:
        complain(failure_of(one))
    if failed:
        sys.exit(1)


def _summary(counts: Counter[Outcome]) -> str:
    parts = [f"restored {pluralize(counts[Outcome.RESTORED], 'object')}"]
    for outcome, text in (
        (Outcome.UNCHANGED, "unchanged since"),
        (Outcome.LATER, "made later, which stay"),
        (Outcome.ABSENT, "deleted at that time, which stay as they are"),
        (Outcome.FAILED, "could not be restored"),
    ):
        if counts[outcome]:
            parts.append(f"{counts[outcome]:,} {text}")
    return "; ".join(parts)


def _print_versions(objects: Iterable[Kept], *, as_json: bool) -> None:
    versions = [(kept.name, version) for kept in objects for version in kept.versions]
    if as_json:
        click.echo(json.dumps([_fields(name, one) for name, one in versions], indent=2))
        return
    for name, one in versions:
        size = "deleted" if one.is_deletion else decimal(one.row.size)
        mark = "current" if one.is_latest else ""
        click.echo(f"{stored_at(one)}\t{size}\t{one.version_id}\t{mark}\t{printable(str(name))}")


def _fields(name: ObjectName, version: VersionRow) -> dict[str, object]:
    return {
        "path": str(name),
        "time": stored_at(version),
        "version": version.version_id,
        "size": version.row.size,
        "deleted": version.is_deletion,
        "current": version.is_latest,
    }
