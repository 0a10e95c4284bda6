"""The command line: commands, options and their help. A command loads its own module when it runs."""

import gc as garbage_collector
import sys
from pathlib import Path
from typing import Any

import click

from swiftfs import __version__
from swiftfs.cli.account_commands import cp, restore, share, trash
from swiftfs.cli.command_line import (
    FOLDER,
    MOUNTPOINT,
    CommandGroup,
    PercentCommand,
    account_flags,
    complete_words,
    examples,
    option_flags,
    percent_of,
    seconds_of,
    size_of,
)


@click.group(
    cls=CommandGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda word: word.replace("_", "-"),
    },
)
@click.version_option(__version__, prog_name="swiftfs")
def main() -> None:
    """Use OpenStack Swift containers as a local folder."""


@main.command(
    epilog=examples(
        "swiftfs mount photos ~/photos",
        "swiftfs mount --create photos/2024 ~/photos",
        "swiftfs mount / ~/account --credentials ~/.config/swiftfs/photos.credentials",
        "swiftfs mount photos ~/photos -o ro,ttl=300,read_ahead=128M",
    )
)
@click.argument("source")
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "-o",
    "words",
    multiple=True,
    metavar="OPT[,OPT…]",
    help="Options as in fstab, such as read_ahead=1M,ro.",
    shell_complete=complete_words,
)
@click.option("--foreground", "-f", is_flag=True, help="Stay in the foreground and log to standard error.")
@click.option("--from-fstab", is_flag=True, hidden=True)
@option_flags()
def mount(
    source: str,
    mountpoint: Path,
    words: tuple[str, ...],
    foreground: bool,
    from_fstab: bool,
    **flags: bool | str | None,
) -> None:
    """Mount SOURCE on the empty folder MOUNTPOINT.

    SOURCE is CONTAINER, CONTAINER/PREFIX, or / for the whole account with a folder for each container.
    """
    # Until the mount answers, as in `service.mount.serve`: most is loaded before that.
    garbage_collector.disable()
    from swiftfs.cli import mount as command

    command.run(source, mountpoint, words, flags, foreground=foreground, from_fstab=from_fstab)


@main.command(epilog=examples("swiftfs umount ~/photos"))
@click.argument("mountpoint", type=MOUNTPOINT)
def umount(mountpoint: Path) -> None:
    """Unmount MOUNTPOINT, and wait until everything written there is in Swift."""
    from swiftfs.cli import running

    running.run_umount(mountpoint)


