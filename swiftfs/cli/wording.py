"""Texts about pending changes, and the spinner of commands that wait."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.filesize import decimal

from swiftfs.errors import pluralize, printable
from swiftfs.journal.queue_report import QueueReport

__all__ = ["KINDS", "complain", "counts", "pluralize", "spinner"]

KINDS = {
    "PutFile": "file",
    "PutSmall": "link or special file",
    "PutMarker": "folder",
    "Describe": "attributes",
    "SetHeaders": "attributes",
    "Delete": "deletion",
    "Move": "move",
    "MoveObject": "move",
    "MoveFolder": "move",
}
"""The names of the journal's operations in what users read."""


def counts(report: QueueReport) -> str:
    """Return in words how much is not stored yet."""
    if not report.total:
        return "nothing is waiting: everything that was closed is in Swift"
    by_state = (("waiting", report.waiting), ("running", report.running), ("parked", report.parked))
    states = [(state, count) for state, count in by_state if count]
    changes = pluralize(report.total, "change")
    if len(states) == 1:
        told = f"{changes} {states[0][0]}"
    else:
        told = f"{changes}: {', '.join(f'{count:,} {state}' for state, count in states)}"
    return f"{told}; {decimal(report.bytes)} of files" if report.bytes else told


def complain(message: object) -> None:
    """Print a message to standard error, in one line that cannot control the terminal."""
    click.echo(f"swiftfs: {printable(str(message))}", err=True)


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner on a terminal while the block runs; provide a function that replaces the text."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console  # noqa: PLC0415  it takes time to load

    with Console(stderr=True).status(text) as status:
        yield status.update
