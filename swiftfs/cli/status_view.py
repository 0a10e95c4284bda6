"""The status of mounts as text."""

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from swiftfs.cli.command_line import KINDS, counts
from swiftfs.config.options import readable_size, show_size
from swiftfs.config.prices import Cost, MonthCost
from swiftfs.control.snapshot import Bounds, MountStatus, Throttling
from swiftfs.errors import pluralize, printable
from swiftfs.journal.queue_report import AWAY, QueuedChange, QueueReport
from swiftfs.objects import Counts

MOST_ROWS = 20
"""How many changes of a kind are shown at most; the others are counted."""

BAR_COLUMNS = 30


def view(states: Iterable[MountStatus]) -> RenderableType:
    """Return the text for mounts, one below the other."""
    return Group(*(Group(*_mount(state)) for state in states))


def _mount(state: MountStatus) -> Iterator[RenderableType]:
    yield _text(f"{state.source} on {state.mountpoint}", "bold")
    yield Padding(_facts(state), (0, 0, 0, 2))
    if state.requests:
        yield Padding(_requests(state), (1, 0, 0, 2))
    report = state.report
    running = [change for change in report.changes if change.state == "running" and change.bytes]
    if running or state.writing:
        yield Padding(_uploads(state, running), (1, 0, 0, 2))
    if report.renames:
        yield Padding(_renames(report), (1, 0, 0, 2))
    rest = [change for change in report.changes if change not in running]
    if rest:
        yield Padding(_changes(rest[:MOST_ROWS]), (1, 0, 0, 2))
    more = len(rest[MOST_ROWS:]) + report.left_out
    if more:
        yield Padding(_text(f"and {more:,} more" if rest else f"{more:,} more"), (0, 0, 0, 2))
    yield Text()
    if state.set_aside:
        yield _text(
            f"a damaged journal was set aside ({', '.join(state.set_aside)}):"
            f" swiftfs recover {state.cache_folder}",
            "bold",
        )
    if state.offline:
        since = _duration(state.now - (state.offline_since or state.now))
        yield _text(f"offline for {since}: {state.offline_reason}", "bold")
    elif report.away:
        yield _text(AWAY, "bold")
    if report.refusals:
        first = report.refusals[0]
        yield _text(
            f"{pluralize(report.refused, 'change')} refused and given up since the last flush; the first is "
            f"{first.path}: {first.reason}",
            "bold",
        )
    yield from _late(report)
    yield _text(counts(report))


def _late(report: QueueReport) -> Iterator[RenderableType]:
    """Yield lines about requests whose answer was lost and that may have been carried out late."""
    if report.overwritten:
        objects = pluralize(report.overwritten, "object")
        yield _text(f"{objects} overwritten late by an older request: the log names the versions", "bold")
    if report.put_right:
        yield _text(f"{pluralize(report.put_right, 'object')} stored again after a late older request")
    if report.watched:
        watched = pluralize(report.watched, "object")
        yield _text(f"{watched} to be checked again, because an older request may still arrive late")


def _facts(state: MountStatus) -> Table:
    total = Counts(state.requests).total
    asked = (
        f"{pluralize(total.requests, 'request')}, {total.failures:,} failed; "
        f"{decimal(total.bytes_sent)} sent, {decimal(total.bytes_received)} received"
    )
    cost = f"; {_money(state.cost)}" if state.cost else ""
    only = ", read-only" if state.read_only else ""
    table = Table.grid(padding=(0, 2))
    for label, text in (
        ("mounted", f"{_duration(state.now - state.since)} ago, by swiftfs {state.version}{only}"),
        ("server", "; ".join(filter(None, (state.server.account, state.server.software)))),
        ("limits", _limits(state.limits)),
        (
            "cache",
            f"{readable_size(state.cache.used)} of {readable_size(state.cache.limit)},"
            f" {readable_size(state.cache.dirty)} of it not in Swift yet{_pinned(state)};"
            f" {state.cache_folder}",
        ),
        ("requests", asked + cost),
        ("trash", _trash(state)),
    ):
        if text:
            table.add_row(label, _text(text))
    if throttled := _throttling(state.throttling):
        table.add_row("throttle", _text(throttled))
    if state.month is not None:
        table.add_row("month", _text(_month(state.month)))
    return table


def _pinned(state: MountStatus) -> str:
    return f", {readable_size(state.cache.pinned)} pinned" if state.pins else ""


