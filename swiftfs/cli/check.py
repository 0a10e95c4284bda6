"""`swiftfs check`: whether what a listing shows is really there, and the same as a local folder."""

import json
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins
from rich.filesize import decimal

from swiftfs.cli.connection import account_options, connected
from swiftfs.cli.gc import find_orphans
from swiftfs.cli.local_changes import cache_roots, mounts_here
from swiftfs.cli.wording import complain
from swiftfs.config.options import Options
from swiftfs.control.mount_table import OWN_TABLE, mount_entries
from swiftfs.control.snapshot import MountStatus
from swiftfs.errors import ConfigurationError, NotFound, SwiftfsError, command_line, pluralize, printable
from swiftfs.maintenance.check import Check, Subject
from swiftfs.maintenance.findings import Finding, Tally, Weight
from swiftfs.maintenance.item_check import Wanted
from swiftfs.maintenance.orphan_segments import Search
from swiftfs.maintenance.other_journals import PendingNames, Waiting
from swiftfs.paths import Source
from swiftfs.store.connect import ConnectedAccount

DIFFERENT, UNKNOWN = 1, 2
"""The exit codes; the second one counts more, as in diff(1)."""

ORPHAN_AGE = 7 * 86_400
"""Seconds: younger uploads may still be running; the default of `swiftfs gc`."""


