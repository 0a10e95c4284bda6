"""Files larger than the disk: uploaded parts are evicted to free space for the rest."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support.crash_oracle import digest
from support.harness import ME, harness, put
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.upload_rig import MIB, NAME, Writer
from swiftfs.attributes import Stored
from swiftfs.errors import ChangedDuringUpload, PreconditionFailed, Unavailable
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.upload_record import RECORDS_KEPT
from swiftfs.journal.operations import PutFile, decode, encode
from swiftfs.journal.segment_removal import LATE_SECONDS
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectMeta

pytest_plugins = ["support.writer_fixtures"]

EVERYTHING = 2**40


def evict(writer: Writer) -> int:
    """Evict all blocks that can be; return their bytes."""
    writer.cached_file.upload_full_segments()
    writer.wait()
    return writer.cached_file.evict(EVERYTHING)


def restart(writer: Writer) -> None:
    """Let the next process continue with the journal's record of the file."""
    operation = PutFile(NAME, writer.cached_file.to_record(), ObjectMeta("text/plain", Stored()))
    again = decode(encode(operation))
    assert isinstance(again, PutFile)
    assert again.file.evicted == operation.file.evicted
    old, saved = writer.cached_file, again.file
    writer.cached_file = writer.restore(saved)
    writer.cached_file.uploads.restore(saved.evicted)
    old._state.file.close()


def gets(writer: Writer) -> int:
    count = sum(method == "get" for method, _ in writer.store.requests)
    writer.store.requests.clear()
    return count


@pytest.mark.usual
@pytest.mark.parametrize("settle", [0.0, 3600.0])
def test_a_segment_with_evicted_blocks_of_the_stored_version_is_not_sent_early(
    writer: Writer, settle: float
) -> None:
    """A writer goes on after its file was stored; the local file has holes where blocks were evicted."""
    writer.cached_file.uploads._settle_seconds = settle
    writer.write(0, noise(MIB + 3 * BLOCK))
    writer.run()
    assert writer.cached_file.evict(EVERYTHING) > MIB
    writer.write(MIB + 3 * BLOCK, noise(2 * MIB, 2))
    writer.cached_file.upload_rest()
    writer.wait()
    writer.run()
    assert writer.stored() == writer.model


def test_a_closed_patch_does_not_send_the_rest_of_its_segments(writer: Writer) -> None:
    """The upload of the patch keeps what was stored, and sends only pieces that have changed."""
    writer.write(0, noise(8 * MIB))
    writer.run()
    writer.cached_file.evict(EVERYTHING)
    writer.write(4 * MIB + 10, b"changed")
    writer.puts()
    writer.cached_file.upload_rest()
    assert writer.puts() == 0
    writer.run()
    assert writer.puts() == 1  # the piece
    assert writer.stored() == writer.model


def test_an_uploaded_segment_needs_no_disk_and_is_not_sent_again(writer: Writer) -> None:
    writer.write(0, noise(5 * MIB + 1000))
    writer.wait()
    assert writer.cached_file.evict(EVERYTHING) == 5 * MIB
    assert writer.cached_file.allocated() < MIB
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
    span = writer.cached_file.read(MIB - 10, 20)
    assert os.pread(span.descriptor, span.length, span.position) == writer.model[MIB - 10 : MIB + 10]
    assert gets(writer) == 2
    assert writer.read() == writer.model


def test_a_write_into_an_evicted_segment_sends_it_again(writer: Writer) -> None:
    writer.write(0, noise(4 * MIB))
    assert evict(writer) == 4 * MIB
    writer.write(2 * MIB + 5, b"change")
    assert writer.cached_file.evicted() != ()
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


