"""The journal without a kernel: what becomes one request, what survives, what is told."""

import errno
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench_filesystem import ME, bench, get, names, put, read, write
from memory_store import MemoryStore
from scenes import wait_until

from swiftfs.content.segments import Standing
from swiftfs.errors import AccessDenied, ConfigurationError, QuotaExceeded, SwiftfsError, Unavailable
from swiftfs.filesystem import FileSystem
from swiftfs.journal.coalescing import coalesce
from swiftfs.journal.dispatch import Dispatch
from swiftfs.journal.intents import Delete, PutMarker
from swiftfs.journal.log import Log, Record
from swiftfs.model import ObjectName
from swiftfs.naming import Folder
from swiftfs.store.protocol import Headers

NEVER = "settle=1000"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.create_container("box")
    return store


@pytest.fixture
def calls(store: MemoryStore) -> Counter[str]:
    """Count what changes something."""
    counted: Counter[str] = Counter()

    def note(method: str, _subject: object) -> None:
        if method in ("put", "post", "copy", "delete", "delete_many", "put_manifest"):
            counted[method] += 1

    store.hook = note
    return counted


@pytest.fixture
def filesystem(store: MemoryStore, tmp_path: Path) -> Iterator[FileSystem]:
    with bench(store, tmp_path, NEVER) as filesystem:
        yield filesystem


def keys(store: MemoryStore, container: str = "box") -> list[str]:
    return [row.key for row in store.list_page(container).rows]


def body(store: MemoryStore, key: str) -> bytes:
    parts: list[bytes] = []
    store.get(ObjectName("box", key), lambda _offset, data: parts.append(data))
    return b"".join(parts)


def refuse(store: MemoryStore, method: str, error: type[Exception]) -> None:
    def hook(called: str, _subject: object) -> None:
        if called == method:
            raise error("no")

    store.hook = hook


def test_close_asks_nothing_of_the_server(
    filesystem: FileSystem, store: MemoryStore, calls: Counter[str]
) -> None:
    write(filesystem, "/file", b"data")
    assert not calls
    assert keys(store) == []
    assert read(filesystem, "/file") == b"data"
    assert names(filesystem, "/") == ["file"]
    assert filesystem.getattr("/file").size == 4


def test_what_rsync_does_is_one_put(store: MemoryStore, calls: Counter[str], tmp_path: Path) -> None:
    with bench(store, tmp_path, NEVER) as filesystem:
        write(filesystem, "/.file.Ab12Cd", b"data")
        filesystem.utimens("/.file.Ab12Cd", None, 1_700_000_000_123_456_789)
        filesystem.chmod("/.file.Ab12Cd", 0o640)
        filesystem.rename("/.file.Ab12Cd", "/file")
        filesystem.setxattr("/file", "user.origin", b"here", 0)
        assert names(filesystem, "/") == ["file"]
    assert calls == {"put": 1}
    store.hook = None
    (tmp_path / "other").mkdir()
    with bench(store, tmp_path / "other") as filesystem:
        assert read(filesystem, "/file") == b"data"
        attributes = filesystem.getattr("/file")
        assert attributes.mtime_ns == 1_700_000_000_123_456_789
        assert attributes.mode & 0o777 == 0o640
        assert filesystem.getxattr("/file", "user.origin") == b"here"


def test_what_is_made_and_removed_costs_nothing(
    store: MemoryStore, calls: Counter[str], tmp_path: Path
) -> None:
    with bench(store, tmp_path, NEVER) as filesystem:
        filesystem.mkdir("/folder", 0o755, ME)
        write(filesystem, "/folder/file", b"data")
        filesystem.symlink("file", "/folder/link", ME)
        filesystem.unlink("/folder/file")
        filesystem.unlink("/folder/link")
        filesystem.rmdir("/folder")
        assert names(filesystem, "/") == []
    assert not calls
    assert keys(store) == []


def test_mkdir_chmod_utimes_is_one_put(store: MemoryStore, calls: Counter[str], tmp_path: Path) -> None:
    with bench(store, tmp_path, NEVER) as filesystem:
        filesystem.mkdir("/folder", 0o755, ME)
        filesystem.chmod("/folder", 0o700)
        filesystem.utimens("/folder", None, 5)
    assert calls == {"put": 1}