@main.command(
    epilog=examples("swiftfs status", "swiftfs status ~/photos --watch", "swiftfs status ~/photos --json")
)
@click.argument("mountpoint", type=MOUNTPOINT, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch, one line each second.")
@click.option("--watch", is_flag=True, help="Repeat every second, until Ctrl-C or until the mount ends.")
def status(mountpoint: Path | None, as_json: bool, watch: bool) -> None:
    """Show what the mount on MOUNTPOINT is doing, and which changes are not in Swift yet and why.

    Without MOUNTPOINT, show all mounts on this machine that you may read; the JSON is then an array.
    A change is waiting, running or parked. A parked change was refused by Swift; it is kept, and is tried
    again at `swiftfs retry`, at `swiftfs flush` and by the next mount.
    """
    from swiftfs.cli import status as command

    command.run(mountpoint, as_json=as_json, watch=watch)


@main.command(epilog=examples("swiftfs flush ~/photos"))
@click.argument("mountpoint", type=MOUNTPOINT)
def flush(mountpoint: Path) -> None:
    """Wait until every file closed in MOUNTPOINT, and every other change, is in Swift.

    Parked changes are tried again. If some could not be stored, they are kept: each is printed with its path,
    and the exit code is 1. The same holds for deletions and attribute changes that Swift has refused since
    the last flush, but these were given up.
    """
    from swiftfs.cli import running

    running.run_flush(mountpoint)


@main.command(epilog=examples("swiftfs retry ~/photos"))
@click.argument("mountpoint", type=MOUNTPOINT)
def retry(mountpoint: Path) -> None:
    """Make MOUNTPOINT try failed changes again at once, for example after a quota was raised.

    The command does not wait for them: `swiftfs status` shows the result, and `swiftfs flush` waits.
    """
    from swiftfs.cli import running

    running.run_retry(mountpoint)


@main.command(
    "set",
    epilog=examples(
        "swiftfs set ~/photos bwlimit=2M:10M",
        "swiftfs set ~/photos 'bwlimit=08:00,2M:off 19:00,off' tpslimit=20",
        "swiftfs set ~/photos budget=off read_ahead=16M",
        "swiftfs set ~/photos --json",
    ),
)
@click.argument("mountpoint", type=MOUNTPOINT)
@click.argument("words", metavar="[OPTION=VALUE]...", nargs=-1, shell_complete=complete_words)
@click.option("--json", "as_json", is_flag=True, help="Print the options as JSON.")
def set_(mountpoint: Path, words: tuple[str, ...], as_json: bool) -> None:
    """Change options of the mount on MOUNTPOINT while it runs, and print those that can be changed.

    These are bwlimit, tpslimit, budget, read_ahead, prefetch, cache_size, uploads, settle and drain; the
    others need a new mount. All values come into force, for transfers that are under way, too, or none does
    and the exit code is 1. They are in force until MOUNTPOINT is unmounted: the next mount has its own
    options again.
    """
    from swiftfs.cli import running

    running.run_set(mountpoint, words, as_json=as_json)


@main.command(epilog=examples("swiftfs thaw ~/archive/2019", "swiftfs thaw ~/archive/film --no-wait"))
@click.argument("paths", metavar="PATH...", type=FOLDER, nargs=-1, required=True)
@click.option("--no-wait", is_flag=True, help="Ask for the files, and do not wait until they can be read.")
@click.option("--json", "as_json", is_flag=True, help="Print the state of each file as JSON at the end.")
def thaw(paths: tuple[Path, ...], no_wait: bool, as_json: bool) -> None:
    """Ask an archive for the files at PATH, and those below, and wait until they can be read.

    In an archive such as OVH's Public Cloud Archive a file is sealed: reading it fails with EBUSY until the
    archive was asked for it, and has brought it back, which may take hours and cost money. The exit code is 0
    if all files can be read; files that could not be asked for are printed.
    """
    from swiftfs.cli import running

    running.run_thaw(paths, wait=not no_wait, as_json=as_json)


@main.command(epilog=examples("swiftfs warm ~/archive", "swiftfs warm ~/archive/2019 --data"))
@click.argument("paths", metavar="PATH...", type=FOLDER, nargs=-1, required=True)
@click.option("--data", is_flag=True, help="Read the bytes of all files into the cache, too.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON at the end.")
def warm(paths: tuple[Path, ...], data: bool, as_json: bool) -> None:
    """Let a mount list everything at PATH and below, before it is needed.

    A mount with the option `offline` keeps the listings in its cache folder, and shows them while the server
    is away. With --data the files are read too, as far as they fit into the cache: none is read that would
    evict another one of them. The exit code is 1 if something could not be listed or read, or did not fit.
    """
    from swiftfs.cli import running

    running.run_warm(paths, data=data, as_json=as_json)


@main.command(epilog=examples("swiftfs pin ~/archive/2019", "swiftfs pin ~/archive"))
@click.argument("paths", metavar="PATH...", type=FOLDER, nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print what is pinned as JSON.")
def pin(paths: tuple[Path, ...], as_json: bool) -> None:
    """Keep the copies of the files at PATH, and those below, in the cache; of a mount point, show the pins.

    Copies that are in the cache stay there, and so do those that come later, also of files that are new in a
    folder. Nothing is downloaded: `swiftfs warm --data` does that. Pins are kept in the cache folder, for the
    next mount too, and belong to paths: a file that is renamed leaves its pin. Up to 90 % of the cache can be
    pinned.
    """
    from swiftfs.cli import running

    running.run_pin(paths, is_pin=True, as_json=as_json)


@main.command(epilog=examples("swiftfs unpin ~/archive/2019"))
@click.argument("paths", metavar="PATH...", type=FOLDER, nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print what is still pinned as JSON.")
def unpin(paths: tuple[Path, ...], as_json: bool) -> None:
    """Let the copies of the files at PATH, and those below, be evicted from the cache again.

    Pins of folders above stay: a file in a pinned folder cannot be unpinned alone.
    """
    from swiftfs.cli import running

    running.run_pin(paths, is_pin=False, as_json=as_json)


@main.command(
    epilog=examples(
        "swiftfs export ~/photos /tmp/pending",
        "swiftfs export ~/.cache/swiftfs/photos-0123456789ab /tmp/pending",
    )
)
@click.argument("origin", metavar="MOUNTPOINT-OR-CACHE", type=FOLDER)
@click.argument("target", metavar="DIR", type=FOLDER)
def export(origin: Path, target: Path) -> None:
    """Copy files that are not in Swift yet out of a mount, or out of the cache folder of a mount that died.

    The files are copied to DIR, an empty or new folder, under their paths, with their times and modes.
    Nothing is changed in the mount. If only parts of a file were changed, the changed blocks are copied to
    PATH.swiftfs-partial. Each file that could not be copied whole is printed, and the exit code is 1.
    """
    from swiftfs.cli import export as command

    command.run_export(origin, target)


@main.command(
    epilog=examples(
        "swiftfs recover ~/.cache/swiftfs/photos-0123456789ab",
        "swiftfs recover ~/.cache/swiftfs/photos-0123456789ab /tmp/recovered",
    )
)
@click.argument("origin", metavar="MOUNTPOINT-OR-CACHE", type=FOLDER)
@click.argument("target", metavar="[DIR]", type=FOLDER, required=False)
def recover(origin: Path, target: Path | None) -> None:
    """Show the contents of a damaged journal; with DIR, also copy its files out.

    A mount that finds its journal damaged sets it aside in its cache folder, with the local files that the
    journal may have named, and starts with a new one. This command copies these files to DIR, an empty or new
    folder: under their paths, or in DIR/swiftfs-lost where the path is lost. Nothing is deleted.
    """
    from swiftfs.cli import export as command

    command.run_recover(origin, target)


for one in (cp, share, restore):
    main.add_command(one)


@main.command(epilog=examples("swiftfs gc photos", "swiftfs gc photos --older-than 2w --delete"))
@click.argument("source")
@click.option("--delete", is_flag=True, help="Delete what was found. Without it, nothing is changed.")
@click.option(
    "--older-than",
    "age",
    default="7d",
    callback=seconds_of,
    metavar="AGE",
    show_default=True,
    help="Skip uploads with a segment younger than this: they may still be running.",
)
@click.option(
    "--unfinished-uploads",
    "unfinished",
    is_flag=True,
    help="Include unfinished uploads of swiftfs whose journal is not on this machine. A mount on another "
    "machine, or with another --cache-dir, may need them: they can be the only copy of a file.",
)
@account_flags("segments", "cache_dir")
def gc(source: str, delete: bool, age: int, unfinished: bool, **flags: bool | str | None) -> None:
    """Find segments of SOURCE's files that no manifest names any more.

    Interrupted uploads leave such segments behind, and so do clients that overwrite large objects; they cost
    storage. The segments of swiftfs, the swift command and rclone are recognized by their names. All
    manifests in the account are read. Uploads of a mount whose journal is not on this machine are listed but
    not deleted, unless --unfinished-uploads is given.
    """
    from swiftfs.cli import gc as command

    command.run(source, age, flags, delete=delete, unfinished=unfinished)


main.add_command(trash)


@main.command(
    cls=PercentCommand,
    epilog=examples(
        "swiftfs check archive",
        "swiftfs check archive/data --against ~/data",
        "swiftfs check archive 2024/films --bodies=5",
        "swiftfs check archive --expiry --json",
    ),
)
@click.argument("source")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--against", metavar="DIR", type=FOLDER, help="Compare with this local folder.")
@click.option(
    "--bodies",
    "percent",
    is_flag=False,
    flag_value="100",
    callback=percent_of,
    metavar="[=PERCENT]",
    help="Download and verify the bytes of all files, or of a sample.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="NUMBER", help="Repeat that sample.")
@click.option("--times/--no-times", default=True, help="Compare times, where the listing has them. [yes]")
@click.option("--modes", is_flag=True, help="Compare permission bits, too.")
@click.option(
    "--orphans/--no-orphans",
    default=None,
    help="Look for segments that no manifest names. [yes, without PATH and --against]",
)
@click.option("--expiry", is_flag=True, help="Ask for each file when Swift deletes it: a request for each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@account_flags("segments", "cache_dir")
def check(source: str, paths: tuple[str, ...], against: Path | None, percent: float, **more: Any) -> None:
    """Check that the files of SOURCE are really there, and the same as in a local folder.

    By listings and manifests, without a download: every segment of a large file must be there, with its size
    and MD5. With --against, types, sizes, times and MD5s are compared with those of DIR. PATH is a file or
    folder in SOURCE, and in DIR. The exit code is 0 if all is well, 1 for differences, 2 if something could
    not be told.
    """
    from swiftfs.cli import check as command

    names = ("seed", "times", "modes", "orphans", "expiry", "as_json")
    asked = {name: more.pop(name) for name in names}
    command.run(source, paths, against, more, percent=percent, **asked)


@main.command(epilog=examples("swiftfs probe photos", "swiftfs probe photos --size 64M"))
@click.argument("source")
@click.option(
    "--size",
    default="16M",
    callback=size_of,
    metavar="SIZE",
    show_default=True,
    help="Bytes to send and to read.",
)
@account_flags()
def probe(source: str, size: int, **flags: bool | str | None) -> None:
    """Test the features and the speed of the server of SOURCE, and print the options that suit it.

    It writes a few small objects and twice SIZE bytes below a hidden prefix, reads them, deletes them
    all, and prints how many requests and bytes that took.
    """
    from swiftfs.cli import probe as command

    command.run(source, size, flags)


@main.command(epilog=examples("swiftfs demo", "swiftfs demo ~/demo"))
@click.argument("mountpoint", type=MOUNTPOINT, required=False)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder for Swift's data (default: a temporary folder)."
)
def demo(mountpoint: Path | None, data: Path | None) -> None:
    """Start a real Swift on loopback, mount a container of it, and show a short tour.

    With MOUNTPOINT, the container stays mounted there until Ctrl-C.
    """
    from swiftfs.demo.tour import run

    run(mountpoint, data)


@main.command(epilog=examples("swiftfs version"))
def version() -> None:
    """Print the versions of swiftfs, libfuse and the libraries, for bug reports."""
    from swiftfs.cli import version as command

    command.run()


if __name__ == "__main__":
    sys.exit(main())
