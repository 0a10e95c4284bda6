"""Files larger than the disk they are written through: what is uploaded already makes room for the rest."""

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cache_house import PLAIN
from memory_store import MemoryStore
from storing_house import MIB, NAME, Writer

from swiftfs.attributes import Stored
from swiftfs.content.blocks import BLOCK
from swiftfs.content.cache import ContentCache
from swiftfs.content.content import Content
from swiftfs.content.making import ContentMaker
from swiftfs.content.origin import Origin
from swiftfs.content.segments import Layout
from swiftfs.errors import Overtaken, PreconditionFailed, Unavailable
from swiftfs.journal.codec import decode, encode
from swiftfs.journal.intents import Description, PutFile
from swiftfs.model import ObjectName

EVERYTHING = 2**40


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Writer]]:
    writers: list[Writer] = []

    def build_one(threads: int = 1) -> Writer:
        writers.append(Writer(tmp_path, threads))
        return writers[-1]

    yield build_one
    for one in writers:
        one.close()


@pytest.fixture
def writer(build: Callable[..., Writer]) -> Writer:
    return build()


def wait(writer: Writer) -> None:
    """Wait until nothing is uploaded any more."""
    assert writer.content.uploads is not None
    while writer.content.uploads.is_busy:
        writer.pool.submit(int).result()


def evict(writer: Writer) -> int:
    """Give back all that can be; return how many bytes that were."""
    writer.content.hurry()
    wait(writer)
    return writer.content.shed(EVERYTHING)


def restart(writer: Writer) -> None:
    """Let another process go on with the content as the journal has it."""
    intent = PutFile(NAME, writer.content.save(), Description("text/plain", Stored()))
    again = decode(encode(intent))
    assert isinstance(again, PutFile)
    assert again.file.evicted == intent.file.evicted
    old, saved = writer.content, again.file
    writer.content = Content.restore(writer.store, writer.pool, writer.folder, saved, 0)
    writer.equip(writer.content, saved.prefix)
    assert writer.content.uploads is not None
    writer.content.uploads.restore(saved.evicted)
    old._file.close()


def gets(writer: Writer) -> int:
    count = sum(method == "get" for method, _ in writer.store.requests)
    writer.store.requests.clear()
    return count


def test_an_uploaded_segment_needs_no_disk_and_is_not_sent_again(writer: Writer) -> None:
    writer.write(0, noise(5 * MIB + 1000))
    wait(writer)
    assert writer.content.shed(EVERYTHING) == 5 * MIB
    assert writer.content.allocated() < MIB
    writer.puts()
    writer.run()
    assert writer.puts() == 1
    assert gets(writer) == 0
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()
    assert writer.read() == writer.model


def test_evicted_bytes_are_read_from_their_segments(writer: Writer) -> None:
    writer.write(0, noise(4 * MIB))
    evict(writer)
    gets(writer)
    span = writer.content.read(MIB - 10, 20)
    assert os.pread(span.descriptor, span.length, span.position) == writer.model[MIB - 10 : MIB + 10]
    assert gets(writer) == 2
    assert writer.read() == writer.model


def test_a_write_into_an_evicted_segment_sends_it_again(writer: Writer) -> None:
    writer.write(0, noise(4 * MIB))
    assert evict(writer) == 4 * MIB
    writer.write(2 * MIB + 5, b"change")
    assert writer.content.evicted() != ()
    writer.puts()
    writer.run()
    assert writer.puts() == 1
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


@pytest.mark.parametrize("size", [0, 5, MIB, 2 * MIB + 5, 3 * MIB, 7 * MIB])
def test_an_evicted_file_is_truncated(writer: Writer, size: int) -> None:
    writer.write(0, noise(4 * MIB))
    evict(writer)
    writer.truncate(size)
    assert writer.read() == writer.model
    writer.run()
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


