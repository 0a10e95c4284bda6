"""The status of a mount at one moment, and its form in JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import cattrs

from swiftfs.config.prices import Cost
from swiftfs.filecache.progress import CacheUse
from swiftfs.journal.report import QueueReport
from swiftfs.store.counters import Count

SCHEMA = 1
"""Grows when a field goes or changes its meaning; new ones may come without that."""


@dataclass(frozen=True, slots=True)
class Server:
    """Whose account it is, and what `/info` calls the software; empty where it does not say."""

    account: str
    software: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """What bounds a mount, in bytes and numbers; the server's are None until it was asked.

    `object_size` is of a single PUT, `bulk_delete` the names in one request, 0 where the server has none.
    """

    segment_size: int
    largest_file: int
    connections: int
    uploads: int
    object_size: int | None = None
    listing: int | None = None
    segments: int | None = None
    bulk_delete: int | None = None


@dataclass(frozen=True, slots=True)
class Writing:
    """A file that is open and was written to since the journal got it last; `sent` bytes are in segments."""

    path: str
    bytes: int
    sent: int


@dataclass(frozen=True, slots=True)
class MountStatus:
    """A mount at the moment `now`, mounted at `since`, both in seconds of the epoch.

    `report` is what waits, `writing` the files that are open with changes, `requests` what was asked of Swift
    by class, `cost` what that cost by the user's own prices, None without any. `set_aside` names what a
    damaged journal left in `cache_folder`.
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

    def to_json(self) -> str:
        """Return it as JSON; the report's fields are not nested."""
        values = asdict(self)
        values |= values.pop("report")
        if self.cost is not None:
            values["cost"]["total"] = self.cost.total
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "MountStatus":
        """Return what `to_json` wrote; raise `ValueError` for anything else."""
        values: dict[str, Any] = json.loads(text)
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise ValueError("not a mount status that this version can read")
        names = [field.name for field in fields(QueueReport)]
        values["report"] = {name: values.pop(name) for name in names if name in values}
        try:
            return cattrs.structure(values, cls)
        except (cattrs.BaseValidationError, TypeError, KeyError) as error:
            raise ValueError(f"not a mount status: {error}") from None
