"""The disk of the cache folder: when it is asked, and what it has room for."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from support.manual_clock import ManualClock
from swiftfs.config.cache_dir import JOURNAL_RESERVE
from swiftfs.filecache.space import ASK_SECONDS, SPARE, STEP, CacheDisk
from swiftfs.sqlite import KEPT

SMALL = 4096


class Disk:
    """The free bytes of a disk, which a test sets, and how often it was asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.asked = 2 * SPARE, 0
        monkeypatch.setattr("shutil.disk_usage", self._usage)
        self.seen = CacheDisk(folder)

    def _usage(self, _folder: Path) -> SimpleNamespace:
        self.asked += 1
        return SimpleNamespace(free=self.left)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def test_an_ample_disk_is_asked_ten_times_a_second(disk: Disk, clock: ManualClock) -> None:
    for _ in range(100):
        assert disk.seen.is_ample_for(SMALL)
    assert disk.asked == 1
    clock.now += 2 * ASK_SECONDS
    assert disk.seen.is_ample_for(SMALL)
    assert disk.asked == 2


def test_an_ample_disk_is_asked_ten_times_a_second_for_downloads(disk: Disk, clock: ManualClock) -> None:
    for _ in range(100):
        assert disk.seen.accepts(SMALL)
    assert disk.asked == 1
    clock.now += 2 * ASK_SECONDS
    disk.left = KEPT
    assert not disk.seen.accepts(SMALL)


def test_a_disk_is_asked_before_a_step_of_downloads_has_come(disk: Disk) -> None:
    """They are written before the budget is looked at again."""
    assert disk.seen.accepts(SMALL)
    disk.left = KEPT
    accepted = 0
    while disk.seen.accepts(STEP // 8):
        accepted += STEP // 8
    assert 0 < accepted < STEP


def test_a_scarce_disk_is_asked_before_each_write(disk: Disk) -> None:
    disk.left = SPARE - 1
    for number in range(10):
        assert disk.seen.is_ample_for(SMALL)
        assert disk.asked == number + 1
    assert disk.seen.lacking() == 1
    disk.left = KEPT + SMALL - 1
    assert not disk.seen.is_ample_for(SMALL)


def test_the_budget_is_due_after_each_step(disk: Disk) -> None:
    due = [not disk.seen.is_ample_for(STEP // 4) for _ in range(8)]
    assert due == 2 * [False, False, False, True]
    disk.seen.freed(STEP)
    assert not disk.seen.is_ample_for(SMALL)


def test_the_reserve_lets_data_take_what_is_left(disk: Disk, tmp_path: Path) -> None:
    disk.left = KEPT
    assert disk.seen.has_room(0)
    assert not disk.seen.has_room(1)
    (tmp_path / JOURNAL_RESERVE).touch()
    assert disk.seen.has_room(1)


@pytest.mark.parametrize("left", [0, 2 * SPARE])
def test_that_nothing_can_be_evicted_is_told_once_until_there_was_room(disk: Disk, left: int) -> None:
    """With a quota the disk itself may have much space."""
    disk.left = left
    assert disk.seen.is_first_failure()
    for _ in range(3):
        disk.seen.free()
        assert not disk.seen.is_first_failure()
    disk.left += SPARE
    disk.seen.free()
    assert disk.seen.is_first_failure()
    disk.seen.evicted()
    assert disk.seen.is_first_failure()
