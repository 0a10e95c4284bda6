"""Names on a real mount: those that POSIX and Swift both allow, and escapes for what only Swift allows."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.found_objects import keys
from support.mounts import Mount
from support.stores import read
from swiftfs.demo.server import SwiftServer
from swiftfs.objects import ObjectName
from swiftfs.store.auth import open_account
from swiftfs.store.protocol import Headers
from swiftfs.store.swift_store import SwiftStore

ORDINARY = [
    "with space",
    "new\nline",
    "per%20cent%",
    "%empty-ish",
    "ques?tion=1&a#b",
    "한글 日本語 😀",
    "e\u0301 and \u00e9",
    "...",
    "-rf",
    "quote's\"",
    "semi;colon,comma\\",
    "\x01\x7f",
    "a" * 255,
    "漢" * 85,
]


def listed(path: Path) -> list[str]:
    return [child.name for child in path.iterdir()]


@pytest.mark.matrix(4)
@pytest.mark.parametrize("name", ORDINARY, ids=[ascii(name)[:30] for name in ORDINARY])
def test_ordinary_names(mounted: Mount, connection: Connection, container: str, name: str) -> None:
    file = mounted.path / name
    file.write_bytes(b"content")
    assert keys(connection, container) == [name]
    mounted.remount()
    assert listed(mounted.path) == [name]
    assert file.read_bytes() == b"content"
    file.rename(mounted.path / "plain")
    (mounted.path / "plain").rename(file)
    assert keys(connection, container) == [name]
    file.unlink()
    file.mkdir()
    assert keys(connection, container) == [name]
    file.rmdir()
    mounted.stop()
    assert keys(connection, container) == []
    mounted.start()


def test_names_that_are_too_long(mounted: Mount, connection: Connection, container: str) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        (mounted.path / ("漢" * 342)).write_bytes(b"x")
    assert caught.value.errno == errno.ENAMETOOLONG
    assert keys(connection, container) == []


def test_a_name_that_is_not_utf8(mounted: Mount, connection: Connection, container: str) -> None:
    path = os.fsencode(mounted.path) + b"/\xff\xfe"
    actions: list[Callable[[], object]] = [
        lambda: os.mkdir(path),  # noqa: PTH102  a path of bytes
        lambda: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)),
        lambda: os.symlink(b"x", path),  # noqa: PTH211
    ]
    for action in actions:
        with pytest.raises(OSError) as caught:  # noqa: PT011  the errno is compared below
            action()
        assert caught.value.errno in {errno.EILSEQ, errno.EINVAL}
    assert keys(connection, container) == []
    assert listed(mounted.path) == []


@pytest.fixture
def store(swift: SwiftServer) -> Iterator[SwiftStore]:
    """Our own client: `requests` would resolve a key's dots."""
    opened = SwiftStore(open_account(swift.environment()))
    yield opened
    opened.close()


ODD = {
    "a//b": "a/%empty/b",
    ".": "%dot",
    "..": "%dotdot",
    "../x": "%dotdot/x",
    "/lead": "%empty/lead",
    "d/./x": "d/%dot/x",
    "%dot": "%%dot",
    "two//": "two/%empty/%empty",
    "%empty/x": "%%empty/x",
}


@pytest.mark.matrix(4)
@pytest.mark.parametrize(("key", "path"), ODD.items())
def test_keys_without_a_posix_name(
    mounted: Mount, store: SwiftStore, connection: Connection, container: str, key: str, path: str
) -> None:
    name = ObjectName(container, key)
    store.put(name, b"odd content", Headers("text/plain"))
    mounted.remount()
    file = mounted.path / path
    found = [Path(folder, name) for folder, _, names in os.walk(mounted.path) for name in names]
    assert found == [file]
    assert file.read_bytes() == b"odd content"
    file.write_bytes(b"changed")
    assert read(store, name)[0] == b"changed"
    file.rename(mounted.path / "plain")
    folder = key.rpartition("/")[0]
    assert set(keys(connection, container)) - {"plain"} <= {folder, f"{folder}/"}
    (mounted.path / "plain").rename(file)
    assert read(store, name)[0] == b"changed"
    file.unlink()
    mounted.stop()
    assert key not in keys(connection, container)
    mounted.start()


def test_an_object_beside_a_folder_of_its_name(
    mounted: Mount, connection: Connection, container: str
) -> None:
    for key in ("a", "a/b", "a%file", "p%", "p%/q"):
        connection.put_object(container, key, key.encode())
    mounted.remount()
    assert sorted(listed(mounted.path)) == ["a", "a%%file", "a%file", "p%", "p%%%file"]
    assert (mounted.path / "a" / "b").read_bytes() == b"a/b"
    assert (mounted.path / "a%file").read_bytes() == b"a"
    assert (mounted.path / "a%%file").read_bytes() == b"a%file"
    assert (mounted.path / "p%%%file").read_bytes() == b"p%"
    (mounted.path / "a%file").write_bytes(b"changed")
    assert connection.get_object(container, "a")[1] == b"changed"
    (mounted.path / "a%file").rename(mounted.path / "elsewhere")
    assert set(keys(connection, container)) == {"a/b", "a%file", "elsewhere", "p%", "p%/q"}
    (mounted.path / "p%%%file").unlink()
    mounted.remount()
    assert set(keys(connection, container)) == {"a/b", "a%file", "elsewhere", "p%/q"}


def test_a_slash_object_with_content_is_a_file(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "d/", b"content behind a slash")
    connection.put_object(container, "d/x", b"x")
    mounted.remount()
    assert sorted(listed(mounted.path / "d")) == ["%empty", "x"]
    file = mounted.path / "d" / "%empty"
    assert file.read_bytes() == b"content behind a slash"
    file.rename(mounted.path / "plain")
    assert set(keys(connection, container)) == {"d/x", "plain"}


@pytest.mark.parametrize("prefix", ["", "p/"])
def test_odd_keys_have_numbers_of_their_own(
    mounted: Mount, connection: Connection, container: str, prefix: str
) -> None:
    """Else `find` and `cp -r` take a folder for one that they are in, and leave it out."""
    bodies = {"/x": b"1", "//": b"2", "//y": b"3", "d/": b"4", "d//z": b"5", "d/x": b"6"}
    for key, body in bodies.items():
        connection.put_object(container, prefix + key, body)
    mounted.remount()
    paths = [mounted.path, *mounted.path.rglob("*")]
    assert len({path.stat().st_ino for path in paths}) == len(paths)
    assert not os.path.ismount(mounted.path / prefix / "%empty")
    found = subprocess.run(["find", mounted.path, "-type", "f"], capture_output=True, check=True, text=True)
    assert sorted(Path(file).read_bytes() for file in found.stdout.split()) == sorted(bodies.values())


def test_a_second_name_of_a_key_is_not_made_without_its_folder(
    mounted: Mount, connection: Connection, container: str
) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011  the errno is compared below
        (mounted.path / "a%file").write_bytes(b"x")
    assert caught.value.errno == errno.EINVAL
    assert keys(connection, container) == []
