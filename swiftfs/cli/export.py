"""`swiftfs export` and `swiftfs recover`: copy files that are not in Swift to another folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import click
from rich.filesize import decimal

from swiftfs.cli.wording import KINDS, complain, pluralize
from swiftfs.config.cache_dir import JOURNAL, LOST
from swiftfs.errors import printable
from swiftfs.journal import operations
from swiftfs.journal.operations import PutFile
from swiftfs.journal.salvage import Found, Salvage, salvage
from swiftfs.maintenance.export import Export, Tally, damaged_journals, find_cache, read_set_aside


class _Lines:
    """Prints each failure in a line, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, line: str) -> None:
        complain(line)
        self.count += 1


def run_export(origin: Path, target: Path) -> None:
    """Copy pending files out of a mount or a cache folder; exit with code 1 if not all could be copied."""
    cache = find_cache(origin)
    lines = _Lines()
    export = Export(cache, target, lines)
    export.export(cache / JOURNAL)
    export.finish()
    _end(export.tally, target, lines)


def run_recover(origin: Path, target: Path | None) -> None:
    """Show the contents of damaged journals, or copy them to `target`."""
    cache = find_cache(origin)
    lost = cache / LOST
    salvages = [salvage(journal) for journal in damaged_journals(cache)] + [read_set_aside(lost)]
    if not any(one.found or one.problems for one in salvages) and not lost.is_dir():
        click.echo(f"{cache} holds no damaged journal")
        return
    lines = _Lines()
    if target is None:
        for one in salvages:
            _show(one, lines)
        files = len(list(lost.iterdir())) if lost.is_dir() else 0
        click.echo(f"{pluralize(files, 'file')} in {lost}; with DIR, all of this is copied there")
        return
    export = Export(cache, target, lines)
    for one in salvages:
        _show(one, lambda _: None)
        export.take(one)
    held = (found.operation for one in salvages for found in one.found)
    export.take_lost(lost, [one.file.file for one in held if isinstance(one, PutFile)])
    export.finish()
    _end(export.tally, target, lines)


def _show(salvaged: Salvage, tell: Callable[[str], None]) -> None:
    for problem in salvaged.problems:
        tell(problem)
    for found in salvaged.found:
        click.echo(_line(found))


def _line(found: Found) -> str:
    size = decimal(found.operation.file.size) if isinstance(found.operation, PutFile) else ""
    kind = operations.KINDS[type(found.operation)]
    cells = (found.path, KINDS.get(kind, kind), size, found.doubt)
    return "\t".join(map(printable, cells)).rstrip("\t")


def _end(tally: Tally, target: Path, lines: _Lines) -> None:
    others = (
        f", {pluralize(tally.links, 'link or special file', 'links and special files')}"
        if tally.links
        else ""
    )
    click.echo(f"copied {pluralize(tally.files, 'file')}{others}, {decimal(tally.bytes)}, to {target}")
    if lines.count:
        sys.exit(1)
