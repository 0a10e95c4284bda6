"""The cache folder: what survives a restart, what does not, and how much disk it takes."""

import itertools
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from memory_store import MemoryStore

from swiftfs.content.blocks import BLOCK
from swiftfs.content.cache import ContentCache
from swiftfs.content.content import Content
from swiftfs.content.localfile import Kept, LocalFile
from swiftfs.content.origin import Origin
from swiftfs.errors import Corrupt
from swiftfs.model import ObjectInfo, ObjectName, ObjectVersion
from swiftfs.store.protocol import Headers, Sink

MIB = 1024 * 1024
PLAIN = Headers("application/octet-stream")
Damage = Callable[[Path], None]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Flaky(MemoryStore):
    """A store whose next `wrong` answers have a wrong byte, behind the MD5 check of a whole object."""

    wrong = 0

    def get(
        self, name: ObjectName, sink: Sink, *, offset: int = 0, length: int | None = None, etag: str = ""
    ) -> ObjectInfo:
        wrong = self.wrong > 0
        self.wrong -= wrong

        def twisted(position: int, data: bytes) -> None:
            sink(position, data[:-1] + bytes([data[-1] ^ wrong]))

        return super().get(name, twisted, offset=offset, length=length, etag=etag)


class House:
    """A store, and a cache folder that can be left and entered again."""

    def __init__(self, folder: Path, limit: int | None, read_ahead: int, threads: int) -> None:
        self.store = Flaky("box")
        self.folder = folder
        self.files = folder / "content"
        self.pool = ThreadPoolExecutor(threads)
        self._limit = limit
        self._read_ahead = read_ahead
        self._lent: list[Content] = []
        self.cache = self._enter()

    def _enter(self) -> ContentCache:
        return ContentCache(self.folder, self._limit, self._make)

    def _make(self, folder: Path, origin: Origin | None, kept: Kept | None) -> Content:
        return Content(self.store, self.pool, folder, origin, self._read_ahead, kept)

    def restart(self) -> None:
        self.cache.close()
        self.cache = self._enter()

    def put(self, key: str, body: bytes) -> Origin:
        name = ObjectName("box", key)
        return Origin(name, self.store.put(name, body, PLAIN).version.etag, len(body), len(body))

    def open(self, origin: Origin) -> Content:
        content = self.cache.take(ObjectVersion(origin.name, origin.etag)) or self.cache.new(origin)
        self._lent.append(content)
        return content

    def keep(self, content: Content) -> None:
        self._lent.remove(content)
        self.cache.keep(content)

    def read(self, origin: Origin, offset: int = 0, size: int = 2**40) -> bytes:
        content = self.open(origin)
        data = read(content, offset, size)
        self.keep(content)
        return data

    def gets(self) -> int:
        """Return the downloads since this was last asked."""
        count = sum(method == "get" for method, _ in self.store.requests)
        self.store.requests.clear()
        return count

    def kept(self) -> list[Path]:
        return sorted(self.files.iterdir())

    def close(self) -> None:
        for content in self._lent:
            content.close()
        self.pool.shutdown()
        self.cache.close()


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., House]]:
    """Build houses that look at their budget often."""
    monkeypatch.setattr("swiftfs.content.cache.STEP", MIB)
    houses: list[House] = []

    def build_it(limit: int | None = 64 * MIB, read_ahead: int = 0, threads: int = 2) -> House:
        houses.append(House(tmp_path, limit, read_ahead, threads))
        return houses[-1]

    yield build_it
    for one in houses:
        one.close()


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build()


def read(content: Content, offset: int = 0, size: int = 2**40) -> bytes:
    span = content.read(offset, size)
    return os.pread(span.descriptor, span.length, span.position)


def write(content: Content, offset: int, data: bytes) -> None:
    assert content.write(offset, len(data), lambda file, at: os.pwrite(file, data, at)) == len(data)


