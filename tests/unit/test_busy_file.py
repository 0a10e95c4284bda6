"""A file that is written to all the time is stored from a copy of one moment."""

import itertools
import os
import random
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from support.crash_oracle import digest
from support.harness import ME, harness, put
from support.jobs import wait_until
from support.noise import noise
from support.stored_objects import NEVER
from support.upload_rig import MIB, NAME, SlowStore, Writer
from swiftfs.errors import ChangedDuringUpload
from swiftfs.filecache import upload_source
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.space import Space
from swiftfs.filecache.sparse_file import FrozenCopy
from swiftfs.filecache.upload_source import OFTEN
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

pytest_plugins = ["support.writer_fixtures"]

MOST_PUTS = 200
"""After so many PUTs a writer that changes the file during each of them stops."""


class ChangedDuringPuts:
    """Changes a file during each PUT of it; `states` has its digest after each change."""

    def __init__(self, writer: Writer, places: list[int], step: Callable[[int], None] | None = None) -> None:
        self._writer = writer
        self._places = places
        self._step = step or self._write
        self._count = 0
        self.states = [digest(writer.model)]
        writer.store.during = self

    def __call__(self, _name: ObjectName) -> None:
        self._count += 1
        self._step(self._count)
        self.states.append(digest(self._writer.model))

    def _write(self, count: int) -> None:
        for place in self._places:
            self._writer.write(place, noise(100, count))


def attempts(writer: Writer, most: int = 3 * OFTEN) -> int:
    """Upload the file; return the number of attempts."""
    for attempt in range(1, most + 1):
        try:
            writer.run()
        except ChangedDuringUpload:
            continue
        return attempt
    raise AssertionError("the file was never stored")


def test_a_file_that_is_read_at_once_is_stored_by_the_first_attempt(writer: Writer) -> None:
    writer.write(0, noise(5000))
    busy = ChangedDuringPuts(writer, [0, 4900])
    assert attempts(writer) == 1
    assert digest(writer.stored()) == busy.states[0]
    writer.leave_alone()
    writer.run()
    assert writer.stored() == writer.model == writer.read()


@pytest.mark.parametrize("size", [BLOCK, 900_000])
def test_a_small_file_is_stored_as_it_was_at_one_moment(writer: Writer, size: int) -> None:
    writer.write(0, noise(size))
    busy = ChangedDuringPuts(writer, [0, size - 100])
    assert attempts(writer) == OFTEN + 1
    assert digest(writer.stored()) in busy.states
    # Now the file is known to be busy.
    writer.puts()
    assert attempts(writer) == 1
    assert writer.puts() == 1
    assert digest(writer.stored()) in busy.states
    writer.leave_alone()
    writer.run()
    assert writer.stored() == writer.model == writer.read()


