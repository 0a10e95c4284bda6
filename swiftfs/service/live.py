"""Connects the options that can be changed while a mount runs with the parts that carry them out."""

from pathlib import Path

from swiftfs.config.prices import Prices
from swiftfs.control.budget import Budget
from swiftfs.control.live_options import LiveOptions
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.connect import ConnectedAccount


class Ahead:
    """What is downloaded in advance: as the options say, or nothing while the month's budget is spent."""

    def __init__(self, filesystem: FileSystem) -> None:
        options = filesystem.services.options
        self._filesystem = filesystem
        self._read_ahead = options.read_ahead
        self._prefetch = options.prefetch
        self._is_saving = False

    def save(self, is_saving: bool) -> None:
        """Download nothing in advance, or again what the options say."""
        self._is_saving = is_saving
        self._apply()

    def set_read_ahead(self, size: int) -> None:
        """Change the option `read_ahead`."""
        self._read_ahead = size
        self._apply()

    def set_prefetch(self, on: bool) -> None:
        """Change the option `prefetch`."""
        self._prefetch = on
        self._apply()

    def set_cache_size(self, size: int) -> None:
        """Change the option `cache_size`, which limits `read_ahead`."""
        self._filesystem.services.file_cache.set_limit(size)
        self._apply()

    def _apply(self) -> None:
        self._filesystem.services.file_cache.set_read_ahead(0 if self._is_saving else self._read_ahead)
        self._filesystem.set_prefetch(self._prefetch and not self._is_saving)


def live_options(
    filesystem: FileSystem, account: ConnectedAccount, prices: Prices | None, cache: Path
) -> tuple[LiveOptions, Budget | None]:
    """Return the options of a mount that can be changed, and its budget, None without prices."""
    services, ahead = filesystem.services, Ahead(filesystem)
    options, budget = services.options, None
    if prices is not None:
        source = f"{services.source} of {account.label}"
        budget = Budget(prices, options.budget, cache, source, account.counters.snapshot, ahead.save)

    def set_settle(seconds: float) -> None:
        services.journal.set_settle(seconds)
        services.file_cache.factory.settle_seconds = seconds

    def set_drain(seconds: float) -> None:
        filesystem.drain_seconds = seconds

    return LiveOptions(
        options,
        {
            "bwlimit": account.throttle.set_bandwidth,
            "tpslimit": account.throttle.set_requests,
            "budget": budget.set_amount if budget is not None else lambda _amount: None,
            "read_ahead": ahead.set_read_ahead,
            "prefetch": ahead.set_prefetch,
            "cache_size": ahead.set_cache_size,
            "uploads": services.set_uploads,
            "settle": set_settle,
            "drain": set_drain,
        },
    ), budget
