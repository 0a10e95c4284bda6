"""The helpers of mount(8), umount(8) and fstab: `mount.swiftfs SOURCE DIR …`, `umount.fuse.swiftfs DIR …`."""

import os
import subprocess
import sys
from pathlib import Path

import click

from swiftfs.cli.app import main as cli
from swiftfs.cli.command_line import MOUNTPOINT, OneLineCommand, OneLineError, WrongCommandLine
from swiftfs.config.sources import build_options, gather
from swiftfs.errors import ConfigurationError, DeadMount, SwiftfsError
from swiftfs.paths import SCHEME, Source

FAILED = 32
"""The exit code for a failure, as in mount(8) and umount(8)."""


class _Wrong(WrongCommandLine):
    exit_code = FAILED


class _Helper(OneLineCommand):
    wrong = _Wrong


@click.command(cls=_Helper, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("mountpoint")
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="As for 'swiftfs mount'.")
@click.option("-f", "fake", is_flag=True, help="Check source and options, but do not mount.")
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
        words = ["mount", "--from-fstab"]
        for option in options:
            words += ["-o", option]
        # `--`: a container's name may begin with `-`.
        cli.main([*words, "--", source, mountpoint], prog_name="swiftfs", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(FAILED)
    except SwiftfsError as error:
        OneLineError(str(error)).show()
        sys.exit(FAILED)


@click.command(cls=_Helper, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("-f", "force", is_flag=True, help="As for umount(8); uploads are not waited for.")
@click.option("-l", "lazy", is_flag=True, help="As for umount(8); uploads are not waited for.")
@click.option("-n", "no_mtab", is_flag=True, expose_value=False, help="Accepted for umount(8).")
@click.option("-r", "read_only", is_flag=True, expose_value=False, help="Accepted for umount(8).")
@click.option("-v", "verbose", is_flag=True, expose_value=False, help="Accepted for umount(8).")
@click.option("-t", "kind", expose_value=False, help="Accepted for umount(8).")
def unmount_helper(mountpoint: Path, *, force: bool, lazy: bool) -> None:
    """Unmount MOUNTPOINT for umount(8), and wait until everything written there is in Swift."""
    if force or lazy:
        _unmount_at_once(mountpoint, force=force, lazy=lazy)
        return
    from swiftfs.control.unmount import unmount

    try:
        if held := unmount(mountpoint, lambda _waiting: None):
            OneLineError(held).show()
    except DeadMount as error:
        OneLineError(str(error)).show()
    except SwiftfsError as error:
        OneLineError(str(error)).show()
        sys.exit(FAILED)


def _unmount_at_once(mountpoint: Path, *, force: bool, lazy: bool) -> None:
    """Let umount(8) do it, and say what becomes of the changes; the mount is not asked, as it may hang."""
    flags = ["-f"] * force + ["-l"] * lazy
    # `--internal-only`: umount(8) would call this helper again.
    words = ["umount", "--internal-only", *flags, str(mountpoint)]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = " ".join(result.stderr.split()).partition(f"{mountpoint}: ")[2] or result.stderr.strip()
        # The kernel cuts the connection before it finds that a program is there.
        cut = "; its process was cut off: 'umount -l' removes it" if force and "busy" in reason else ""
        OneLineError(f"cannot unmount {mountpoint}: {reason.rstrip('.')}{cut}").show()
        sys.exit(result.returncode)
    how = "by force, which cuts off the files that are open" if force else "for programs that begin now"
    OneLineError(
        f"{mountpoint} is unmounted {how}; its process stores what was closed, or the next mount does if it "
        "has died"
    ).show()


def main() -> None:
    """Run the helper of mount(8)."""
    helper(prog_name="mount.swiftfs")


def unmount_main() -> None:
    """Run the helper of umount(8)."""
    unmount_helper(prog_name="umount.fuse.swiftfs")


def _checked(source: str) -> str:
    name = source.removeprefix(SCHEME)
    if source.startswith("/") and source != "/":
        raise ConfigurationError(f"mount(8) passed the path {source}: write the source as {SCHEME}CONTAINER")
    Source.parse(name)
    return name
