"""The usage of accounts and containers, read from the headers of a HEAD."""

from collections.abc import Mapping

from swiftfs.errors import Corrupt
from swiftfs.objects import History, Usage
from swiftfs.store.wire.object_headers import timestamp, whole_number

CONTAINER_META, ACCOUNT_META = "x-container-meta-", "x-account-meta-"


def account_usage(headers: Mapping[str, str]) -> Usage:
    """Return the account's usage; its quota has two spellings (Swift's account_quotas middleware)."""
    return Usage(
        bytes_used=_count(headers, "x-account-bytes-used"),
        objects=_count(headers, "x-account-object-count"),
        quota_bytes=_quota(headers, "x-account-quota-bytes", "x-account-meta-quota-bytes"),
        quota_objects=_quota(headers, "x-account-quota-count"),
        modified_ns=timestamp(headers),
        metadata=_metadata(headers, ACCOUNT_META),
    )


def container_usage(headers: Mapping[str, str]) -> Usage:
    """Return the container's usage and quota (Swift's container_quotas middleware)."""
    return Usage(
        bytes_used=_count(headers, "x-container-bytes-used"),
        objects=_count(headers, "x-container-object-count"),
        quota_bytes=_quota(headers, "x-container-meta-quota-bytes"),
        quota_objects=_quota(headers, "x-container-meta-quota-count"),
        modified_ns=timestamp(headers),
        metadata=_metadata(headers, CONTAINER_META),
        storage_policy=headers.get("x-storage-policy", ""),
        history=_history(headers),
    )


def _history(headers: Mapping[str, str]) -> History:
    """Return whether the container has older versions; it may have them also when versioning was disabled.

    Sources: object_versioning.py and legacy.py in swift/common/middleware/versioned_writes.
    """
    if "x-versions-enabled" in headers:
        return History.KEPT
    is_legacy = headers.get("x-versions-location") or headers.get("x-history-location")
    return History.ELSEWHERE if is_legacy else History.NONE


def _metadata(headers: Mapping[str, str], begin: str) -> dict[str, str]:
    return {name.removeprefix(begin): value for name, value in headers.items() if name.startswith(begin)}


def _count(headers: Mapping[str, str], name: str) -> int:
    value = headers.get(name, "")
    count = whole_number(value)
    if count is None:
        raise Corrupt(f"the server's {name} is {value[:80]!r}")
    return count


def _quota(headers: Mapping[str, str], *names: str) -> int | None:
    numbers = (whole_number(headers.get(name, "")) for name in names)
    return min((number for number in numbers if number is not None), default=None)
