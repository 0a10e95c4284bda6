"""A mount dies while it stores a segment, and Swift carries that out when the next mount has looked."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from support.harness import LEFT, ME, harness, put, read, write
from support.jobs import wait_until
from support.late_store import OPTIONS, LateStore, kill_during, remove, settle
from support.noise import LARGE
from support.stored_objects import keys, named_segments, segments, ten_minutes_later
from swiftfs.errors import TimedOut
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.shared_copies import ManifestCopier
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

SEGMENTS = "file/"
"""The beginning of the keys of the file's segments."""


pytestmark = pytest.mark.store(LateStore, "box", "box_segments")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Return the cache folder of the mount that dies."""
    folder = tmp_path / "first"
    folder.mkdir()
    return folder


def close_file(filesystem: FileSystem) -> None:
    """Write and close a file at once: no segment is stored before."""
    write(filesystem, "/file", LARGE)


def is_clean(store: LateStore, cache: Path) -> bool:
    """Return whether, ten minutes later, there are only the segments that the file's manifest names."""
    ten_minutes_later(store, cache)
    named = named_segments(store, "file") if keys(store) else set()
    return segments(store) == named


def test_the_next_mount_stores_the_file(store: LateStore, first: Path) -> None:
    died = kill_during(store, first, "put", SEGMENTS, close_file)
    with harness(store, died, OPTIONS) as filesystem:
        settle(filesystem)
        before = segments(store)
        store.land()
        assert len(segments(store) - before) == 1
        assert read(filesystem, "/file") == LARGE
    assert is_clean(store, died)


def test_the_next_mount_deletes_the_file(store: LateStore, first: Path) -> None:
    died = kill_during(store, first, "put", SEGMENTS, close_file)
    with harness(store, died, "settle=1000") as filesystem:
        remove(filesystem)
    with harness(store, died, OPTIONS):  # the one before had no need to open the file
        wait_until(lambda: not segments(store))
    store.land()
    assert len(segments(store)) == 1
    assert is_clean(store, died)


def test_the_file_was_never_closed(store: LateStore, first: Path) -> None:
    def write_file(filesystem: FileSystem) -> None:
        handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
        for at in range(0, len(LARGE), 500_000):
            put(filesystem, handle, at, LARGE[at : at + 500_000])
        while not store.lost:  # a write begins to store the segments that were left before the write delay
            put(filesystem, handle, len(LARGE) - 1, LARGE[-1:])

    died = kill_during(store, first, "put", SEGMENTS, write_file)
    with harness(store, died, OPTIONS):
        wait_until(lambda: not segments(store))
    store.land()
    assert len(segments(store)) == 1
    assert is_clean(store, died)


def test_two_mounts_die(store: LateStore, first: Path) -> None:
    died = kill_during(store, first, "put", SEGMENTS, close_file)
    late, store._late = store._late, []
    again = kill_during(store, died, "put", SEGMENTS)
    store._late += late
    with harness(store, again, OPTIONS) as filesystem:
        settle(filesystem)
    before = segments(store)
    store.land()
    assert len(segments(store) - before) == 2
    assert is_clean(store, again)


def test_a_segment_that_was_stored_before_the_next_mount_looks_is_used(store: LateStore, first: Path) -> None:
    died = kill_during(store, first, "put", SEGMENTS, close_file)
    store.land()
    before = segments(store)
    with harness(store, died, OPTIONS) as filesystem:
        settle(filesystem)
    assert named_segments(store, "file") >= before
    assert is_clean(store, died)


def test_the_answer_is_lost_before_an_unmount(store: LateStore, first: Path) -> None:
    with harness(store, first, f"{OPTIONS},drain=0", close_error=LEFT) as filesystem:
        store.lose("put", SEGMENTS, 1000)
        close_file(filesystem)
        wait_until(lambda: store.lost >= 3)
    store.loses.clear()
    with harness(store, first, OPTIONS) as filesystem:
        settle(filesystem)
    store.land()
    assert is_clean(store, first)


def test_a_copied_segment_whose_answer_is_lost(store: LateStore, tmp_path: Path) -> None:
    """The copy that `conflict=keep` makes of a large object."""
    with harness(store, tmp_path, OPTIONS) as filesystem:
        close_file(filesystem)
        settle(filesystem)
    with closing(JournalDB(tmp_path, "box of memory")) as db:
        removal = SegmentRemoval(store, db, SegmentOwnership(db))
        copier = ManifestCopier(store, SegmentContainerChooser(store), db, removal)
        store.lose("copy", "copy/")
        with pytest.raises(TimedOut):
            copier.copy(store.head(ObjectName("box", "file")), ObjectName("box", "copy"))
        assert segments(store) == named_segments(store, "file")
    store.land()
    assert segments(store) > named_segments(store, "file")
    assert is_clean(store, tmp_path)
