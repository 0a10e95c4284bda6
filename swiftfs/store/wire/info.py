"""What a server says of itself in `/info`, and of accounts and containers in the headers of a HEAD.

A feature that `/info` does not list is not used.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from swiftfs.errors import Corrupt
from swiftfs.objects import History, Limits, Usage
from swiftfs.store.error_map import not_swift
from swiftfs.store.wire.json_stream import parse_small
from swiftfs.store.wire.listings import MAX_ROWS
from swiftfs.store.wire.object_headers import MAX_SIZE, timestamp, whole_number

INFO_BYTES = 1024**2
"""The longest answer to `/info`; that of a cluster with many policies has 20 KB."""

UNKNOWN = replace(Limits(), is_swift=False)
"""The limits where `/info` is hidden: no bulk delete, and a short page may not be the last."""

VERSION_CHARACTERS = 60

MAX_VALUES = 100_000
"""The most values in `/info`."""

MAX_TEXT = 65_536
"""The largest limit for names and metadata: no line of a header may be longer (http.client)."""

MAX_DELETES = 10_000
"""The most names in a bulk delete: Swift's default limit."""

MOST_SEGMENTS = 10_000
"""The most segments of a manifest that is written: ten times Swift's default limit."""


def read_limits(body: bytes, headers: Mapping[str, str]) -> Limits:
    """Return the limits in an answer to `/info`; a missing or absurd value keeps its default.

    Limits beyond what any server is known to have are cut: they say how much may be held in memory.
    """
    try:
        info = parse_small(body, MAX_VALUES)
    except (ValueError, RecursionError):
        return UNKNOWN
    if not isinstance(info, dict) or not isinstance(info.get("swift"), dict):
        return UNKNOWN
    swift, slo, bulk = _section(info, "swift"), _section(info, "slo"), _section(info, "bulk_delete")
    default = Limits()
    return Limits(
        listing=_number(swift, "container_listing_limit", default.listing, MAX_ROWS),
        listing_is_cut=_number(swift, "container_listing_limit", 0, MAX_ROWS + 1) > MAX_ROWS,
        object_bytes=_number(swift, "max_file_size", default.object_bytes, MAX_SIZE),
        name_bytes=_number(swift, "max_object_name_length", default.name_bytes, MAX_TEXT),
        container_name_bytes=_number(
            swift, "max_container_name_length", default.container_name_bytes, MAX_TEXT
        ),
        metadata_value_bytes=_number(swift, "max_meta_value_length", default.metadata_value_bytes, MAX_TEXT),
        metadata_name_bytes=_number(swift, "max_meta_name_length", default.metadata_name_bytes, MAX_TEXT),
        metadata_items=_number(swift, "max_meta_count", default.metadata_items, MAX_TEXT),
        metadata_bytes=_number(swift, "max_meta_overall_size", default.metadata_bytes, MAX_TEXT),
        slo_segments=_number(slo, "max_manifest_segments", default.slo_segments, MOST_SEGMENTS),
        slo="slo" in info,
        bulk_delete=_number(bulk, "max_deletes_per_request", MAX_DELETES, MAX_DELETES)
        if "bulk_delete" in info
        else 0,
        policies=tuple(_policies(swift)),
        is_swift=_is_swift(swift, headers),
        version=str(swift.get("version", ""))[:VERSION_CHARACTERS],
        temp_url_methods=_words(_section(info, "tempurl"), "methods"),
        # Older releases do not name them, and take SHA-1.
        temp_url_digests=_words(_section(info, "tempurl"), "allowed_digests", ("sha1",))
        if "tempurl" in info
        else (),
    )


def _words(section: dict[str, Any], name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    values = section.get(name)
    return tuple(one for one in values if isinstance(one, str)) if isinstance(values, list) else default


def _is_swift(swift: dict[str, Any], headers: Mapping[str, str]) -> bool:
    """Return whether it is Swift: Ceph RGW calls this limit `max_object_name_size` (rgw_rest_swift.cc)."""
    return "max_object_name_length" in swift and "ceph" not in headers.get("server", "").lower()


def _policies(swift: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the storage policies, aliases included (`{"name": …, "aliases": "a, b"}`)."""
    policies = swift.get("policies")
    for policy in policies if isinstance(policies, list) else ():
        if isinstance(policy, dict) and isinstance(policy.get("name"), str):
            names = {policy["name"]: None, **dict.fromkeys(str(policy.get("aliases", "")).split(","))}
            yield from (name.strip() for name in names if name.strip())


def _section(info: dict[str, Any], name: str) -> dict[str, Any]:
    section = info.get(name)
    return section if isinstance(section, dict) else {}


def _number(section: dict[str, Any], name: str, default: int, most: int) -> int:
    value = section.get(name)
    return (
        min(value, most) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default
    )


CONTAINER_META, ACCOUNT_META = "x-container-meta-", "x-account-meta-"


def account_usage(headers: Mapping[str, str]) -> Usage:
    """Return the account's usage; its quota has two spellings (Swift's account_quotas middleware)."""
    return Usage(
        bytes_used=count_of(headers, "x-account-bytes-used"),
        objects=count_of(headers, "x-account-object-count"),
        quota_bytes=_quota(headers, "x-account-quota-bytes", "x-account-meta-quota-bytes"),
        quota_objects=_quota(headers, "x-account-quota-count"),
        modified_ns=timestamp(headers),
        metadata=_metadata(headers, ACCOUNT_META),
    )


def container_usage(headers: Mapping[str, str]) -> Usage:
    """Return the container's usage and quota (Swift's container_quotas middleware)."""
    return Usage(
        bytes_used=count_of(headers, "x-container-bytes-used"),
        objects=count_of(headers, "x-container-object-count"),
        quota_bytes=_quota(headers, "x-container-meta-quota-bytes"),
        quota_objects=_quota(headers, "x-container-meta-quota-count"),
        modified_ns=timestamp(headers),
        metadata=_metadata(headers, CONTAINER_META),
        storage_policy=headers.get("x-storage-policy", ""),
        history=_history(headers),
        versioning=headers.get("x-versions-enabled", "").lower() == "true",
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


def count_of(headers: Mapping[str, str], name: str) -> int:
    """Return a number that Swift gives with each answer about an account or container.

    Raise `NotSwift` without it: a proxy's or portal's empty answer would be an empty container.
    """
    value = headers.get(name)
    if value is None:
        raise not_swift(f"it has no {name}")
    count = whole_number(value)
    if count is None:
        raise Corrupt(f"the server's {name} is {value[:80]!r}")
    return count


def _quota(headers: Mapping[str, str], *names: str) -> int | None:
    numbers = (whole_number(headers.get(name, "")) for name in names)
    return min((number for number in numbers if number is not None), default=None)
