"""`swiftfs flush` and `swiftfs retry`: make a mount store its pending changes now."""

import sys
from contextlib import suppress
from pathlib import Path

import click

from swiftfs.cli.wording import counts, pluralize, spinner
from swiftfs.control.client import flush, printable, read_state, retry
from swiftfs.errors import ConfigurationError
from swiftfs.journal.queue_report import QueuedChange


def run_flush(mountpoint: Path) -> None:
    """Wait until all changes are stored; exit with code 1 if some could not be."""
    with spinner(f"flushing {mountpoint}") as show:
        report = flush(mountpoint, lambda now: show(f"{mountpoint}: {counts(now)}"))
    for change in report.refusals:
        click.echo(f"swiftfs: {printable(change.path)}: {_given_up(change)}", err=True)
    if report.refused > len(report.refusals):
        more = pluralize(report.refused - len(report.refusals), "more change")
        click.echo(f"swiftfs: {more}: refused and given up", err=True)
    if not report.unflushed and not report.refused:
        _tell_read_only(mountpoint)
        return
    failed = [change for change in report.changes if change.reason]
    for change in failed:
        click.echo(f"swiftfs: {printable(change.path)}: {printable(change.reason)}", err=True)
    if report.unflushed > len(failed):
        why = "the server does not answer" if report.away else "they wait for the changes above"
        more = pluralize(report.unflushed - len(failed), "more change")
        click.echo(f"swiftfs: {more}: {why}", err=True)
    sys.exit(1)


def _given_up(change: QueuedChange) -> str:
    done = {"Delete": "deleted", "Move": "moved", "MoveFolder": "moved"}.get(change.kind, "changed")
    return f"could not be {done} and was given up: {printable(change.reason)}"


def run_retry(mountpoint: Path) -> None:
    """Make the mount try failed changes again at once."""
    retry(mountpoint)
    _tell_read_only(mountpoint)


def _tell_read_only(mountpoint: Path) -> None:
    with suppress(ConfigurationError):  # another version: it has done what was asked
        state = read_state(mountpoint)
        if state.read_only and not state.report.total:
            click.echo(f"{mountpoint} is mounted read-only and has nothing to store")
