"""`swiftfs check`: whether what a listing shows is really there, and the same as a local folder.

The listing and the sorted walk of the folder are merged, so that neither is in memory; files are checked in
batches by several threads. The segments that manifests name are looked up in their own listings at the end.
"""

import json
import os
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import click
from msgspec import Struct, to_builtins
from rich.filesize import decimal

from swiftfs.cli.command_line import complain
from swiftfs.cli.connection import account_options, cache_roots, connected, mounts_here
from swiftfs.cli.gc import find_orphans
from swiftfs.concurrency import Executor, Future, new_pool, unix_time_ns
from swiftfs.config.options import Options
from swiftfs.control.mount_table import OWN_TABLE, mount_entries
from swiftfs.control.snapshot import MountStatus
from swiftfs.errors import (
    ConfigurationError,
    NotFound,
    StoreError,
    SwiftfsError,
    command_line,
    in_words,
    pluralize,
    printable,
)
from swiftfs.maintenance.item_check import Finding, ItemCheck, Outcome, Report, Tally, Wanted, Weight
from swiftfs.maintenance.large_objects import Needed, NeededSegments, problem_of
from swiftfs.maintenance.orphan_segments import Search
from swiftfs.maintenance.other_journals import PendingNames, Waiting
from swiftfs.maintenance.trees import Local, Remote, local_tree, remote_tree
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectName
from swiftfs.paths import Source, unescape, without_hidden
from swiftfs.store.connect import ConnectedAccount
from swiftfs.store.protocol import ObjectStore

BATCH = 64
"""Items that a thread checks in a row: to hand over each one takes longer than to hash a small file."""

BATCH_BYTES = 32 * 1024 * 1024
"""Bytes after which a batch ends."""

THREADS = 16
"""Parallel requests; most answers are small."""

READERS = max(4, min(8, os.cpu_count() or 1))
"""Parallel readers of a local folder: a disk may be slower with more."""

AHEAD = 4
"""Batches for each thread that wait, or whose findings wait for those before them."""

SOON_NS = 30 * 86_400 * 10**9
"""The time before its end in which a file "expires soon"."""

Pair = tuple[Remote | None, Local | None]


class Subject(Struct, frozen=True):
    """What is checked: a source, `paths` in it (all without), and the local folder to compare it with."""

    source: Source
    paths: tuple[str, ...] = ()
    against: str = ""


