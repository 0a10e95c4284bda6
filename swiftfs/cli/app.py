"""The command line: commands, options and their help. A command loads its own module when it runs."""

import gc as garbage_collector
import re
import sys
from pathlib import Path
from typing import Any

import click

from swiftfs import __version__
from swiftfs.cli.group import CommandGroup, examples
from swiftfs.cli.options import (
    FOLDER,
    MOUNTPOINT,
    NAME_OR_PATH,
    account_flags,
    complete_words,
    option_flags,
    seconds_of,
)
from swiftfs.cli.trash_commands import trash
from swiftfs.config.options import MIB, parse_size


def _as_flag(word: str) -> str:
    """Return an option as its flag is written: `--read_ahead` is accepted."""
    return word.replace("_", "-")


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _as_flag},
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
    from swiftfs.cli import umount as command

    command.run(mountpoint)


@main.command(
    epilog=examples(
        "swiftfs status",
        "swiftfs status ~/photos --watch",
        "swiftfs status ~/photos --json",
    )
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
    from swiftfs.cli import flush as command

    command.run_flush(mountpoint)


@main.command(epilog=examples("swiftfs retry ~/photos"))
@click.argument("mountpoint", type=MOUNTPOINT)
def retry(mountpoint: Path) -> None:
    """Make MOUNTPOINT try failed changes again at once, for example after a quota was raised.

    The command does not wait for them: `swiftfs status` shows the result, and `swiftfs flush` waits.
    """
    from swiftfs.cli import flush as command

    command.run_retry(mountpoint)


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
    from swiftfs.cli import set as command

    command.run(mountpoint, words, as_json=as_json)


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
    from swiftfs.cli import thaw as command

    command.run(paths, wait=not no_wait, as_json=as_json)


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


@main.command(
    epilog=examples(
        "swiftfs cp ~/archive/film.mkv ~/archive/2024/",
        "swiftfs cp -r photos/2023 backup",
        "swiftfs cp -r -u ~/archive/2024 swift:backup/2024",
    )
)
@click.argument("paths", metavar="SOURCE... TARGET", type=NAME_OR_PATH, nargs=-1, required=True)
@click.option("-r", "--recursive", "-R", is_flag=True, help="Copy folders with all that is in them.")
@click.option("-n", "--no-clobber", is_flag=True, help="Do not overwrite what exists.")
@click.option("-u", "--update", is_flag=True, help="Overwrite only what is older than the source.")
@click.option("--no-expiry", is_flag=True, help="Let copies stay when the source expires (X-Delete-At).")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON what was copied and what failed.")
@account_flags("segments", "foreign_manifests")
def cp(
    paths: tuple[str, ...],
    recursive: bool,
    no_clobber: bool,
    update: bool,
    no_expiry: bool,
    as_json: bool,
    **flags: bool | str | None,
) -> None:
    """Copy files within an account on the server: none of their bytes passes through this machine.

    SOURCE and TARGET are paths in a mount, or CONTAINER/PATH. As with cp(1), a file is copied into TARGET if
    that is a folder, else to this name. Attributes are copied too, and large files get segments of their own.
    What stands at the target already is skipped: run it again to continue after an interruption.
    """
    from swiftfs.cli import cp as command
    from swiftfs.maintenance.copy_walk import WalkOptions

    how = WalkOptions(recursive, no_clobber, update)
    command.run(paths, flags, how, expiry=not no_expiry, as_json=as_json)


def _end(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    from swiftfs.cli.share import end_of

    try:
        return end_of(text)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r}: expected a time such as 30m, 12h or 7d, or a date to come such as 2030-12-31"
        ) from None


