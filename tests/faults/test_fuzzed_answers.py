"""Random answers of a server: each is read, or refused by an error of ours.

The examples are JSON of the right shape with odd values at random places, and arbitrary bytes.
"""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftfs.attributes import decode_metadata, decode_type, decode_xattr, header_to_xattr
from swiftfs.errors import SwiftfsError
from swiftfs.namespace.entry import Defaults, entries_of, file_entry, with_head
from swiftfs.objects import Limits, ObjectInfo, ObjectName, Row
from swiftfs.paths import Folder
from swiftfs.store.deletion import bulk_outcome
from swiftfs.store.wire.info import account_usage, container_usage, read_limits
from swiftfs.store.wire.listings import read_containers, read_page
from swiftfs.store.wire.manifests import manifest_from_wire, named_objects
from swiftfs.store.wire.object_headers import from_wire

pytestmark = pytest.mark.slow

CASES = 500
"""Of each of the six kinds of answers, in each run other ones."""

MOST_BYTES = 32 * 1024**2
"""The memory that reading one answer may take."""

DEFAULTS = Defaults(0, 0)
FOLDER = Folder("box", "d/")
NAME = ObjectName("box", "d/key")

texts = st.text(max_size=30)
numbers = st.integers() | st.floats() | st.sampled_from([2**63, 2**64, -1, 10**400])
odd = st.none() | st.booleans() | numbers | texts | st.lists(st.none(), max_size=2)
parameters = st.lists(
    st.tuples(
        st.sampled_from(["mtime", "mode", "uid", "gid", "target", "slo", "rdev"]),
        st.from_regex(r"[0-9.+-]{0,14}", fullmatch=True) | st.sampled_from(["0120777", "0040755"]) | texts,
    ),
    max_size=7,
)
types = st.builds(
    lambda base, pairs: ";".join([base, *(f"{key}={value}" for key, value in pairs)]),
    st.sampled_from(["text/plain", "application/directory", "inode/symlink", ""]),
    parameters,
)
keys = st.builds("d/{}".format, texts)
rows = st.fixed_dictionaries(
    {},
    optional={
        "name": keys | odd,
        "bytes": st.integers(0, 2**40) | odd,
        "hash": texts | odd,
        "content_type": types | odd,
        "last_modified": st.just("2026-01-01T00:00:00.000000") | odd,
        "subdir": keys | odd,
    },
)
segments = st.fixed_dictionaries(
    {},
    optional={
        "name": st.builds("/box/{}".format, texts) | odd,
        "bytes": st.integers(0, 2**40) | odd,
        "hash": texts | odd,
        "range": st.from_regex(r"[0-9]{0,5}-[0-9]{0,5}", fullmatch=True) | odd,
        "sub_slo": odd,
        "data": odd,
    },
)
headers = st.dictionaries(
    st.sampled_from(
        (
            *("etag", "content-type", "content-length", "x-timestamp", "last-modified", "x-object-manifest"),
            *("x-static-large-object", "x-object-meta-mtime", "x-object-meta-mode", "x-object-meta-uid"),
            *("x-account-bytes-used", "x-account-object-count", "x-container-bytes-used", "content-location"),
            *("x-container-object-count", "x-container-meta-quota-bytes", "x-delete-at", "server"),
        )
    )
    | st.builds("x-object-meta-{}".format, texts),
    texts | types | st.from_regex(r"[0-9]{0,40}", fullmatch=True),
)


def bodies(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[bytes]]:
    """Return the strategy of bodies in pieces, which are JSON with `values`, or any bytes."""
    texts = st.builds(lambda value: json.dumps(value).encode(), values | st.recursive(odd, st.lists))
    whole = texts | st.binary(max_size=200)
    return st.builds(lambda body, cut: [body[:cut], body[cut:]], whole, st.integers(0, 100))


@contextmanager
def bounded() -> Iterator[None]:
    """Let only errors of ours pass, and check the memory that was used."""
    tracemalloc.start()
    try:
        with suppress(SwiftfsError):
            yield
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


Fuzz = Callable[[Callable[..., None]], Callable[..., None]]


def fuzz(*strategies: st.SearchStrategy[Any]) -> Fuzz:
    """Return a decorator that runs a test with `CASES` examples of the strategies."""
    return lambda test: settings(max_examples=CASES)(given(*strategies)(test))


@fuzz(bodies(st.lists(rows, max_size=4).map(lambda some: sorted(some, key=str))))
def test_listings(body: list[bytes]) -> None:
    with bounded():
        page = read_page(body, "box", marker="", limit=0, limits=Limits(), prefix="d/")
        for entry in entries_of(FOLDER, page.rows, page.subdirs, DEFAULTS):
            assert DEFAULTS.shown(entry.attributes).uid < 2**32
    with bounded():
        read_containers(body, "the account", marker="", limits=Limits())


@fuzz(bodies(st.lists(segments, max_size=4)))
def test_manifests(body: list[bytes]) -> None:
    with bounded():
        assert manifest_from_wire(body, "key").size >= 0
    with bounded():
        named_objects(body, "key")


@fuzz(headers, st.integers(0, 2**63 - 1))
def test_headers(found: dict[str, str], size: int) -> None:
    with bounded():
        info = from_wire(NAME, found, size)
        entry = file_entry("key", "box", Row("d/key", 1, "", info.content_type, ""), DEFAULTS)
        attributes = with_head(entry, info, DEFAULTS).attributes
        assert (attributes.size, attributes.mode >> 16) == (size, 0)
    with bounded():
        account_usage(found)
    with bounded():
        container_usage(found)


@fuzz(bodies(st.dictionaries(st.sampled_from(["swift", "slo", "bulk_delete"]), st.dictionaries(texts, odd))))
def test_limits(body: list[bytes]) -> None:
    with bounded():
        limits = read_limits(b"".join(body), {})
        assert 0 < limits.listing <= 10_000


verdicts = st.dictionaries(
    st.sampled_from(["Errors", "Number Deleted", "Number Not Found", "Response Status", "Response Body"]),
    odd | st.lists(st.lists(texts, max_size=3) | odd, max_size=3),
)


@fuzz(bodies(verdicts))
def test_verdicts_of_bulk_deletes(body: list[bytes]) -> None:
    with bounded():
        bulk_outcome([NAME], b"".join(body))


@fuzz(types | texts, headers, texts)
def test_attributes(content_type: str, found: dict[str, str], text: str) -> None:
    with bounded():
        stored = decode_type(content_type)[1]
        assert stored.target is None or "\0" not in stored.target
        decode_metadata({name.removeprefix("x-object-meta-"): value for name, value in found.items()})
        header_to_xattr(text)
        decode_xattr(text)
        info = ObjectInfo(
            file_entry("k", "box", Row("k", 5, "h", content_type, ""), DEFAULTS).version, 5, "", 0
        )
        assert info.size == 5
