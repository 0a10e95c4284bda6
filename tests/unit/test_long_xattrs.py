"""Xattrs that are longer than a header may be: they are stored in parts, as far as the server allows."""

import errno
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.harness import harness, write
from support.memory_store import MemoryStore
from swiftfs.attributes import header_to_xattr, with_xattr, without_xattr, xattr_of, xattr_to_header
from swiftfs.objects import Limits, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers
from swiftfs.store.wire.object_headers import to_wire

LONGEST = 256
OTHER = {"note2": "another's", "note.0": "x", "note%25": "y"}


@given(st.binary(max_size=1000), st.integers(1, 30))
@example(b"x" * LONGEST, 1)
@example(b"x" * (LONGEST + 1), 1)
@example(b"two words " * 200, 1)
@example(b" " * 300, 1)
@example(b"\n", 300)
@example(b"data:;parts=1,x", 30)
def test_values_of_any_length_are_read_back(part: bytes, times: int) -> None:
    value = part * times
    metadata = with_xattr(OTHER, "note", value, LONGEST)
    assert xattr_of(metadata, "note") == value
    assert max(len(text) for text in metadata.values()) <= LONGEST
    assert to_wire(Headers("", metadata))
    listed = [name for name in map(header_to_xattr, metadata) if name is not None]
    assert sorted(listed) == ["user.note", "user.note%", "user.note.0", "user.note2"]
    assert without_xattr(metadata, "note") == OTHER
    shorter = with_xattr(metadata, "note", b"1", LONGEST)
    assert shorter == {**OTHER, "note": "1"}, "no part is left"


@pytest.mark.parametrize("text", ["data:;parts=2,x", "data:;parts=,x", "data:;parts=99999,x"])
def test_another_clients_text_that_looks_like_parts_is_read_as_it_is(text: str) -> None:
    assert xattr_of({"note": text}, "note") == text.encode()


def test_a_part_is_no_xattr_of_its_own() -> None:
    assert xattr_to_header("user.note%001") == "note%25001"
    assert header_to_xattr("note%001") is None


def test_a_long_value_survives_a_new_mount_and_a_rename(store: MemoryStore, tmp_path: Path) -> None:
    value = bytes(range(256)) * 8
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with harness(store, tmp_path / "one") as filesystem:
        write(filesystem, "/file", b"x")
        filesystem.setxattr("/file", "user.note", value, 0)
        filesystem.rename("/file", "/moved")
    with harness(store, tmp_path / "two") as filesystem:
        assert filesystem.listxattr("/moved") == ["user.note"]
        assert filesystem.getxattr("/moved", "user.note") == value
        filesystem.removexattr("/moved", "user.note")
        assert filesystem.listxattr("/moved") == []
    assert list(store.head(ObjectName("box", "moved")).metadata) == ["mtime"]


def test_beyond_the_servers_limit_the_log_names_it(
    filesystem: FileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write(filesystem, "/file", b"x")
    filesystem.setxattr("/file", "user.note", b"x" * 3000, 0)
    with pytest.raises(OSError, match="too long") as caught:
        filesystem.setxattr("/file", "user.more", b"x" * 1000, 0)
    assert caught.value.errno == errno.E2BIG
    assert "the server takes 4096 bytes of metadata" in caplog.text
    assert filesystem.listxattr("/file") == ["user.note"]


def test_a_server_that_takes_more_gets_more(tmp_path: Path) -> None:
    store = MemoryStore("box", limits=Limits(metadata_bytes=200_000, metadata_value_bytes=2000))
    with harness(store, tmp_path) as filesystem:
        write(filesystem, "/file", b"x")
        filesystem.setxattr("/file", "user.note", b"\xff" * 40_000, 0)
        assert filesystem.getxattr("/file", "user.note") == b"\xff" * 40_000
        # As base64 that is more than the 64 KiB of header lines that a server takes.
        with pytest.raises(OSError, match="too long"):
            filesystem.setxattr("/file", "user.note", b"\xff" * 50_000, 0)
        assert filesystem.getxattr("/file", "user.note") == b"\xff" * 40_000