def test_a_version_is_given_back_once_with_what_it_had(house: House) -> None:
    origin = house.put("file", noise(5 * BLOCK))
    assert house.read(origin, BLOCK, 2 * BLOCK) == noise(5 * BLOCK)[BLOCK : 3 * BLOCK]
    version = ObjectVersion(origin.name, origin.etag)
    assert version in house.cache
    assert house.cache.take(ObjectVersion(origin.name, "another")) is None
    content = house.open(origin)
    assert version not in house.cache
    assert house.cache.take(version) is None
    assert house.gets() == 1
    read(content, BLOCK, 2 * BLOCK)
    assert house.gets() == 0
    house.keep(content)


def test_a_closed_file_holds_no_descriptor(house: House) -> None:
    for number in range(400):
        house.read(house.put(f"file{number}", b"x"))
    assert len(house.kept()) == 400
    folder = f"{house.files}/"
    targets = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [target for target in targets if target.startswith(folder)]


def test_the_blocks_of_a_version_survive_a_restart(house: House) -> None:
    body = noise(9 * BLOCK + 5)
    origin = house.put("file", body)
    house.read(origin, 0, 1)
    house.read(origin, 8 * BLOCK, 2 * BLOCK)
    assert house.gets() == 2
    house.restart()
    assert house.read(origin, 0, BLOCK) + house.read(origin, 8 * BLOCK) == body[:BLOCK] + body[8 * BLOCK :]
    assert house.gets() == 0
    assert house.read(origin) == body
    assert house.gets() == 1


def test_own_changes_are_kept_as_the_version_they_became(house: House) -> None:
    content = house.cache.new(None)
    write(content, 0, noise(3 * BLOCK))
    content.truncate(2 * BLOCK)
    origin = house.put("file", noise(3 * BLOCK)[: 2 * BLOCK])
    content.adopt(house.store.head(origin.name))
    house.cache.keep(content)
    house.restart()
    assert house.read(origin) == noise(3 * BLOCK)[: 2 * BLOCK]
    assert house.gets() == 0


def test_what_is_not_the_version_is_not_kept(house: House) -> None:
    origin = house.put("file", noise(BLOCK))
    content = house.cache.new(origin)
    write(content, 0, b"changed")
    house.cache.keep(content)
    assert house.kept() == []
    untouched = house.cache.new(origin)
    house.cache.keep(untouched)
    assert house.kept() == []


def test_the_cache_is_its_owners_alone(house: House) -> None:
    house.read(house.put("file", b"secret"))
    paths = [house.files, *house.kept(), *house.folder.glob("content.sqlite*")]
    modes = {path.name: path.stat().st_mode & 0o777 for path in paths}
    assert modes.pop("content") == 0o700
    assert set(modes.values()) == {0o600}


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(BLOCK)
        byte = file.read(1)
        file.seek(BLOCK)
        file.write(bytes([byte[0] ^ 1]))


def flip_secretly(path: Path) -> None:
    stat = path.stat()
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace_by_copy(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[0] ^= 1
    path.unlink()
    path.write_bytes(body)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def swap(path: Path) -> None:
    one, other = sorted(path.parent.iterdir())
    one.rename(path.parent / "aside")
    other.rename(one)
    (path.parent / "aside").rename(other)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        flip_secretly,
        replace_by_copy,
        grow,
        swap,
        make_folder,
        make_link,
        Path.unlink,
        lambda path: os.truncate(path, BLOCK),
        lambda path: os.truncate(path, 0),
    ],
)
@pytest.mark.parametrize("restart", [True, False])
def test_a_damaged_file_is_a_miss(house: House, damage: Damage, restart: bool) -> None:
    origins = [house.put(key, noise(3 * BLOCK, seed)) for seed, key in enumerate("ab")]
    for origin in origins:
        house.read(origin)
    if restart:
        house.cache.close()
    damage(house.kept()[0])
    if restart:
        house.cache = house._enter()
    house.gets()
    assert [house.read(origin) for origin in origins] == [noise(3 * BLOCK, seed) for seed in range(2)]
    assert house.gets() in (1, 2)


