"""The system's clock is set while a mount runs: what waits for a late request waits as long as before."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.memory_store import MemoryStore
from support.segment_cleaner import NAME
from swiftfs import concurrency
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.upload_record import SharedUploads, UploadRecord
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import Manifest, ObjectName
from swiftfs.store.ambiguous import GONE, AmbiguousRequests
from swiftfs.store.protocol import Headers

HOUR = 3600.0
PLAIN = Headers("a/b")


class SetClock(concurrency.Runtime):
    """A clock that is set by `step` seconds."""

    step = 0.0

    def unix_time(self) -> float:
        return super().unix_time() + self.step


@pytest.fixture
def clock() -> Iterator[SetClock]:
    clock = SetClock()
    before = concurrency.use(clock)
    concurrency.steady_time()
    yield clock
    concurrency.use(before)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_lost_request_is_watched_as_long(clock: SetClock, step: float) -> None:
    lost = AmbiguousRequests()
    lost.lost(NAME, GONE)
    clock.step = step
    lost.lost(ObjectName("box", "other"), GONE)
    first, second = (one.lost_at for one in lost.all())
    assert abs(second - first) < HOUR / 2


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_segments_of_a_lost_manifest_stay_as_long(clock: SetClock, tmp_path: Path, step: float) -> None:
    """A manifest whose segments are gone would come to stand, if its PUT is carried out late."""
    store, db = MemoryStore("box", "box_segments"), JournalDB(tmp_path, "me")
    removal = SegmentRemoval(store, db, SegmentOwnership(db))
    chooser = SegmentContainerChooser(store, "auto")
    with ThreadPoolExecutor(1) as pool:
        shared = SharedUploads(store, chooser, pool, SegmentLayout(1024 * 1024), db.begin_upload)
    record = UploadRecord(shared, concurrency.new_lock(concurrency.Rank.CONTENT, reentrant=True), NAME)
    record.asks(NAME, Manifest(()))
    segment = ObjectName("box_segments", f"{record.prefix.key}0-a")
    store.put(segment, b"x", PLAIN)
    clock.step = step
    removal.discard_below(record.state())
    removal.look_again()
    assert store.head(segment).size == 1
    assert not removal.is_due()
    db.close()
