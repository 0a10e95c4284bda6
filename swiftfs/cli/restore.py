"""`swiftfs restore`: bring back files as they were, where the server keeps older versions."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import chain
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace
from rich.filesize import decimal

from swiftfs.cli.connection import account_options, connected
from swiftfs.cli.wording import complain, spinner
from swiftfs.concurrency import new_pool, unix_time
from swiftfs.config.options import parse_age, parse_date
from swiftfs.control.places import Place, find_place
from swiftfs.errors import ConfigurationError, pluralize, printable
from swiftfs.maintenance.restore import (
    PARALLEL,
    Kept,
    Outcome,
    Restorer,
    Result,
    check_history,
    failure_of,
    kept_below,
    kept_object,
)
from swiftfs.objects import ObjectName, VersionRow
from swiftfs.posix.versions import stored_at
from swiftfs.store.protocol import ObjectStore

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
