"""The commands of `swiftfs trash`, declared as those of `cli/app.py`: none is loaded before it runs."""

import click

from swiftfs.cli.group import CommandGroup, examples
from swiftfs.cli.options import account_flags, seconds_of


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
@click.argument("paths", metavar="[PATH...]", nargs=-1)
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
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
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
@click.argument("paths", metavar="[PATH...]", nargs=-1)
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
