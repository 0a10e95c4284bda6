"""Attributes: what is written into headers is read back, and values of other clients do no harm.

These run in a real mount.
"""

from hypothesis import example, given
from hypothesis import strategies as st

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
