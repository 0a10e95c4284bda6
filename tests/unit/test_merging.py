"""Which two operations on one name become one."""

import pytest
from msgspec.structs import replace

from swiftfs.attributes import Stored
from swiftfs.filecache.block_map import FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.journal.merging import attempted, coalesce
from swiftfs.journal.operations import (
    Delete,
    Move,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
    Unreadable,
    decode,
    encode,
)
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import Headers, ObjectMeta

NAME = ObjectName("box", "name")
OLD, NEW = (ObjectMeta("text/plain", Stored(mode=0o100644, mtime_ns=time)) for time in (1, 2))
FILE = FileRecord("open-1", 5, None, Blocks(), None)
OTHER = FileRecord("open-2", 6, None, Blocks(), None)
GARBAGE = (ObjectName("box_segments", "x"),)

FRESH = PutFile(NAME, FILE, OLD, creates=True)
OVER = PutFile(NAME, FILE, OLD, replaces_large=True, replaces_etag="e", superseded_segments=GARBAGE)
GONE = Delete(NAME, is_slo=True, etag="e", superseded_segments=GARBAGE)
LATER = PutFile(NAME, OTHER, NEW, replaces_large=None)
LINK = PutSpecial(NAME, b"target", NEW)
MARKER = PutMarker(NAME, Headers("application/directory"))
CHANGED = Headers("application/directory", {"mode": "0700"})


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        (FRESH, Delete(NAME, is_slo=False), ()),
        (OVER, Delete(NAME, is_slo=False), (GONE,)),
        (GONE, LATER, (replace(OVER, file=OTHER, meta=NEW),)),
        (FRESH, LATER, (PutFile(NAME, OTHER, NEW, creates=True),)),
        (
            OVER,
            LATER,
            (PutFile(NAME, OTHER, NEW, replaces_large=True, replaces_etag="e", superseded_segments=GARBAGE),),
        ),
        (FRESH, LINK, (PutSpecial(NAME, b"target", NEW, creates=True),)),
        (FRESH, SetAttributes(NAME, NEW, is_slo=False), (PutFile(NAME, FILE, NEW, creates=True),)),
        (
            PutFile(NAME, FILE, OLD, foreign_headers_unknown=True),
            SetAttributes(NAME, NEW, None),
            (PutFile(NAME, FILE, NEW),),
        ),
        (Delete(NAME, is_slo=True, etag="e"), LINK, (PutSpecial(NAME, b"target", NEW, True, "e"),)),
        (Delete(NAME, is_slo=False), MARKER, None),
        (Delete(NAME, is_slo=True), Delete(NAME, is_slo=True), None),
        (MARKER, Delete(NAME, is_slo=False), ()),
        (PutMarker(NAME, creates=False), Delete(NAME, is_slo=False), (Delete(NAME, is_slo=False),)),
        (MARKER, ReplaceHeaders(NAME, CHANGED), (PutMarker(NAME, CHANGED),)),
        (SetAttributes(NAME, OLD, is_slo=False), Delete(NAME, is_slo=False), (Delete(NAME, is_slo=False),)),
        (SetAttributes(NAME, OLD, is_slo=False), LATER, (LATER,)),
        (FRESH, Move(NAME, ObjectName("box", "else")), None),
        # The key in the trash of what is replaced or deleted: the first one, if there is any.
        (
            Delete(NAME, is_slo=False, etag="e", trash="first"),
            LATER,
            (replace(LATER, replaces_large=False, replaces_etag="e", trash="first"),),
        ),
        (replace(OVER, trash="first"), Delete(NAME, None, trash="second"), (replace(GONE, trash="first"),)),
        (OVER, Delete(NAME, None, trash="second"), (replace(GONE, trash="second"),)),
        (replace(OVER, trash="first"), replace(OVER, trash="second"), (replace(OVER, trash="first"),)),
        (OVER, replace(OVER, trash="second"), (replace(OVER, trash="second"),)),
        (FRESH, replace(OVER, trash="second"), (FRESH,)),
    ],
)
def test_which_two_operations_merge(
    earlier: Operation, later: Operation, merged: tuple[Operation, ...] | None
) -> None:
    assert coalesce(earlier, later) == merged


@pytest.mark.parametrize("earlier", [replace(OVER, sent=("a", "b")), replace(GONE, sent=("a", "b"))])
def test_the_versions_that_either_operation_knows_as_sent_stay_known(earlier: Operation) -> None:
    (merged,) = coalesce(earlier, replace(LATER, sent=("b", "c"))) or ()
    assert isinstance(merged, PutFile)
    assert merged.sent == ("a", "b", "c")


def test_an_attempted_operation_may_have_been_executed() -> None:
    tried = attempted(FRESH)
    assert coalesce(tried, Delete(NAME, is_slo=False)) == (Delete(NAME, is_slo=None),)
    assert attempted(MARKER) == PutMarker(NAME, MARKER.headers, creates=False)
    assert attempted(OVER) == OVER


@pytest.mark.parametrize(
    "operation", [FRESH, OVER, LINK, MARKER, SetAttributes(NAME, NEW, None), Delete(NAME, None)]
)
def test_an_operation_is_decoded_as_it_was_encoded(operation: Operation) -> None:
    read = decode(encode(operation))
    assert encode(read) == encode(operation)
    assert type(read) is type(operation)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"kind": "Delete"}', '{"kind": "Nothing", "name": 1}', "1"]
)
def test_text_that_is_no_operation_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        decode(text)
