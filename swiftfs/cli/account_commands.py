"""The commands that need no mount: `cp`, `share`, `restore` and `trash`, declared as those of `cli/app.py`.

None is loaded before it runs.
"""

from typing import Any

import click

from swiftfs.cli.command_line import NAME_OR_PATH, TEXT, CommandGroup, account_flags, examples, seconds_of


@click.command(
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


def _address(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str:
    from ipaddress import ip_network

    if text is None:
        return ""
    try:
        return str(ip_network(text, strict=False)).removesuffix("/32").removesuffix("/128")
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected an address or a network such as 10.0.0.0/8") from None


@click.command(
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
@click.option("--filename", type=TEXT, metavar="NAME", help="The name under which a browser saves the file.")
@click.option(
    "--ip",
    type=TEXT,
    callback=_address,
    metavar="ADDRESS",
    help="Only from this address or network (10.0.0.0/8).",
)
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
    filename: str | None,
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

    wanted = {"expires": expires, "method": method, "prefix": prefix, "filename": filename or "", "ip": ip}
    command.run(path, flags, wanted, new_key=new_key, as_json=as_json)


@click.command(
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


@click.group(
    cls=CommandGroup,
    epilog=examples(
        "swiftfs trash list photos",
        "swiftfs trash restore photos 2024/a.jpg",
        "swiftfs trash empty photos --older-than 7d",
    ),
)
def trash() -> None:
    """List, restore or delete for good what was deleted in a mount with -o trash=DAYS.

    SOURCE is CONTAINER, CONTAINER/PREFIX, / for the account, or the path of a mount point: that mount shows
    changes at once, others when their listings are older than their option `ttl`. Write swift:CONTAINER if a
    mount point in the current folder has the container's name.
    """


@trash.command(
    "list", epilog=examples("swiftfs trash list photos", "swiftfs trash list ~/photos 2024 --json")
)
@click.argument("source")
@click.argument("paths", metavar="[PATH...]", type=TEXT, nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@account_flags()
def trash_list(source: str, paths: tuple[str, ...], as_json: bool, **flags: bool | str | None) -> None:
    """List the files in the trash of SOURCE, or only those that were at or below each PATH.

    A line has the path, the size, when the file was deleted, and the name of this version, which the other
    commands take as a PATH, too.
    """
    from swiftfs.cli import trash as command

    command.run_list(source, paths, flags, as_json=as_json)


@trash.command(
    "restore",
    epilog=examples("swiftfs trash restore photos 2024/a.jpg", "swiftfs trash restore ~/photos 2024 --force"),
)
@click.argument("source")
@click.argument("paths", metavar="PATH...", type=TEXT, nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Replace files that are there now: they go into the trash.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@account_flags()
def trash_restore(
    source: str, paths: tuple[str, ...], force: bool, as_json: bool, **flags: bool | str | None
) -> None:
    """Put the files that were at or below each PATH back, by copies on the server.

    Of a file that was deleted more than once, the last one is restored, unless PATH is the name of another
    version, as `swiftfs trash list` prints it. A file that is there now is not replaced. The exit code is 1
    if a file could not be restored.
    """
    from swiftfs.cli import trash as command

    command.run_restore(source, paths, flags, force=force, as_json=as_json)


@trash.command(
    "empty",
    epilog=examples("swiftfs trash empty photos --older-than 7d", "swiftfs trash empty photos 2024/a.jpg"),
)
@click.argument("source")
@click.argument("paths", metavar="[PATH...]", type=TEXT, nargs=-1)
@click.option(
    "--older-than",
    "age",
    default="0s",
    callback=seconds_of,
    metavar="AGE",
    show_default=True,
    help="Keep files that were deleted more recently than this.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@account_flags()
def trash_empty(
    source: str, paths: tuple[str, ...], age: int, as_json: bool, **flags: bool | str | None
) -> None:
    """Delete the files in the trash of SOURCE for good, or only those at or below each PATH.

    The segments of large files are deleted with them. The exit code is 1 if something could not be deleted.
    """
    from swiftfs.cli import trash as command

    command.run_empty(source, paths, flags, age=age, as_json=as_json)
