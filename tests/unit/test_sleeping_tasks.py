"""Files that wait for their upload are packed, and are found by everything that looks for them."""

import errno
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from support.harness import ME, copy_live, harness, read, write
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, keys
from swiftfs.attributes import Stored
from swiftfs.concurrency import monotonic
from swiftfs.errors import Unavailable
from swiftfs.filecache.block_map import FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.cache_space import Use, Uses
from swiftfs.journal import task_queue
from swiftfs.journal.operations import Delete, PutFile, encode
from swiftfs.journal.sleeping_tasks import SleepingTask, can_sleep
from swiftfs.journal.task_queue import TaskQueue
from swiftfs.journal.tasks import Blocked, Failure, Retrying, Running, Task, Waiting, nobody_waits
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.moved_view import MovedNames
from swiftfs.store.protocol import ObjectMeta

ERROR = Unavailable("no answer")

texts = st.text(max_size=10)
counts = st.integers(0, 2**31)
times = st.none() | st.integers(-(2**63), 2**63 - 1)
stored = st.builds(Stored, st.none() | counts, times, st.none() | counts, slo=st.none() | texts)
headers = st.dictionaries(texts, texts, max_size=2)
metas = st.builds(ObjectMeta, texts, stored, headers, headers)


def blocks(first: int, last: int) -> Blocks:
    found = Blocks()
    found.add(first, last)
    return found


operations = st.builds(
    PutFile,
    st.builds(ObjectName, texts, texts),
    st.builds(
        FileRecord,
        texts,
        counts,
        st.none(),
        st.builds(blocks, st.integers(0, 3), st.integers(0, 9999)),
        st.none(),
    ),
    metas,
    st.none() | st.booleans(),
    st.none() | texts,
    st.booleans(),
    st.booleans(),
    st.just(()),
    st.lists(texts, max_size=2).map(tuple),
    st.none() | metas,
    texts,
    texts,
    st.booleans(),
)
dues = st.floats(0.0, 1e9)
tasks = st.builds(
    Task,
    counts,
    texts.map("/".__add__),
    operations,
    st.just(nobody_waits),
    dues,
    st.builds(Waiting, dues) | st.builds(Retrying, dues, st.just(ERROR)),
    reported=st.booleans(),
    promised=st.booleans(),
    ambiguous=st.booleans(),
    attempts=counts,
    flush_mark=st.none() | counts,
    flush_hand_in=counts,
    hand_ins=counts,
    sent_hand_in=counts,
    sent_commit=counts,
    stored_hand_in=counts,
)


def values_of(task: Task) -> list[object]:
    """Return all fields of a task; the state and the operation as values that can be compared."""
    fields = [getattr(task, name) for name in Task.__slots__ if name not in ("state", "operation")]
    assert isinstance(task.state, Waiting | Retrying)
    return [*fields, type(task.state), task.state.due, task.error, encode(task.operation)]


@pytest.mark.usual
@given(tasks, counts)
def test_a_task_comes_back_as_it_was(example: Task, allocated: int) -> None:
    task = replace(example)  # hypothesis keeps the example, and a task that anybody keeps is not packed
    operation, state = task.operation, task.state
    assert can_sleep(task)
    assert isinstance(operation, PutFile)
    assert isinstance(state, Waiting | Retrying)
    sleeping, before = SleepingTask(task, operation.name, allocated), values_of(task)
    assert (sleeping.seq, sleeping.created, sleeping.allocated) == (task.seq, task.created, allocated)
    assert (sleeping.size, sleeping.attempts) == (operation.file.size, task.attempts)
    assert (sleeping.flush_mark, sleeping.error, sleeping.due) == (task.flush_mark, task.error, state.due)
    assert sleeping.awake() is task
    del task
    assert values_of(sleeping.awake()) == before


def put(key: str = "file", **fields: object) -> PutFile:
    return PutFile(
        ObjectName("box", key),
        FileRecord(f"local {key}", 100, None, blocks(0, 1), None),
        ObjectMeta("text/plain"),
        **fields,  # type: ignore[arg-type]
    )


