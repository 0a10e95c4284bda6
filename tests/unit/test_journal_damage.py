"""What is reported and kept when the journal or its files are damaged, or the disk is full."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import LEFT, ME, harness, names, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, body, foreign, keys, refuse
from swiftfs.errors import AccessDenied
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.backlog import Backlog
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Delete
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

pytestmark = pytest.mark.mount_options(NEVER)


@pytest.mark.parametrize("damage", ["header", "truncated", "text", "page"])
def test_a_damaged_journal_is_set_aside(store: MemoryStore, tmp_path: Path, damage: str) -> None:
    refuse(store, "put", AccessDenied)
    with harness(store, tmp_path, NEVER, close_error=LEFT) as filesystem:
        write(filesystem, "/file", b"data")
    store.hook = None
    log = tmp_path / "journal.sqlite"
    data = log.read_bytes()
    damaged = {
        "header": b"\0" * 100 + data[100:],
        "truncated": data[:5000],
        "text": b"no",
        "page": data[:4097] + b"\x0f\xff" + data[4099:],  # only a check finds that
    }
    log.write_bytes(damaged[damage])
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/") == []
    aside = [path.name for path in tmp_path.iterdir() if path.name.startswith("journal.damaged-")]
    assert len(aside) == 1
    assert [path.read_bytes() for path in (tmp_path / "lost").iterdir()] == [b"data"]


def test_a_damaged_row_is_set_aside_and_the_others_are_used(tmp_path: Path) -> None:
    log = JournalDB(tmp_path, "me")
    name = ObjectName("box", "file")
    log.commit([Record(1, "/file", Delete(name, is_slo=False)), Record(2, "/x", Delete(name, is_slo=None))])
    log._database.execute("UPDATE intents SET intent = '{}' WHERE seq = 1")
    log._database.commit()
    log.close()
    log = JournalDB(tmp_path, "me")
    assert [record.seq for record in log.records()] == [2]
    assert len(log.lost) == 1
    assert (tmp_path / "lost" / "intent-1.json").read_text() == "{}"
    log.close()


def test_a_full_disk_is_reported_at_close(filesystem: FileSystem, store: MemoryStore) -> None:
    handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"data")
    log = filesystem.services.journal._db
    pages = log._database.execute("PRAGMA page_count").fetchone()[0]
    log._database.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(100):
            filesystem.mkdir(f"/folder{number}", 0o755, ME)

    with pytest.raises(OSError, match="No space left") as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    put(filesystem, handle, 0, b"more")
    log._database.execute("PRAGMA max_page_count = 100000")
    filesystem.flush(handle)
    filesystem.release(handle)
    assert read(filesystem, "/file") == b"more"


def test_a_pending_file_whose_bytes_are_gone_still_exists(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "settle=1000,drain=0") as filesystem:
        write(filesystem, "/file", b"data")
        for path in (tmp_path / "content").iterdir():
            path.unlink()
        with pytest.raises(OSError, match="is gone") as caught:
            filesystem.open("/file", os.O_RDONLY)
        assert caught.value.errno == errno.EIO
        filesystem.unlink("/file")


def test_segments_of_an_open_file_are_not_cleaned_up(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_container("box_segments")
    log = JournalDB(tmp_path, "box of memory")
    log.begin_upload(UnreferencedPrefix(ObjectName("box_segments", "left/swiftfs-0/"), frozenset()))
    log.close()
    foreign(store, "left/swiftfs-0/0", b"left", "box_segments")
    jobs: list[Callable[[], None]] = []
    discard_all = Backlog._discard_all
    monkeypatch.setattr(Backlog, "_discard_all", lambda *given: jobs.append(lambda: discard_all(*given)))
    with harness(store, tmp_path, f"{NEVER},segment_size=1M") as filesystem:
        filesystem.services.file_cache.factory.settle_seconds = 0.0
        handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        put(filesystem, handle, 0, b"1" * 2_500_000)
        wait_until(lambda: len(keys(store, "box_segments")) == 3)
        (clean_up,) = jobs
        clean_up()
        assert (
            len([key for key in keys(store, "box_segments") if key.startswith(".swiftfs-segments/file/")])
            == 2
        )
        filesystem.flush(handle)
        filesystem.release(handle)
    assert body(store, "file") == b"1" * 2_500_000
    assert not any(key.startswith("left/") for key in keys(store, "box_segments"))
