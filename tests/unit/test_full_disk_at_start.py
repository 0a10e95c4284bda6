"""A mount begins while the disk of its cache folder is full."""

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.harness import copy_live
from support.small_disk import fill, small_disk
from swiftfs.config.cache_dir import HEADS, JOURNAL_RESERVE
from swiftfs.errors import ConfigurationError
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Delete
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.objects import ObjectName

RECORDS = [Record(seq, f"/{seq}", Delete(ObjectName("box", str(seq)), is_slo=False)) for seq in range(1, 20)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "5m") as made:
        yield made


@pytest.fixture
def cache(disk: Path) -> Path:
    """The cache folder of a mount that was killed."""
    (disk / "living").mkdir()
    with closing(JournalDB(disk / "living", "me")) as journal:
        journal.commit(RECORDS)
        copy_live(disk / "living", disk / "cache")
    return disk / "cache"


@pytest.mark.parametrize("left", [0, 40_960])
def test_the_journal_gives_up_its_reserve(disk: Path, cache: Path, left: int) -> None:
    fill(disk, left=left)
    with closing(JournalDB(cache, "me")) as journal:
        assert journal.records() == RECORDS
        journal.commit(drop=[RECORDS[0].seq])
    with closing(JournalDB(cache, "me")) as journal:
        assert journal.records() == RECORDS[1:]


def test_a_journal_without_reserve_says_that_the_disk_is_full(disk: Path, cache: Path) -> None:
    (cache / JOURNAL_RESERVE).unlink()
    fill(disk)
    with pytest.raises(ConfigurationError, match=f"no space is left on the disk of {cache}"):
        JournalDB(cache, "me")


def test_the_reserve_leaves_the_last_space_to_the_database(disk: Path, cache: Path) -> None:
    (cache / JOURNAL_RESERVE).unlink()
    fill(disk, left=1_500_000)
    with closing(JournalDB(cache, "me")):
        assert not (cache / JOURNAL_RESERVE).exists()


@pytest.mark.parametrize("left", [0, 8192])
def test_a_cached_database_says_that_the_disk_is_full(
    disk: Path, cache: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    heads = HeadCache(cache / HEADS)
    copy_live(cache, disk / "copy")
    heads.close()
    fill(disk, left=left)
    with caplog.at_level(logging.WARNING):
        HeadCache(disk / "copy" / HEADS).close()
    (line,) = [one.getMessage() for one in caplog.records]
    assert f"no space is left on the disk of {disk / 'copy'}" in line
