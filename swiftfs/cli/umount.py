"""`swiftfs umount`: unmount, and wait until everything is stored."""

from pathlib import Path

import click

from swiftfs.cli.wording import pluralize, spinner
from swiftfs.control.client import printable
from swiftfs.control.unmount import unmount


def run(mountpoint: Path) -> None:
    """Unmount, and return when everything is stored; errors as in `unmount`."""
    with spinner(f"unmounting {mountpoint}") as show:
        held = unmount(
            mountpoint.absolute(),
            lambda waiting: show(f"{mountpoint}: {pluralize(waiting, 'change')} still to be stored"),
        )
    if held:
        click.echo(f"swiftfs: {printable(held)}", err=True)
