"""The format of a journal on disk, which stays the same whatever names the code has."""

import json

import pytest

from swiftfs.journal.operations import KINDS, decode, decode_ambiguity, encode

# Every field of each kind of operation, as a release wrote it. These texts never change.
NAME = '{"container":"box","key":"a"}'
SEGMENT = '{"name":{"container":"box_segments","key":"a/1"},"etag":"e","size":5}'
DESCRIPTION = (
    '{"media_type":"text/plain","stored":{"mode":33188,"mtime_ns":5},"metadata":{"a":"b"},'
    '"kept":{"X-Delete-At":"9"}}'
)
HEADERS = '{"content_type":"text/plain","metadata":{"c":"d"},"kept":{"Content-Encoding":"gzip"}}'

RECORDS = [
    (
        '{"name":@NAME@,"file":{"file":"f","size":7,"origin":{"name":@NAME@,"etag":"etag",'
        '"size":5,"whole":6,"manifest":{"segments":[@SEGMENT@]}},"dirty":"Bw==","prefix":@NAME@,'
        '"evicted":[{"start":0,"segment":@SEGMENT@}]},"description":@DESCRIPTION@,'
        '"replaces_large":null,"replaces_etag":"etag","fresh":true,"inherit":true,'
        '"garbage":[@NAME@],"kind":"PutFile"}'
    ),
    (
        '{"name":@NAME@,"body":"eA==","description":@DESCRIPTION@,"replaces_large":null,'
        '"replaces_etag":"e","fresh":true,"kind":"PutSmall"}'
    ),
    ('{"name":@NAME@,"headers":@HEADERS@,"fresh":false,"kind":"PutMarker"}'),
    ('{"name":@NAME@,"description":@DESCRIPTION@,"large":true,"kind":"Describe"}'),
    ('{"name":@NAME@,"headers":@HEADERS@,"kind":"SetHeaders"}'),
    ('{"name":@NAME@,"large":null,"etag":"e","moved":true,"kind":"Delete"}'),
    (
        '{"source":@NAME@,"target":@NAME@,"replaces_large":null,"etag":"e","replaces_etag":"f",'
        '"served":true,"large":true,"kind":"Move"}'
    ),
    (
        '{"container":"box","source":"a/","target_container":"box","target":"b/",'
        '"markers":[[@NAME@,@NAME@]],"recent":[{"key":"k","hash":"h","modified":"m"}],'
        '"objects":[{"key":"k","hash":"h"}],"empty":true,"together":true,"served":true,'
        '"background":{"old":"/a","new":"/b","objects":7},"is_handed_on":true,"kind":"MoveFolder"}'
    ),
    (
        '{"source":@NAME@,"target":@NAME@,"row":{"key":"k","size":1,"hash":"h","content_type":"t",'
        '"last_modified":"m"},"part_of":{"old":"/a","new":"/b","objects":7},"is_marker":true,'
        '"keeps_target":true,"kind":"MoveObject"}'
    ),
    ('{"source":@NAME@,"target":@NAME@,"kind":"Copy"}'),
    ('{"container":"c","kind":"CreateContainer"}'),
    ('{"container":"c","metadata":{"a":"b"},"kind":"DescribeContainer"}'),
    ('{"container":"c","kind":"DeleteContainer"}'),
]

AMBIGUITY = (
    '{"name":@NAME@,"lost_at":1.0,"lost":[{"kind":"put","etag":"e","headers":@HEADERS@,'
    '"manifest":{"segments":[@SEGMENT@]},"body":"eA==","if_absent":true,"source":@NAME@}],'
    '"last":{"kind":"delete"},"suspected":true}'
)


def text(template: str) -> str:
    """Return a record with the common values inserted."""
    words = {"@SEGMENT@": SEGMENT, "@DESCRIPTION@": DESCRIPTION, "@HEADERS@": HEADERS, "@NAME@": NAME}
    for word, value in words.items():
        template = template.replace(word, value)
    return template


def as_written(record: str) -> str:
    """Return a record with its kind at the end, where earlier releases wrote it."""
    values = json.loads(record)
    values["kind"] = values.pop("kind")
    return json.dumps(values, separators=(",", ":"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: str(json.loads(text(record))["kind"]))
def test_a_record_keeps_its_format(record: str) -> None:
    assert as_written(encode(decode(text(record)))) == text(record)


def test_every_kind_of_record_is_tested() -> None:
    assert sorted(json.loads(text(record))["kind"] for record in RECORDS) == sorted(KINDS.values())


def test_a_record_of_lost_requests_keeps_its_format() -> None:
    assert encode(decode_ambiguity(text(AMBIGUITY))) == text(AMBIGUITY)
