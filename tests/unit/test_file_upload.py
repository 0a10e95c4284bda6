"""Uploads of files that change meanwhile: what is stored is of one moment, and nothing is lost."""

import random
import threading
from collections.abc import Callable

import pytest

from support.crash_oracle import digest
from support.deadlines import within
from support.jobs import wait_until
from support.noise import noise
from support.upload_rig import MIB, NAME, Writer
from swiftfs.errors import ChangedDuringUpload, Corrupt, Unavailable
from swiftfs.filecache.block_map import BLOCK, FileRecord
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.segment_storer import Moment, results
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.objects import ObjectName

pytest_plugins = ["support.writer_fixtures"]


class DuringFirstPut:
    """Makes a step during the first PUT, or during that of the object with `part` in its name."""

    def __init__(self, step: Callable[[], None], part: str = "") -> None:
        self._step = step
        self._part = part
        self.done = False

    def __call__(self, name: ObjectName) -> None:
        if not self.done and self._part in name.key:
            self.done = True
            self._step()


def test_bytes_appended_during_an_upload_wait_for_the_next(writer: Writer) -> None:
    writer.write(0, b"first")
    writer.store.during = DuringFirstPut(lambda: writer.write(5, b" second"))
    writer.run()
    assert writer.stored() == b"first"
    assert writer.cached_file.changes()
    writer.run()
    assert writer.stored() == b"first second"
    assert not writer.cached_file.changes()


def test_a_small_file_that_changes_after_its_md5_is_not_stored(writer: Writer) -> None:
    writer.write(0, noise(3 * BLOCK))
    writer.run()
    before = writer.stored()
    writer.write(0, b"one")
    writer.store.during = DuringFirstPut(lambda: writer.write(BLOCK, b"two"))
    with pytest.raises(ChangedDuringUpload):
        writer.run()
    assert writer.stored() == before
    assert list(writer.cached_file.changes().runs(0, 3)) == [(0, 2)]
    writer.run()
    assert writer.stored() == writer.model


def test_bytes_damaged_on_the_way_are_no_change_of_the_file(writer: Writer) -> None:
    writer.write(0, b"bytes")

    def fail(_name: ObjectName) -> None:
        raise Corrupt("422")

    writer.store.during = fail
    with pytest.raises(Corrupt, match="422"):
        writer.run()
    writer.leave_alone()
    writer.run()
    assert writer.stored() == b"bytes"


@pytest.mark.parametrize("size", [3 * BLOCK, 3 * MIB])
def test_a_file_that_is_cut_during_its_upload_is_not_stored(writer: Writer, size: int) -> None:
    writer.fill(noise(size - 5) + bytes(5))

    def cut() -> None:
        writer.truncate(size - 5)
        writer.truncate(size)

    writer.store.during = DuringFirstPut(cut)
    with pytest.raises(ChangedDuringUpload):
        writer.run()
    writer.run()
    assert writer.stored() == writer.model == writer.read()


@pytest.mark.parametrize(("size", "is_slo"), [(MIB, False), (MIB + 1, True)])
def test_a_file_of_one_segment_is_no_slo(writer: Writer, size: int, *, is_slo: bool) -> None:
    writer.write(0, noise(size))
    writer.run()
    assert writer.store.head(NAME).is_slo == is_slo


def test_a_failed_upload_leaves_everything_dirty(writer: Writer) -> None:
    writer.write(0, noise(3 * MIB))
    writer.run()
    writer.write(0, b"one")

    def fail() -> None:
        writer.write(2 * MIB, b"two")
        raise Unavailable("503")

    writer.store.during = DuringFirstPut(fail)
    with pytest.raises(Unavailable):
        writer.run()
    assert not writer.cached_file.changed_during_upload
    assert [run[0] for run in writer.cached_file.changes().runs(0, 24)] == [0, 16]
    writer.run()
    assert writer.stored() == writer.model


@pytest.mark.parametrize("size", [MIB - 5, 3 * MIB])
def test_bytes_downloaded_for_an_upload_are_not_taken_for_the_object(writer: Writer, size: int) -> None:
    writer.write(0, noise(size))
    writer.run()
    writer.reopen()
    writer.write(BLOCK, noise(BLOCK, 1))  # no old byte is needed yet

    def fail(_name: ObjectName) -> None:
        wait_idle(writer)
        raise Unavailable("503")

    writer.store.during = fail
    with pytest.raises(Unavailable):
        writer.run()
    writer.leave_alone()
    assert writer.read() == writer.model
    writer.run()
    assert writer.stored() == writer.model


