"""The command line."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from swiftfs import __version__
from swiftfs.config import Options, describe_options, parse_options
from swiftfs.credentials import CREDENTIALS, read_credentials
from swiftfs.daemon import Ready, log_to_system, log_to_terminal, run_in_background
from swiftfs.errors import SwiftfsError
from swiftfs.mount import MountRequest, check_mountpoint, serve
from swiftfs.naming import Source
from swiftfs.notify import notify
from swiftfs.unmount import unmount

# Not click's own check: a mount that died is not readable, and that is told in other words.
MOUNTPOINT = click.Path(path_type=Path, readable=False)


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


def _option_help() -> str:
    lines = [f"  {name:<20} {text} [{default}]" for name, default, text in describe_options()]
    return "\b\nOptions for -o:\n" + "\n".join(lines)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="swiftfs")
def main() -> None:
    """Use OpenStack Swift containers as a local folder."""


@main.command(epilog=_option_help())
@click.argument("source")
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("-o", "options", multiple=True, metavar="OPT[,OPT…]", help="Mount options, listed below.")
@click.option("--foreground", "-f", is_flag=True, help="Stay in the foreground and log to standard error.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where local copies live.")
@click.option("--sync", is_flag=True, help="Let close() return only when the file is in Swift.")
@click.option("--os-cloud", metavar="NAME", help="A cloud of clouds.yaml; otherwise ST_* or OS_* variables.")
def mount(
    source: str,
    mountpoint: Path,
    options: tuple[str, ...],
    foreground: bool,
    cache_dir: Path | None,
    sync: bool,
    os_cloud: str | None,
) -> None:
    """Mount SOURCE on the empty folder MOUNTPOINT.

    SOURCE is CONTAINER, CONTAINER/PREFIX, or / for the whole account, whose containers are the top folders.
    """
    parsed = parse_options(options)
    parsed = replace(parsed, sync=parsed.sync or sync)
    folder = cache_dir or (Path(parsed.cache_dir) if parsed.cache_dir else None)
    request = MountRequest(
        Source.parse(source),
        mountpoint.absolute(),
        parsed,
        folder.absolute() if folder else None,
        os_cloud or parsed.os_cloud or None,
    )
    check_mountpoint(request.mountpoint)
    _serve(request, _environment(parsed), foreground=foreground)


def _environment(options: Options) -> Mapping[str, str]:
    """Return the environment with the credentials of a file in place of its own, if there is one."""
    if not options.credentials:
        return os.environ
    # All or nothing: half of the file and half of the environment would be nobody's credentials.
    others = {name: value for name, value in os.environ.items() if not name.startswith(CREDENTIALS)}
    return {**others, **read_credentials(Path(options.credentials))}


def _serve(request: MountRequest, environment: Mapping[str, str], *, foreground: bool) -> None:
    level = logging.DEBUG if request.options.debug else logging.INFO
    log_to_terminal(level)
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
            status.update(f"{mountpoint}: {waiting} files wait for their upload")

        unmount(mountpoint.absolute(), progress)


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


if __name__ == "__main__":
    sys.exit(main())