class Check:
    """One check. `report` is called for each finding, and `progress` now and then with the numbers so far."""

    def __init__(
        self,
        store: ObjectStore,
        subject: Subject,
        wanted: Wanted,
        pending: PendingNames,
        report: Report,
        progress: Callable[[Tally], None],
    ) -> None:
        self.tally = Tally()
        self._store = store
        self._subject = subject
        self._wanted = wanted
        self._pending = pending
        self._report = report
        self._progress = progress
        self._items = ItemCheck(store, wanted)

    def run(self) -> None:
        """Check everything. Raise `StoreError` if a listing fails, or the server does not answer any more."""
        threads = READERS if self._subject.against and not self._wanted.percent else THREADS
        with closing(NeededSegments()) as needed:
            pool = new_pool("check", threads)
            try:
                for path in self._subject.paths or ("",):
                    self._check_below(path, pool.submit, threads * AHEAD, needed)
                self._check_segments(needed, pool)
            finally:
                pool.shutdown(cancel_futures=True)

    def _check_below(
        self, path: str, submit: Callable[..., Future[Outcome]], most: int, needed: NeededSegments
    ) -> None:
        running: deque[Future[Outcome]] = deque()
        found = 0
        for batch in _batches(self._pairs(path)):
            running.append(submit(self._check_batch, batch))
            found += len(batch)
            if len(running) > most:
                self._take(running.popleft().result(), needed)
        while running:
            self._take(running.popleft().result(), needed)
        if path and not found:
            self._tell(Finding("missing", path, f"neither a file nor a folder in {self._wanted.source}"))
        elif not found and not self._is_there():
            text = f"there is no folder {self._subject.source}: check its name; a file is given as PATH"
            self._tell(Finding("missing", "", text))

    def _is_there(self) -> bool:
        """Return whether the source itself exists: a container, or a prefix with a marker."""
        source = self._subject.source
        if not source.prefix:
            return True
        plain = source.prefix.removesuffix("/")
        rows = self._store.list_page(source.container, prefix=plain, limit=1).rows
        return any(row.key in (plain, source.prefix) and is_marker(row) for row in rows)

    def _pairs(self, path: str) -> Iterator[Pair]:
        remote = remote_tree(
            self._store,
            self._subject.source,
            "/".join(unescape(name)[0] for name in without_hidden(f"/{path}")[1:].split("/")),
        )
        if not self._subject.against:
            return ((one, None) for one in remote)
        return _merged(remote, local_tree(Path(self._subject.against), path))

    def _check_batch(self, batch: Sequence[Pair]) -> Outcome:
        outcome = Outcome()
        for remote, local in batch:
            self._items.check(remote, local, outcome)
        return outcome

    def _take(self, outcome: Outcome, needed: NeededSegments) -> None:
        self.tally.add(outcome.tally)
        needed.add(outcome.needed)
        for finding in outcome.findings:
            self._tell(finding)
        for path, moment in outcome.expiries:
            self._note_expiry(path, moment)
        self._progress(self.tally)

    def _note_expiry(self, path: str, moment: str) -> None:
        self.tally.expiring += 1
        left_ns = int(moment) * 10**9 - unix_time_ns() if moment.isdecimal() else SOON_NS
        if left_ns < SOON_NS:
            self._tell(Finding("expires", path, f"Swift deletes it in {in_words(max(0, left_ns) / 10**9)}"))

    def _check_segments(self, needed: NeededSegments, pool: Executor) -> None:
        """Report each file of which segments are missing or wrong, with the first of them."""
        broken: dict[str, list[str]] = {}
        unlisted = needed.unlisted(self._store)
        while chunk := list(islice(unlisted, BATCH)):
            for one, found in zip(chunk, pool.map(self._problem_of, chunk), strict=True):
                if isinstance(found, StoreError):
                    self._tell(Finding("unknown", one.path, str(found)))
                elif found:
                    broken.setdefault(one.path, []).append(found)
        for path, texts in broken.items():
            others = f"; {len(texts) - 1} more are missing or wrong" if len(texts) > 1 else ""
            self._tell(Finding("segment", path, texts[0] + others))
        self.tally.segments = needed.count
        self._progress(self.tally)

    def _problem_of(self, one: Needed) -> str | StoreError:
        try:
            return problem_of(self._store, one)
        except StoreError as error:
            return error

    def _tell(self, finding: Finding) -> None:
        if finding.weight is Weight.DIFFERENCE and self._pending.covers(self._name_of(finding.path)):
            return  # the caller was told that changes wait
        self.tally.count(finding)
        self._report(finding)

    def _name_of(self, position: str) -> ObjectName:
        source = self._subject.source
        if source.is_account:
            return ObjectName.parse(position)
        return ObjectName(source.container, source.prefix + position)


def _merged(remote: Iterator[Remote], local: Iterator[Local]) -> Iterator[Pair]:
    """Yield what is at each place of two trees."""
    there, here = next(remote, None), next(local, None)
    while there is not None or here is not None:
        if here is not None and here.is_folder and here.status is None:
            # A folder that cannot be read: nothing is known of what should be there.
            yield None, here
            while there is not None and there.position.startswith(here.position):
                there = next(remote, None)
            here = next(local, None)
        elif here is None or (there is not None and there.place < here.place):
            yield there, None
            there = next(remote, None)
        elif there is None or here.place < there.place or here.has_no_object:
            yield None, here
            here = next(local, None)
        else:
            yield there, here
            there, here = next(remote, None), next(local, None)


def _batches(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        row = pair[0].row if pair[0] is not None else None
        size += row.size if row is not None else 0
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


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
    mounts = mounts_here(subject.source.container)

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
            f"{numbers['large']:,} large with {pluralize(numbers['segments'], 'segment')}"
            if numbers["large"]
            else "",
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