def wait_idle(writer: Writer) -> None:
    """Wait until no download and no check runs."""
    cached_file = writer.cached_file
    state, fetches = cached_file._state, cached_file._downloader.downloads
    with state.changed:
        assert state.changed.wait_for(lambda: not (fetches or state.checks.running), within(10))


def test_a_segment_that_changes_during_its_upload_is_sent_again_and_no_other(writer: Writer) -> None:
    writer.fill(noise(4 * MIB))
    writer.store.during = DuringFirstPut(lambda: writer.write(MIB + 5, b"change"), f"/{MIB:013d}")
    with pytest.raises(ChangedDuringUpload):
        writer.run()
    writer.puts()
    writer.run()
    assert writer.puts() == 1
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


def test_a_segment_that_changes_after_its_upload_is_a_later_change(writer: Writer) -> None:
    writer.fill(noise(4 * MIB))
    before = bytes(writer.model)
    writer.store.during = DuringFirstPut(lambda: writer.write(5, b"change"), f"/{3 * MIB:013d}")
    writer.run()
    assert writer.stored() == before
    assert list(writer.cached_file.changes().runs(0, 32)) == [(0, 1)]
    writer.puts()
    writer.run()
    assert writer.puts() == 1
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


def test_a_segment_that_changes_before_its_upload_ends_the_attempt(writer: Writer) -> None:
    writer.fill(noise(4 * MIB))
    writer.store.during = DuringFirstPut(lambda: writer.write(3 * MIB + 5, b"change"), f"/{0:013d}")
    with pytest.raises(ChangedDuringUpload):
        writer.run()
    writer.run()
    assert writer.stored() == writer.model


def test_an_append_to_a_large_file_does_not_disturb_its_upload(writer: Writer) -> None:
    writer.fill(noise(2 * MIB + 100))
    before = bytes(writer.model)
    writer.store.during = DuringFirstPut(lambda: writer.write(2 * MIB + 100, b"append"), f"/{2 * MIB:013d}")
    writer.run()
    assert writer.stored() == before
    writer.run()
    assert writer.stored() == writer.model


def test_a_patch_whose_bytes_change_is_repeated_and_reuses_the_rest(writer: Writer) -> None:
    writer.fill(noise(8 * MIB))
    writer.run()
    writer.reopen()
    before = writer.stored()
    writer.write(5, b"one")
    writer.write(6 * MIB, b"two")
    writer.store.during = DuringFirstPut(lambda: writer.write(6 * MIB + 9, b"three"), f"/{6 * MIB:013d}")
    with pytest.raises(ChangedDuringUpload):
        writer.run()
    assert writer.stored() == before
    writer.puts()
    writer.run()
    assert writer.puts() == 1
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


def test_a_segment_that_was_uploaded_in_advance_during_a_failed_upload_is_used_by_the_next(
    writer: Writer,
) -> None:
    """Its bytes are those of the file, but were not those of the first snapshot."""
    writer.fill(noise(8 * MIB))
    writer.run()
    writer.reopen()
    writer.write(0, noise(MIB))
    uploads, has_begun = writer.cached_file.uploads, threading.Event()

    def wait_until_needed(name: ObjectName) -> None:
        if f"/{0:013d}" in name.key:
            has_begun.set()
            wait_until(lambda: all(put.moment is not Moment.NEXT for put in uploads.under_way()))

    def write_on(method: str, _subject: str) -> None:
        if method == "manifest" and not has_begun.is_set():
            writer.write(0, noise(MIB + BLOCK))  # the first segment is uploaded in advance
            assert has_begun.wait(within(60))

    writer.store.before, writer.store.hook = wait_until_needed, write_on
    with pytest.raises(ChangedDuringUpload):
        writer.run()
    writer.run()
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()


def test_a_patch_names_no_segment_that_was_written_after_one_it_has(writer: Writer) -> None:
    writer.fill(noise(4 * MIB))
    uploads = writer.cached_file.uploads
    writer.cached_file.begin_upload()
    results([uploads.upload(0, MIB)])
    writer.write(0, noise(2 * MIB + 1))  # two segments are uploaded in advance
    results(uploads.under_way())
    with pytest.raises(ChangedDuringUpload):
        results([uploads.upload(MIB, 2 * MIB)])
    writer.cached_file.upload_failed()
    writer.run()
    assert writer.stored() == writer.model


