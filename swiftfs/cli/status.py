"""`swiftfs status`: what a mount is doing, what is not stored yet, and its requests to Swift."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from swiftfs.cli.command_line import complain
from swiftfs.concurrency import sleep
from swiftfs.control.client import mountpoints, read_state
from swiftfs.control.snapshot import MountStatus
from swiftfs.errors import ConfigurationError, Gone, NotYours

WATCH_SECONDS = 1.0
"""The interval of `--watch`."""

PIPED_COLUMNS = 20_000
"""The width where no terminal shows the status: longer than every line."""

Show = Callable[[list[MountStatus]], None]


def run(mountpoint: Path | None, *, as_json: bool, watch: bool) -> None:
    """Print the status of the mount on MOUNTPOINT, or of all mounts that answer."""
    states, failures = look(mountpoint)
    for failure in failures:
        complain(failure)
    if not watch:
        _print_json(states, alone=mountpoint is not None, indent=2) if as_json else _print(states)
        return
    ends = (KeyboardInterrupt, ConfigurationError)  # Ctrl-C, or the mount has ended
    with suppress(*ends), _shown(as_json=as_json, alone=mountpoint is not None) as show:
        while True:
            show(states)
            sleep(WATCH_SECONDS)
            states, _ = look(mountpoint)


def look(asked: Path | None) -> tuple[list[MountStatus], list[str]]:
    """Return the statuses asked for, and why others have none; `ConfigurationError` if all have none."""
    if asked is not None:
        return [read_state(asked)], []
    states, failures, others = [], [], 0
    for mountpoint in mountpoints():
        try:
            states.append(read_state(mountpoint))
        except NotYours:
            others += 1
        except Gone:
            continue  # it was unmounted meanwhile
        except ConfigurationError as error:
            failures.append(str(error))
    if not states:
        raise ConfigurationError("; ".join(failures) or _nothing(others))
    return states, failures


def _nothing(others: int) -> str:
    if not others:
        return "no swiftfs mounts on this machine"
    return f"no swiftfs mounts of yours on this machine, but {others} of other users"


@contextmanager
def _shown(*, as_json: bool, alone: bool) -> Iterator[Show]:
    """Provide a function that prints statuses: on a terminal in place of the last ones, else below them."""
    if as_json:
        yield lambda states: _print_json(states, alone=alone, indent=None)
        return
    from rich.console import Console  # noqa: PLC0415  it takes time to load
    from rich.live import Live  # noqa: PLC0415

    from swiftfs.cli.status_view import view  # noqa: PLC0415

    if not Console().is_terminal:
        yield _print
    else:
        with Live(auto_refresh=False) as live:
            yield lambda states: live.update(view(states), refresh=True)


def _print(states: list[MountStatus]) -> None:
    from rich.console import Console  # noqa: PLC0415  it takes time to load

    from swiftfs.cli.status_view import view  # noqa: PLC0415

    console = Console()
    if console.is_terminal:
        console.print(view(states))
        return
    # Another program reads it: it gets whole lines, without the blanks that fill columns.
    wide = Console(width=PIPED_COLUMNS)
    with wide.capture() as text:
        wide.print(view(states))
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))


def _print_json(states: list[MountStatus], *, alone: bool, indent: int | None) -> None:
    values = [json.loads(state.to_json()) for state in states]
    click.echo(json.dumps(values[0] if alone else values, indent=indent))
