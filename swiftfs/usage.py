"""What `df` shows: the quotas of the container and the account."""

import threading

from cachetools import TTLCache

from swiftfs.model import FilesystemUsage, Usage
from swiftfs.naming import Source
from swiftfs.store.protocol import ObjectStore

WITHOUT_QUOTA = 2**50
"""Free bytes shown where no quota is set: a petabyte."""

SECONDS = 60.0
"""How long an answer serves; Swift's own figures lag as much."""


class UsageReport:
    """Answers `statfs` from the quota headers of container and account."""

    def __init__(self, store: ObjectStore, source: Source) -> None:
        self._store = store
        self._source = source
        self._lock = threading.Lock()
        self._answers: TTLCache[str, FilesystemUsage] = TTLCache(1000, SECONDS)

    def of(self, path: str) -> FilesystemUsage:
        """Return the space of the container that `path` lies in, or of the account."""
        container = self._source.folder(path).container
        with self._lock:
            known = self._answers.get(container)
        if known is None:
            known = self._ask(container)
            with self._lock:
                self._answers[container] = known
        return known

    def _ask(self, container: str) -> FilesystemUsage:
        account = self._store.account_usage()
        scopes = [account, self._store.container_usage(container)] if container else [account]
        shown = scopes[-1]
        free = [scope.quota_bytes - scope.bytes_used for scope in scopes if scope.quota_bytes is not None]
        free_bytes = max(0, min(free)) if free else WITHOUT_QUOTA
        return FilesystemUsage(
            total_bytes=shown.bytes_used + free_bytes,
            free_bytes=free_bytes,
            total_objects=shown.objects + _free_objects(shown),
            free_objects=_free_objects(shown),
        )


def _free_objects(usage: Usage) -> int:
    if usage.quota_objects is None:
        return 2**31
    return max(0, usage.quota_objects - usage.objects)