def test_the_prefix_is_recorded_once_before_anything_is_stored(writer: Writer) -> None:
    recorded: list[tuple[UnreferencedPrefix, int]] = []

    def puts() -> int:
        return sum(method == "put" for method, _ in writer.store.requests)

    writer.cached_file.uploads.record._on_first_put = lambda standing: recorded.append((standing, puts()))
    assert writer.cached_file.to_record().prefix is None
    for round_ in range(2):
        writer.write(round_ * MIB, noise(4 * MIB))
        writer.run()
        writer.cached_file.uploads.record_ended()  # as the journal does: until then it counts as asked
    (first, before), *manifests = recorded
    assert len(first.sent) == 1  # the segment that is stored next
    prefix, file = writer.cached_file.uploads.record.prefix, writer.cached_file.file_name
    assert first == UnreferencedPrefix(prefix, frozenset(), file, frozenset({NAME}), sent=first.sent)
    assert before == 0
    assert [len(standing.asked) for standing, _ in manifests] == [1, 1]  # each is recorded before it is sent
    assert writer.cached_file.to_record().prefix == writer.cached_file.uploads.record.prefix
    assert all(name.key.startswith(writer.cached_file.uploads.record.prefix.key) for name in writer.named())


def test_nothing_is_stored_if_the_prefix_cannot_be_recorded(writer: Writer) -> None:
    def fail(_standing: UnreferencedPrefix) -> None:
        raise OSError(28, "No space left on device")

    writer.cached_file.uploads.record._on_first_put = fail
    writer.write(0, noise(2 * MIB))
    with pytest.raises(OSError, match="No space"):
        writer.run()
    assert writer.puts() == 0
    writer.cached_file.uploads.record._on_first_put = writer.begun.append
    writer.run()
    assert writer.stored() == writer.model


def test_a_segment_that_begins_before_the_end_of_a_task_is_committed_keeps_its_record(
    writer: Writer,
) -> None:
    """Else a process that dies then leaves a segment that nobody looks for."""
    record = writer.cached_file.uploads.record
    record._on_first_put = writer.log.begin_upload
    writer.write(0, noise(2 * MIB))
    writer.run()
    row = writer.cached_file.uploads.unreferenced()
    assert row == UnreferencedPrefix(record.prefix, None)
    name = record.begin_segment("next")
    assert writer.log.finish((), (), [row])
    assert [one.sent for one in writer.log.uploads()] == [{name.key}]


def test_the_record_names_every_segment_that_a_kill_may_leave(writer: Writer) -> None:
    """Else the next process does not look for one that is stored late."""
    record = writer.cached_file.uploads.record
    record._on_first_put, record._on_put = writer.log.begin_upload, writer.log.write_upload
    names = {record.begin_segment(what).key for what in ("first", "second")}
    assert [one.sent for one in writer.log.uploads()] == [names]


def restore(writer: Writer, saved: FileRecord) -> CachedFile:
    """Return the file that the next process makes of the record of one that died."""
    assert saved.prefix is None or saved.prefix.container == "box_segments"
    return writer.restore(saved)


def replace_cached_file(writer: Writer, cached_file: CachedFile) -> None:
    old, writer.cached_file = writer.cached_file, cached_file
    file = old._state.file
    file.close()
    file.close = file.remove = lambda: None  # type: ignore[method-assign]


def test_segments_of_a_process_that_died_are_used(writer: Writer) -> None:
    writer.fill(noise(4 * MIB))

    def fail() -> None:
        raise Unavailable("503")

    writer.store.during = DuringFirstPut(fail, f"/{3 * MIB:013d}")
    with pytest.raises(Unavailable):
        writer.run()
    saved = writer.cached_file.to_record()
    writer.write(0, b"written by nobody who closed the file")
    restored = restore(writer, saved)
    replace_cached_file(writer, restored)
    assert len(writer.segments()) == 3
    restored.uploads.adopt_leftovers(writer.store.list_page("box_segments").rows)
    writer.puts()
    writer.run()
    assert writer.puts() == 2
    assert writer.stored() == writer.model
    assert writer.segments() == writer.named()
    # By each of the two processes: a prefix that the record of a file names may have no row any more.
    assert [one.prefix for one in writer.begun if not one.asked] == [restored.uploads.record.prefix] * 2


