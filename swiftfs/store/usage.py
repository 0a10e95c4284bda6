"""What accounts and containers hold, read from the headers of their HEAD."""

from collections.abc import Mapping

from swiftfs.errors import Corrupt
from swiftfs.model import Usage

CONTAINER_META = "x-container-meta-"


def account_usage(headers: Mapping[str, str]) -> Usage:
    """Return the account's use; its quotas have two spellings (Swift's account_quotas middleware)."""
    return Usage(
        bytes_used=_count(headers, "x-account-bytes-used"),
        objects=_count(headers, "x-account-object-count"),
        quota_bytes=_quota(headers, "x-account-quota-bytes", "x-account-meta-quota-bytes"),
        quota_objects=_quota(headers, "x-account-quota-count"),
    )


def container_usage(headers: Mapping[str, str]) -> Usage:
    """Return the container's use and quota (Swift's container_quotas middleware)."""
    return Usage(
        bytes_used=_count(headers, "x-container-bytes-used"),
        objects=_count(headers, "x-container-object-count"),
        quota_bytes=_quota(headers, "x-container-meta-quota-bytes"),
        quota_objects=_quota(headers, "x-container-meta-quota-count"),
        metadata={
            name.removeprefix(CONTAINER_META): value
            for name, value in headers.items()
            if name.startswith(CONTAINER_META)
        },
    )


def _count(headers: Mapping[str, str], name: str) -> int:
    value = headers.get(name, "")
    if not value.isdecimal():
        raise Corrupt(f"the server's {name} is {value!r}")
    return int(value)


def _quota(headers: Mapping[str, str], *names: str) -> int | None:
    values = [headers.get(name, "") for name in names]
    return min((int(value) for value in values if value.isdecimal()), default=None)
