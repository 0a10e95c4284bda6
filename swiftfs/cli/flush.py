"""`swiftfs flush` and `swiftfs retry`: make a mount store its pending changes now."""

import sys
from contextlib import suppress
from pathlib import Path

import click

from swiftfs.cli.wording import KINDS, complain, counts, pluralize, spinner
from swiftfs.control.client import flush, read_state, retry
from swiftfs.errors import ConfigurationError
from swiftfs.journal.queue_report import AWAY, QueuedChange


def run_flush(mountpoint: Path) -> None:
    """Wait until all changes are stored; exit with code 1 if some could not be."""
    with spinner(f"flushing {mountpoint}") as show:
        report = flush(mountpoint, lambda now: show(f"{mountpoint}: {counts(now)}"))
    for change in report.refusals:
        complain(f"{change.path}: {_given_up(change)}")
    if report.refused > len(report.refusals):
        more = pluralize(report.refused - len(report.refusals), "more change")
        complain(f"{more}: refused and given up")
    if not report.unflushed and not report.refused:
        _tell_read_only(mountpoint)
        return
    failed = [change for change in report.changes if change.reason]
    for change in failed:
        complain(f"{change.path}: {change.reason}")
    if report.unflushed > len(failed):
        why = AWAY if report.away else "they wait for the changes above"
        more = pluralize(report.unflushed - len(failed), "more change")
        complain(f"{more}: {why}")
    sys.exit(1)


def _given_up(change: QueuedChange) -> str:
    is_move = KINDS.get(change.kind) == KINDS["Move"]
    done = "deleted" if change.kind == "Delete" else "moved" if is_move else "changed"
    return f"could not be {done} and was given up: {change.reason}"


def run_retry(mountpoint: Path) -> None:
    """Make the mount try failed changes again at once."""
    retry(mountpoint)
    _tell_read_only(mountpoint)


def _tell_read_only(mountpoint: Path) -> None:
    with suppress(ConfigurationError):  # another version: it has done what was asked
        state = read_state(mountpoint)
        if state.read_only and not state.report.total:
            click.echo(f"{mountpoint} is mounted read-only and has nothing to store")