def test_renamed_over_a_stored_file(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, "settle=1000") as filesystem:
        write(filesystem, "/file", b"old")
        handle = filesystem.open("/file", os.O_RDONLY)
        filesystem.fsync(handle, False)
        filesystem.release(handle)
        assert body(store, "file") == b"old"
        write(filesystem, "/new", b"new")
        filesystem.rename("/new", "/file")
        assert body(store, "file") == b"old"
        assert read(filesystem, "/file") == b"new"
    assert body(store, "file") == b"new"
    assert keys(store) == ["file"]


def test_fsync_returns_when_it_is_stored(filesystem: FileSystem, store: MemoryStore) -> None:
    handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"data")
    filesystem.fsync(handle, False)
    assert body(store, "file") == b"data"
    put(filesystem, handle, 4, b" more")
    filesystem.release(handle)
    assert body(store, "file") == b"data"
    assert read(filesystem, "/file") == b"data more"


def test_fsync_tells_why_it_is_not(filesystem: FileSystem, store: MemoryStore) -> None:
    handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"data")
    refuse(store, "put", Unavailable)
    with pytest.raises(Unavailable):
        filesystem.fsync(handle, False)
    store.hook = None
    filesystem.fsync(handle, False)
    filesystem.release(handle)
    assert body(store, "file") == b"data"


def test_what_is_refused_is_parked_and_told_once(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, "settle=0.01") as filesystem:
        refuse(store, "put", QuotaExceeded)
        handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        put(filesystem, handle, 0, b"data")
        filesystem.flush(handle)
        wait_until(lambda: any(one.state == "parked" for one in filesystem.waiting()))
        with pytest.raises(QuotaExceeded):
            filesystem.flush(handle)
        filesystem.flush(handle)
        filesystem.release(handle)
        assert read(filesystem, "/file") == b"data"
        store.hook = None
        filesystem.retry()
        wait_until(lambda: not filesystem.waiting())
    assert body(store, "file") == b"data"


def test_a_refused_folder_does_not_keep_what_is_in_it(store: MemoryStore, tmp_path: Path) -> None:
    def hook(method: str, subject: object) -> None:
        if method == "put" and "folder/" not in str(subject):
            raise QuotaExceeded("no")

    with bench(store, tmp_path, "settle=0.01") as filesystem:
        store.hook = hook
        filesystem.mkdir("/folder", 0o755, ME)
        write(filesystem, "/folder/file", b"data")
        wait_until(lambda: keys(store) == ["folder/file"])
        wait_until(lambda: [one.state for one in filesystem.waiting()] == ["parked"])
        store.hook = None


def test_what_cannot_be_stored_at_the_end_waits_for_the_next_mount(
    store: MemoryStore, tmp_path: Path
) -> None:
    refuse(store, "put", AccessDenied)
    with (
        pytest.raises(SwiftfsError, match="1 changes stay in"),
        bench(store, tmp_path, NEVER) as filesystem,
    ):
        write(filesystem, "/file", b"data")
    store.hook = None
    with bench(store, tmp_path, NEVER) as filesystem:
        assert read(filesystem, "/file") == b"data"
    assert body(store, "file") == b"data"


def test_an_outage_delays_and_loses_nothing(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, "settle=0") as filesystem:
        names(filesystem, "/")
    with bench(store, tmp_path, "settle=0.01") as filesystem:
        names(filesystem, "/")
        refuse(store, "put", Unavailable)
        for number in range(50):
            write(filesystem, f"/file{number:02d}", str(number).encode())
        assert len(names(filesystem, "/")) == 50
        wait_until(lambda: any(one.reason for one in filesystem.waiting()))
        store.hook = None
        wait_until(lambda: not filesystem.waiting())
    assert [body(store, key) for key in keys(store)] == [str(number).encode() for number in range(50)]


def test_a_crash_after_the_manifest_leaves_no_old_segments(store: MemoryStore, tmp_path: Path) -> None:
    options = "settle=1000,segment_size=1M"
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    with bench(store, tmp_path / "first", options) as filesystem:
        write(filesystem, "/file", b"1" * 3_000_000)
    old = set(keys(store, "box_segments"))
    assert len(old) == 3
    killed = tmp_path / "killed"

    def kill(method: str, _subject: object) -> None:
        if method in ("delete", "delete_many"):
            if not killed.exists():
                shutil.copytree(tmp_path / "second", killed)
            raise Unavailable("the process is dead")

    store.hook = kill
    with bench(store, tmp_path / "second", options) as filesystem:
        write(filesystem, "/file", b"2" * 3_000_000)
    store.hook = None
    assert old < set(keys(store, "box_segments"))
    with bench(store, killed, options):
        pass
    assert body(store, "file") == b"2" * 3_000_000
    assert len(keys(store, "box_segments")) == 3
    assert old.isdisjoint(keys(store, "box_segments"))


