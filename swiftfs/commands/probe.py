"""`swiftfs probe`: what a server can, how fast it is, and the options that follow."""

import contextlib

import click
from rich.console import Console
from rich.filesize import decimal

from swiftfs.commands.account import account_flags, account_options, connected
from swiftfs.config import MIB, parse_size
from swiftfs.errors import SwiftfsError
from swiftfs.naming import Source
from swiftfs.probe import Finding, Probe, advice


def _size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: say {error}") from None
    if not MIB <= size <= 1024 * MIB:
        raise click.BadParameter(f"{text!r}: say a size, 1M to 1G")
    return size


@click.command()
@click.argument("source")
@click.option(
    "--size", default="16M", callback=_size, metavar="SIZE", show_default=True, help="For throughput."
)
@account_flags()
def probe(source: str, size: int, **flags: bool | str | None) -> None:
    """Try what the server of SOURCE can, how fast it is, and say which options would suit it.

    It writes about thirty small objects and twice SIZE below one hidden prefix, reads them, deletes them all,
    and says what that cost.
    """
    options = account_options(flags)
    findings: list[Finding] = []
    with connected(options) as stores, Console(stderr=True).status("asking") as status:
        found = Probe(stores.foreground, Source.parse(source), size, status.update)
        with contextlib.closing(found.run()) as running:
            click.echo(f"account: {stores.who}")
            for finding in running:
                findings.append(finding)
                click.echo(f"{finding.subject}: {finding.text}")
        total = stores.counters.snapshot().total
        click.echo(
            f"cost: {total.requests} requests, {decimal(total.bytes_sent)} sent, "
            f"{decimal(total.bytes_received)} received"
        )
        click.echo(f"advice: -o {advice(findings)}" if advice(findings) else "advice: the defaults suit it")
        if left := found.left():
            raise SwiftfsError(f"{len(left)} objects could not be deleted, such as {left[0]}: delete them")