@pytest.mark.parametrize("place", ["start", "middle", "cut", "garbage", "empty"])
def test_a_damaged_index_is_a_miss(house: House, place: str, caplog: pytest.LogCaptureFixture) -> None:
    origins = [house.put(f"file{number}", noise(BLOCK, number)) for number in range(100)]
    for origin in origins:
        house.read(origin)
    house.cache.close()
    index = house.folder / "content.sqlite"
    body = index.read_bytes()
    match place:
        case "start":
            index.write_bytes(bytes(4096) + body[4096:])
        case "middle":
            index.write_bytes(body[:8192] + noise(len(body) - 8192))
        case "cut":
            index.write_bytes(body[: len(body) // 2])
        case "garbage":
            index.write_bytes(b"not a database" * 1000)
        case "empty":
            index.write_bytes(b"")
    house.cache = house._enter()
    assert [house.read(origin) for origin in origins] == [noise(BLOCK, number) for number in range(100)]
    house.restart()
    house.gets()
    assert [house.read(origin) for origin in origins] == [noise(BLOCK, number) for number in range(100)]
    assert house.gets() <= 100
    assert place == "empty" or "downloaded again" in caplog.text or "index" in caplog.text


def test_a_wrong_bit_in_a_row_is_a_miss(house: House) -> None:
    """The row of a partly present file claims every block."""
    body = noise(8 * BLOCK)
    origin = house.put("file", body)
    house.read(origin, 0, 3 * BLOCK)
    house.cache.close()
    index = house.folder / "content.sqlite"
    stored = index.read_bytes()
    name = house.kept()[0].name.encode()
    place = stored.index(name) + len(name)
    assert stored[place] == 0b111
    index.write_bytes(stored[:place] + b"\xff" + stored[place + 1 :])
    house.cache = house._enter()
    assert house.read(origin) == body


@pytest.mark.parametrize(("boot", "served"), [("the same", True), ("another", False)])
def test_what_was_not_synchronized_is_good_until_the_next_boot(
    house: House, boot: str, served: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(5, "the disk fails")

    marker = tmp_path / "boot"
    marker.write_text("the same")
    monkeypatch.setattr("swiftfs.content.index._BOOT_ID", marker)
    house.restart()
    monkeypatch.setattr("swiftfs.content.cache.synchronize", fail)
    origin = house.put("file", noise(BLOCK))
    house.read(origin)
    house.cache.close()
    marker.write_text(boot)
    house.cache = house._enter()
    house.gets()
    assert house.read(origin) == noise(BLOCK)
    assert house.gets() == (0 if served else 1)


def test_the_folder_can_be_wiped_while_it_is_used(house: House) -> None:
    body = noise(4 * BLOCK)
    closed, used = house.put("closed", body), house.put("used", body)
    house.read(closed)
    content = house.open(used)
    read(content, 0, 1)
    for path in house.kept():
        path.unlink()
    house.files.rmdir()
    assert read(content) == body
    house.keep(content)
    assert house.read(closed) == body
    house.gets()
    assert house.read(closed) == body
    assert house.gets() == 0
    assert house.read(used) == body


def test_leftovers_and_strangers_are_swept(house: House) -> None:
    origin = house.put("file", b"mine")
    house.read(origin)
    house.cache.close()
    (house.files / "open-123").write_bytes(b"of a process that died")
    (house.files / "stranger").write_bytes(b"x")
    house.cache = house._enter()
    assert len(house.kept()) == 1
    house.gets()
    assert house.read(origin) == b"mine"
    assert house.gets() == 0


def test_the_longest_unused_goes_first(build: Callable[..., House]) -> None:
    house = build(limit=10 * MIB)
    origins = [house.put(f"file{number}", noise(2 * MIB, number)) for number in range(6)]
    for origin in origins[:5]:
        house.read(origin)
    house.read(origins[0])
    house.read(origins[5])
    house.cache.fit()
    house.gets()
    present = [ObjectVersion(origin.name, origin.etag) in house.cache for origin in origins]
    assert present == [True, False, True, True, True, True]
    house.restart()
    present = [ObjectVersion(origin.name, origin.etag) in house.cache for origin in origins]
    assert present == [True, False, True, True, True, True]


def test_a_file_larger_than_the_budget_is_read_within_it(build: Callable[..., House]) -> None:
    limit = 4 * MIB
    house = build(limit=limit, read_ahead=MIB)
    body = noise(10 * MIB)
    content = house.open(house.put("file", body))
    house.read(house.put("small", b"x" * MIB))
    most = 0
    for rounds in range(2):
        for offset in range(0, len(body), BLOCK):
            assert read(content, offset, BLOCK) == body[offset : offset + BLOCK]
            most = max(most, content.allocated())
        assert most <= limit + 3 * MIB, rounds
    assert not list(house.files.glob("[0-9a-f]*"))


def test_an_answer_on_its_way_to_the_kernel_is_not_punched(build: Callable[..., House]) -> None:
    house = build(limit=2 * MIB)
    body = noise(8 * MIB)
    content = house.open(house.put("file", body))
    with ThreadPoolExecutor(1) as slow:
        span = slow.submit(content.read, 0, BLOCK).result()
        for offset in range(0, len(body), BLOCK):
            read(content, offset, BLOCK)
        assert content.allocated() < 5 * MIB
        assert os.pread(span.descriptor, span.length, span.position) == body[:BLOCK]


def test_changes_and_pinned_bytes_stay_whatever_the_limit(build: Callable[..., House]) -> None:
    house = build(limit=4 * MIB)
    body = noise(16 * MIB)
    changed, pinned = house.open(house.put("changed", body)), house.open(house.put("pinned", body))
    read(changed)
    write(changed, 5, b"change")
    pinned.ensure_all()
    fresh = house.cache.new(None)
    for offset in range(0, len(body), MIB):
        write(fresh, offset, body[offset : offset + MIB])
    house.cache.fit()
    house.gets()
    assert read(changed) == body[:5] + b"change" + body[11:]
    assert read(pinned) == body
    assert read_in_pieces(fresh) == body
    assert house.gets() == 0
    fresh.adopt(house.store.put(ObjectName("box", "fresh"), body, PLAIN))
    house.cache.fit()
    assert fresh.allocated() < 12 * MIB
    house.cache.keep(fresh)


def test_random_reads_under_pressure_are_right(build: Callable[..., House]) -> None:
    house = build(limit=2 * MIB, read_ahead=MIB, threads=4)
    body = noise(5 * MIB)
    content = house.open(house.put("file", body))

    def read_some(seed: int) -> bool:
        dice = random.Random(seed)
        places = [dice.randrange(len(body)) for _ in range(60)]
        return all(read(content, at, 2 * BLOCK) == body[at : at + 2 * BLOCK] for at in places)

    with ThreadPoolExecutor(4) as readers:
        assert all(readers.map(read_some, range(4)))


def test_the_automatic_limit_is_half_of_what_is_free(
    build: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1024 * MIB
    monkeypatch.setattr("shutil.disk_usage", lambda _: Free(free))
    house = build(limit=None)
    assert house.cache.limit == 512 * MIB
    free = 1024 * 1024 * MIB
    house.restart()
    assert house.cache.limit == 10 * 1024 * MIB


class Free:
    """What `shutil.disk_usage` returns."""

    def __init__(self, free: int) -> None:
        self.free = free


def test_a_disk_that_others_fill_takes_the_cache(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.read(house.put("file", noise(MIB)))
    house.cache.fit()
    assert len(house.kept()) == 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: Free(MIB))
    house.cache.fit()
    assert house.kept() == []


def test_a_write_that_a_full_disk_cuts_leaves_no_half_block(house: House) -> None:
    body = noise(6 * BLOCK)
    content = house.open(house.put("file", body))
    new = noise(3 * BLOCK, 1)

    def cut(file: int, at: int) -> int:
        return os.pwrite(file, new[: BLOCK + 1000], at)

    assert content.write(BLOCK, len(new), cut) == BLOCK
    assert read(content) == body[:BLOCK] + new[:BLOCK] + body[2 * BLOCK :]

    def fail(file: int, at: int) -> int:
        return os.pwrite(file, new[:1000], at)

    with pytest.raises(OSError, match="No space left"):
        house.open(house.put("other", body)).write(0, BLOCK, fail)


def read_in_pieces(content: Content) -> bytes:
    return b"".join(read(content, offset, BLOCK) for offset in range(0, content.size, BLOCK))


def test_bytes_that_came_in_pieces_are_checked(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = noise(4 * BLOCK)
    content = house.open(house.put("file", body))
    house.store.wrong = 1
    read_in_pieces(content)
    settle(content)
    assert "box/file" in caplog.text
    assert "fetched again" in caplog.text
    assert read_in_pieces(content) == body
    settle(content)
    house.gets()
    assert read_in_pieces(content) == body
    assert house.gets() == 0


def test_bytes_that_stay_wrong_are_an_error(house: House, caplog: pytest.LogCaptureFixture) -> None:
    origin = house.put("file", noise(4 * BLOCK))
    content = house.open(origin)
    house.store.wrong = 8
    for _ in range(2):
        read_in_pieces(content)
        settle(content)
    for _ in range(2):
        with pytest.raises(Corrupt, match="box/file"):
            read(content)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    house.keep(content)
    assert house.kept() == []
    assert house.read(origin) == noise(4 * BLOCK)


def test_a_check_of_bytes_that_change_meanwhile_says_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> str:
        reached.set()
        assert go_on.wait(10)
        return "of other bytes"

    monkeypatch.setattr("swiftfs.content.filled.md5_of", wait)
    body = noise(2 * BLOCK)
    content = house.open(house.put("file", body))
    read_in_pieces(content)
    assert reached.wait(10)
    write(content, 0, b"new")
    go_on.set()
    settle(content)
    house.gets()
    assert read(content) == b"new" + body[3:]
    assert house.gets() == 0


def settle(content: Content) -> None:
    """Wait until nothing is under way."""
    idle = threading.Event()
    content.rest(idle.set)
    assert idle.wait(10)


def test_a_seek_and_a_release_cancel_what_is_queued(build: Callable[..., House]) -> None:
    house = build(read_ahead=16 * MIB, threads=1)
    body = noise(48 * MIB)
    content = house.open(house.put("file", body))
    begun, go_on = threading.Event(), threading.Event()

    def block() -> bool:
        begun.set()
        return go_on.wait(10)

    blocker = house.pool.submit(block)
    assert begun.wait(10)
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(read, content, 0, BLOCK)
        while not content._fetches:
            assert not waiting.done()
        assert read(content, 40 * MIB, BLOCK) == body[40 * MIB : 40 * MIB + BLOCK]
        assert waiting.result(10) == body[:BLOCK]
    other = house.open(house.put("other", body))
    other.begin(house.pool)
    house.gets()
    house.keep(content)
    house.keep(other)
    assert len(house.kept()) == 1
    go_on.set()
    assert blocker.result(10)
    house.pool.shutdown()
    assert house.gets() == 0


def test_a_download_that_has_begun_is_kept_when_it_ends(build: Callable[..., House]) -> None:
    house = build(threads=2)
    origin = house.put("file", noise(2 * BLOCK))
    begun, go_on = threading.Event(), threading.Event()

    def hold(method: str, _subject: str) -> None:
        if method == "get":
            begun.set()
            assert go_on.wait(10)

    house.store.hook = hold
    content = house.open(origin)
    content.begin(house.pool)
    assert begun.wait(10)
    house.keep(content)
    assert house.open(origin) is content
    house.keep(content)
    assert [path.name[:5] for path in house.kept()] == ["open-"]
    go_on.set()
    house.pool.shutdown()
    assert [len(path.name) for path in house.kept()] == [64]
    house.store.hook = None
    house.gets()
    assert house.read(origin) == noise(2 * BLOCK)
    assert house.gets() == 0


def test_a_local_file_has_a_new_name_each_time(tmp_path: Path) -> None:
    files = [LocalFile.create(tmp_path / "new") for _ in range(3)]
    assert len({file.path for file in files}) == 3
    for file, other in itertools.pairwise(files):
        assert file.mark() != other.mark()
    before = files[0].mark()
    files[0].move(tmp_path / "moved")
    assert files[0].mark().inode == before.inode
    for file in files:
        file.remove()
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