def test_writes_go_on_while_the_file_is_stored(store: MemoryStore, tmp_path: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def slow(method: str, _subject: object) -> None:
        if method == "put" and not arrived.is_set():
            arrived.set()
            assert go_on.wait(20)

    with bench(store, tmp_path, "settle=0.01") as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
        put(filesystem, handle, 0, b"first")
        store.hook = slow
        filesystem.flush(handle)
        assert arrived.wait(20)
        put(filesystem, handle, 5, b" second")
        assert get(filesystem, handle) == b"first second"
        go_on.set()
        filesystem.flush(handle)
        filesystem.release(handle)
    assert body(store, "file") == b"first second"


def test_a_folder_with_what_waits_is_moved(filesystem: FileSystem, store: MemoryStore) -> None:
    filesystem.mkdir("/a", 0o755, ME)
    write(filesystem, "/a/file", b"data")
    filesystem.rename("/a", "/b")
    assert names(filesystem, "/") == ["b"]
    assert read(filesystem, "/b/file") == b"data"
    assert sorted(keys(store)) == ["b", "b/file"]


def test_another_source_cannot_take_over_what_waits(store: MemoryStore, tmp_path: Path) -> None:
    refuse(store, "put", AccessDenied)
    with pytest.raises(SwiftfsError), bench(store, tmp_path, NEVER) as filesystem:
        write(filesystem, "/file", b"data")
    store.hook = None
    store.create_container("other")
    with (
        pytest.raises(ConfigurationError, match="holds 1 changes that box of memory has not got yet"),
        bench(store, tmp_path, source="other"),
    ):
        pass
    with bench(store, tmp_path):
        pass
    assert body(store, "file") == b"data"


@pytest.mark.parametrize("damage", ["header", "truncated", "text"])
def test_a_damaged_log_is_set_aside(store: MemoryStore, tmp_path: Path, damage: str) -> None:
    refuse(store, "put", AccessDenied)
    with pytest.raises(SwiftfsError), bench(store, tmp_path, NEVER) as filesystem:
        write(filesystem, "/file", b"data")
    store.hook = None
    log = tmp_path / "journal.sqlite"
    data = log.read_bytes()
    log.write_bytes({"header": b"\0" * 100 + data[100:], "truncated": data[:5000], "text": b"no"}[damage])
    with bench(store, tmp_path) as filesystem:
        assert names(filesystem, "/") == []
    aside = [path.name for path in tmp_path.iterdir() if path.name.startswith("journal.damaged-")]
    assert len(aside) == 1
    assert [path.read_bytes() for path in (tmp_path / "lost").iterdir()] == [b"data"]


def test_a_row_that_is_damaged_is_set_aside_and_the_others_go_on(tmp_path: Path) -> None:
    log = Log(tmp_path, "me")
    name = ObjectName("box", "file")
    log.commit([Record(1, "/file", Delete(name, large=False)), Record(2, "/x", Delete(name, large=None))])
    log._database.execute("UPDATE intents SET intent = '{}' WHERE seq = 1")
    log._database.commit()
    log.close()
    log = Log(tmp_path, "me")
    assert [record.seq for record in log.records()] == [2]
    assert len(log.lost) == 1
    assert (tmp_path / "lost" / "intent-1.json").read_text() == "{}"
    log.close()


def test_a_full_disk_is_told_at_close(filesystem: FileSystem, store: MemoryStore) -> None:
    handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
    put(filesystem, handle, 0, b"data")
    log = filesystem._journal._log
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


def foreign(store: MemoryStore, key: str, data: bytes, container: str = "box") -> None:
    store.put(ObjectName(container, key), data, Headers("text/plain"))


def test_the_last_writer_wins(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, NEVER) as filesystem:
        write(filesystem, "/new", b"ours")
        foreign(store, "new", b"theirs")
    assert keys(store) == ["new"]
    assert body(store, "new") == b"ours"


def test_a_new_file_that_another_client_made_too(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, f"{NEVER},conflict=keep") as filesystem:
        write(filesystem, "/folder.d.txt", b"ours")
        foreign(store, "folder.d.txt", b"theirs")
    ours, theirs = sorted(keys(store), key=len)
    assert body(store, ours) == b"ours"
    assert body(store, theirs) == b"theirs"
    assert theirs.startswith("folder.d (conflict ")
    assert theirs.endswith(").txt")


def test_a_file_that_another_client_changed_too(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "file", b"at first")
    with bench(store, tmp_path, f"{NEVER},conflict=keep") as filesystem:
        write(filesystem, "/file", b"ours")
        foreign(store, "file", b"theirs")
    assert sorted(body(store, key) for key in keys(store)) == [b"ours", b"theirs"]


def test_no_conflict_is_seen_where_there_is_none(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "file", b"at first")
    with bench(store, tmp_path, f"{NEVER},conflict=keep") as filesystem:
        for data in (b"one", b"two"):
            write(filesystem, "/file", data)
            filesystem._journal.flush_below(Folder("box", ""))
        write(filesystem, "/new", b"new")
        write(filesystem, "/temporary", b"renamed")
        filesystem.rename("/temporary", "/file")
    assert keys(store) == ["file", "new"]
    assert body(store, "file") == b"renamed"


NAME = ObjectName("box", "name")


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        (PutMarker(NAME), Delete(NAME, large=False), ()),
        (PutMarker(NAME, fresh=False), Delete(NAME, large=False), (Delete(NAME, large=False),)),
        (Delete(NAME, large=False), PutMarker(NAME), None),
        (Delete(NAME, large=True), Delete(NAME, large=True), None),
    ],
)
def test_coalescing(earlier: object, later: object, merged: object) -> None:
    assert coalesce(earlier, later) == merged  # type: ignore[arg-type]