def _trash(state: MountStatus) -> str:
    if not state.trash_days:
        return ""
    files = pluralize(state.trashed, "file")
    return f"{files} put there since the mount, each kept for {pluralize(state.trash_days, 'day')}"


def _throttling(limits: Throttling) -> str:
    """Return the limits that are set and what they have cost; empty if there were none."""
    texts = [
        f"{readable_size(int(rate))} a second {direction}"
        for direction, rate in (("sent", limits.sent), ("received", limits.received))
        if rate is not None
    ]
    if limits.requests:
        texts.append(f"{limits.requests:g} requests a second")
    told = ", ".join(texts) or ("nothing now" if limits.bwlimit != "off" or limits.waited else "")
    if "," in limits.bwlimit:
        told += f" (bwlimit {limits.bwlimit})"
    return f"{told}; requests have waited {_duration(limits.waited)}" if limits.waited >= 1 else told


def _month(month: MonthCost) -> str:
    told = f"{month.cost:,.2f} {month.currency} in {month.month}"
    if month.budget is None:
        return f"about {told}"
    spent = "; it is spent: nothing is downloaded in advance" if month.is_spent else ""
    return f"about {told}, of a budget of {month.budget:,.2f} {month.currency}{spent}"


def _money(cost: Cost) -> str:
    if 0 < cost.total < 0.01:
        return f"less than 0.01 {cost.currency}"
    return f"about {cost.total:,.2f} {cost.currency}"


def _limits(limits: Bounds) -> str:
    own = (
        f"files up to {decimal(limits.largest_file)} in segments of {show_size(limits.segment_size)};"
        f" {pluralize(limits.uploads, 'upload')} and {pluralize(limits.connections, 'download')} at once"
    )
    if limits.listing is None or limits.object_size is None:
        return own
    bulk = f", {limits.bulk_delete:,} names a bulk delete" if limits.bulk_delete else ", no bulk delete"
    listing = f"{limits.listing:,} names a listing"
    return f"{own}; the server's: {decimal(limits.object_size)} an object, {listing}{bulk}"


def _requests(state: MountStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("requests")
    for heading in ("number", "failed", "sent", "received", "seconds"):
        table.add_column(heading, justify="right")
    for name, count in sorted(state.requests.items(), key=lambda one: -one[1].requests):
        table.add_row(
            _text(name),
            f"{count.requests:,}",
            f"{count.failures:,}" if count.failures else "",
            decimal(count.bytes_sent) if count.bytes_sent else "",
            decimal(count.bytes_received) if count.bytes_received else "",
            f"{count.seconds:,.1f}",
        )
    return table


def _uploads(state: MountStatus, running: Iterable[QueuedChange]) -> Table:
    table = Table.grid(padding=(0, 1))
    rows = [(change.path, change.sent, change.bytes, "") for change in running]
    rows += [(file.path, file.sent, file.bytes, ", being written") for file in state.writing]
    for path, sent, size, note in rows[:MOST_ROWS]:
        table.add_row(
            ProgressBar(total=max(size, 1), completed=sent, width=BAR_COLUMNS),
            Text(f"{100 * sent // max(size, 1)}%", justify="right"),
            _text(f"{decimal(sent)} of {decimal(size)}{note}"),
            _text(path),
        )
    return table


def _renames(report: QueueReport) -> Table:
    table = Table.grid(padding=(0, 1))
    for one in report.renames[:MOST_ROWS]:
        moved, objects = max(0, one.objects - one.left), max(one.objects, 1)
        table.add_row(
            ProgressBar(total=objects, completed=moved, width=BAR_COLUMNS),
            Text(f"{100 * moved // objects}%", justify="right"),
            _text(f"{moved:,} of {pluralize(one.objects, 'object')} moved"),
            _text(f"{one.old} to {one.new}"),
        )
    return table


def _changes(changes: Iterable[QueuedChange]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("state", "what", "size", "tries", "path", "reason"):
        table.add_column(
            heading, overflow="fold", justify="right" if heading in ("size", "tries") else "left"
        )
    for change in changes:
        size = decimal(change.bytes) if change.bytes else ""
        kind = KINDS.get(change.kind, change.kind)
        tries = str(change.attempts) if change.attempts else ""
        table.add_row(*map(_text, (change.state, kind, size, tries, change.path, change.reason)))
    return table


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style, overflow="fold")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{pluralize(days, 'day')} {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"
