"""`swiftfs export` and `swiftfs recover`: what Swift has not got, copied to another folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import click
from rich.filesize import decimal

from swiftfs.commands.view import KINDS
from swiftfs.journal import intents
from swiftfs.journal.intents import PutFile
from swiftfs.journal.salvage import Found, Salvage, salvage
from swiftfs.rescue import JOURNAL, Rescue, Tally, damaged_journals, find_cache, read_intents
from swiftfs.status import printable

FOLDER = click.Path(path_type=Path, readable=False)


class _Lines:
    """Prints what could not be done, a line each, and remembers that it did."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, line: str) -> None:
        click.echo(f"swiftfs: {printable(line)}", err=True)
        self.count += 1


@click.command()
@click.argument("origin", metavar="MOUNTPOINT-OR-CACHE", type=FOLDER)
@click.argument("target", metavar="DIR", type=FOLDER)
def export(origin: Path, target: Path) -> None:
    """Copy what waits or is parked out of a mount, or out of the cache folder of one that died.

    The files arrive below DIR, an empty folder or a new one, under their paths, with their times and modes;
    nothing is changed in the mount. Of a file that was changed in part, the changed blocks are copied to
    PATH.swiftfs-partial. Exit code 1 when something could not be copied whole, with a line for each.
    """
    cache = find_cache(origin)
    lines = _Lines()
    rescue = Rescue(cache, target, lines)
    rescue.export(cache / JOURNAL)
    rescue.finish()
    _end(rescue.tally, target, lines)


@click.command()
@click.argument("origin", metavar="MOUNTPOINT-OR-CACHE", type=FOLDER)
@click.argument("target", metavar="[DIR]", type=FOLDER, required=False)
def recover(origin: Path, target: Path | None) -> None:
    """Show what a damaged journal held, and with DIR copy its files out.

    A mount that finds its journal damaged sets it aside in its cache folder, with the local files that nobody
    knows the owner of any more, and goes on. They are copied below DIR, an empty folder or a new one: under
    their paths, and those whose path is lost in DIR/swiftfs-lost. Nothing is deleted.
    """
    cache = find_cache(origin)
    lost = cache / "lost"
    salvages = [salvage(journal) for journal in damaged_journals(cache)] + [read_intents(lost)]
    if not any(one.found or one.problems for one in salvages) and not lost.is_dir():
        click.echo(f"{cache}: nothing was set aside there")
        return
    lines = _Lines()
    if target is None:
        for one in salvages:
            _show(one, lines)
        files = len(list(lost.iterdir())) if lost.is_dir() else 0
        click.echo(f"{files} files in {lost}; name a folder, and all of this is copied there")
        return
    rescue = Rescue(cache, target, lines)
    for one in salvages:
        _show(one, lambda _: None)
        rescue.take(one)
    held = (found.intent for one in salvages for found in one.found)
    rescue.take_lost(lost, [intent.file.file for intent in held if isinstance(intent, PutFile)])
    rescue.finish()
    _end(rescue.tally, target, lines)


def _show(salvaged: Salvage, tell: Callable[[str], None]) -> None:
    for problem in salvaged.problems:
        tell(problem)
    for found in salvaged.found:
        click.echo(_line(found))


def _line(found: Found) -> str:
    size = decimal(found.intent.file.size) if isinstance(found.intent, PutFile) else ""
    kind = intents.KINDS[type(found.intent)]
    cells = (found.path, KINDS.get(kind, kind), size, found.doubt)
    return "\t".join(map(printable, cells)).rstrip("\t")


def _end(tally: Tally, target: Path, lines: _Lines) -> None:
    others = f", {tally.links} links and special files" if tally.links else ""
    click.echo(f"copied {tally.files} files{others}, {decimal(tally.bytes)}, to {target}")
    if lines.count:
        sys.exit(1)
