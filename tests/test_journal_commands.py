"""`status`, `flush`, `retry`, `export` and `recover`, on real mounts and on cache folders that were left."""

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_filesystem import bench, write
from commands import one_line, swiftfs
from memory_store import MemoryStore
from mounts import Mount
from scenes import wait_until
from swiftclient import Connection

from swiftfs.attributes import Stored
from swiftfs.content.blocks import BLOCK, Blocks
from swiftfs.content.origin import Origin
from swiftfs.content.saved import SavedFile
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.errors import AccessDenied, ConfigurationError, SwiftfsError, Unavailable
from swiftfs.filesystem import FileSystem
from swiftfs.journal.intents import Delete, Description, Intent, PutFile, PutMarker, PutSmall
from swiftfs.journal.log import Log, Record
from swiftfs.journal.report import MOST_BYTES, Report, Waiting
from swiftfs.journal.salvage import copy_journal, salvage
from swiftfs.model import ObjectName
from swiftfs.rescue import LOST, PARTIAL, Rescue, damaged_journals, find_cache

pytestmark = pytest.mark.mount_options("settle=1000")

NEVER = "settle=1000"
OWNER = "box of memory"
MTIME = 1_700_000_000_123_456_789
DESCRIPTION = Description("text/plain", Stored(stat.S_IFREG | 0o640, MTIME))


def status(mount: Mount) -> dict[str, Any]:
    """Return what `swiftfs status --json` prints."""
    result = swiftfs("status", mount.path, "--json")
    assert result.returncode == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def body(connection: Connection, container: str, key: str) -> bytes:
    found: bytes = connection.get_object(container, key)[1]
    return found


def keys(connection: Connection, container: str) -> list[str]:
    return [row["name"] for row in connection.get_container(container)[1]]


def fill(mount: Mount) -> None:
    """Make what a mount can have to store: files, one of them deep and with a time, and a link."""
    (mount.path / "d" / "e").mkdir(parents=True)
    (mount.path / "d" / "e" / "file").write_bytes(b"deep")
    os.utime(mount.path / "d" / "e" / "file", ns=(MTIME, MTIME))
    (mount.path / "d" / "e" / "file").chmod(0o640)
    (mount.path / "한글 [red]x").write_bytes(bytes(3 * 1024 * 1024))
    (mount.path / "link").symlink_to("d/e/file")


def assert_filled(folder: Path) -> None:
    """See that a copy has all that `fill` made."""
    file = folder / "d" / "e" / "file"
    assert file.read_bytes() == b"deep"
    assert file.stat().st_mtime_ns == MTIME
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (folder / "한글 [red]x").read_bytes() == bytes(3 * 1024 * 1024)
    assert (folder / "link").readlink() == Path("d/e/file")
    assert sorted(path.name for path in folder.iterdir()) == ["d", "link", "한글 [red]x"]


@pytest.fixture
def refused(mounted: Mount, swift: SwiftServer, container: str) -> Iterator[Mount]:
    """A mount whose account may not write `no*`, until the test ends."""
    mounted.expected.append("waits until it can be stored")
    swift.inject(Fault("PUT", f"/{container}/no", status=403))
    yield mounted
    swift.clear_faults()


def kill(mount: Mount) -> None:
    """End a mount as a crash would; `start` may follow."""
    os.kill(mount.pid, signal.SIGKILL)
    mount.exit_code = -signal.SIGKILL
    mount.stop()
    mount.exit_code = 0


def test_status_shows_what_waits(mounted: Mount) -> None:
    assert status(mounted)["changes"] == []
    assert "nothing waits" in swiftfs("status", mounted.path).stdout
    fill(mounted)
    found = status(mounted)
    assert (found["waiting"], found["parked"], found["bytes"]) == (5, 0, 4 + 3 * 1024 * 1024)
    assert {one["path"]: one["kind"] for one in found["changes"]} == {
        "/d": "PutMarker",
        "/d/e": "PutMarker",
        "/d/e/file": "PutFile",
        "/한글 [red]x": "PutFile",
        "/link": "PutSmall",
    }
    told = swiftfs("status", mounted.path).stdout
    assert "/한글 [red]x" in told
    assert told.endswith("5 waiting; 3.1 MB of files\n")
    assert "swift.status" not in os.listxattr(mounted.path)


