"""`swiftfs gc`: delete the segments that no manifest names."""

import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal

from swiftfs.cli.command_line import complain
from swiftfs.cli.connection import account_options, connected, journals_here
from swiftfs.concurrency import unix_time_ns
from swiftfs.config.options import Options
from swiftfs.errors import AccessDenied, pluralize, printable
from swiftfs.maintenance.orphan_segments import OrphanUpload, ScanProgress, Search, explain_refusal
from swiftfs.paths import Source
from swiftfs.store.connect import ConnectedAccount


def run(source: str, age: int, flags: Mapping[str, Any], *, delete: bool, unfinished: bool) -> None:
    """Print the uploads without a manifest that are at least `age` seconds old; delete them if asked to."""
    options = account_options(flags)
    parsed = Source.parse(source)
    with connected(options) as account:
        status = Console(stderr=True).status("searching")
        search = Search(account.store, parsed, lambda looked: status.update(_looked(looked)))
        try:
            with status:
                find_orphans(search, options, age, unfinished=unfinished)
            _report(search, account)
            if delete and search.candidates:
                _delete(search, options)
            elif search.candidates:
                click.echo("nothing was deleted: run it again with --delete")
        finally:
            search.close()


def find_orphans(search: Search, options: Options, age: int, *, unfinished: bool) -> None:
    """Search orphans that are at least `age` seconds old, for `options.cache_dir` and `options.segments`."""
    known = journals_here(options)
    now = unix_time_ns()
    elsewhere = "" if options.segments in ("auto", "same") else options.segments
    try:
        search.run(
            elsewhere=elsewhere,
            limit_ns=now - age * 10**9,
            journaled=known.prefixes,
            now_ns=now,
            journals=None if unfinished else known.ids,
        )
    except AccessDenied as error:
        raise explain_refusal(error) from None


def _report(search: Search, account: ConnectedAccount) -> None:
    uploads = segments = size = 0
    for upload in search.candidates.uploads():
        click.echo(_line(upload))
        uploads, segments, size = uploads + 1, segments + upload.segments, size + upload.size
    count = f"{pluralize(uploads, 'upload')}, {pluralize(segments, 'segment')}"
    click.echo(f"{count}, {decimal(size)} that no manifest names")
    for upload in search.unfinished:
        click.echo(f"kept: {_line(upload)}")
    if search.unfinished:
        kept = pluralize(len(search.unfinished), "unfinished upload")
        click.echo(
            f"kept {kept} of swiftfs mounts whose journal is not on this machine: "
            "use the --cache-dir of these mounts, or --unfinished-uploads if it is gone"
        )
    requests = account.state.counters.snapshot().total.requests
    click.echo(f"checked {_looked(search.looked)}; {pluralize(requests, 'request')}")


def _looked(looked: ScanProgress) -> str:
    kinds = (("container", looked.containers), ("object", looked.objects), ("manifest", looked.manifests))
    text = ", ".join(pluralize(count, kind) for kind, count in kinds)
    if looked.versions:
        text += f", {pluralize(looked.versions, 'version')}"
    if looked.unknown:
        text += f"; skipped {pluralize(looked.unknown, 'object')} of no known segment format"
    return text


def _line(upload: OrphanUpload) -> str:
    newest = datetime.fromtimestamp(upload.newest_ns / 10**9, timezone.utc)
    where = printable(str(upload.prefix))
    return (
        f"{where}\t{pluralize(upload.segments, 'segment')}\t{decimal(upload.size)}\t{newest:%Y-%m-%d %H:%M}"
    )


def _delete(search: Search, options: Options) -> None:
    for prefix in journals_here(options).prefixes:  # uploads that a mount has begun meanwhile
        search.candidates.clear_below(prefix)
    count = len(search.candidates)
    with Console(stderr=True).status(f"deleting {pluralize(count, 'segment')}"):
        failures = search.delete()
    for name, error in failures.items():
        complain(f"{name}: {error}")
    click.echo(f"deleted {pluralize(count - len(failures), 'segment')}")
    if failures:
        sys.exit(1)
