"""The commands that ask something of a running mount: `umount`, `flush`, `retry`, `set`, `pin`, `unpin`."""

import errno
import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import click
from rich.filesize import decimal

from swiftfs.attributes import PIN_ATTRIBUTE, UNPIN_ATTRIBUTE
from swiftfs.cli.wording import KINDS, complain, counts, spinner
from swiftfs.config.sources import SET_COMMAND, from_words
from swiftfs.control.client import flush, mount_of, read_state, retry, set_options, state_of
from swiftfs.errors import ConfigurationError, DeadMount, pluralize, printable
from swiftfs.journal.queue_report import AWAY, QueuedChange


def run_flush(mountpoint: Path) -> None:
    """Wait until all changes are stored; exit with code 1 if some could not be."""
    with spinner(f"flushing {mountpoint}") as show:
        report = flush(mountpoint, lambda now: show(f"{mountpoint}: {counts(now)}"))
    for change in report.refusals:
        complain(f"{change.path}: {_given_up(change)}")
    if report.refused > len(report.refusals):
        more = pluralize(report.refused - len(report.refusals), "more change")
        complain(f"{more}: refused and given up")
    if not report.unflushed and not report.refused:
        _tell_read_only(mountpoint)
        return
    failed = [change for change in report.changes if change.reason]
    for change in failed:
        complain(f"{change.path}: {change.reason}")
    if report.unflushed > len(failed):
        why = AWAY if report.away else "they wait for the changes above"
        more = pluralize(report.unflushed - len(failed), "more change")
        complain(f"{more}: {why}")
    sys.exit(1)


def _given_up(change: QueuedChange) -> str:
    is_move = KINDS.get(change.kind) == KINDS["Move"]
    done = "deleted" if change.kind == "Delete" else "moved" if is_move else "changed"
    return f"could not be {done} and was given up: {change.reason}"


def run_retry(mountpoint: Path) -> None:
    """Make the mount try failed changes again at once."""
    retry(mountpoint)
    _tell_read_only(mountpoint)


def _tell_read_only(mountpoint: Path) -> None:
    with suppress(ConfigurationError):  # another version: it has done what was asked
        state = read_state(mountpoint)
        if state.read_only and not state.report.total:
            click.echo(f"{mountpoint} is mounted read-only and has nothing to store")


def run_umount(mountpoint: Path) -> None:
    """Unmount, and return when everything is stored; errors as in `unmount`."""
    from swiftfs.control.unmount import unmount  # noqa: PLC0415  the others need nothing of it

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


def run_set(mountpoint: Path, words: tuple[str, ...], *, as_json: bool) -> None:
    """Change the options, and print those that can be changed as they are in force now."""
    for word in words:
        if "=" not in word:
            raise ConfigurationError(f"{word!r}: write OPTION=VALUE, such as bwlimit=2M")
    options = set_options(mountpoint, from_words(words, SET_COMMAND))
    if as_json:
        click.echo(json.dumps(options, indent=2))
        return
    for name, text in options.items():
        click.echo(f"{name}={text}")


def run_pin(paths: Iterable[Path], *, is_pin: bool, as_json: bool) -> None:
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
        too_many = error.errno == errno.E2BIG
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
