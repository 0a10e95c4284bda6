"""A server's limits and features, read from `/info`. A feature that is not listed there is not used."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from swiftfs.objects import Limits
from swiftfs.store.wire.json_stream import parse_small
from swiftfs.store.wire.listings import MAX_ROWS
from swiftfs.store.wire.object_headers import MAX_SIZE

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
