"""What the cache folder has beside the journal leaves the last space of the disk to that."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.harness import harness, names, read, write
from support.memory_store import MemoryStore
from support.small_disk import fill, small_disk
from support.stored_objects import NEVER, body, foreign
from swiftfs.config.cache_dir import HEADS, JOURNAL_RESERVE, LATE
from swiftfs.journal.late_versions import LateCopies
from swiftfs.namespace.head_cache import HeadCache, ObjectState
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion
from swiftfs.service.daemon import log_to_system
from swiftfs.sqlite import KEPT

MANY = 300
FOLDERS = 20


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "12m") as disk:
        (disk / "cache").mkdir()
        yield disk / "cache"


def free(cache: Path) -> int:
    return shutil.disk_usage(cache).free


@pytest.mark.usual
def test_caches_give_way_to_the_journal(
    store: MemoryStore, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They took the space that the journal needed to record what was uploaded."""
    for number in range(MANY):
        foreign(store, f"{number % FOLDERS}/file{number}", b"text")
    with harness(store, cache, f"{NEVER},offline,ttl=0") as filesystem:
        write(filesystem, "/new", b"text")
        (cache / JOURNAL_RESERVE).unlink()
        filler = fill(cache, left=KEPT - 65536)
        left = free(cache)
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                for number in range(FOLDERS):
                    for name in names(filesystem, f"/{number}"):
                        assert filesystem.getattr(f"/{number}/{name}").size == 4
                        assert read(filesystem, f"/{number}/{name}") == b"text"
                filesystem.services.file_cache.save_index()
        assert left - free(cache) < 65536
        said = {one.getMessage() for one in caplog.records if one.levelno > logging.INFO or one.exc_info}
        assert not {one for one in said if "the disk of the cache folder is full" not in one}
        filler.unlink()
    assert body(store, "new") == b"text"


def answer(number: int) -> tuple[ObjectState, ObjectInfo]:
    state = ObjectState("box", f"file{number}", "hash", "2026-11-30T00:00:00.000000")
    version = ObjectVersion(ObjectName("box", state.key), "etag")
    return state, ObjectInfo(version, 4, "text/plain", 0, {}, {}, is_slo=False, dlo_prefix=None)


def test_answers_to_heads_wait_in_memory_until_there_is_space(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = dict(map(answer, range(2000)))
    with closing(HeadCache(cache / HEADS)) as heads:
        filler = fill(cache, left=KEPT - 4096)
        left = free(cache)
        for state, info in answers.items():
            heads.remember(state, info)
        assert free(cache) == left
        assert heads.recall_many(answers) == answers
        filler.unlink()
    with closing(HeadCache(cache / HEADS)) as heads:
        assert heads.recall_many(answers) == answers
    assert not caplog.records


def test_no_more_answers_wait_than_are_kept_without_a_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftfs.namespace.head_cache.CAPACITY_IN_MEMORY", 300)
    answers = dict(map(answer, range(600)))
    with closing(HeadCache(cache / HEADS)) as heads:
        fill(cache, left=KEPT - 4096)
        for state, info in answers.items():
            heads.remember(state, info)
        assert heads.recall_many(answers) == dict(list(answers.items())[-300:])


def test_the_log_of_a_mount_leaves_the_last_space(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftfs.service.daemon.SYSLOG", "/no/such/socket")
    root = logging.getLogger()
    before, level = root.handlers, root.level
    root.handlers = []
    try:
        log_to_system(logging.INFO, cache)
        fill(cache, left=KEPT - 4096)
        logging.getLogger("swiftfs").info("small")
        logging.getLogger("swiftfs").warning("large")
    finally:
        for one in root.handlers:
            one.close()
        root.handlers = before
        root.setLevel(level)
    assert [line.split(" ", 3)[2:] for line in (cache / "swiftfs.log").read_text().splitlines()] == [
        ["WARNING", "large"]
    ]


def test_a_pin_that_the_disk_refuses_says_so_and_leaves_no_file(store: MemoryStore, cache: Path) -> None:
    """`swiftfs pin` said that too many paths were pinned."""
    with harness(store, cache) as filesystem:
        filler = fill(cache)
        files = {path.name for path in cache.iterdir()}
        with pytest.raises(OSError, match="No space left"):
            filesystem.getxattr("/", "swift.pin")
        assert {path.name for path in cache.iterdir()} == files
        filler.unlink()
        assert filesystem.getxattr("/", "swift.pin") == b"1"


def test_copies_against_late_requests_leave_the_last_space(cache: Path) -> None:
    with harness(MemoryStore("box"), cache) as filesystem:
        (cache / JOURNAL_RESERVE).unlink()
        copies = LateCopies(cache / LATE, filesystem.services.file_cache.space.has_room)
        filler = fill(cache, left=KEPT + 4096)
        assert not copies.fits(8192)
        filler.unlink()
        assert copies.fits(8192)
