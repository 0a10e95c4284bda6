"""Collects the status of a mount inside its process, without a request to Swift."""

import math
import os
from pathlib import Path

from swiftfs import __version__
from swiftfs.concurrency import unix_time
from swiftfs.config.cache_dir import LOST, damaged_journals
from swiftfs.control.live_options import Budget, LiveOptions
from swiftfs.control.snapshot import SCHEMA, Bounds, MountStatus, Server, Throttling, Writing
from swiftfs.filecache.version_cache import Pin
from swiftfs.journal.report import sent_bytes
from swiftfs.objects import CacheUse, Limits
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.connect import ConnectedAccount

MOST_WRITING = 100
"""How many open files a status lists at most: the largest ones."""


class StatusCollector:
    """Collects the status of a mount. Its methods may be called from any thread, until the process ends."""

    def __init__(
        self,
        filesystem: FileSystem,
        account: ConnectedAccount,
        mountpoint: Path,
        live: LiveOptions,
        budget: Budget | None,
    ) -> None:
        self._filesystem = filesystem
        self._services = filesystem.services
        self._account = account
        self._mountpoint = mountpoint
        self._live = live
        self._budget = budget
        self._since = unix_time()

    def state(self) -> MountStatus:
        """Return the current status."""
        services, counts = self._services, self._account.state.counters.snapshot()
        limits = self._account.known_limits()
        used, dirty = services.file_cache.space.use()
        pinned = services.file_cache.pinned
        return MountStatus(
            schema=SCHEMA,
            version=__version__,
            source=str(services.source),
            mountpoint=str(self._mountpoint),
            pid=os.getpid(),
            read_only=services.options.ro,
            since=self._since,
            now=unix_time(),
            server=Server(self._account.label, _software(limits), self._account.place),
            limits=self._bounds(limits),
            cache_folder=str(services.cache_dir.absolute()),
            set_aside=tuple(set_aside(services.cache_dir)),
            cache=CacheUse(used, dirty, services.file_cache.space.limit, pinned.bytes),
            pins=tuple(_path_of(pin, services.source) for pin in pinned.all()),
            requests=dict(counts.classes),
            cost=self._budget.prices.cost(counts) if self._budget else None,
            writing=self._writing(),
            report=services.journal.report(),
            offline=(away := self._account.state.presence.away) is not None,
            offline_since=away.since if away else None,
            offline_reason=away.reason if away else "",
            trashed=services.journal.trash.count,
            trash_days=services.options.trash,
            throttling=self._throttling(),
            month=self._budget.state() if self._budget else None,
        )

    def _throttling(self) -> Throttling:
        throttle = self._account.state.throttle
        rates = throttle.rates()
        return Throttling(
            self._live.options.bwlimit.text,
            rates.sent if rates.sent < math.inf else None,
            rates.received if rates.received < math.inf else None,
            throttle.request_rate,
            throttle.sending.seconds,
            throttle.receiving.seconds,
            throttle.requests.seconds,
        )

    def _bounds(self, limits: Limits | None) -> Bounds:
        options = self._live.options
        bounds = (
            options.segment_size,
            self._services.layout.largest_file,
            options.connections,
            options.uploads,
        )
        if limits is None:
            return Bounds(*bounds)
        return Bounds(*bounds, limits.object_bytes, limits.listing, limits.slo_segments, limits.bulk_delete)

    def _writing(self) -> tuple[Writing, ...]:
        files = [file for file in self._filesystem.written() if not file.unlinked]
        files.sort(key=lambda file: file.cached_file.size, reverse=True)
        under_way = self._account.state.counters.under_way
        return tuple(
            Writing(file.path, file.cached_file.size, sent_bytes(file.name, file.cached_file, under_way))
            for file in files[:MOST_WRITING]
        )


def set_aside(cache: Path) -> list[str]:
    """Return the names of damaged journals in a cache folder, and of the folder `lost`."""
    try:
        lost = [LOST] if (cache / LOST).exists() else []
        return [*(path.name for path in damaged_journals(cache)), *lost]
    except OSError:  # somebody has made the folder unreadable: all else can be shown
        return []


def _path_of(pin: Pin, source: Source) -> str:
    """Return the path of a pin in the mount, of a folder with a slash at the end."""
    if source.is_account:
        return f"/{pin.container}/{pin.key}" if pin.container else "/"
    return "/" + pin.key.removeprefix(source.prefix)


def _software(limits: Limits | None) -> str:
    if limits is None:
        return ""
    if not limits.is_swift:
        return "not Swift itself"
    return f"Swift {limits.version}".rstrip()