class Rig:
    """A queue in which every task sleeps that can."""

    def __init__(self) -> None:
        self.uses = Uses()
        self.queue = TaskQueue(self.uses, MovedNames())

    def add(self, key: str, due: float = 5.0, error: Failure | None = None) -> int:
        operation = put(key)
        self.uses.by_file[operation.file.file] = Use(operation.name, None, users=0, pins=1, bytes=4096)
        state = Waiting(due) if error is None else Retrying(due, error)
        attempts = 0 if error is None else 1
        task = Task(self.queue.next_seq(), f"/{key}", operation, nobody_waits, 0.0, state, attempts=attempts)
        self.queue.add(task)
        self.queue.rest()
        return task.seq

    def pop(self, now: float) -> str | None:
        task = self.queue.pop_due(now)
        if task is not None:
            task.become(Running(task.error, monotonic()))
        return task.path if task is not None else None


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(task_queue, "AWAKE", 0)
    return Rig()


def test_a_sleeping_task_is_found_by_its_name(rig: Rig) -> None:
    seq = rig.add("file")
    assert (len(rig.queue), rig.queue.awake(), rig.uses.by_file) == (1, [], {})
    assert (rig.uses.away, rig.uses.away_bytes) == (1, 4096)
    assert rig.queue.has(ObjectName("box", "file"))
    (task,) = rig.queue.chain(ObjectName("box", "file"))
    assert (task.seq, task.path) == (seq, "/file")
    assert task in rig.queue
    assert (rig.uses.away, rig.uses.away_bytes) == (0, 0)
    assert rig.uses.by_file["local file"] == Use(ObjectName("box", "file"), None, users=0, pins=1, bytes=4096)
    rig.queue.rest()
    assert task not in rig.queue
    assert rig.queue.tail(ObjectName("box", "file")) is task


def test_sleeping_tasks_are_executed_when_they_are_due(rig: Rig) -> None:
    rig.add("second", 7.0)
    rig.add("first", 5.0)
    deletion = Delete(ObjectName("box", "deleted"), None)
    rig.queue.add(Task(9, "/deleted", deletion, nobody_waits, 0.0, Waiting(6.0)))
    assert rig.queue.next_due() == 5.0
    assert rig.pop(4.0) is None
    assert [rig.pop(9.0), rig.pop(9.0), rig.pop(9.0), rig.pop(9.0)] == ["/first", "/deleted", "/second", None]
    assert rig.queue.next_due() == math.inf


def test_sleeping_tasks_and_others_can_run(rig: Rig) -> None:
    rig.add("file")
    deletion = Delete(ObjectName("box", "deleted"), None)
    rig.queue.add(Task(9, "/deleted", deletion, nobody_waits, 0.0, Waiting(6.0)))
    assert rig.queue.runnable() == 2


def test_a_later_task_of_the_name_waits_for_one_that_sleeps(rig: Rig) -> None:
    rig.add("file")
    later = Task(9, "/file", Delete(ObjectName("box", "file"), None), nobody_waits, 0.0, Waiting(0.0))
    rig.queue.add(later)
    rig.queue.rest()
    assert len(later.blockers) == 1
    assert [rig.pop(9.0), rig.pop(9.0)] == ["/file", None]


@pytest.mark.parametrize(
    ("hurry", "due"),
    [
        (TaskQueue.flush_all, {"/new", "/failed"}),
        (TaskQueue.run_all_now, {"/new", "/failed"}),
        (partial(TaskQueue.run_all_now, failed=True), {"/failed"}),
        (TaskQueue.start_files, {"/new"}),
    ],
)
def test_sleeping_tasks_are_made_due(rig: Rig, hurry: Callable[[TaskQueue], None], due: set[str]) -> None:
    rig.add("new")
    rig.add("failed", error=ERROR)
    hurry(rig.queue)
    assert {rig.pop(0.0), rig.pop(0.0)} - {None} == due


