"""Verification of an SLO's segments: each when all of it has been downloaded."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from msgspec.structs import replace

from support.cache_rig import MIB, PLAIN, CacheRig, read, settle, write
from support.deadlines import within
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import refuse
from swiftfs.errors import Corrupt, Unavailable
from swiftfs.filecache import verifier
from swiftfs.filecache.block_map import BLOCK, BaseVersion
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.sparse_file import md5_of
from swiftfs.objects import Manifest, ObjectName, Page, Segment
from swiftfs.store.protocol import Headers

SIZE = MIB - 777
"""Bytes of a segment; its end is within a block."""

LENGTH = 4 * SIZE


def whole() -> bytes:
    """Return the bytes of the object."""
    return noise(LENGTH)


def put_segments(store: MemoryStore, name: ObjectName, body: bytes) -> Manifest:
    """Store `body` as segments of `SIZE` bytes and a manifest; return the manifest."""
    store.create_container("box_segments")
    segments = []
    for start in range(0, len(body), SIZE):
        segment = ObjectName("box_segments", f"{name.key}/{start:012d}")
        info = store.put(segment, body[start : start + SIZE], PLAIN)
        segments.append(Segment(segment, info.version.etag, info.size))
    manifest = Manifest(tuple(segments))
    store.put_manifest(name, manifest, PLAIN)
    return manifest


pytest_plugins = ["support.cache_fixtures"]


@pytest.fixture
def large(rig: CacheRig) -> BaseVersion:
    manifest = put_segments(rig.store, ObjectName("box", "large"), whole())
    return BaseVersion(ObjectName("box", "large"), manifest.etag, LENGTH, LENGTH)


def read_slowly(content: CachedFile) -> bytes:
    """Read in ranges that are not larger than one download."""
    data = b"".join(read(content, offset, 4 * BLOCK) for offset in range(0, content.size, 4 * BLOCK))
    settle(content)
    return data


def test_only_a_wrong_segment_is_downloaded_again(
    rig: CacheRig, large: BaseVersion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    content = rig.open(large)
    read(content, 0, 4 * BLOCK)
    rig.store.wrong = 1
    read(content, SIZE + BLOCK, 4 * BLOCK)
    assert read_slowly(content) != whole()
    assert f"box_segments/large/{SIZE:012d}: the downloaded bytes have the MD5" in caplog.text
    assert len(caplog.records) == 1
    rig.gets()
    assert read_slowly(content) == whole()
    assert 0 < rig.gets() <= -(-SIZE // (4 * BLOCK)) + 1
    assert len(caplog.records) == 1


def test_a_segment_that_stays_wrong_is_an_error_and_the_others_are_read(
    rig: CacheRig, large: BaseVersion, caplog: pytest.LogCaptureFixture
) -> None:
    rig.store.wrong_at = SIZE + 5000
    content = rig.open(large)
    read_slowly(content)
    with suppress(Corrupt):  # if the second check ends before its last block was read
        read_slowly(content)
    settle(content)
    with pytest.raises(Corrupt, match=f"large/{SIZE:012d}"):
        read(content, SIZE + 5000, 1)
    assert read(content, 0, SIZE - BLOCK) == whole()[: SIZE - BLOCK]
    assert read(content, 3 * SIZE, SIZE) == whole()[3 * SIZE :]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    rig.keep(content)
    assert rig.kept() == []


def test_the_manifest_is_read_once_and_kept(rig: CacheRig, large: BaseVersion) -> None:
    content = rig.open(large)
    assert read_slowly(content) == whole()
    rig.keep(content)
    rig.restart()
    content = rig.open(large)
    assert content.base is not None
    assert content.base.manifest == rig.store.manifest(large.name)
    asked = [subject for method, subject in rig.store.requests if method == "manifest"]
    assert asked == [str(large.name)] * 2  # once by swiftfs, once by this test


def test_reading_a_small_part_needs_no_manifest(rig: CacheRig, large: BaseVersion) -> None:
    content = rig.open(large)
    for offset in range(0, LENGTH, 2 * MIB):
        assert read(content, offset, 10) == whole()[offset : offset + 10]
    settle(content)
    assert "manifest" not in {method for method, _ in rig.store.requests}


def test_reading_continues_if_the_manifest_is_refused(rig: CacheRig, large: BaseVersion) -> None:
    refuse(rig.store, "manifest", Unavailable)
    content = rig.open(large)
    assert read_slowly(content) == whole()
    assert [method for method, _ in rig.store.requests].count("manifest") == 1


def test_a_segment_that_is_an_slo_itself_is_not_verified(
    rig: CacheRig, large: BaseVersion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    inner = Segment(large.name, large.etag, LENGTH, nested=True)
    base = replace(large, manifest=Manifest((inner,)))
    content = rig.open(base)
    assert read_slowly(content) == whole()
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["nested", "a part"])
def test_a_file_with_a_segment_that_cannot_be_checked_is_not_kept_as_checked(
    rig: CacheRig, large: BaseVersion, kind: str
) -> None:
    """A change of it would store the wrong bytes again."""
    first, *rest = rig.store.manifest(large.name).segments
    other = replace(first, nested=True) if kind == "nested" else replace(first, length=first.size)
    base = replace(large, manifest=Manifest((other, *rest)))
    content = rig.open(base)
    assert read_slowly(content) == whole()
    rig.keep(content)
    content = rig.open(base)
    unverified = list(content._state.blocks.unverified(0, len(whole()) // BLOCK))
    assert unverified
    assert unverified[0][0] == 0


def put_dlo(store: MemoryStore) -> BaseVersion:
    """Store the segments of the object as another client's DLO; return its version."""
    put_segments(store, ObjectName("box", "large"), whole())
    name = ObjectName("box", "dlo")
    store.put(name, b"", Headers("text/plain", {}, {"X-Object-Manifest": "box_segments/large/"}))
    return BaseVersion(name, store.head(name).version.etag, LENGTH, LENGTH)


