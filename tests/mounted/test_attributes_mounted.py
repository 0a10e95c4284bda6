"""Attributes: what is written into headers is read back, and values of other clients do no harm.

These run in a real mount.
"""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from swiftclient import Connection

from support.mounts import Mount
from swiftfs.attributes import (
    header_to_xattr,
    xattr_to_header,
)
from swiftfs.store.protocol import Headers
from swiftfs.store.wire.object_headers import to_wire

UTF8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(UTF8.filter(lambda text: text and "\0" not in text))
@example("Upper")
@example("under_score")
@example("per%cent")
@example("ümläut")
@example("a b\n")
def test_names_of_xattrs_are_read_back(plain: str) -> None:
    name = f"user.{plain}"
    header = xattr_to_header(name)
    if header is None:
        assert plain in {"mtime", "mode", "uid", "gid"}
        return
    assert header == header.lower()
    assert header_to_xattr(header) == name
    assert to_wire(Headers("", {header: "x"}))


def test_the_root_and_folders_without_a_marker_have_the_container_s_time(
    mounted: Mount, connection: Connection, container: str
) -> None:
    """No object stores a time for them; they are not of 1970."""
    connection.put_object(container, "implied/file", b"")
    made = float(connection.head_container(container)["x-timestamp"])
    for folder in (mounted.path, mounted.path / "implied"):
        assert folder.stat().st_mtime == pytest.approx(made, abs=0.001)
    (mounted.path / "implied").chmod(0o700)
    assert (mounted.path / "implied").stat().st_mtime == pytest.approx(made, abs=0.001)
    os.utime(mounted.path / "implied", (0, 0))
    os.utime(mounted.path, (5, 5))
    for _ in range(2):
        assert (mounted.path / "implied").stat().st_mtime == 0, "a program wants it so"
        assert mounted.path.stat().st_mtime == 5
        mounted.remount()
