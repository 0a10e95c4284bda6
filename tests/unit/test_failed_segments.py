"""A segment is stored although its request failed: it is deleted when no manifest comes to name it."""

import math
from pathlib import Path
from typing import Any

import pytest

from support.harness import harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import body, keys, named_segments, segments
from swiftfs.errors import NoSpace, QuotaExceeded, StoreError, TimedOut
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.protocol import Body, Headers


class RefusingStore(MemoryStore):
    """Stores the first segment of a file, loses the answer, and then refuses the segment with `refusal`."""

    def __init__(self, refusal: StoreError, refusals: float = math.inf) -> None:
        super().__init__("box", "box_segments")
        self._refusal = refusal
        self._refusals = refusals
        self._tries = 0

    def put(self, name: ObjectName, body: Body, headers: Headers, **how: Any) -> ObjectInfo:
        if "/0000000000000-" not in name.key:
            return super().put(name, body, headers, **how)
        self._tries += 1
        if self._tries == 1:
            super().put(name, body, headers)
            raise TimedOut("no answer", may_land=True)
        if self._tries <= 1 + self._refusals:
            raise self._refusal
        return super().put(name, body, headers, **how)


@pytest.mark.parametrize("refusal", [NoSpace("full"), QuotaExceeded("full")], ids=["507", "413"])
def test_a_segment_whose_answer_was_lost_and_that_is_refused_then(
    tmp_path: Path, refusal: StoreError
) -> None:
    store = RefusingStore(refusal)
    with harness(store, tmp_path, "settle=0.01,segment_size=1M") as filesystem:
        write(filesystem, "/file", noise(2_500_000))
        wait_until(lambda: bool(filesystem.waiting()[0].reason))
        assert segments(store) != set()
        filesystem.unlink("/file")
    assert keys(store) == []
    assert segments(store) == set()


def test_the_segment_is_stored_again_under_another_name(tmp_path: Path) -> None:
    store = RefusingStore(QuotaExceeded("full"), refusals=1)
    with harness(store, tmp_path, "settle=0.01,segment_size=1M") as filesystem:
        write(filesystem, "/file", noise(2_500_000))
        # A busy machine may have refused the segment before the file was handed in: nothing waits then.
        wait_until(lambda: all(one.state == "parked" for one in filesystem.waiting()))
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert body(store, "file") == noise(2_500_000)
    assert segments(store) == named_segments(store, "file")