def test_found_segments_that_no_manifest_names_are_deleted(writer: Writer) -> None:
    writer.write(0, noise(2 * MIB))
    writer.run()
    kept = writer.named()
    writer.fill(noise(2 * MIB, 1))
    writer.store.during = DuringFirstPut(lambda: writer.write(MIB + 5, b"x"), f"/{MIB:013d}")
    with pytest.raises(ChangedDuringUpload):
        writer.run()
    restored = restore(writer, writer.cached_file.to_record())
    replace_cached_file(writer, restored)
    restored.uploads.adopt_leftovers(writer.store.list_page("box_segments").rows, kept)
    garbage = set(restored.uploads.abandon())
    assert garbage == writer.segments() - kept
    assert garbage


def test_a_restored_file_continues_with_its_changes_and_its_version(writer: Writer) -> None:
    writer.write(0, noise(4 * BLOCK))
    writer.run()
    writer.write(BLOCK + 7, b"closed")
    saved = writer.cached_file.to_record()
    expected = bytes(writer.model)
    writer.write(3 * BLOCK, b"not closed")
    writer.write(4 * BLOCK, noise(5 * BLOCK))
    replace_cached_file(writer, restore(writer, saved))
    writer.model = bytearray(expected)
    assert writer.read() == expected
    writer.truncate(6 * BLOCK)
    assert writer.read() == writer.model
    writer.run()
    assert writer.stored() == writer.model


def test_a_record_whose_bytes_are_gone_is_refused(writer: Writer) -> None:
    writer.write(0, noise(4 * BLOCK))
    saved = writer.cached_file.to_record()
    path = writer.folder / saved.file
    with path.open("r+b") as file:
        file.truncate(5)
    with pytest.raises(OSError, match=saved.file):
        writer.restore(saved)
    with path.open("r+b") as file:
        file.truncate(saved.size)


class RandomChanges:
    """Changes the file at random between and during requests; `states` has its digest after each change."""

    def __init__(self, writer: Writer, seed: int) -> None:
        self._writer = writer
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.states: list[str] = []

    def step(self) -> None:
        with self._lock:
            dice, writer = self._random, self._writer
            where = dice.randrange(0, 5 * MIB)
            match dice.randrange(8):
                case 0:
                    writer.truncate(where)
                case 1:
                    writer.write(len(writer.model), dice.randbytes(dice.randrange(1, 2 * BLOCK)))
                case 2 | 3:
                    writer.write(where, dice.randbytes(dice.randrange(1, MIB)))
                case 4:
                    writer.write(min(where, len(writer.model)), dice.randbytes(1000))
            self.states.append(digest(writer.model))

    def sometimes(self, _name: ObjectName) -> None:
        if self._random.random() < 0.3:
            self.step()
        if self._random.random() < 0.05:
            raise Unavailable("503")


@pytest.mark.usual
@pytest.mark.matrix(3)
@pytest.mark.parametrize("seed", range(12))
def test_what_is_stored_was_the_file_at_one_moment(build_writer: Callable[..., Writer], seed: int) -> None:
    writer = build_writer(threads=1 + seed % 3)
    dice = random.Random(seed)
    changes = RandomChanges(writer, seed)
    stored = 0
    for round_ in range(25):
        changes.step()
        begun = len(changes.states) - 1
        writer.store.during = changes.sometimes
        try:
            writer.run()
        except (ChangedDuringUpload, Unavailable):
            continue
        finally:
            writer.leave_alone()
        stored += 1
        assert digest(writer.stored()) in changes.states[begun:], round_
        assert writer.segments() >= writer.named()
        assert writer.read() == writer.model
        if (
            not writer.cached_file.changes()
            and dice.random() < 0.5
            and len(writer.stored()) == len(writer.model)
        ):
            writer.reopen()
    assert stored > 3
    writer.run()
    assert writer.stored() == writer.read() == writer.model
    assert writer.segments() == writer.named()
    assert sum(not standing.asked for standing in writer.begun) <= 30
    assert writer.store.head(NAME).size == len(writer.model)