def run(
    source: str,
    paths: Sequence[str],
    against: Path | None,
    flags: Mapping[str, Any],
    *,
    percent: float,
    seed: int | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Check `paths` of a source, all without any; print what is found; exit with a code as in the help."""
    output = _Json() if as_json else _Lines()
    seed = secrets.randbelow(2**32) if seed is None else seed
    numbers: dict[str, Any] = {}
    try:
        _check_folder(against)
        options = account_options(flags)
        subject = Subject(Source.parse(source), tuple(map(_path, paths)), str(against or ""))
        wanted = Wanted(
            str(subject.source), subject.against, how["times"], how["modes"], percent, seed, how["expiry"]
        )
        orphans = not (paths or against) if how["orphans"] is None else how["orphans"]
        with connected(options) as account:
            numbers = _check(account, options, subject, wanted, output, orphans=orphans)
    except SwiftfsError as error:
        output.fail(str(error))
    except KeyboardInterrupt:
        output.fail("interrupted")
    if percent:
        numbers["seed"] = seed
    output.end(numbers)
    if output.tally.unknown:
        sys.exit(UNKNOWN)
    if output.tally.differences:
        sys.exit(DIFFERENT)


def _check(
    account: ConnectedAccount,
    options: Options,
    subject: Subject,
    wanted: Wanted,
    output: "_Output",
    *,
    orphans: bool,
) -> dict[str, Any]:
    mounts = mounts_here()

    def is_foreign(cache: Path) -> bool:
        state = mounts.get(cache.absolute())
        return state is not None and state.server.account != account.label

    pending = PendingNames(cache_roots(options), subject.source, is_foreign)
    for one in pending.read():
        output.report(_waiting(one, mounts.get(one.cache.absolute())))
    with _progress() as show:
        check = Check(account.store, subject, wanted, pending, output.report, show)
        try:
            check.run()
            if orphans:
                _find_orphans(account, subject.source, options, output)
        except NotFound:
            raise ConfigurationError(
                f"no container {subject.source.container!r} at {account.label}: check its name"
            ) from None
    requests = account.state.counters.snapshot().total.requests
    counts = {name: number for name, number in to_builtins(check.tally).items() if name not in _WEIGHED}
    return {**counts, "requests": requests}


_WEIGHED = ("differences", "unknown", "notes")


def _find_orphans(account: ConnectedAccount, source: Source, options: Options, output: "_Output") -> None:
    search = Search(account.store, source, lambda _looked: None)
    try:
        find_orphans(search, options, ORPHAN_AGE, unfinished=False)
        for upload in search.candidates.uploads():
            text = (
                f"{upload.segments} segments, {decimal(upload.size)}, that no manifest names: see swiftfs gc"
            )
            output.report(Finding("orphans", str(upload.prefix), text))
    except SwiftfsError as error:  # what was checked before counts
        output.report(Finding("unknown", "", f"no search for orphans: {error}"))
    finally:
        search.close()


def _check_folder(against: Path | None) -> None:
    """Raise `ConfigurationError` unless `against` is a local folder."""
    if against is None:
        return
    try:
        if not against.is_dir():
            raise ConfigurationError(f"--against {against}: not a folder")
        device = against.stat().st_dev
    except OSError as error:
        raise ConfigurationError(f"--against {against}: {error.strerror}") from None
    if any(entry.device == device for entry in mount_entries(OWN_TABLE)):
        raise ConfigurationError(
            f"--against {against} is in a swiftfs mount: that would download every file; give a local folder"
        )


def _path(text: str) -> str:
    path = text.strip("/")
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ConfigurationError(f"PATH {text!r}: write it as below the mount, without . and ..")
    return path


def _waiting(one: Waiting, mount: MountStatus | None) -> Finding:
    changes = pluralize(one.changes, "change waits", "changes wait")
    if mount is not None:
        command = command_line("flush", mount.mountpoint)
        text = f"{changes} in the mount at {mount.mountpoint}; run {command} first"
    else:
        text = f"{changes} in the cache folder {one.cache}; mount it again to store them"
    return Finding("pending", "", text)


class _Output:
    """Prints findings as they come, and counts them."""

    def __init__(self) -> None:
        self.tally = Tally()

    def report(self, finding: Finding) -> None:
        """Print a finding."""
        self.tally.count(finding)
        self.show(finding)

    def show(self, finding: Finding) -> None:
        """Print a finding that is counted."""
        raise NotImplementedError

    def fail(self, message: str) -> None:
        """Print why the check ended."""
        self.tally.unknown += 1
        complain(message)

    def end(self, numbers: Mapping[str, Any]) -> None:
        """Print the numbers of the check, none if it did not come to its end."""
        raise NotImplementedError


class _Lines(_Output):
    """For people: differences and notes on standard output, what could not be told on standard error."""

    def show(self, finding: Finding) -> None:
        line = f"{finding.path}: {finding.text}" if finding.path else finding.text
        if finding.weight is Weight.UNKNOWN:
            complain(line)
        else:
            click.echo(printable(line))

    def end(self, numbers: Mapping[str, Any]) -> None:
        if "requests" not in numbers:
            return
        parts = [
            pluralize(numbers["files"], "file"),
            pluralize(numbers["links"], "link") if numbers["links"] else "",
            pluralize(numbers["folders"], "folder"),
            decimal(numbers["bytes"]),
            _large(numbers) if numbers["large"] else "",
            f"{decimal(numbers['hashed'])} read here" if numbers["hashed"] else "",
            f"{decimal(numbers['downloaded'])} downloaded" if numbers["downloaded"] else "",
            f"{numbers['expiring']} expire" if numbers["expiring"] else "",
            f"seed {numbers['seed']}" if "seed" in numbers else "",
            pluralize(numbers["requests"], "request"),
        ]
        click.echo(f"checked {', '.join(part for part in parts if part)}")
        click.echo(self._verdict())

    def _verdict(self) -> str:
        found = self.tally
        if not found.differences and not found.unknown:
            return "no differences"
        text = pluralize(found.differences, "difference")
        return f"{text}, {found.unknown:,} could not be told" if found.unknown else text


def _large(numbers: Mapping[str, Any]) -> str:
    return f"{numbers['large']:,} large with {pluralize(numbers['segments'], 'segment')}"


class _Json(_Output):
    """One JSON object: its findings are printed as they come, so that millions need no memory."""

    def __init__(self) -> None:
        super().__init__()
        self._error = ""
        self._separator = "\n"
        click.echo('{"findings": [', nl=False)

    def show(self, finding: Finding) -> None:
        click.echo(f"{self._separator}{json.dumps(finding.to_json())}", nl=False)
        self._separator = ",\n"

    def fail(self, message: str) -> None:
        super().fail(message)
        self._error = message

    def end(self, numbers: Mapping[str, Any]) -> None:
        counts = {name: getattr(self.tally, name) for name in _WEIGHED}
        rest = json.dumps({**counts, **numbers, **({"error": self._error} if self._error else {})})
        click.echo(f"\n], {rest[1:]}")


@contextmanager
def _progress() -> Iterator[Callable[[Tally], None]]:
    """Show on a terminal how much is checked; provide a function that takes the numbers."""
    if not sys.stderr.isatty():
        yield lambda _tally: None
        return
    from rich.console import Console  # noqa: PLC0415  it takes time to load
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # What goes into a file or pipe must not be printed above the bar instead.
    is_shown = sys.stdout.isatty()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=is_shown) as bar:
        task = bar.add_task("checking", total=None)

        def show(tally: Tally) -> None:
            text = f"{pluralize(tally.files, 'file')}, {decimal(tally.bytes)}"
            done = tally.hashed + tally.downloaded
            bar.update(task, description=f"{text}, {decimal(done)} read" if done else text)

        yield show
