"""The command line: what can be typed, and its help. A command loads its own module when it runs."""

import re
import sys
from pathlib import Path

import click

from swiftfs import __version__
from swiftfs.cli.options import FOLDER, MOUNTPOINT, account_flags, option_flags
from swiftfs.config.options import MIB, parse_size
from swiftfs.errors import SwiftfsError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class OneLineError(click.ClickException):
    """A failure told in one line, exit code 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        click.echo(f"swiftfs: {self.message}", err=True)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SwiftfsError as error:
            raise OneLineError(str(error)) from error


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
    from swiftfs.cli import mount as command

    command.run(source, mountpoint, words, flags, foreground=foreground)


@main.command()
@click.argument("mountpoint", type=MOUNTPOINT)
def umount(mountpoint: Path) -> None:
    """Unmount MOUNTPOINT and return when all that was written is in Swift."""
    from swiftfs.cli import umount as command

    command.run(mountpoint)


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
    from swiftfs.demo.tour import run

    run(mountpoint, data)


@main.command()
@click.argument("mountpoint", type=MOUNTPOINT, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; with --watch a line each time.")
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C or the end of the mount.")
def status(mountpoint: Path | None, as_json: bool, watch: bool) -> None:
    """Show what the mount on MOUNTPOINT does, and what it has not stored yet and why.

    Without MOUNTPOINT, show all mounts on this machine that you may ask; as JSON they are an array then.
    A change waits, runs, or is parked: one that Swift refused, kept until `swiftfs retry`, `swiftfs flush`
    or the next mount.
    """
    from swiftfs.cli import status as command

    command.run(mountpoint, as_json=as_json, watch=watch)


@main.command()
@click.argument("mountpoint", type=MOUNTPOINT)
def flush(mountpoint: Path) -> None:
    """Return when all that was closed in MOUNTPOINT is in Swift.

    What is parked is tried again. Exit code 1 when something could not be stored, with a line for each path;
    it stays where it is. So are deletions and changes of attributes that Swift has refused since the last
    flush: they were given up.
    """
    from swiftfs.cli import flush as command

    command.run_flush(mountpoint)


@main.command()
@click.argument("mountpoint", type=MOUNTPOINT)
def retry(mountpoint: Path) -> None:
    """Have MOUNTPOINT try again at once what failed, such as after a quota was raised.

    It does not wait for that: `swiftfs status` shows what became of it, `swiftfs flush` waits.
    """
    from swiftfs.cli import flush as command

    command.run_retry(mountpoint)


@main.command()
@click.argument("origin", metavar="MOUNTPOINT-OR-CACHE", type=FOLDER)
@click.argument("target", metavar="DIR", type=FOLDER)
def export(origin: Path, target: Path) -> None:
    """Copy what waits or is parked out of a mount, or out of the cache folder of one that died.

    The files arrive below DIR, an empty folder or a new one, under their paths, with their times and modes;
    nothing is changed in the mount. Of a file that was changed in part, the changed blocks are copied to
    PATH.swiftfs-partial. Exit code 1 when something could not be copied whole, with a line for each.
    """
    from swiftfs.cli import export as command

    command.run_export(origin, target)


@main.command()
@click.argument("origin", metavar="MOUNTPOINT-OR-CACHE", type=FOLDER)
@click.argument("target", metavar="[DIR]", type=FOLDER, required=False)
def recover(origin: Path, target: Path | None) -> None:
    """Show what a damaged journal held, and with DIR copy its files out.

    A mount that finds its journal damaged sets it aside in its cache folder, with the local files that nobody
    knows the owner of any more, and goes on. They are copied below DIR, an empty folder or a new one: under
    their paths, and those whose path is lost in DIR/swiftfs-lost. Nothing is deleted.
    """
    from swiftfs.cli import export as command

    command.run_recover(origin, target)


def _seconds(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no age: say 12h, 7d or 2w")
    return int(match[1]) * _UNITS[match[2]]


@main.command()
@click.argument("source")
@click.option("--delete", is_flag=True, help="Delete what was found; without it nothing is changed.")
@click.option(
    "--older-than",
    "age",
    default="7d",
    callback=_seconds,
    metavar="AGE",
    show_default=True,
    help="Leave uploads alone that have a segment younger than this: they may still be going on.",
)
@click.option(
    "--unfinished-uploads",
    "unfinished",
    is_flag=True,
    help="Count uploads of swiftfs as orphans too whose journal is not on this machine. A mount elsewhere, "
    "or one with another --cache-dir, may need them: they can hold the only copy of a file not stored yet.",
)
@account_flags("segments", "cache_dir")
def gc(source: str, delete: bool, age: int, unfinished: bool, **flags: bool | str | None) -> None:
    """Find segments of SOURCE's files that no manifest names any more.

    Uploads that broke off, and large objects that a client overwrote, leave such segments behind, and they
    are paid for. Segments of swiftfs, the swift command and rclone are known by their names; all manifests in
    the account are read. What a mount has uploaded whose journal is not on this machine is listed, but it
    stays unless --unfinished-uploads is given.
    """
    from swiftfs.cli import gc as command

    command.run(source, age, flags, delete=delete, unfinished=unfinished)


def _size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: say {error}") from None
    if not MIB <= size <= 1024 * MIB:
        raise click.BadParameter(f"{text!r}: say a size, 1M to 1G")
    return size


@main.command()
@click.argument("source")
@click.option(
    "--size", default="16M", callback=_size, metavar="SIZE", show_default=True, help="For throughput."
)
@account_flags()
def probe(source: str, size: int, **flags: bool | str | None) -> None:
    """Try what the server of SOURCE can, how fast it is, and say which options would suit it.

    It writes about thirty small objects and twice SIZE below one hidden prefix, reads them, deletes them all,
    and says what that cost.
    """
    from swiftfs.cli import probe as command

    command.run(source, size, flags)


@main.command()
def version() -> None:
    """Print the versions of swiftfs, libfuse and the libraries, for reports of bugs."""
    from swiftfs.cli import version as command

    command.run()


if __name__ == "__main__":
    sys.exit(main())
