"""`swiftfs probe`: the features and the speed of a server, and the options that suit it."""

import contextlib
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal

from swiftfs.cli.connection import account_options, connected
from swiftfs.errors import SwiftfsError, pluralize
from swiftfs.maintenance.server_probe import Finding, Probe, advice
from swiftfs.paths import Source


def run(source: str, size: int, flags: Mapping[str, Any]) -> None:
    """Print features and speed of the server of `source`, measured with objects of `size` bytes."""
    options = account_options(flags)
    findings: list[Finding] = []
    with connected(options) as account, Console(stderr=True).status("testing") as status:
        found = Probe(account.store, Source.parse(source), size, status.update)
        with contextlib.closing(found.run()) as running:
            for finding in running:
                if not findings:
                    click.echo(f"account: {account.label}")
                findings.append(finding)
                click.echo(f"{finding.subject}: {finding.text}")
        total = account.state.counters.snapshot().total
        click.echo(
            f"cost: {pluralize(total.requests, 'request')}, {decimal(total.bytes_sent)} sent, "
            f"{decimal(total.bytes_received)} received"
        )
        click.echo(f"advice: -o {advice(findings)}" if advice(findings) else "advice: the defaults are fine")
        if left := found.left():
            objects = pluralize(len(left), "object")
            raise SwiftfsError(f"{objects} could not be deleted, such as {left[0]}: delete them yourself")
