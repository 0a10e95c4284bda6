"""The status of a mount at one moment, and its form in JSON."""

import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, convert, to_builtins

from swiftfs.config.prices import Cost, MonthCost
from swiftfs.journal.queue_report import QueueReport
from swiftfs.objects import CacheUse, Count

SCHEMA = 1
"""Increased when a field is removed or changes its meaning, but not for new fields."""


class Server(Struct, frozen=True):
    """The account, and the name of the software in `/info`, empty if that does not say it.

    `place` tells the account from others of the same user, see `ConnectedAccount.place`; empty is unknown.
    """

    account: str
    software: str
    place: str = ""


class Bounds(Struct, frozen=True):
    """The limits of a mount, in bytes and numbers; the server's are None before the first `/info` request.

    `object_size` is the limit of a single PUT, `bulk_delete` the names in one request, 0 without bulk delete.
    """

    segment_size: int
    largest_file: int
    connections: int
    uploads: int
    object_size: int | None = None
    listing: int | None = None
    segments: int | None = None
    bulk_delete: int | None = None


class Writing(Struct, frozen=True):
    """An open file with changes that are not in the journal yet; `sent` bytes are in segments."""

    path: str
    bytes: int
    sent: int


class Throttling(Struct, frozen=True):
    """The limits that the user has set, and how many seconds all threads together have waited for them.

    `bwlimit` is as it was written; `sent` and `received` are its rates of the moment in bytes a second, None
    without a limit, and `requests` is the number a second, 0 without a limit.
    """

    bwlimit: str = "off"
    sent: float | None = None
    received: float | None = None
    requests: float = 0.0
    sent_waited: float = 0.0
    received_waited: float = 0.0
    requests_waited: float = 0.0

    @property
    def waited(self) -> float:
        """The sum of all waits, in seconds."""
        return self.sent_waited + self.received_waited + self.requests_waited


class MountStatus(Struct, frozen=True):
    """A mount at the moment `now`, mounted at `since`, both in seconds since the epoch.

    `report` has the pending changes, `writing` the open files with changes, `requests` the requests to Swift
    by class, `cost` their cost by the user's own prices, and `month` that of this month over restarts, None
    without prices. `set_aside` names damaged journals and `lost` in `cache_folder`. `trashed` files were put
    into the trash since the mount, each for `trash_days`; with 0 there is none. It is `offline` since
    `offline_since` (seconds since the epoch) for `offline_reason`, while the server is away. `pins` are the
    paths whose copies stay in the cache.
    """

    schema: int
    version: str
    source: str
    mountpoint: str
    pid: int
    read_only: bool
    since: float
    now: float
    server: Server
    limits: Bounds
    cache_folder: str
    set_aside: tuple[str, ...]
    cache: CacheUse
    requests: Mapping[str, Count]
    cost: Cost | None
    writing: tuple[Writing, ...]
    report: QueueReport
    offline: bool = False
    offline_since: float | None = None
    offline_reason: str = ""
    pins: tuple[str, ...] = ()
    trashed: int = 0
    trash_days: int = 0
    throttling: Throttling = Throttling()
    month: MonthCost | None = None

    def to_json(self) -> str:
        """Return it as JSON; the report's fields are not nested."""
        values = to_builtins(self)
        values |= values.pop("report")
        if self.cost is not None:
            values["cost"]["total"] = self.cost.total
        if self.month is not None:
            values["month"]["is_spent"] = self.month.is_spent
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "MountStatus":
        """Return what `to_json` wrote; raise `ValueError` for anything else."""
        values: dict[str, Any] = json.loads(text)
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise ValueError("not a mount status that this version can read")
        names = QueueReport.__struct_fields__
        values["report"] = {name: values.pop(name) for name in names if name in values}
        try:
            return convert(values, cls)
        except ValueError as error:
            raise ValueError(f"not a mount status: {error}") from None
