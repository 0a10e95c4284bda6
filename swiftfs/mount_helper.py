"""`mount.swiftfs`: what mount(8) and fstab call, as `mount.swiftfs SOURCE DIR [-sfnv] [-o OPTIONS]`."""

import os
import sys

import click

from swiftfs.cli import main as cli
from swiftfs.errors import ConfigurationError, SwiftfsError
from swiftfs.naming import Source
from swiftfs.settings import build_options, gather

MOUNT_FAILED = 32
"""mount(8): the exit code of a failed mount."""

SCHEME = "swift:"
"""mount(8) makes a path of a SOURCE that is also a file in the current folder, but not with this in front."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("mountpoint")
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="As for 'swiftfs mount'.")
@click.option("-f", "fake", is_flag=True, help="Check source and options, mount nothing.")
@click.option("-s", "sloppy", is_flag=True, expose_value=False, help="Accepted for mount(8).")
@click.option("-n", "no_mtab", is_flag=True, expose_value=False, help="Accepted for mount(8).")
@click.option("-v", "verbose", is_flag=True, expose_value=False, help="Accepted for mount(8).")
@click.option("-t", "kind", expose_value=False, help="Accepted for mount(8).")
def helper(source: str, mountpoint: str, options: tuple[str, ...], fake: bool) -> None:
    """Mount SOURCE, written [swift:]CONTAINER[/PREFIX] or swift:/, on MOUNTPOINT for mount(8)."""
    try:
        source = _checked(source)
        if fake:
            build_options(gather(os.environ, options))
            return
        words = ["mount", source, mountpoint]
        for option in options:
            words += ["-o", option]
        cli.main(words, prog_name="swiftfs", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(MOUNT_FAILED)
    except SwiftfsError as error:
        click.echo(f"swiftfs: {error}", err=True)
        sys.exit(MOUNT_FAILED)


def main() -> None:
    """Run the helper."""
    helper(prog_name="mount.swiftfs")


def _checked(source: str) -> str:
    name = source.removeprefix(SCHEME)
    if source.startswith("/") and source != "/":
        raise ConfigurationError(f"mount(8) passed the path {source}: write the source as {SCHEME}CONTAINER")
    Source.parse(name)
    return name
