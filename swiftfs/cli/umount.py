"""`swiftfs umount`: unmount, and wait for what is still to store."""

from pathlib import Path

import click

from swiftfs.cli.wording import pluralize, spinner
from swiftfs.control.client import printable
from swiftfs.control.unmount import unmount


def run(mountpoint: Path) -> None:
    """Unmount, and return when all is stored; errors as in `unmount`."""
    with spinner(f"unmounting {mountpoint}") as show:
        held = unmount(
            mountpoint.absolute(),
            lambda waiting: show(f"{mountpoint}: {pluralize(waiting, 'change')} still to store"),
        )
    if held:
        click.echo(f"swiftfs: {printable(held)}", err=True)
