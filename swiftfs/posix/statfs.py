"""What `df` shows: usage and quotas of the container and the account."""

import math
from collections.abc import Sequence

from cachetools import LRUCache
from msgspec.structs import replace

from swiftfs.concurrency import Rank, monotonic, new_lock
from swiftfs.errors import AccessDenied, NotFound, StoreError
from swiftfs.filecache.segment_container import AUTO, place_beside
from swiftfs.objects import FilesystemUsage, Usage
from swiftfs.paths import MAX_NAME_BYTES, Source
from swiftfs.store.protocol import ObjectStore
from swiftfs.store.retry import deadline

WITHOUT_QUOTA = 2**50
"""Free bytes that are shown when no quota is set: 1 PiB."""

WITHOUT_OBJECT_QUOTA = 2**31
"""The same for objects."""

TTL = 60.0
"""Seconds for which an answer is used again; Swift's own figures lag behind as much."""

READ_TIMEOUT = 5.0
"""Seconds after which the last answer is used again, so that `df` works in an outage."""

MAX_CONTAINERS = 1000
"""How many answers are kept; a mount of an account has one for each container."""


class UsageReport:
    """Answers `statfs` from the headers of container and account, in an outage with the last answer.

    `segments` is where segments are (`SegmentContainerChooser`). The lock guards the answers.
    """

    def __init__(self, store: ObjectStore, source: Source, segments: str = AUTO) -> None:
        self._store = store
        self._source = source
        self._counts_beside = segments == AUTO
        self._lock = new_lock(Rank.USAGE)
        # With the time until which an answer counts without another request (monotonic seconds).
        self._answers: LRUCache[str, tuple[float, FilesystemUsage]] = LRUCache(MAX_CONTAINERS)

    def of(self, path: str) -> FilesystemUsage:
        """Return size and free space of the container that contains `path`, or of the account.

        Raise `StoreError` if Swift does not answer and never has.
        """
        container = self._source.folder(path).container
        with self._lock:
            until, last = self._answers.get(container, (0.0, None))
        if last is not None and monotonic() < until:
            return last
        try:
            with deadline(READ_TIMEOUT if last else math.inf):
                answer = self._ask(container)
        except StoreError as error:
            if last is None or not error.retryable:
                raise
            answer = last
        with self._lock:
            self._answers[container] = monotonic() + TTL, answer
        return answer

    def assume(self, usage: Usage) -> None:
        """Let `usage`, an earlier answer about the source, count until Swift answers."""
        with self._lock:
            self._answers[self._source.container] = -math.inf, _shown([usage], usage)

    def _ask(self, container: str) -> FilesystemUsage:
        account = self._store.account_usage()
        scopes = [account, self._store.container_usage(container)] if container else [account]
        shown = scopes[-1]
        if container and self._counts_beside:
            shown = replace(shown, bytes_used=shown.bytes_used + self._bytes_beside(container))
        return _shown(scopes, shown)

    def _bytes_beside(self, container: str) -> int:
        """Return the bytes of the segments of a container's large files: Swift counts them elsewhere."""
        try:
            return self._store.container_usage(place_beside(container).container).bytes_used
        except (NotFound, AccessDenied):
            return 0


def _shown(scopes: Sequence[Usage], shown: Usage) -> FilesystemUsage:
    """Return what is free by the quotas of `scopes`, of which the tightest counts, and used by `shown`."""
    free = [scope.quota_bytes - scope.bytes_used for scope in scopes if scope.quota_bytes is not None]
    free_bytes = max(0, min(free, default=WITHOUT_QUOTA))
    more = [scope.quota_objects - scope.objects for scope in scopes if scope.quota_objects is not None]
    free_objects = max(0, min(more, default=WITHOUT_OBJECT_QUOTA))
    return FilesystemUsage(
        total_bytes=shown.bytes_used + free_bytes,
        free_bytes=free_bytes,
        total_objects=shown.objects + free_objects,
        free_objects=free_objects,
        name_bytes=MAX_NAME_BYTES,
    )