def test_segments_filled_in_any_order_make_room(writer: Writer) -> None:
    for index in (3, 1, 2, 0):
        for half in (1, 0):
            writer.write(index * MIB + half * (MIB // 2), noise(MIB // 2, 2 * index + half))
        if index == 1:
            assert evict(writer) == 2 * MIB
    evict(writer)
    assert writer.content.allocated() == 0
    writer.run()
    assert writer.stored() == writer.model


def test_another_process_knows_what_was_evicted(writer: Writer) -> None:
    writer.write(0, noise(5 * MIB))
    wait(writer)
    assert writer.content.shed(2 * MIB) == 2 * MIB
    restart(writer)
    assert writer.read() == writer.model
    restart(writer)
    writer.write(5 * MIB, b"more")
    assert evict(writer) > 0
    restart(writer)
    writer.run()
    assert writer.stored() == writer.model


def test_nothing_that_was_saved_is_evicted_before_the_next_change(writer: Writer) -> None:
    writer.write(0, noise(3 * MIB))
    wait(writer)
    saved = writer.content.save()
    assert saved.is_whole
    assert evict(writer) == 0
    assert writer.content.shed(EVERYTHING, held=True) == 0
    writer.write(3 * MIB, b"more")
    assert writer.content.shed(EVERYTHING, held=True) == 0
    assert evict(writer) > 0


def test_what_was_saved_as_evicted_may_be_again(writer: Writer) -> None:
    writer.write(0, noise(4 * MIB))
    wait(writer)
    assert writer.content.shed(2 * MIB) == 2 * MIB
    assert len(writer.content.save().evicted) == 2
    assert writer.read() == writer.model
    assert writer.content.evicted() == ()
    writer.content.read(3 * MIB, 1)
    assert writer.content.shed(EVERYTHING, held=True) == 2 * MIB
    assert writer.read() == writer.model


def test_a_segment_that_was_promised_outlives_what_replaces_it(writer: Writer) -> None:
    writer.write(0, noise(3 * MIB))
    evict(writer)
    promised = {placed.segment.name for placed in writer.content.save().evicted}
    writer.write(5, b"change")
    writer.run()
    assert writer.stored() == writer.model
    assert writer.segments() >= promised


def test_an_upload_that_runs_keeps_its_bytes(writer: Writer) -> None:
    writer.write(0, noise(4 * MIB + 5))
    wait(writer)
    freed: list[int] = []
    writer.store.during = lambda _name: freed.append(writer.content.shed(EVERYTHING))
    writer.run()
    assert freed == [0]
    assert writer.stored() == writer.model


def test_an_appended_tail_larger_than_the_disk_is_patched_in(writer: Writer) -> None:
    writer.fill(noise(3 * MIB + 500))
    writer.run()
    writer.reopen()
    writer.write(len(writer.model), noise(6 * MIB, 1))
    assert evict(writer) == 6 * MIB
    writer.write(MIB + 5, b"change")
    writer.store.requests.clear()
    writer.run()
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


def test_a_segment_that_somebody_deleted_is_an_error(writer: Writer) -> None:
    writer.write(0, noise(2 * MIB))
    evict(writer)
    writer.store.delete_many(writer.segments())
    with pytest.raises(PreconditionFailed, match="segment"):
        writer.read()


@pytest.mark.parametrize("segment", [MIB, MIB + 777])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_evicted_the_file_is_right(
    build: Callable[..., Writer], monkeypatch: pytest.MonkeyPatch, seed: int, segment: int
) -> None:
    monkeypatch.setattr("storing_house.MIB", segment)
    writer, dice = build(threads=1 + seed % 3), random.Random(seed)
    states: list[bytes] = []
    lock = threading.Lock()
    evicted = 0

    def step() -> None:
        where = dice.randrange(0, 6 * MIB)
        with lock:
            match dice.randrange(7):
                case 0:
                    writer.truncate(where)
                case 1 | 2:
                    writer.write(len(writer.model), dice.randbytes(dice.randrange(1, 2 * MIB)))
                case 3:
                    writer.write(where, dice.randbytes(dice.randrange(1, 2 * BLOCK)))
                case 4:
                    writer.write(0, dice.randbytes(3 * MIB))
                case 5:
                    assert writer.read() == writer.model
            states.append(bytes(writer.model))

    def sometimes(_name: ObjectName) -> None:
        if dice.random() < 0.2:
            step()
        if dice.random() < 0.05:
            raise Unavailable("503")

    for _ in range(25):
        step()
        writer.content.hurry()
        wait(writer)
        evicted += writer.content.shed(dice.randrange(8 * MIB))
        if dice.random() < 0.5:
            continue
        if dice.random() < 0.3:
            restart(writer)
            assert writer.read() == writer.model
        begun = len(states) - 1
        writer.store.during = sometimes
        try:
            writer.run()
        except (Overtaken, Unavailable):
            continue
        finally:
            writer.store.during = None
        assert writer.stored() in states[begun:]
        assert writer.segments() >= writer.named()
    assert evicted > MIB
    writer.run()
    assert writer.stored() == writer.read() == writer.model


class Yard:
    """A cache folder with little room, and a store whose PUTs a test can hold back."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.store = MemoryStore("box")
        maker = ContentMaker(self.store, Layout(MIB), lambda _: None, connections=2, uploads=2, read_ahead=0)
        self.cache = ContentCache(folder, limit, maker, {})
        self.open: list[Content] = []

    def new(self, key: str = "file") -> Content:
        self.open.append(self.cache.new(ObjectName("box", key), None))
        return self.open[-1]

    def close(self) -> None:
        for content in self.open:
            self.cache.leave(content)
        self.cache.close()


def put(content: Content, offset: int, data: bytes) -> None:
    assert content.write(offset, len(data), lambda file, at: os.pwrite(file, data, at)) == len(data)


def put_in_blocks(content: Content, begin: int, body: bytes) -> None:
    for offset in range(begin, len(body), BLOCK):
        put(content, offset, body[offset : offset + BLOCK])


def put_files(yard: Yard, count: int) -> None:
    for number in range(count):
        put(yard.new(f"small{number}"), 0, noise(MIB // 2))


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    monkeypatch.setattr("swiftfs.content.cache.STEP", BLOCK)
    monkeypatch.setattr("swiftfs.content.room.PAUSE", 0.05)
    yard = Yard(tmp_path, 4 * MIB)
    yield yard
    yard.store.hook = None
    yard.close()


def test_a_file_larger_than_the_cache_is_written_within_it(yard: Yard) -> None:
    yard.store.hook = lambda method, _: time.sleep(0.02) if method == "put" else None  # a network
    content, body = yard.new(), noise(24 * MIB)
    most = 0
    for offset in range(0, len(body), BLOCK):
        put(content, offset, body[offset : offset + BLOCK])
        most = max(most, content.allocated())
    assert most <= 5 * MIB
    for offset in range(0, len(body), MIB):
        span = content.read(offset, MIB)
        assert os.pread(span.descriptor, span.length, span.position) == body[offset : offset + MIB]


def test_a_writer_waits_for_room_and_goes_on(yard: Yard) -> None:
    go_on, reached = threading.Event(), threading.Event()

    def hold(method: str, _subject: str) -> None:
        if method == "put":
            reached.set()
            assert go_on.wait(30)

    yard.store.hook = hold
    content, other = yard.new(), yard.new("other")
    writing = threading.Thread(target=lambda: put_in_blocks(content, 0, noise(12 * MIB)))
    writing.start()
    assert reached.wait(10)
    while yard.cache._unsaved() < 3 * MIB:
        assert writing.is_alive()
    assert other.read(0, 5).length == 0  # it does not wait
    assert writing.is_alive()
    assert content.size <= 5 * MIB
    go_on.set()
    writing.join(30)
    assert content.size == 12 * MIB


def test_without_progress_write_says_that_the_disk_is_full(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftfs.content.room.PATIENCE", 0.3)

    def fail(method: str, _subject: str) -> None:
        if method == "put":
            raise Unavailable("503")

    yard.store.hook = fail
    content, body = yard.new(), noise(12 * MIB)
    with pytest.raises(OSError, match="No space left") as raised:
        put_in_blocks(content, 0, body)
    assert raised.value.errno == errno.ENOSPC
    written = content.size
    assert 3 * MIB <= written <= 5 * MIB
    yard.store.hook = None
    put_in_blocks(content, written, body)
    assert content.size == len(body)


def test_where_nothing_will_make_room_nobody_waits(yard: Yard) -> None:
    before = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        put_files(yard, 20)
    assert time.monotonic() - before < 30


def test_what_the_journal_stores_makes_room(yard: Yard) -> None:
    content = yard.new("journaled")
    for offset in range(0, 3 * MIB + BLOCK, BLOCK):
        put(content, offset, noise(BLOCK))
    yard.cache.hold(content.file_name)
    content.save()
    relieved = threading.Event()

    def relieve() -> bool:
        relieved.set()
        return True

    yard.cache.relieve = relieve
    second = yard.new("second")
    writing = threading.Thread(target=lambda: put_in_blocks(second, 0, noise(2 * MIB)))
    writing.start()
    assert relieved.wait(10)
    assert writing.is_alive()
    content.begin_upload()
    content.adopt(yard.store.put(ObjectName("box", "journaled"), noise(3 * MIB + BLOCK), PLAIN))
    yard.cache.unhold(content.file_name)
    writing.join(30)
    assert second.size == 2 * MIB
    assert content.allocated() < 3 * MIB


def test_clean_bytes_of_a_file_that_the_journal_holds_stay(yard: Yard) -> None:
    body = noise(8 * MIB)
    info = yard.store.put(ObjectName("box", "old"), body, PLAIN)
    content = yard.cache.new(
        info.version.name, Origin(info.version.name, info.version.etag, 8 * MIB, 8 * MIB)
    )
    yard.open.append(content)
    yard.cache.hold(content.file_name)
    content.ensure(0, 8 * MIB)
    yard.cache.fit()
    assert content.allocated() == 8 * MIB
    yard.cache.unhold(content.file_name)
    yard.cache.fit()
    assert content.allocated() <= 4 * MIB