def test_a_file_that_became_quiet_is_not_copied(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write(0, noise(5000))
    ChangedDuringPuts(writer, [0])
    attempts(writer)
    writer.leave_alone()
    writer.write(0, b"x")
    writer.run()
    monkeypatch.setattr(upload_source, "FrozenCopy", None)
    writer.write(0, b"y")
    writer.run()
    assert writer.stored() == writer.model


@pytest.mark.parametrize("step", ["append", "cut", "cut and grow", "grow"])
def test_a_file_whose_size_changes_all_the_time(writer: Writer, step: str) -> None:
    writer.write(0, noise(700_000))

    def change(count: int) -> None:
        size = len(writer.model)
        writer.write(0, noise(100, count))
        if step == "append":
            writer.write(size, noise(1000, count))
        elif step == "cut":
            writer.truncate(size - 50_000)
        elif step == "cut and grow":
            writer.truncate(size // 3)
            writer.write(size - 1000, noise(1000, count))
        else:
            writer.truncate(size + 1000)

    busy = ChangedDuringPuts(writer, [], change)
    attempts(writer)
    assert digest(writer.stored()) in busy.states
    writer.leave_alone()
    writer.run()
    assert writer.stored() == writer.model == writer.read()


@pytest.mark.usual
@pytest.mark.parametrize("places", [[1_500_000], [10, 1_500_000, 4_000_000], [MIB - 50, 3 * MIB + 7]])
def test_a_large_file_is_stored_as_it_was_at_one_moment(writer: Writer, places: list[int]) -> None:
    writer.fill(noise(5 * MIB + 1000))
    busy = ChangedDuringPuts(writer, places)
    assert attempts(writer) == OFTEN + 1
    assert digest(writer.stored()) in busy.states
    sent = writer.puts()
    assert sent <= 6 + (OFTEN + 1) * len(places) * 2
    assert attempts(writer) == 1
    assert writer.puts() <= 2 * len(places)
    assert digest(writer.stored()) in busy.states
    writer.leave_alone()
    writer.run()
    assert writer.stored() == writer.model == writer.read()
    assert writer.segments() == writer.named()


@pytest.mark.usual
@pytest.mark.parametrize("places", [[3 * MIB + 7], [MIB - 50, 4 * MIB + 300_000], [0, 5 * MIB]])
def test_a_patch_of_a_large_file(writer: Writer, places: list[int]) -> None:
    writer.fill(noise(6 * MIB))
    writer.run()
    writer.reopen()
    writer.puts()
    writer.write(places[0], b"patch")
    busy = ChangedDuringPuts(writer, places)
    assert attempts(writer) <= OFTEN + 2
    assert digest(writer.stored()) in busy.states
    assert writer.puts() <= (OFTEN + 2) * 2 * len(places)
    writer.leave_alone()
    writer.run()
    assert writer.stored() == writer.model == writer.read()


def test_no_copy_is_made_without_disk_space(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write(0, noise(900_000))
    busy = ChangedDuringPuts(writer, [0])
    monkeypatch.setattr(Space, "has_spare", lambda *_: False)
    monkeypatch.setattr(FrozenCopy, "clone", lambda *_: False)
    for _ in range(OFTEN + 2):
        with pytest.raises(ChangedDuringUpload):
            writer.run()
    monkeypatch.undo()
    writer.run()
    assert digest(writer.stored()) in busy.states


@pytest.mark.parametrize("size", [900_000, 5 * MIB + 1000])
def test_a_file_system_that_clones(writer: Writer, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """The copy is of the moment of the last clone."""

    def clone(self: FrozenCopy, source: int) -> bool:
        os.ftruncate(self.descriptor, 0)
        length = os.fstat(source).st_size
        copied = 0
        while copied < length:  # a signal ends the call early
            copied += os.copy_file_range(source, self.descriptor, length - copied, copied, copied)
        return True

    monkeypatch.setattr(FrozenCopy, "clone", clone)
    monkeypatch.setattr(FrozenCopy, "copy", None)
    writer.fill(noise(size))
    busy = ChangedDuringPuts(writer, [0, size - 100])
    assert attempts(writer) == OFTEN + 1
    assert digest(writer.stored()) in busy.states
    writer.leave_alone()
    writer.run()
    assert writer.stored() == writer.model == writer.read()


def test_a_copy_takes_disk_space_only_during_the_upload(writer: Writer) -> None:
    writer.write(0, noise(900_000))
    plain = writer.cached_file.allocated()
    seen: list[int] = []

    def change(count: int) -> None:
        writer.write(0, noise(100, count))
        seen.append(writer.cached_file.allocated())

    ChangedDuringPuts(writer, [], change)
    attempts(writer)
    assert seen[-1] > 1.5 * plain
    assert max(seen[:-1]) <= plain
    # A thread of the upload may keep the copy open for a moment.
    wait_until(lambda: writer.cached_file.allocated() <= plain)
    assert len(list(writer.folder.glob("open-*"))) == 1


@pytest.mark.usual
def test_writers_go_on_while_the_copy_is_made(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes before the moment of the copy are in it, later ones are not."""
    writer.fill(noise(5 * MIB))
    copy, rounds = FrozenCopy.copy, 0

    def copy_and_write(self: FrozenCopy, source: int, blocks: Blocks, size: int) -> None:
        nonlocal rounds
        copy(self, source, blocks, size)
        rounds += 1
        if rounds == 1:
            busy.states.clear()
            for place in (0, 2 * MIB, 5 * MIB - 50):
                writer.write(place, noise(100, place))
            busy.states.append(digest(writer.model))

    monkeypatch.setattr(FrozenCopy, "clone", lambda *_: False)
    monkeypatch.setattr(FrozenCopy, "copy", copy_and_write)
    busy = ChangedDuringPuts(writer, [0])
    attempts(writer)
    assert rounds == 2
    assert digest(writer.stored()) == busy.states[0]


def test_holes_stay_holes_and_the_heap_small(tmp_path: Path) -> None:
    size = 64 * MIB
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, size)
    data = noise(MIB)
    os.pwrite(descriptor, data, 7 * MIB)
    os.pwrite(descriptor, data, 40 * MIB + 12_345)
    wanted = Blocks()
    wanted.add(0, size // BLOCK)
    tracemalloc.start()
    copied = FrozenCopy(tmp_path)
    copied.copy(descriptor, wanted, size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIB
    assert copied.allocated() < 4 * MIB
    assert os.fstat(copied.descriptor).st_size == size
    for start in range(0, size, MIB):
        assert os.pread(copied.descriptor, MIB, start) == os.pread(descriptor, MIB, start)
    os.close(descriptor)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_stored_was_the_file_at_one_moment(build_writer: Callable[..., Writer], seed: int) -> None:
    writer = build_writer(threads=3)
    chance = random.Random(seed)
    writer.write(0, noise(chance.choice([300_000, 4 * MIB]), seed))
    lock = threading.Lock()

    def change(_count: int) -> None:
        size = len(writer.model)
        kind = chance.random()
        if kind < 0.1:
            writer.truncate(chance.randrange(size // 2, size))
        elif kind < 0.2:
            writer.truncate(size + chance.randrange(300_000))
        else:
            length = chance.randrange(1, 200_000)
            writer.write(chance.randrange(size), noise(length, chance.randrange(1000)))

    def step(name: ObjectName) -> None:
        with lock:
            busy(name)

    busy = ChangedDuringPuts(writer, [], change)
    writer.store.during = step
    for _ in range(3):
        attempts(writer, most=12)
        assert digest(writer.stored()) in busy.states
    writer.leave_alone()
    writer.run()
    assert writer.stored() == writer.model == writer.read()


def test_fsync_returns_though_the_file_is_always_written_to(tmp_path: Path) -> None:
    """The file is changed during every PUT, up to a limit."""
    store, stop, written, puts = SlowStore("box"), threading.Event(), threading.Event(), itertools.count(1)

    def wait_for_a_write(_name: ObjectName) -> None:
        if next(puts) == MOST_PUTS:
            stop.set()
        for _ in range(2):  # the first upload may have been made before
            written.clear()
            while not (written.wait(0.1) or stop.is_set()):
                pass

    store.during = wait_for_a_write
    with harness(store, tmp_path, NEVER) as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
        put(filesystem, handle, 0, noise(400_000))
        thread = threading.Thread(target=write_on, args=(filesystem, handle, stop, written))
        thread.start()
        try:
            filesystem.fsync(handle, False)
            filesystem.fsync(handle, False)
            assert not stop.is_set()
        finally:
            stop.set()
            thread.join()
        filesystem.release(handle)
    assert store.head(NAME).size == 400_000


def write_on(filesystem: FileSystem, handle: int, stop: threading.Event, written: threading.Event) -> None:
    count = 0
    while not stop.is_set():
        count += 1
        put(filesystem, handle, 1000 * (count % 400), noise(1000, count))
        written.set()