def test_a_deletion_outlives_a_move_that_fails(store: MemoryStore, tmp_path: Path) -> None:
    foreign(store, "new", b"new")
    foreign(store, "old", b"old")
    with bench(store, tmp_path, NEVER) as filesystem:
        filesystem.unlink("/old")
        refuse(store, "copy", AccessDenied)
        with pytest.raises(AccessDenied):
            filesystem.rename("/new", "/old")
        store.hook = None
        assert names(filesystem, "/") == ["new"]
    assert keys(store) == ["new"]


def test_an_unforeseen_failure_is_told_and_loses_nothing(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, NEVER) as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        put(filesystem, handle, 0, b"data")
        refuse(store, "put", ZeroDivisionError)
        with pytest.raises(SwiftfsError, match="unforeseen"):
            filesystem.fsync(handle, False)
        store.hook = None
        filesystem.release(handle)
    assert body(store, "file") == b"data"


def test_what_waits_is_not_missing_when_the_cache_was_wiped(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, "settle=1000,drain=0") as filesystem:
        write(filesystem, "/file", b"data")
        for path in (tmp_path / "content").iterdir():
            path.unlink()
        with pytest.raises(OSError, match="Input/output error") as caught:
            filesystem.open("/file", os.O_RDONLY)
        assert caught.value.errno == errno.EIO
        filesystem.unlink("/file")


def test_segments_of_an_open_file_are_not_cleaned_up(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_container("box_segments")
    log = Log(tmp_path, "box of memory")
    log.begin_upload(Standing(ObjectName("box_segments", "left/swiftfs-0/"), frozenset()))
    log.close()
    foreign(store, "left/swiftfs-0/0", b"left", "box_segments")
    jobs: list[Callable[[], None]] = []
    monkeypatch.setattr(Dispatch, "soon", lambda _, job: jobs.append(job))
    with bench(store, tmp_path, f"{NEVER},segment_size=1M") as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_WRONLY, ME)
        put(filesystem, handle, 0, b"1" * 2_500_000)
        wait_until(lambda: len(keys(store, "box_segments")) == 3)
        (clean_up,) = jobs
        clean_up()
        assert len([key for key in keys(store, "box_segments") if key.startswith("file/")]) == 2
        filesystem.flush(handle)
        filesystem.release(handle)
    assert body(store, "file") == b"1" * 2_500_000
    assert not any(key.startswith("left/") for key in keys(store, "box_segments"))
