"""`swiftfs status`, `flush` and `retry`: what a mount has still to store."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from swiftfs.journal.report import Report
from swiftfs.status import flush, printable, read_report, retry

# Not click's own check: a mount that died is not readable, and that is told in other words.
MOUNTPOINT = click.Path(path_type=Path, readable=False)


@click.command("status")
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status_command(mountpoint: Path, as_json: bool) -> None:
    """Show what MOUNTPOINT has not stored yet, and why.

    A change is `waiting`, `running`, or `parked`: one that Swift refused, kept until `swiftfs retry`,
    `swiftfs flush` or the next mount. What failed comes first; of very many the last are only counted.
    """
    report = read_report(mountpoint)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
        return
    if report.changes:
        Console().print(_table(report))
    if report.left_out:
        click.echo(f"and {report.left_out} more")
    if report.away:
        click.echo("the server does not answer")
    click.echo(_counts(report) if report.total else "nothing waits: all that was closed is in Swift")


@click.command("flush")
@click.argument("mountpoint", type=MOUNTPOINT)
def flush_command(mountpoint: Path) -> None:
    """Return when all that was closed in MOUNTPOINT is in Swift.

    What is parked is tried again. Exit code 1 when something could not be stored, with a line for each path;
    it stays where it is.
    """
    with Console(stderr=True).status(f"flushing {mountpoint}") as status:
        report = flush(mountpoint, lambda now: status.update(f"{mountpoint}: {_counts(now)}"))
    if not report.unflushed:
        return
    failed = [change for change in report.changes if change.reason]
    for change in failed:
        click.echo(f"swiftfs: {printable(change.path)}: {printable(change.reason)}", err=True)
    if report.unflushed > len(failed):
        why = "the server does not answer" if report.away else "they wait for these"
        click.echo(f"swiftfs: {report.unflushed - len(failed)} more changes: {why}", err=True)
    sys.exit(1)


@click.command("retry")
@click.argument("mountpoint", type=MOUNTPOINT)
def retry_command(mountpoint: Path) -> None:
    """Have MOUNTPOINT try again at once what failed, such as after a quota was raised.

    It does not wait for that: `swiftfs status` shows what became of it, `swiftfs flush` waits.
    """
    retry(mountpoint)


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("state", "change", "size", "tries", "path", "reason"):
        table.add_column(
            heading, overflow="fold", justify="right" if heading in ("size", "tries") else "left"
        )
    for change in report.changes:
        size = decimal(change.bytes) if change.bytes else ""
        cells = (change.state, change.kind, size, str(change.attempts), change.path, change.reason)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _counts(report: Report) -> str:
    states = (("waiting", report.waiting), ("running", report.running), ("parked", report.parked))
    told = ", ".join(f"{count} {state}" for state, count in states if count)
    return f"{told}; {decimal(report.bytes)} of files"
