"""Random names of all bytes: each object is one file, and each file that is written is one object."""

import itertools
import os
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.mounts import Mount
from support.stores import read
from swiftfs.demo.server import SwiftServer
from swiftfs.objects import ObjectName
from swiftfs.store.auth import open_account
from swiftfs.store.protocol import Headers
from swiftfs.store.swift_store import SwiftStore

pytestmark = pytest.mark.mount_options("sync")

PIECES = [
    *("a", "%", "%empty", "%dot", "%dotdot", "%file", "/", "//", ".", "..", " ", "\n", "\r", "\x01", "\x7f"),
    *(
        "\\",
        "?",
        "#",
        "&",
        ";",
        "=",
        '"',
        "'",
        "<b>",
        "\u00a0",
        "\u202e",
        "e\u0301",
        "한글",
        "😀",
        "\ufffd",
        "*",
    ),
]
LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
KEYS = st.lists(st.sampled_from(PIECES) | LETTERS, min_size=1, max_size=8).map("".join)
ESCAPE = re.compile(r"\.\.?|%+(empty|dot|dotdot)|.*%file|\.fuse_hidden.*", re.DOTALL)
"""Names on the mount that are escapes."""
NAMES = KEYS.map(lambda key: key.replace("/", "_")).filter(lambda name: not ESCAPE.fullmatch(name))
QUICKLY = settings(
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
BODY = b"content"

_numbers = itertools.count(1)


@pytest.fixture
def store(swift: SwiftServer) -> Iterator[SwiftStore]:
    opened = SwiftStore(open_account(swift.environment()))
    yield opened
    opened.close()


def files_in(mounted: Mount, folder: str) -> list[str]:
    """Return every file in a folder of the mount; assert that no path leaves the folder."""
    found = [f"{parent}/{name}" for parent, _, names in os.walk(mounted.path / folder) for name in names]
    assert all(os.path.realpath(path).startswith(f"{mounted.path}/{folder}/") for path in found)
    return found


@pytest.mark.slow
@QUICKLY
@given(keys=st.lists(KEYS, min_size=1, max_size=6, unique=True))
@example(keys=["a", "a/b", "a/", "a//", "a//b", "%file", "a%file"])
@example(keys=["..", "../..", "./.", "/", "//"])
def test_every_object_is_one_file(mounted: Mount, store: SwiftStore, container: str, keys: list[str]) -> None:
    folder = f"f{next(_numbers)}"
    contents = {}
    for number, key in enumerate(keys):
        name = ObjectName(container, f"{folder}/{key}")
        contents[name] = f"content {number}".encode()
        store.put(name, contents[name], Headers("text/plain"))
    os.setxattr(mounted.path, "swift.refresh", b"1")
    paths = files_in(mounted, folder)
    assert len(paths) == len(set(paths)) == len(keys)
    found = []
    for path in paths:
        with open(path, "rb") as stream:  # noqa: PTH123  `Path` would fold `//` and `.`
            found.append(stream.read())
    assert sorted(found) == sorted(contents.values())
    for path in paths:
        os.unlink(path)  # noqa: PTH108
    assert files_in(mounted, folder) == []


@QUICKLY
@given(names=st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_every_name_is_stored_and_read_back(
    mounted: Mount, store: SwiftStore, container: str, names: list[str]
) -> None:
    folder = f"f{next(_numbers)}"
    (mounted.path / folder).mkdir()
    for name in names:
        (mounted.path / folder / name).write_bytes(name.encode())
    assert sorted(os.listdir(mounted.path / folder)) == sorted(names)  # noqa: PTH208
    rows = store.list_page(container, prefix=f"{folder}/").rows
    assert {row.size for row in rows} == {len(name.encode()) for name in names}
    bodies = [read(store, ObjectName(container, row.key))[0] for row in rows]
    assert sorted(bodies) == sorted(name.encode() for name in names)


VALUES = st.binary(max_size=60) | st.sampled_from(
    [
        b"a\r\nX-Object-Meta-Evil: 1",
        b"\0",
        b"\n",
        b" blank ",
        "é한".encode(),
        b"\xff\xfe",
        b"data:;base64,",
        b"",
    ]
)
ATTRIBUTES = st.text(LETTERS, min_size=1, max_size=12)


@QUICKLY
@given(name=ATTRIBUTES, value=VALUES)
@example(name="a\r\nX-Evil: 1", value=b"x")
@example(name="Upper_and-dash", value=b"x")
def test_no_attribute_adds_a_header(
    mounted: Mount, store: SwiftStore, container: str, name: str, value: bytes
) -> None:
    file = mounted.path / f"f{next(_numbers)}"
    file.write_bytes(BODY)
    before = set(store.head(ObjectName(container, file.name)).metadata)
    attribute = f"user.{name}"
    try:
        os.setxattr(file, attribute, value)
    except OSError:
        added = 0
    else:
        added = 1
        assert os.getxattr(file, attribute) == value
        assert os.listxattr(file) == [attribute]
    info = store.head(ObjectName(container, file.name))
    assert len(set(info.metadata) - before) == added
    assert "evil" not in info.metadata
    assert file.read_bytes() == BODY
