"""`swiftfs umount`: unmount, and wait until everything is stored."""

from pathlib import Path

from swiftfs.cli.wording import complain, pluralize, spinner
from swiftfs.control.unmount import unmount
from swiftfs.errors import DeadMount


def run(mountpoint: Path) -> None:
    """Unmount, and return when everything is stored; errors as in `unmount`."""
    try:
        with spinner(f"unmounting {mountpoint}") as show:
            held = unmount(
                mountpoint,
                lambda waiting: show(f"{mountpoint}: {pluralize(waiting, 'change')} still to be stored"),
            )
    except DeadMount as error:  # it is unmounted, as was asked
        held = str(error)
    if held:
        complain(held)