def test_flush_returns_when_all_is_in_swift(mounted: Mount, connection: Connection, container: str) -> None:
    fill(mounted)
    assert keys(connection, container) == []
    result = swiftfs("flush", mounted.path)
    assert (result.returncode, result.stdout) == (0, "")
    assert body(connection, container, "d/e/file") == b"deep"
    assert keys(connection, container) == ["d", "d/e", "d/e/file", "link", "한글 [red]x"]
    assert status(mounted)["changes"] == []


def test_flush_names_what_is_refused_and_retry_tries_again(
    refused: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    for name in ("no1", "no2", "yes"):
        (refused.path / name).write_bytes(name.encode())
    result = swiftfs("flush", refused.path)
    assert result.returncode == 1
    lines = sorted(result.stderr.splitlines())
    assert [line.split(": ")[:2] for line in lines] == [["swiftfs", "/no1"], ["swiftfs", "/no2"]]
    assert all("403" in line for line in lines)
    assert keys(connection, container) == ["yes"]
    found = status(refused)
    assert (found["parked"], found["unflushed"]) == (2, 2)
    assert "parked" in swiftfs("status", refused.path).stdout
    assert swiftfs("flush", refused.path).returncode == 1

    swift.clear_faults()
    assert swiftfs("retry", refused.path).returncode == 0
    wait_until(lambda: keys(connection, container) == ["no1", "no2", "yes"])
    wait_until(lambda: not status(refused)["changes"])
    assert swiftfs("flush", refused.path).returncode == 0


def test_flush_does_not_wait_for_a_server_that_is_away(store: MemoryStore, tmp_path: Path) -> None:
    def hook(called: str, _subject: object) -> None:
        if called == "put":
            raise Unavailable("no answer")

    with bench(store, tmp_path, NEVER) as filesystem:
        for number in range(200):
            write(filesystem, f"/{number}", b"data")
        store.hook = hook
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        wait_until(lambda: not report(filesystem).flushing)
        found = report(filesystem)
        assert found.away
        assert found.unflushed == 200
        assert found.changes[0].reason == "no answer"
        store.hook = None
        filesystem.setxattr("/", "swift.flush", b"1", 0)
        wait_until(lambda: not report(filesystem).unflushed)
    assert len(store.list_page("box").rows) == 200


def report(filesystem: FileSystem) -> Report:
    return Report.from_json(filesystem.getxattr("/", "swift.status").decode())


def test_what_is_written_again_after_a_flush_began_is_flushed_too(store: MemoryStore, tmp_path: Path) -> None:
    with bench(store, tmp_path, NEVER) as filesystem:
        write(filesystem, "/a", b"first")
        task = filesystem._journal._queue.tasks()[0]
        task.asked = 0
        write(filesystem, "/a", b"second")
        wait_until(lambda: not report(filesystem).unflushed)
        assert not filesystem.waiting()


def test_a_report_fits_into_an_attribute() -> None:
    change = Waiting("/" + "한" * 300, "PutFile", "parked", 10**12, 7, "\0" * 300)
    found = Report(0, 0, 5000, 10**15, False, 0, 0, (change,) * 500, 4500)
    text = found.to_json()
    assert len(text.encode()) <= MOST_BYTES
    back = Report.from_json(text)
    assert len(back.changes) > 10
    assert back.left_out == 5000 - len(back.changes)
    assert back.changes[0] == change


@pytest.mark.parametrize("command", ["status", "flush", "retry"])
def test_commands_about_no_mount(command: str, tmp_path: Path) -> None:
    assert one_line(swiftfs(command, tmp_path)) == f"swiftfs: {tmp_path} is not a swiftfs mount\n"
    assert "No such file" in one_line(swiftfs(command, tmp_path / "x"))


def test_export_of_a_live_mount_disturbs_nothing(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    fill(mounted)
    result = swiftfs("export", mounted.path, tmp_path / "out")
    assert result.returncode == 0, result
    assert result.stdout == f"copied 2 files, 1 links and special files, 3.1 MB, to {tmp_path / 'out'}\n"
    assert_filled(tmp_path / "out")
    assert status(mounted)["waiting"] == 5
    assert (mounted.path / "d" / "e" / "file").read_bytes() == b"deep"
    assert "is not empty" in one_line(swiftfs("export", mounted.path, tmp_path / "out"))
    assert swiftfs("flush", mounted.path).returncode == 0
    assert body(connection, container, "d/e/file") == b"deep"
    result = swiftfs("export", mounted.path, tmp_path / "again")
    assert result.stdout.startswith("copied 0 files")


def test_export_of_what_a_crash_left(mounted: Mount, tmp_path: Path) -> None:
    fill(mounted)
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: "process had died" in one_line(swiftfs("export", mounted.path, tmp_path / "out")))
    assert "process had died" in one_line(swiftfs("status", mounted.path))
    mounted.exit_code = -signal.SIGKILL
    mounted.stop()
    before = {path: path.read_bytes() for path in mounted.cache.rglob("*") if path.is_file()}
    result = swiftfs("export", mounted.cache, tmp_path / "out")
    assert result.returncode == 0, result
    assert_filled(tmp_path / "out")
    assert {path: path.read_bytes() for path in mounted.cache.rglob("*") if path.is_file()} == before
    mounted.exit_code = 0


def test_export_of_what_is_parked_after_its_mount_ended(
    refused: Mount, swift: SwiftServer, tmp_path: Path
) -> None:
    (refused.path / "no").write_bytes(b"data")
    assert swiftfs("flush", refused.path).returncode == 1
    refused.expected.append("stay in")
    refused.exit_code = 1
    refused.stop()
    assert swiftfs("export", refused.cache, tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "no").read_bytes() == b"data"
    swift.clear_faults()
    refused.exit_code = 0
    refused.start()


def test_export_while_files_are_stored(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    lines: list[str] = []
    seen: set[str] = set()
    with bench(store, tmp_path / "cache", "settle=0.1") as filesystem:
        for number in range(300):
            write(filesystem, f"/{number}", str(number).encode() * 5000)
            if number % 20 == 19:
                rescue = Rescue(tmp_path / "cache", tmp_path / f"out{number}", lines.append)
                rescue.export(tmp_path / "cache" / "journal.sqlite")
                for copy in (tmp_path / f"out{number}").iterdir():
                    assert copy.read_bytes() == copy.name.encode() * 5000
                    seen.add(copy.name)
        wait_until(lambda: not filesystem.waiting())
    assert lines == []
    assert seen


def test_neither_a_mount_nor_a_cache(tmp_path: Path) -> None:
    for command in ("export", "recover"):
        line = one_line(swiftfs(command, tmp_path, tmp_path / "out"))
        assert line == f"swiftfs: {tmp_path} is neither a swiftfs mount nor a cache folder\n"
        assert not (tmp_path / "out").exists()


# Below: cache folders made by hand.


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.create_container("box")
    return store


class Cache:
    """A cache folder whose journal says what a test wants; `lines` is what a rescue told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cache"
        self.target = folder / "out"
        self.lines: list[str] = []
        (self.folder / "content").mkdir(parents=True)
        self._intents: list[tuple[str, Intent]] = []

    def add(self, path: str, data: bytes, local: str, **saved: Any) -> None:
        """Let a file be in the journal, and `data` be what its local file has."""
        (self.folder / "content" / local).write_bytes(data)
        file = SavedFile(
            local, **{"size": len(data), "origin": None, "dirty": Blocks(), "prefix": None, **saved}
        )
        self.note(path, PutFile(ObjectName("box", path.strip("/")), file, DESCRIPTION))

    def note(self, path: str, intent: Intent) -> None:
        """Let an intent be in the journal."""
        self._intents.append((path, intent))

    def close(self) -> None:
        """Write the journal."""
        log = Log(self.folder, OWNER)
        log.commit(Record(seq, *one) for seq, one in enumerate(self._intents, 1))
        log.close()

    @property
    def journal(self) -> Path:
        return self.folder / "journal.sqlite"

    def export(self) -> Rescue:
        rescue = Rescue(self.folder, self.target, self.lines.append)
        rescue.export(self.journal)
        rescue.finish()
        return rescue


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_of_a_file_that_needs_its_object_the_changed_part_is_copied(cache: Cache) -> None:
    dirty = Blocks()
    dirty.add(1, 2)
    origin = Origin(ObjectName("box", "f"), "0123", 3 * BLOCK, 3 * BLOCK)
    data = b"a" * BLOCK + b"b" * BLOCK + b"c" * BLOCK
    cache.add("/d/f", data, "open-1", origin=origin, dirty=dirty)
    cache.close()
    cache.export()
    copy = cache.target / "d" / f"f{PARTIAL}"
    assert copy.read_bytes() == bytes(BLOCK) + b"b" * BLOCK + bytes(BLOCK)
    assert copy.stat().st_blocks * 512 < 2 * BLOCK
    (line,) = cache.lines
    assert line.startswith(f"/d/f: of its {3 * BLOCK} bytes {BLOCK} are here, as {copy}; ")
    assert line.endswith("the others are those of the object box/f, ETag 0123")


def test_holes_stay_holes_and_what_is_behind_the_end_stays_here(cache: Cache) -> None:
    cache.add("/f", b"x", "open-1", size=64 * 1024 * 1024)
    with (cache.folder / "content" / "open-1").open("r+b") as file:
        file.truncate(65 * 1024 * 1024)
    cache.close()
    rescue = cache.export()
    assert (cache.target / "f").stat().st_size == 64 * 1024 * 1024
    assert rescue.tally.bytes <= 1024 * 1024
    assert cache.lines == []


def test_local_files_that_are_gone_or_cut_are_told(cache: Cache) -> None:
    cache.add("/gone", b"gone", "open-1")
    cache.add("/cut", b"cut", "open-2", size=10)
    cache.close()
    (cache.folder / "content" / "open-1").unlink()
    cache.export()
    assert cache.lines == [
        f"/cut: 7 of its 10 bytes are gone; the others are {cache.target / 'cut'}{PARTIAL}",
        "/gone: its local file open-1 is not there any more",
    ]
    assert (cache.target / f"cut{PARTIAL}").read_bytes() == b"cut" + bytes(7)
    assert not (cache.target / "gone").exists()


def test_a_file_that_is_stored_while_it_is_copied(cache: Cache) -> None:
    cache.add("/f", b"data", "open-1")
    cache.close()
    before = salvage(cache.journal)
    (cache.folder / "content" / "open-1").unlink()
    log = Log(cache.folder, OWNER)
    log.commit(drop=[1])
    log.close()
    rescue = Rescue(cache.folder, cache.target, cache.lines.append)
    rescue.take(before, lambda: salvage(cache.journal))
    assert cache.lines == []
    assert list(cache.target.iterdir()) == []


def test_a_file_that_changes_while_it_is_copied_is_copied_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.add("/f", b"data", "open-1")
    cache.close()
    local = cache.folder / "content" / "open-1"
    pread, times = os.pread, iter([b"more"])

    def changing(descriptor: int, size: int, offset: int) -> bytes:
        data = pread(descriptor, size, offset)
        if change := next(times, b""):
            local.write_bytes(change)
        return data

    monkeypatch.setattr(os, "pread", changing)
    rescue = cache.export()
    assert (cache.target / "f").read_bytes() == b"more"
    assert rescue.tally.files == 1
    assert cache.lines == []


def test_no_path_leads_out_of_the_folder(cache: Cache, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = Description("inode/symlink", Stored(stat.S_IFLNK | 0o777))
    cache.note("/a", PutSmall(ObjectName("box", "a"), str(outside).encode(), link))
    cache.add("/a/b", b"behind a link", "open-1")
    cache.add("/../../outside/up", b"up", "open-2")
    cache.add("//x/./y", b"odd", "open-3")
    cache.add("/c", b"a file", "open-4")
    cache.add("/c/d", b"in a file", "open-5")
    cache.note("/" + "n" * 300, PutMarker(ObjectName("box", "n" * 300)))
    cache.note("/fifo", PutSmall(ObjectName("box", "fifo"), b"", Description("inode/fifo", Stored(0o10600))))
    cache.note("/c", Delete(ObjectName("box", "c"), large=False))
    cache.close()
    rescue = cache.export()
    assert list(outside.iterdir()) == []
    found = {str(path.relative_to(cache.target)) for path in cache.target.rglob("*") if not path.is_dir()}
    assert found >= {"a/b", "%dotdot/%dotdot/outside/up", "x/%dot/y", "c", "c.2/d", "fifo"}
    assert stat.S_ISFIFO((cache.target / "fifo").lstat().st_mode)
    assert (cache.target / "a.2").readlink() == outside
    assert rescue.tally.files == 5
    assert any(line.startswith("/c/d: it is copied as ") for line in cache.lines)


def test_a_journal_that_others_write_to_is_copied_whole(cache: Cache, tmp_path: Path) -> None:
    cache.close()
    log = Log(cache.folder, OWNER)
    for seq in range(1, 50):
        log.commit([Record(seq, f"/{seq}", Delete(ObjectName("box", str(seq)), large=None))])
        folder = tmp_path / f"copy{seq}"
        folder.mkdir()
        copy_journal(cache.journal, folder)
        assert len(salvage(cache.journal).found) == seq
        if seq % 7 == 0:
            log._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    log.close()
    assert salvage(cache.journal).problems == []


def parked(store: MemoryStore, cache: Path, count: int) -> None:
    """Leave a cache folder with `count` files that Swift refused."""

    def hook(called: str, _subject: object) -> None:
        if called == "put":
            raise AccessDenied("no")

    def fill() -> None:
        with bench(store, cache, NEVER) as filesystem:
            for number in range(count):
                write(filesystem, f"/file{number}", f"data {number}".encode())

    store.hook = hook
    with pytest.raises(SwiftfsError, match="stay in"):
        fill()
    store.hook = None


def damage(journal: Path, how: str) -> None:
    data = journal.read_bytes()
    page = 4096
    journal.write_bytes(
        {
            "header": b"\0" * 100 + data[100:],
            "tail": data[: len(data) * 2 // 3],
            "middle": data[: 8 * page] + os.urandom(page) + data[9 * page :],
            "text": b"no",
        }[how]
    )


@pytest.mark.parametrize("when", ["before a mount saw it", "after it was set aside"])
@pytest.mark.parametrize("how", ["header", "tail", "middle", "text"])
def test_recover_brings_back_what_a_damaged_journal_held(
    store: MemoryStore, tmp_path: Path, how: str, when: str
) -> None:
    cache, target, count = tmp_path / "cache", tmp_path / "out", 60
    cache.mkdir()
    parked(store, cache, count)
    damage(cache / "journal.sqlite", how)
    if when == "after it was set aside":
        with bench(store, cache) as filesystem:
            assert filesystem._rooms.cache == cache
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    listed = swiftfs("recover", cache)
    assert listed.returncode == 0, listed
    assert "is damaged" in listed.stderr
    result = swiftfs("recover", cache, target)
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before
    named = {path.name: path.read_bytes() for path in target.glob("file*")}
    assert all(data == f"data {name[4:]}".encode() for name, data in named.items())
    lost = {path.read_bytes() for path in target.glob(f"{LOST}/*")}
    everything = {f"data {number}".encode() for number in range(count)}
    if when == "after it was set aside":
        assert lost | set(named.values()) == everything
        assert not lost & set(named.values())
    assert len(named) >= {"header": count, "tail": count // 3, "middle": count - 12, "text": 0}[how]
    for name in named:
        assert f"/{name}\tPutFile" in listed.stdout
    assert result.returncode == 1
    assert "is damaged" in result.stderr


def test_recover_of_a_row_that_was_set_aside(cache: Cache) -> None:
    cache.add("/f", b"data", "open-1")
    cache.close()
    log = Log(cache.folder, OWNER)
    log._database.execute("UPDATE intents SET checksum = 0")
    log._database.commit()
    log.close()
    (found,) = salvage(cache.journal).found
    assert found.doubt == "its checksum is wrong"
    with bench(MemoryStore("box"), cache.folder):
        pass
    assert not (cache.folder / "content" / "open-1").exists()
    result = swiftfs("recover", cache.folder, cache.target)
    assert result.returncode == 1
    assert (cache.target / "f").read_bytes() == b"data"
    assert result.stderr == f"swiftfs: /f: set aside as intent-1.json: look at {cache.target / 'f'}\n"
    assert [path.name for path in (cache.target / LOST).iterdir()] == ["intent-1.json"]


def test_what_a_power_cut_may_have_torn_is_told(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.add("/f", b"data", "open-1")
    cache.close()
    log = Log(cache.folder, OWNER)
    log._database.execute("UPDATE facts SET value = '0' WHERE name = 'synced'")
    log._database.commit()
    log._synced = log._commits
    log.close()
    monkeypatch.setattr("swiftfs.journal.salvage.boot_id", lambda: "another boot")
    cache.export()
    assert cache.lines == [f"/f: the machine stopped before it was on the disk: look at {cache.target / 'f'}"]


def test_nothing_to_recover(cache: Cache) -> None:
    cache.add("/f", b"data", "open-1")
    cache.close()
    assert damaged_journals(cache.folder) == []
    result = swiftfs("recover", cache.folder, cache.target)
    assert result.returncode == 0
    assert result.stdout == f"{cache.folder}: nothing was set aside there\n"
    assert not cache.target.exists()


def test_a_target_that_cannot_be(cache: Cache, tmp_path: Path) -> None:
    cache.close()
    (tmp_path / "file").touch()
    for target in (tmp_path / "file", tmp_path / "no" / "where"):
        with pytest.raises(ConfigurationError):
            Rescue(cache.folder, target, cache.lines.append)
    assert find_cache(cache.folder) == cache.folder