@main.command(
    epilog=examples(
        "swiftfs share ~/archive/film.mkv --for 7d",
        "swiftfs share photos/inbox --prefix --method PUT --for 12h",
        "swiftfs share photos/film.mkv --for 2030-12-31 --filename holiday.mkv --json",
    )
)
@click.argument("path", type=NAME_OR_PATH)
@click.option(
    "--for",
    "expires",
    required=True,
    callback=_end,
    metavar="TIME",
    help="How long the URL is valid: 30m, 12h, 7d, 2w, or until a date such as 2030-12-31.",
)
@click.option(
    "--method",
    type=click.Choice(["GET", "PUT"]),
    default="GET",
    show_default=True,
    help="GET for a download, PUT for an upload.",
)
@click.option("--prefix", is_flag=True, help="Share all below a folder: write a name before the URL's '?'.")
@click.option("--filename", default="", metavar="NAME", help="The name under which a browser saves the file.")
@click.option("--ip", default="", metavar="ADDRESS", help="Only from this address or network (10.0.0.0/8).")
@click.option(
    "--new-key",
    is_flag=True,
    help="Give the container a new key first. Its older key stays valid, and the one before that does not.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the URL, its method and its end as JSON.")
@account_flags()
def share(
    path: str,
    expires: int,
    method: str,
    prefix: bool,
    filename: str,
    ip: str,
    new_key: bool,
    as_json: bool,
    **flags: bool | str | None,
) -> None:
    """Print a URL by which anybody can download the file at PATH, or upload it, for a time.

    PATH is a path in a mount, or CONTAINER/PATH. The URL is a TempURL of Swift, signed with a key that the
    account or the container has in its metadata. Whoever has the URL needs no login, and it can be taken back
    only by changing the key.
    """
    from swiftfs.cli import share as command

    wanted = {"expires": expires, "method": method, "prefix": prefix, "filename": filename, "ip": ip}
    command.run(path, flags, wanted, new_key=new_key, as_json=as_json)


@main.command(
    epilog=examples(
        "swiftfs restore ~/archive/report.odt --list",
        "swiftfs restore ~/archive/report.odt --at 2026-11-28T10:15",
        "swiftfs restore -r archive/2024 --at 2d",
    )
)
@click.argument("path", type=NAME_OR_PATH)
@click.option("--at", metavar="DATE", help="Restore the state at DATE.")
@click.option("--version", "version_id", metavar="ID", help="Restore the version ID of a file.")
@click.option("--list", "lists", is_flag=True, help="Print the versions, and change nothing.")
@click.option("-r", "--recursive", is_flag=True, help="Restore a folder with all that is in it.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON what was done or found.")
@account_flags()
def restore(path: str, at: str | None, lists: bool, recursive: bool, as_json: bool, **flags: Any) -> None:
    """Bring back a file or folder as it was, where the container keeps older versions.

    PATH is in a mount, or CONTAINER/PATH; it may be deleted. DATE is a time such as 2026-11-28T10:15, local
    unless it has a zone, or an age such as 2d. The version of that time is copied to the name on the server.
    What was made after DATE stays; what is replaced becomes an older version itself.
    """
    from swiftfs.cli import restore as command

    version = flags.pop("version_id") or ""
    command.run(path, at, flags, command.Wish(None, version, recursive, as_json), lists=lists)


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


def _percent(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float:
    if text is None:
        return 0.0
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%?", text)
    if match is None or not 0 < float(match[1]) <= 100:
        raise click.BadParameter(f"{text!r}: expected a percentage after '=', such as --bodies=5")
    return float(match[1])


@main.command(
    epilog=examples(
        "swiftfs check archive",
        "swiftfs check archive/data --against ~/data",
        "swiftfs check archive 2024/films --bodies=5",
        "swiftfs check archive --expiry --json",
    )
)
@click.argument("source")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--against", metavar="DIR", type=FOLDER, help="Compare with this local folder.")
@click.option(
    "--bodies",
    "percent",
    is_flag=False,
    flag_value="100",
    callback=_percent,
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


def _size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: expected {error}") from None
    if not MIB <= size <= 1024 * MIB:
        raise click.BadParameter(f"{text!r}: expected a size, 1M to 1G")
    return size


@main.command(epilog=examples("swiftfs probe photos", "swiftfs probe photos --size 64M"))
@click.argument("source")
@click.option(
    "--size",
    default="16M",
    callback=_size,
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
    "--data",
    type=click.Path(path_type=Path),
    help="Folder for Swift's data (default: a temporary folder).",
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
