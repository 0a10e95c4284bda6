"""The end of a mount: when the time of `drain` is up, requests that run end, and no other is sent."""

from pathlib import Path
from typing import Any

import pytest

from support.cache_rig import MIB, CacheRig
from support.deadlines import within
from support.harness import LEFT, harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import body
from swiftfs.concurrency import new_event
from swiftfs.journal import segment_records
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.protocol import Sink

pytest_plugins = ["support.cache_fixtures"]

OPTIONS = "settle=60,segment_size=1M,uploads=1,drain=0.2"


class SlowStore(MemoryStore):
    """A store that answers requests of one kind only when it is closed; `sent` are their subjects."""

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.slow = ""
        self.sent: list[str] = []
        self._closes = new_event()
        self.hook = self._wait

    def close(self) -> None:
        super().close()
        self._closes.set()

    def _wait(self, method: str, subject: object) -> None:
        if method == self.slow:
            self.sent.append(str(subject))
            assert self._closes.wait(within(20)), "the end of the mount waits for all requests"


def test_no_other_segment_of_a_large_file_is_sent(tmp_path: Path) -> None:
    store = SlowStore("box")
    store.slow = "put"
    with harness(store, tmp_path, OPTIONS, close_error=LEFT) as filesystem:
        write(filesystem, "/large", noise(6 * MIB))
    assert len(store.sent) == 1
    store.slow = ""
    with harness(store, tmp_path, OPTIONS.replace("drain=0.2", "drain=60")):
        pass
    assert body(store, "large") == noise(6 * MIB)


def test_no_other_old_segment_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were about to be deleted when the mount ends; the next one does that."""
    monkeypatch.setattr(segment_records, "REST_SECONDS", 60.0)
    store = SlowStore("box")
    with harness(store, tmp_path, OPTIONS) as filesystem:
        for seed in range(2):
            for name in "abc":
                write(filesystem, f"/{name}", noise(2 * MIB, seed))
            filesystem.services.journal.flush_all()
            wait_until(lambda: not filesystem.waiting())
        store.slow = "manifest"
    assert len(store.sent) == 1


def test_a_file_that_nobody_uses_is_not_downloaded_to_its_end(
    rig: CacheRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_file = rig.open(rig.put("file", noise(MIB)))
    rig.forget(cached_file)
    begun, may_go_on = new_event(), new_event()
    came: list[int] = []
    get = rig.store.get

    def slow_get(name: ObjectName, sink: Sink, **limits: Any) -> ObjectInfo:
        def slowly(position: int, data: bytes) -> None:
            came.append(position)
            begun.set()
            assert may_go_on.wait(within(20))
            sink(position, data)

        return get(name, slowly, **limits)

    monkeypatch.setattr(rig.store, "get", slow_get)
    cached_file.begin(rig.pool)
    assert begun.wait(within(20))
    rig.cache.drop(cached_file)
    may_go_on.set()
    rig.restart()
    assert came == [0]
    assert rig.kept() == []
