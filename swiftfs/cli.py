"""The command line."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console

from swiftfs import __version__
from swiftfs.commands.gc import gc
from swiftfs.commands.orders import MOUNTPOINT, flush_command, retry_command
from swiftfs.commands.probe import probe
from swiftfs.commands.rescue import export, recover
from swiftfs.commands.status import status_command
from swiftfs.commands.version import version_command
from swiftfs.commands.view import number
from swiftfs.credentials import login_environment
from swiftfs.daemon import Ready, allow_many_files, log_to_system, log_to_terminal, run_in_background
from swiftfs.errors import SwiftfsError
from swiftfs.flags import given, option_flags
from swiftfs.mount import MountRequest, check_mountpoint, serve
from swiftfs.naming import Source
from swiftfs.notify import notify
from swiftfs.settings import build_options, gather
from swiftfs.status import printable
from swiftfs.unmount import unmount


class _OneLine(click.ClickException):
    """A failure told in one line, exit code 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        click.echo(f"swiftfs: {self.message}", err=True)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SwiftfsError as error:
            raise _OneLine(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="swiftfs")
def main() -> None:
    """Use OpenStack Swift containers as a local folder."""


@main.command()
@click.argument("source")
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "-o", "words", multiple=True, metavar="OPT[,OPT…]", help="Options as in fstab: read_ahead=1M,ro."
)
@click.option("--foreground", "-f", is_flag=True, help="Stay in the foreground and log to standard error.")
@option_flags()
def mount(
    source: str, mountpoint: Path, words: tuple[str, ...], foreground: bool, **flags: bool | str | None
) -> None:
    """Mount SOURCE on the empty folder MOUNTPOINT.

    SOURCE is CONTAINER, CONTAINER/PREFIX, or / for the whole account, whose containers are the top folders.
    """
    options = build_options(gather(os.environ, words, given(flags)))
    request = MountRequest(
        Source.parse(source),
        mountpoint.absolute(),
        options,
        Path(options.cache_dir).absolute() if options.cache_dir else None,
        options.os_cloud or None,
    )
    check_mountpoint(request.mountpoint)
    _serve(request, login_environment(options.credentials, os.environ), foreground=foreground)


def _serve(request: MountRequest, environment: Mapping[str, str], *, foreground: bool) -> None:
    level = logging.DEBUG if request.options.debug else logging.INFO
    log_to_terminal(level)
    allow_many_files()
    if foreground:
        serve(request, environment, lambda _cache: notify("READY=1"))
        return

    def work(ready: Ready) -> None:
        def begin(cache: Path) -> None:
            log_to_system(level, cache)
            ready()

        serve(request, environment, begin)

    run_in_background(work)


@main.command()
@click.argument("mountpoint", type=MOUNTPOINT)
def umount(mountpoint: Path) -> None:
    """Unmount MOUNTPOINT and return when all that was written is in Swift."""
    console = Console(stderr=True)
    with console.status(f"unmounting {mountpoint}") as status:

        def progress(waiting: int) -> None:
            status.update(f"{mountpoint}: {number(waiting, 'change')} still to store")

        held = unmount(mountpoint.absolute(), progress)
    if held:
        click.echo(f"swiftfs: {printable(held)}", err=True)


@main.command()
@click.argument("mountpoint", type=MOUNTPOINT, required=False)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Where Swift keeps its data (default: a temporary folder).",
)
def demo(mountpoint: Path | None, data: Path | None) -> None:
    """Start a real Swift on loopback, mount a container of it, and take a short tour.

    With MOUNTPOINT, stay mounted there until Ctrl-C.
    """
    from swiftfs.demo.tour import run  # noqa: PLC0415  only the demo needs the extra `demo`

    run(mountpoint, data)


for command in (
    probe,
    gc,
    version_command,
    status_command,
    flush_command,
    retry_command,
    export,
    recover,
):
    main.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
