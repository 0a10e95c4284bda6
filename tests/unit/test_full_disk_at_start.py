"""A mount begins while the disk of its cache folder is full."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.harness import ANY_END, copy_live, harness, read, write
from support.memory_store import MemoryStore
from support.noise import noise
from support.small_disk import fill, small_disk
from support.stored_objects import NEVER, body, foreign
from swiftfs.config.cache_dir import CONTENT, HEADS, JOURNAL_RESERVE, LATE
from swiftfs.errors import ConfigurationError
from swiftfs.filecache.version_cache import Pin, file_name
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Delete, encode
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.objects import ObjectName
from swiftfs.store.ambiguous import Ambiguity, Effect

MIB = 1024 * 1024

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


COPIES = 8


@pytest.fixture
def copied(store: MemoryStore, tmp_path: Path) -> Iterator[Path]:
    """The cache folder of a killed mount with a pending change and copies, on a disk of its own.

    The pinned copy was used first; then `/needed`, whose bytes a late request may make the only ones.
    """
    names = ["pinned", "needed", *map(str, range(COPIES))]
    for number, name in enumerate(names):
        foreign(store, name, noise(MIB, number))
    with small_disk(tmp_path / "disk", "56m") as disk:
        cache = disk / "cache"
        cache.mkdir()
        with harness(store, cache, f"{NEVER},cache_size=1G", close_error=ANY_END) as filesystem:
            write(filesystem, "/new", b"text")
            filesystem.services.file_cache.pinned.pin(Pin("box", "pinned"))
            for name in names:
                read(filesystem, f"/{name}")
            filesystem.services.file_cache.save_index()
            version = store.head(ObjectName("box", "needed")).version
            late = Ambiguity(version.name, time.time(), (Effect("delete"),), Effect("put", version.etag))
            filesystem.services.journal._db.keep_ambiguous({version.name: encode(late)})
            copy_live(cache, tmp_path / "image")
            filesystem.drain_seconds = 0.0
        # Of a later journal, which this one would be older than.
        (cache / "journal.sqlite-synced").unlink(missing_ok=True)
        for database in (tmp_path / "image").glob("*.sqlite*"):  # with their logs, which the end has removed
            shutil.copy(database, cache)
        yield cache


def copies(store: MemoryStore, cache: Path, *names: str) -> list[bool]:
    """Return which of these objects have a copy."""
    versions = (store.head(ObjectName("box", name)).version for name in names)
    return [(cache / CONTENT / file_name(version)).exists() for version in versions]


@pytest.mark.usual
@pytest.mark.parametrize("has_reserve", [True, False])
@pytest.mark.parametrize("left", [0, 8192, 200_000])
def test_copies_of_stored_files_make_room(
    store: MemoryStore, copied: Path, left: int, *, has_reserve: bool
) -> None:
    """The mount could not begin, or began without the index and so deleted all copies, also pinned ones."""
    if not has_reserve:
        (copied / JOURNAL_RESERVE).unlink()
    fill(copied.parent, left=left)
    needed = store.head(ObjectName("box", "needed")).version
    store.requests.clear()
    with harness(store, copied, f"{NEVER},cache_size=1G") as filesystem:
        # It is copied at once: what was in the cache has not been evicted, nor is it fetched again.
        assert (copied / LATE / file_name(needed)).exists()
        assert ("get", "box/needed") not in store.requests
        assert copies(store, copied, "pinned") == [True]
        kept = copies(store, copied, *map(str, range(COPIES)))
        assert sorted(kept) == kept, "the least recently used ones went first"
        assert COPIES // 4 <= sum(kept) < COPIES
        assert filesystem.services.file_cache.space.use()[0] < (COPIES + 2) * MIB
        write(filesystem, "/more", b"more")
        assert read(filesystem, "/new") == b"text"
    assert body(store, "new") == b"text"


@pytest.mark.usual
def test_a_mount_that_cannot_begin_says_so_and_loses_nothing(store: MemoryStore, copied: Path) -> None:
    """Others have filled the disk."""
    for path in (copied / CONTENT).iterdir():
        if not path.name.startswith("open-"):
            path.unlink()
    (copied / JOURNAL_RESERVE).unlink()
    for left in (0, 4096, 8192):
        filler = fill(copied.parent, left=left)
        with (
            pytest.raises(ConfigurationError, match="no space is left on the disk of"),
            harness(store, copied),
        ):
            pass
        filler.unlink()
    with harness(store, copied) as filesystem:
        assert read(filesystem, "/new") == b"text"
    assert body(store, "new") == b"text"


@pytest.mark.parametrize("left", [0, 4096])
def test_a_mount_after_an_unmount_that_cannot_begin_says_so(
    store: MemoryStore, disk: Path, left: int
) -> None:
    """It said only "No space left on device"."""
    cache = disk / "mounted"
    cache.mkdir()
    with harness(store, cache):
        pass
    (cache / JOURNAL_RESERVE).unlink()
    fill(disk, left=left)
    with pytest.raises(ConfigurationError, match="no space is left on the disk of"), harness(store, cache):
        pass
