"""`swiftfs pin` and `swiftfs unpin`: keep the copies of files in a mount's cache."""

import errno
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click
from rich.filesize import decimal

from swiftfs.attributes import PIN_ATTRIBUTE, UNPIN_ATTRIBUTE
from swiftfs.cli.wording import complain, pluralize
from swiftfs.control.client import mount_of, read_state, state_of
from swiftfs.errors import printable


def run(paths: Iterable[Path], *, is_pin: bool, as_json: bool) -> None:
    """Pin or unpin the paths; without one, or with only a mount point, show what is pinned there."""
    paths = list(paths)
    if is_pin and len(paths) == 1 and os.path.ismount(paths[0].resolve()):
        state_of(paths[0])  # says what is there instead of a mount
        _show(mount_of(paths[0]), as_json=as_json)
        return
    failed = [path for path in paths if not _change(path, PIN_ATTRIBUTE if is_pin else UNPIN_ATTRIBUTE)]
    for mountpoint in dict.fromkeys(mount_of(path) for path in paths if path not in failed):
        _show(mountpoint, as_json=as_json)
    if failed:
        sys.exit(1)


def _change(path: Path, attribute: str) -> bool:
    state_of(path)  # says what is there instead of a mount
    try:
        os.getxattr(path, attribute)
    except OSError as error:
        too_many = error.errno == errno.ENOSPC
        complain(f"{path}: {'too many paths are pinned: pin a folder above' if too_many else error.strerror}")
        return False
    return True


def _show(mountpoint: Path, *, as_json: bool) -> None:
    state = read_state(mountpoint)
    use = state.cache
    if as_json:
        values = {"mountpoint": str(mountpoint), "pins": state.pins, "bytes": use.pinned, "limit": use.limit}
        click.echo(json.dumps(values, indent=2))
        return
    for path in state.pins:
        click.echo(printable(f"{mountpoint}{path}"))
    pinned = pluralize(len(state.pins), "path")
    click.echo(f"{pinned} pinned, {decimal(use.pinned)} in the cache of {decimal(use.limit)}")
