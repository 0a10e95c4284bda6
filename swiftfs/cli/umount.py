"""`swiftfs umount`: unmount, and wait until everything is stored."""

from pathlib import Path

import click
from rich.console import Console

from swiftfs.cli.status_view import pluralize
from swiftfs.control.client import printable
from swiftfs.control.unmount import unmount


def run(mountpoint: Path) -> None:
    """Unmount, and return when everything is stored; errors as in `unmount`."""
    console = Console(stderr=True)
    with console.status(f"unmounting {mountpoint}") as status:

        def progress(waiting: int) -> None:
            status.update(f"{mountpoint}: {pluralize(waiting, 'change')} still to be stored")

        held = unmount(mountpoint.absolute(), progress)
    if held:
        click.echo(f"swiftfs: {printable(held)}", err=True)
