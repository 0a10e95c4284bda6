"""`mount.swiftfs`: what mount(8) and fstab call, as `mount.swiftfs SOURCE DIR [-sfnv] [-o OPTIONS]`."""

import os
import sys

import click

from swiftfs.cli import main as cli

MOUNT_FAILED = 32
"""mount(8): the exit code of a failed mount."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("mountpoint")
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="As for 'swiftfs mount'.")
@click.option("-f", "fake", is_flag=True, help="Check the arguments, mount nothing.")
@click.option("-s", "sloppy", is_flag=True, expose_value=False, help="Accepted for mount(8).")
@click.option("-n", "no_mtab", is_flag=True, expose_value=False, help="Accepted for mount(8).")
@click.option("-v", "verbose", is_flag=True, expose_value=False, help="Accepted for mount(8).")
@click.option("-t", "kind", expose_value=False, help="Accepted for mount(8).")
def helper(source: str, mountpoint: str, options: tuple[str, ...], fake: bool) -> None:
    """Mount SOURCE on MOUNTPOINT for mount(8)."""
    if fake:
        return
    words = ["mount", source, mountpoint]
    for option in options:
        words += ["-o", option]
    try:
        cli.main(words, prog_name="swiftfs", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(MOUNT_FAILED)


def main() -> None:
    """Run the helper; mount(8) cleans the environment, and a home is needed for the cache."""
    os.environ.setdefault("HOME", "/root" if os.getuid() == 0 else "/")
    helper(prog_name="mount.swiftfs")
