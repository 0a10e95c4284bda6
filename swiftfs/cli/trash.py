"""`swiftfs trash`: list what was deleted in a mount, restore it, or delete it for good."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from swiftfs.cli.command_line import complain, spinner
from swiftfs.cli.connection import LocalChanges, Place, account_options, connected, container_of
from swiftfs.concurrency import unix_time
from swiftfs.control.client import mountpoints, read_state
from swiftfs.errors import ConfigurationError, SwiftfsError, pluralize, printable
from swiftfs.maintenance.trash import TrashBin, TrashedFile, newest
from swiftfs.objects import ObjectName
from swiftfs.paths import SCHEME, Source
from swiftfs.store.connect import ConnectedAccount

Flags = Mapping[str, Any]


def run_list(source: str, paths: tuple[str, ...], flags: Flags, *, as_json: bool) -> None:
    """Print the files in the trash at or below the paths, or all."""
    with _opened(source, flags) as (found, trash, _):
        files = list(_chosen(trash.files(), found, paths))
    if as_json:
        click.echo(json.dumps([_values(one, found) for one in files], indent=2))
        return
    for one in files:
        click.echo(_line(one, found))
    click.echo(f"{pluralize(len(files), 'file')}, {decimal(sum(one.row.size for one in files))} in the trash")


def run_restore(source: str, paths: tuple[str, ...], flags: Flags, *, force: bool, as_json: bool) -> None:
    """Put back the last deleted file of each name at or below the paths; exit with 1 if one fails."""
    with _opened(source, flags) as (found, trash, account):
        changes = LocalChanges(account_options(flags), found, account.label)

        def restore(file: TrashedFile) -> None:
            # A mount would store it over the restored file, whose copy in the trash is gone then.
            changes.check(file.target, file.path(found))
            trash.restore(file, force=force)

        files, missing = _wanted(trash, found, paths)
        with spinner("restoring") as show:
            failed = _each(files, found, restore, show)
    failed |= dict.fromkeys(missing, "nothing of that name is in the trash")
    _report("restored", [one for one in files if one.path(found) not in failed], failed, found, as_json)


def run_empty(source: str, paths: tuple[str, ...], flags: Flags, *, age: int, as_json: bool) -> None:
    """Delete the files at or below the paths, or all, that were deleted at least `age` seconds ago."""
    latest = datetime.fromtimestamp(unix_time(), timezone.utc) - timedelta(seconds=age)
    with _opened(source, flags) as (found, trash, _), spinner("deleting"):
        files = [one for one in _chosen(trash.files(), found, paths) if one.origin.deleted <= latest]
        failures = trash.delete(files)
    failed = {one.entry(found): str(failures.pop(one.name)) for one in files if one.name in failures}
    failed |= {str(name): f"a segment stays: {error}" for name, error in failures.items()}
    _report("deleted", [one for one in files if one.entry(found) not in failed], failed, found, as_json)


@contextmanager
def _opened(text: str, flags: Flags) -> Iterator[tuple[Source, TrashBin, ConnectedAccount]]:
    """Provide the trash of a source, or of the mount at a path, which shows changes at the end at once."""
    mount = _mount(text) if _is_path(text) else None
    source = Source.parse(mount.mount.source if mount is not None and mount.mount is not None else text)
    with connected(account_options(flags)) as account, container_of(source.container):
        if mount is None:
            yield source, TrashBin(account.store, source), account
            return
        mount.check_account(account.label, account.place)
        with suppress(ConfigurationError):  # what else is parked must not stop this: see `LocalChanges`
            mount.flush()
        yield source, TrashBin(account.store, source), account
        mount.refresh()


def _is_path(text: str) -> bool:
    """Return whether the text is the path of a mount point, not a source; `photos` may be either."""
    if text == "/" or text.startswith(SCHEME):
        return False
    return text.startswith(("/", ".", "~")) or Path(text).absolute() in mountpoints()


def _mount(text: str) -> Place:
    path = Path(text).expanduser().absolute()
    return Place(text, ObjectName("", ""), path=path, mount=read_state(path))


def _chosen(files: Iterable[TrashedFile], source: Source, paths: Iterable[str]) -> Iterator[TrashedFile]:
    """Yield the files at or below the paths; a path may also be the name of one version."""
    wanted = [_plain(path) for path in paths]
    for one in files:
        if not wanted or any(_fits(one, source, path) for path in wanted):
            yield one


def _fits(file: TrashedFile, source: Source, path: str) -> bool:
    return path == file.entry(source) or file.lies_at(source, path)


def _plain(path: str) -> str:
    return path.strip("/")


def _wanted(trash: TrashBin, source: Source, paths: tuple[str, ...]) -> tuple[list[TrashedFile], list[str]]:
    """Return the files to restore, and the paths at which there is none."""
    files = list(_chosen(trash.files(), source, paths))
    exact = {_plain(path) for path in paths}
    versions = [one for one in files if one.entry(source) in exact]
    # The newest ones, unless a version was named.
    named = {one.target for one in versions}
    rest = [one for one in newest(files) if one.target not in named]
    missing = [path for path in paths if not any(_fits(one, source, _plain(path)) for one in files)]
    return [*versions, *rest], missing


def _each(
    files: list[TrashedFile],
    source: Source,
    change: Callable[[TrashedFile], None],
    show: Callable[[str], None],
) -> dict[str, str]:
    """Call `change` for each file; return the errors by the paths."""
    failed = {}
    for number, one in enumerate(files, 1):
        show(f"{number:,} of {pluralize(len(files), 'file')}")
        try:
            change(one)
        except SwiftfsError as error:
            failed[one.path(source)] = str(error).removeprefix(f"{one.path(source)}: ")
    return failed


def _report(
    done: str, files: list[TrashedFile], failed: Mapping[str, str], source: Source, as_json: bool
) -> None:
    """Print what was done, and what was not; exit with 1 if anything was not."""
    if as_json:
        values = [_values(one, source) for one in files]
        click.echo(json.dumps({done: values, "failed": dict(failed)}, indent=2))
    else:
        click.echo(f"{done} {pluralize(len(files), 'file')}")
    for path, reason in failed.items():
        complain(f"{path}: {reason}")
    if failed:
        sys.exit(1)


def _line(file: TrashedFile, source: Source) -> str:
    deleted = f"deleted {file.origin.deleted:%Y-%m-%d %H:%M:%S} UTC"
    return "\t".join((printable(file.path(source)), decimal(file.row.size), deleted, _entry(file, source)))


def _entry(file: TrashedFile, source: Source) -> str:
    return printable(file.entry(source))


def _values(file: TrashedFile, source: Source) -> dict[str, object]:
    return {
        "path": file.path(source),
        "size": file.row.size,
        "deleted": file.origin.deleted.isoformat(),
        "version": file.entry(source),
    }