def test_a_sleeping_task_that_somebody_looks_at_is_made_due(rig: Rig) -> None:
    rig.add("file")
    (sleeping,) = rig.queue.asleep()
    looked_at = sleeping.awake()
    rig.queue.run_all_now()
    assert rig.queue.chain(ObjectName("box", "file")) == [looked_at]
    assert looked_at.state == sleeping.awake().state
    assert rig.pop(0.0) == "/file"


def test_a_flush_is_recorded_for_a_sleeping_task(rig: Rig) -> None:
    rig.add("failed", error=ERROR)
    (sleeping,) = rig.queue.asleep()
    assert sleeping.flush_mark is None
    rig.queue.flush_all()
    assert sleeping.flush_mark == 1
    (task,) = rig.queue.chain(ObjectName("box", "failed"))
    assert (task.flush_mark, task.flush_hand_in, task.error) == (1, 1, ERROR)


def test_only_what_waits_alone_sleeps(rig: Rig) -> None:
    for task in (
        Task(1, "/a", Delete(ObjectName("box", "a"), None), nobody_waits, 0.0, Waiting(1.0)),
        Task(2, "/b", put("b"), nobody_waits, 0.0, Blocked(ERROR)),
        Task(3, "/c", put("c"), nobody_waits, 0.0, Waiting(1.0), awaited_hand_in=1),
        Task(4, "/d", put("d", superseded_segments=(ObjectName("x", "y"),)), nobody_waits, 0.0, Waiting(1.0)),
    ):
        assert not can_sleep(task)


def test_a_file_that_is_open_sleeps_when_it_is_closed(rig: Rig) -> None:
    rig.add("file")
    (task,) = rig.queue.below(Folder("box", ""))
    use = rig.uses.by_file["local file"]
    use.users = 1
    rig.queue.rest()
    assert task in rig.queue
    use.users = 0
    rig.queue.rest()
    assert task not in rig.queue


def test_the_heaps_do_not_grow(rig: Rig) -> None:
    rig.add("file")
    for _ in range(1000):
        rig.queue.chain(ObjectName("box", "file"))
        rig.queue.rest()
    assert len(rig.queue) == 1
    assert len(rig.queue._due) + len(rig.queue._sleeping._due) < 300


def everything(filesystem: FileSystem) -> None:
    """Do with sleeping files what programs do, and check what they see."""
    assert {one.path for one in filesystem.waiting()} == {f"/d/file{number}" for number in range(6)} | {"/d"}
    report = filesystem.services.journal.report()
    assert (report.waiting, report.bytes, len(report.changes)) == (7, 30, 7)
    assert read(filesystem, "/d/file0") == b"bytes"
    filesystem.unlink("/d/file1")
    filesystem.rename("/d/file2", "/d/moved")
    write(filesystem, "/d/file3", b"longer bytes")
    filesystem.chmod("/d/file4", 0o600)
    with pytest.raises(FileNotFoundError) as missing:
        filesystem.getattr("/d/file1")
    assert missing.value.errno == errno.ENOENT


def test_files_that_sleep_are_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(task_queue, "AWAKE", 0)
    (cache := tmp_path / "cache").mkdir()
    with harness(MemoryStore("box"), cache, NEVER) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        for number in range(6):
            write(filesystem, f"/d/file{number}", b"bytes")
        everything(filesystem)
        copy_live(cache, tmp_path / "left")
    store = MemoryStore("box")
    with harness(store, tmp_path / "left", NEVER) as filesystem:
        assert read(filesystem, "/d/moved") == b"bytes"
        assert read(filesystem, "/d/file3") == b"longer bytes"
        assert filesystem.getattr("/d/file4").mode & 0o777 == 0o600
        filesystem.rename("/d", "/e")
    assert keys(store) == ["e", "e/file0", "e/file3", "e/file4", "e/file5", "e/moved"]


def test_a_new_field_must_be_packed_too() -> None:
    counts = [len(fields(kind)) for kind in (Task, PutFile, FileRecord)]
    assert counts == [27, 13, 6], "pack the new field, or let no task sleep that has it, and count it here"