def test_segments_filled_in_any_order_can_be_evicted(writer: Writer) -> None:
    for index in (3, 1, 2, 0):
        for half in (1, 0):
            writer.write(index * MIB + half * (MIB // 2), noise(MIB // 2, 2 * index + half))
        if index == 1:
            assert evict(writer) == 2 * MIB
    evict(writer)
    assert writer.cached_file.allocated() == 0
    writer.run()
    assert writer.stored() == writer.model


def test_the_next_process_knows_what_was_evicted(writer: Writer) -> None:
    writer.write(0, noise(5 * MIB))
    writer.wait()
    assert writer.cached_file.evict(2 * MIB) == 2 * MIB
    restart(writer)
    assert writer.read() == writer.model
    restart(writer)
    writer.write(5 * MIB, b"more")
    assert evict(writer) > 0
    restart(writer)
    writer.run()
    assert writer.stored() == writer.model


def test_recorded_blocks_are_not_evicted_before_the_next_change(writer: Writer) -> None:
    writer.write(0, noise(3 * MIB))
    writer.wait()
    saved = writer.cached_file.to_record()
    assert saved.is_whole
    assert evict(writer) == 0
    assert writer.cached_file.evict(EVERYTHING, journaled=True) == 0
    writer.write(3 * MIB, b"more")
    assert writer.cached_file.evict(EVERYTHING, journaled=True) == 0
    assert evict(writer) > 0


def test_blocks_recorded_as_evicted_may_be_evicted_again(writer: Writer) -> None:
    writer.write(0, noise(4 * MIB))
    writer.wait()
    assert writer.cached_file.evict(2 * MIB) == 2 * MIB
    assert len(writer.cached_file.to_record().evicted) == 2
    assert writer.read() == writer.model
    assert writer.cached_file.evicted() == ()
    writer.cached_file.read(3 * MIB, 1)
    assert writer.cached_file.evict(EVERYTHING, journaled=True) == 2 * MIB
    assert writer.read() == writer.model


def test_a_segment_in_a_record_is_kept_when_another_replaces_it(writer: Writer) -> None:
    writer.write(0, noise(3 * MIB))
    evict(writer)
    promised = {placed.segment.name for placed in writer.cached_file.to_record().evicted}
    writer.write(5, b"change")
    writer.run()
    assert writer.stored() == writer.model
    assert writer.segments() >= promised


def test_an_upload_that_runs_keeps_its_bytes(writer: Writer) -> None:
    writer.write(0, noise(4 * MIB + 5))
    writer.wait()
    freed: list[int] = []
    writer.store.during = lambda _name: freed.append(writer.cached_file.evict(EVERYTHING))
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


class RandomChanges:
    """Random changes of a writer's file; `states` has its digest after each of them."""

    def __init__(self, writer: Writer, seed: int) -> None:
        self.writer = writer
        self.random = random.Random(seed)
        self.states: list[str] = []
        self._lock = threading.Lock()

    def change(self) -> None:
        """Change the file, or read it all."""
        where = self.random.randrange(0, 6 * MIB)
        with self._lock:
            match self.random.randrange(7):
                case 0:
                    self.writer.truncate(where)
                case 1 | 2:
                    body = self.random.randbytes(self.random.randrange(1, 2 * MIB))
                    self.writer.write(len(self.writer.model), body)
                case 3:
                    self.writer.write(where, self.random.randbytes(self.random.randrange(1, 2 * BLOCK)))
                case 4:
                    self.writer.write(0, self.random.randbytes(3 * MIB))
                case 5:
                    assert self.writer.read() == self.writer.model
            self.states.append(digest(self.writer.model))

    def disturb(self, _name: ObjectName) -> None:
        """Sometimes change the file during a request, or let the request fail."""
        if self.random.random() < 0.2:
            self.change()
        if self.random.random() < 0.05:
            raise Unavailable("503")

    def store(self) -> None:
        """Upload the file during changes: what is stored is its state at one moment since, or the old one."""
        begun = len(self.states) - 1
        self.writer.store.during = self.disturb
        try:
            self.writer.run()
        except (ChangedDuringUpload, Unavailable):
            return
        finally:
            self.writer.leave_alone()
        assert digest(self.writer.stored()) in self.states[begun:]
        assert self.writer.segments() >= self.writer.named()


@pytest.mark.usual
@pytest.mark.matrix(2)
@pytest.mark.parametrize("segment", [MIB, MIB + 777])
@pytest.mark.parametrize("seed", range(8))
def test_evictions_never_change_the_bytes(
    build_writer: Callable[..., Writer], monkeypatch: pytest.MonkeyPatch, seed: int, segment: int
) -> None:
    monkeypatch.setattr("support.upload_rig.MIB", segment)
    writer = build_writer(threads=1 + seed % 3)
    changes = RandomChanges(writer, seed)
    evicted = 0
    for number in range(25):
        changes.change()
        writer.cached_file.upload_full_segments(holes=number % 3 == 0)
        if number % 2:  # it is closed
            writer.cached_file.upload_rest()
        writer.wait()
        evicted += writer.cached_file.evict(changes.random.randrange(8 * MIB))
        if changes.random.random() < 0.5:
            continue
        if changes.random.random() < 0.3:
            restart(writer)
            assert writer.read() == writer.model
        changes.store()
    assert evicted > MIB
    writer.run()
    assert writer.stored() == writer.read() == writer.model


def test_a_segment_that_a_record_named_goes_some_uploads_later(writer: Writer) -> None:
    """A mount may write to a file for months: nobody but the next mount deleted such segments."""
    writer.write(0, noise(4 * MIB))
    evict(writer)
    writer.cached_file.to_record()
    (first,) = (one.segment.name for one in writer.cached_file.evicted() if one.start == 0)
    for number in range(RECORDS_KEPT):
        writer.write(0, noise(100, number))
        writer.run()
        assert first in writer.segments()
        assert not writer.removal.leftovers.all()
        writer.cached_file.uploads.record_ended()
    writer.write(0, b"last")
    writer.run()
    assert first in writer.segments()  # a manifest that names it may still be carried out
    writer.now += LATE_SECONDS + 1
    writer.removal.look_again()
    assert writer.segments() == writer.named()
    assert writer.stored() == writer.model


def test_what_the_newest_record_names_stays(writer: Writer) -> None:
    writer.write(0, noise(4 * MIB))
    evict(writer)
    saved = {one.segment.name for one in writer.cached_file.to_record().evicted}
    for _ in range(2 * RECORDS_KEPT):
        writer.cached_file.uploads.record_ended()
    writer.truncate(MIB)
    writer.cached_file.uploads.commit_manifest(None)
    assert saved <= writer.segments()
    assert writer.cached_file.uploads.take_released() == []


def test_the_journal_says_when_the_record_of_a_stored_state_is_gone(tmp_path: Path) -> None:
    with harness(MemoryStore("box"), tmp_path, "settle=0.01") as filesystem:
        handle = filesystem.create("/file", 0o644, os.O_RDWR, ME)
        (file,) = filesystem.services.open_files.all()
        for number in range(2):
            put(filesystem, handle, 0, noise(100, number))
            filesystem.fsync(handle, data_only=False)
            wait_until(lambda: not filesystem.waiting())
            assert len(file.cached_file.uploads._recorded._states) == number + 2
        filesystem.release(handle)
