"""`swiftfs cp`: copy files within Swift; no byte of them passes through this machine."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import click
import platformdirs
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from swiftfs.cli.command_line import complain, spinner
from swiftfs.cli.connection import Place, account_options, connected, find_place, journals_here
from swiftfs.concurrency import new_pool
from swiftfs.config.cache_dir import COPIES
from swiftfs.config.options import Options
from swiftfs.errors import pluralize
from swiftfs.filecache.segment_container import SegmentContainerChooser, may_hold_bytes_of
from swiftfs.maintenance.copy_records import CopyRecords
from swiftfs.maintenance.copy_walk import PARALLEL, CopyProgress, CopyRun, Named, Tally, Walk, WalkOptions
from swiftfs.maintenance.object_copy import CopyOptions, ObjectCopier, ReplacedSegments
from swiftfs.objects import ObjectName
from swiftfs.store.connect import ConnectedAccount
from swiftfs.store.foreign_manifests import MayRead


def run(
    paths: Sequence[str], flags: Mapping[str, Any], walk: WalkOptions, *, expiry: bool, as_json: bool
) -> None:
    """Copy all `paths` but the last one to the last one; exit with code 1 if some could not be copied."""
    if len(paths) < 2:
        raise click.UsageError(f"missing argument: where to copy {paths[0]!r} to")
    try:
        _run(paths, account_options(flags), walk, CopyOptions(expiry, walk.no_clobber, walk.update), as_json)
    except KeyboardInterrupt:
        complain("interrupted: run it again to continue")
        # Threads wait for COPYs, which the server may need minutes for; it ends these by itself.
        os._exit(1)


def _run(paths: Sequence[str], options: Options, walk: WalkOptions, how: CopyOptions, as_json: bool) -> None:
    *sources, target = [find_place(text) for text in paths]
    with spinner("waiting until the mount has stored what was written there"):
        for place in (*sources, target):
            place.flush()
    with connected(options, may_read=_may_read(options)) as account:
        for place in (*sources, target):
            place.check_account(account.label, account.place)
        try:
            tally = _copy(account, options, sources, target, walk, how)
        finally:
            target.refresh()
        _report(tally, account, as_json=as_json)


def _may_read(options: Options) -> MayRead | None:
    if options.foreign_manifests == "follow":
        return None
    return partial(may_hold_bytes_of, choice=options.segments, whole_account=True)


def _copy(
    account: ConnectedAccount,
    options: Options,
    sources: Sequence[Place],
    target: Place,
    walk: WalkOptions,
    how: CopyOptions,
) -> Tally:
    store = account.store
    replaced = ReplacedSegments(store, options.segments, lambda: _needed(options))
    records = CopyRecords(platformdirs.user_cache_path("swiftfs") / COPIES, account.place or account.label)
    steps = Walk(store, walk, records, complain).steps([_named(one) for one in sources], _named(target))
    segments = new_pool("segment copy", PARALLEL)
    with closing(replaced), _bars() as bars:
        places = SegmentContainerChooser(store, options.segments)
        copier = ObjectCopier(store, places, records, replaced, segments, how, bars.copied)
        one = CopyRun(copier, records, replaced, segments, CopyProgress(bars.found, bars.done))
        one.run(steps)
    segments.shutdown()
    return one.tally


def _needed(options: Options) -> frozenset[ObjectName]:
    known = journals_here(options)
    return known.prefixes | known.shared


def _named(place: Place) -> Named:
    return Named(place.text, place.name, place.must_be_folder, place.contents, place.is_file)


class _Bars:
    """A bar of bytes, with the number of files, on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("copying", total=0, files=0, of=0)
        self._files = self._of = self._bytes = 0

    def found(self, files: int, size: int) -> None:
        """Add what is to be copied."""
        self._of += files
        self._bytes += size
        self._progress.update(self._task, total=self._bytes, of=self._of)

    def done(self, files: int) -> None:
        """Add files that are done."""
        self._files += files
        self._progress.update(self._task, files=self._files)

    def copied(self, size: int) -> None:
        """Add bytes that are copied; from any thread."""
        self._progress.advance(self._task, size)


@contextmanager
def _bars() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.fields[files]:,} of {task.fields[of]:,} files"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as shown:
        yield _Bars(shown)


def _report(tally: Tally, account: ConnectedAccount, *, as_json: bool) -> None:
    total = account.state.counters.snapshot().total
    if as_json:
        failed = [{"path": one.text, "error": one.reason} for one in tally.failures]
        shown = {"copied": tally.copied, "skipped": tally.skipped, "failed": failed}
        shown |= {"requests": total.requests, "bytes_sent": total.bytes_sent}
        click.echo(json.dumps({**shown, "bytes_received": total.bytes_received}, indent=2))
    else:
        skipped = f", skipped {tally.skipped:,} that stand there already" if tally.skipped else ""
        click.echo(f"copied {pluralize(tally.copied, 'object')}{skipped}; {total.requests:,} requests")
    for one in tally.failures:
        complain(one.reason if one.text in one.reason else f"{one.text}: {one.reason}")
    if tally.stopped:
        complain("the server does not answer: run it again to continue")
    if tally.failures:
        sys.exit(1)