def test_only_a_wrong_segment_of_a_dlo_is_downloaded_again(
    rig: CacheRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    base = put_dlo(rig.store)
    content = rig.open(base)
    read(content, 0, 4 * BLOCK)
    rig.store.wrong = 1
    read(content, SIZE + BLOCK, 4 * BLOCK)
    rig.store.requests.clear()
    assert read_slowly(content) != whole()
    assert [method for method, _ in rig.store.requests if method != "get"] == ["list_page", "head"]
    assert f"box_segments/large/{SIZE:012d}: the downloaded bytes have the MD5" in caplog.text
    rig.gets()
    assert read_slowly(content) == whole()
    assert 0 < rig.gets() <= -(-SIZE // (4 * BLOCK)) + 1
    rig.keep(content)
    rig.restart()
    again = rig.open(base)
    assert read_slowly(again) == whole()
    assert rig.gets() == 0


def test_a_dlo_that_is_read_whole_is_checked(rig: CacheRig) -> None:
    """All segments are wrong, and each shares blocks with those beside it, which are checked meanwhile."""
    content = rig.open(put_dlo(rig.store))
    rig.store.wrong = 1
    content.ensure_all()
    settle(content)
    assert read_slowly(content) == whole()


@contextmanager
def held_check(content: CachedFile, monkeypatch: pytest.MonkeyPatch, *, has_read: bool) -> Iterator[None]:
    """Hold the first check of the second segment, which is read here, until the end.

    It waits before or after it `has_read` the bytes.
    """
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert go_on.wait(within(60))

    def held_md5_of(descriptor: int, start: int, *others: Any) -> str:
        is_held = start == SIZE and not reached.is_set()
        if is_held and not has_read:
            hold()
        digest = md5_of(descriptor, start, *others)
        if is_held and has_read:
            hold()
        return digest

    monkeypatch.setattr(verifier, "md5_of", held_md5_of)
    try:
        read(content, SIZE // BLOCK * BLOCK, SIZE + BLOCK)
        assert reached.wait(within(10))
        yield
    finally:
        go_on.set()
        settle(content)


def test_a_segment_is_checked_again_if_a_block_of_it_came_again_during_its_check(
    rig: CacheRig, large: BaseVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block was dropped because the segment before it was wrong."""
    content = rig.open(replace(large, manifest=rig.store.manifest(large.name)))
    with held_check(content, monkeypatch, has_read=True):
        rig.store.wrong = 1
        read(content, 0, SIZE // BLOCK * BLOCK)
        state = content._state
        with state.changed:
            assert state.changed.wait_for(lambda: not state.blocks.is_present(0, SIZE), within(10))
        rig.store.wrong_at = SIZE + 100
        read(content, 0, SIZE)
    rig.store.wrong_at = -1
    assert read(content, 0, 2 * SIZE) == whole()[: 2 * SIZE]


def test_a_segment_is_not_wrong_because_blocks_were_evicted_during_its_check(
    rig: CacheRig, large: BaseVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = rig.open(replace(large, manifest=rig.store.manifest(large.name)))
    with held_check(content, monkeypatch, has_read=False):
        read(content, 3 * SIZE, 1)  # the last answer to a thread is not evicted
        blocks = content._state.blocks
        before = len(blocks.present)
        evicted = content.evict(4 * BLOCK) // BLOCK
        assert not blocks.is_present(SIZE, 2 * SIZE)
    assert len(blocks.present) == before - evicted


@pytest.mark.parametrize("why", ["other segments", "another size", "more pages", "no listing"])
def test_a_dlo_whose_listing_does_not_prove_it_is_not_checked(
    rig: CacheRig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    base = put_dlo(rig.store)
    content = rig.open(base)
    list_page = rig.store.list_page

    def listed(*where: Any, **how: Any) -> Page:
        page = list_page(*where, **how)
        if why == "no listing":
            raise Unavailable("no")
        if why == "more pages":
            return replace(page, last=False)
        rows = (replace(page.rows[0], size=1), *page.rows[1:])
        return replace(page, rows=page.rows[1:] if why == "other segments" else rows)

    monkeypatch.setattr(rig.store, "list_page", listed)
    rig.store.wrong_at = SIZE + 5000
    assert read_slowly(content) == read_slowly(content) != whole()
    assert caplog.records == []


def test_a_segment_of_a_dlo_that_is_large_itself_is_not_checked(
    rig: CacheRig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not Swift itself, but a server that serves its bytes lists its ETag as that of any other object."""
    base = put_dlo(rig.store)
    first = ObjectName("box_segments", "large/")
    inner = rig.store.put_manifest(
        first, Manifest((rig.store.manifest(ObjectName("box", "large")).segments[0],)), PLAIN
    )
    base = replace(base, etag=rig.store.head(base.name).version.etag, size=LENGTH + SIZE)
    base = replace(base, object_size=base.size)
    list_page = rig.store.list_page

    def listed(*where: Any, **how: Any) -> Page:
        page = list_page(*where, **how)
        return replace(page, rows=(replace(page.rows[0], hash=inner.version.etag, size=SIZE), *page.rows[1:]))

    monkeypatch.setattr(rig.store, "list_page", listed)
    body = whole()[:SIZE] + whole()
    content = rig.open(base)
    read(content, 0, 4 * BLOCK)
    rig.store.wrong = 1
    read(content, 2 * SIZE + BLOCK, 4 * BLOCK)
    assert read_slowly(content) != body
    assert read_slowly(content) == body
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == []
    rig.gets()
    assert read_slowly(content) == body
    assert rig.gets() == 0


def test_a_dlo_of_one_large_segment_is_checked_once(
    rig: CacheRig, large: BaseVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = rig.store.manifest(large.name).segments[0]
    only, name = ObjectName("box_segments", "only/0"), ObjectName("box", "dlo")
    inner = rig.store.put_manifest(only, Manifest((segment,)), PLAIN)
    rig.store.put(name, b"", Headers("text/plain", {}, {"X-Object-Manifest": "box_segments/only/"}))
    list_page = rig.store.list_page

    def listed(*where: Any, **how: Any) -> Page:
        page = list_page(*where, **how)
        return replace(page, rows=(replace(page.rows[0], hash=inner.version.etag, size=SIZE),))

    monkeypatch.setattr(rig.store, "list_page", listed)
    content = rig.open(BaseVersion(name, rig.store.head(name).version.etag, SIZE, SIZE))
    rig.store.requests.clear()
    assert read_slowly(content) == whole()[:SIZE]
    assert [subject for method, subject in rig.store.requests if method == "head"] == [str(only)]


def test_written_blocks_are_not_verified(rig: CacheRig, large: BaseVersion) -> None:
    content = rig.open(replace(large, manifest=rig.store.manifest(large.name)))
    write(content, SIZE, b"new")
    model = whole()[:SIZE] + b"new" + whole()[SIZE + 3 :]
    assert read_slowly(content) == model
    assert read_slowly(content) == model
    rig.cache.drop(content)
    rig.forget(content)
