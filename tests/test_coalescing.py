"""Which two intents about one name become one."""

import pytest

from swiftfs.attributes import Stored
from swiftfs.filecache.block_map import Blocks, FileRecord
from swiftfs.journal.codec import Unreadable, decode, encode
from swiftfs.journal.merging import attempted, coalesce
from swiftfs.journal.operations import (
    Delete,
    Describe,
    Description,
    Intent,
    Move,
    PutFile,
    PutMarker,
    PutSmall,
    SetHeaders,
)
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import Headers

NAME = ObjectName("box", "name")
OLD, NEW = (Description("text/plain", Stored(mode=0o100644, mtime_ns=time)) for time in (1, 2))
FILE = FileRecord("open-1", 5, None, Blocks(), None)
OTHER = FileRecord("open-2", 6, None, Blocks(), None)
GARBAGE = (ObjectName("box_segments", "x"),)

FRESH = PutFile(NAME, FILE, OLD, fresh=True)
OVER = PutFile(NAME, FILE, OLD, replaces_large=True, replaces_etag="e", garbage=GARBAGE)
LATER = PutFile(NAME, OTHER, NEW, replaces_large=None)
LINK = PutSmall(NAME, b"target", NEW)
MARKER = PutMarker(NAME, Headers("application/directory"))
CHANGED = Headers("application/directory", {"mode": "0700"})


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        (FRESH, Delete(NAME, large=False), ()),
        (OVER, Delete(NAME, large=False), (Delete(NAME, large=True, etag="e"),)),
        (FRESH, LATER, (PutFile(NAME, OTHER, NEW, fresh=True),)),
        (
            OVER,
            LATER,
            (PutFile(NAME, OTHER, NEW, replaces_large=True, replaces_etag="e", garbage=GARBAGE),),
        ),
        (FRESH, LINK, (PutSmall(NAME, b"target", NEW, fresh=True),)),
        (FRESH, Describe(NAME, NEW, large=False), (PutFile(NAME, FILE, NEW, fresh=True),)),
        (PutFile(NAME, FILE, OLD, inherit=True), Describe(NAME, NEW, None), (PutFile(NAME, FILE, NEW),)),
        (Delete(NAME, large=True, etag="e"), LINK, (PutSmall(NAME, b"target", NEW, True, "e"),)),
        (Delete(NAME, large=False), MARKER, None),
        (Delete(NAME, large=True), Delete(NAME, large=True), None),
        (MARKER, Delete(NAME, large=False), ()),
        (PutMarker(NAME, fresh=False), Delete(NAME, large=False), (Delete(NAME, large=False),)),
        (MARKER, SetHeaders(NAME, CHANGED), (PutMarker(NAME, CHANGED),)),
        (Describe(NAME, OLD, large=False), Delete(NAME, large=False), (Delete(NAME, large=False),)),
        (Describe(NAME, OLD, large=False), LATER, (LATER,)),
        (FRESH, Move(NAME, ObjectName("box", "else")), None),
    ],
)
def test_coalescing(earlier: Intent, later: Intent, merged: tuple[Intent, ...] | None) -> None:
    assert coalesce(earlier, later) == merged


def test_what_was_attempted_may_stand() -> None:
    tried = attempted(FRESH)
    assert coalesce(tried, Delete(NAME, large=False)) == (Delete(NAME, large=None),)
    assert attempted(MARKER) == PutMarker(NAME, MARKER.headers, fresh=False)
    assert attempted(OVER) == OVER


@pytest.mark.parametrize("intent", [FRESH, OVER, LINK, MARKER, Describe(NAME, NEW, None), Delete(NAME, None)])
def test_an_intent_is_read_as_it_was_written(intent: Intent) -> None:
    read = decode(encode(intent))
    assert encode(read) == encode(intent)
    assert type(read) is type(intent)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"kind": "Delete"}', '{"kind": "Nothing", "name": 1}', "1"]
)
def test_what_is_no_intent_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        decode(text)
