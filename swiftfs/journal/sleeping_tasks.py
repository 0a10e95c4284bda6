"""Tasks that sleep: files that wait for their upload, packed, because there may be 100,000 of them.

A task of the queue takes more than 1000 bytes of memory, a sleeping one 300.
"""

import heapq
import marshal
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from swiftfs.attributes import Stored
from swiftfs.filecache.block_map import Blocks, FileRecord
from swiftfs.journal.operations import PutFile
from swiftfs.journal.task_states import Retrying, State, Waiting
from swiftfs.journal.tasks import Task
from swiftfs.objects import ObjectName
from swiftfs.paths import Folder
from swiftfs.store.object_meta import ObjectMeta

_WINDOW = -12
"""Of zlib: 4 KiB, so that packing is fast; negative means without a header."""

_HEAD = struct.Struct("<QQdQIIiI")
"""What can be read without unpacking: the bytes of disk, the number, the time of creation, the size, the
attempts, the hand-ins, and the two marks of a flush, -1 for none."""


def can_sleep(task: Task) -> bool:
    """Return whether a task only waits, for its time, to store a file, and is all that the file needs."""
    operation = task.operation
    if not isinstance(task.state, Waiting | Retrying) or not isinstance(operation, PutFile):
        return False
    # What somebody waits for, or what waits for something, is needed soon.
    if task.awaited_hand_in or task.newer or task.blockers or task.dependents:
        return False
    file = operation.file
    has_segments = file.prefix is not None or file.evicted or operation.superseded_segments
    return file.base is None and not has_segments


class SleepingTask:
    """A task that `can_sleep`, packed; `awake` returns it.

    It is due at `due` (monotonic seconds). `error` is that of its last attempt, None if there was none.

    INVARIANT: while anybody has the task, `awake` returns that object.
    """

    __slots__ = ("__weakref__", "_done", "_head", "_packed", "due", "error", "name")

    running: ClassVar[bool] = False
    blocked: ClassVar[bool] = False

    def __init__(self, task: Task, name: ObjectName, allocated: int) -> None:
        """Pack a task about `name`, whose file takes `allocated` bytes of disk."""
        state, operation = task.state, task.operation
        assert isinstance(state, Waiting | Retrying)
        assert isinstance(operation, PutFile)
        self.name = name
        self.due = state.due
        self.error = state.error
        self._done = task.done
        mark = -1 if task.flush_mark is None else task.flush_mark
        size, counts = operation.file.size, (task.attempts, task.hand_ins)
        self._head = _HEAD.pack(allocated, task.seq, task.created, size, *counts, mark, task.flush_hand_in)
        packer = zlib.compressobj(wbits=_WINDOW, memLevel=4, zdict=_usual(name))
        self._packed = packer.compress(marshal.dumps(_values(task, operation))) + packer.flush()
        _living[self] = task

    @property
    def allocated(self) -> int:
        """The bytes of disk that the file takes."""
        return self._field(0)

    @property
    def seq(self) -> int:
        """The number of the task."""
        return self._field(1)

    @property
    def created(self) -> float:
        """When the task was made (monotonic seconds)."""
        return float(_HEAD.unpack(self._head)[2])

    @property
    def size(self) -> int:
        """The size of the file."""
        return self._field(3)

    @property
    def attempts(self) -> int:
        """How many attempts have failed."""
        return self._field(4)

    @property
    def flush_mark(self) -> int | None:
        """The number of attempts at the last request for a flush, None if there was none."""
        mark = self._field(6)
        return None if mark < 0 else mark

    def begin_flush(self) -> None:
        """Record that a flush was requested."""
        *fields, attempts, hand_ins, _, _ = _HEAD.unpack(self._head)
        self._head = _HEAD.pack(*fields, attempts, hand_ins, attempts, hand_ins)

    def awake(self) -> Task:
        """Return the task, which does not sleep any more or is only looked at."""
        task = _living.get(self)
        if task is None:
            task = _living[self] = self._unpack()
        task.flush_mark, task.flush_hand_in = self.flush_mark, self._field(7)
        if not isinstance(task.state, Waiting | Retrying) or task.state.due != self.due:
            task.become(self._state())
        return task

    def __lt__(self, other: "SleepingTask") -> bool:
        return (self.due, self.seq) < (other.due, other.seq)

    def _field(self, index: int) -> int:
        return int(_HEAD.unpack(self._head)[index])

    def _state(self) -> State:
        return Waiting(self.due) if self.error is None else Retrying(self.due, self.error)

    def _unpack(self) -> Task:
        data = zlib.decompressobj(wbits=_WINDOW, zdict=_usual(self.name)).decompress(self._packed)
        path, flags, counts, operation = _from_values(self.name, self.size, marshal.loads(data))
        task = Task(self.seq, path, operation, self._done, self.created, self._state())
        task.reported, task.promised, task.ambiguous = flags
        task.sent_hand_in, task.sent_commit, task.stored_hand_in = counts
        task.attempts, task.hand_ins = self.attempts, self._field(5)
        return task


_living: WeakValueDictionary[SleepingTask, Task] = WeakValueDictionary()
"""The tasks that somebody has although they sleep; the journal's lock guards those of its queue."""


class SleepingTasks:
    """The sleeping tasks of a queue by their names, each of which has one. Not locked, as the queue."""

    def __init__(self) -> None:
        self._by_name: dict[ObjectName, SleepingTask] = {}
        self._due: list[SleepingTask] = []

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: ObjectName) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[SleepingTask]:
        return iter(self._by_name.values())

    def add(self, sleeping: SleepingTask) -> None:
        """Add a task."""
        self._by_name[sleeping.name] = sleeping
        heapq.heappush(self._due, sleeping)
        # Those that were popped by their names are still in the heap.
        if len(self._due) > 2 * len(self._by_name) + 64:
            self._order()

    def pop(self, name: ObjectName) -> SleepingTask | None:
        """Remove and return the task about a name, None if there is none."""
        return self._by_name.pop(name, None)

    def first(self) -> SleepingTask | None:
        """Return the task that is due first."""
        while self._due and self._by_name.get(self._due[0].name) is not self._due[0]:
            heapq.heappop(self._due)
        return self._due[0] if self._due else None

    def names_below(self, folder: Folder) -> list[ObjectName]:
        """Return the names below a folder."""
        return [name for name in self._by_name if Folder(name.container, name.key).is_below(folder)]

    def hasten(self, fits: Callable[[SleepingTask], bool], *, flush: bool = False) -> None:
        """Make the tasks due now that fit; with `flush` for a report of a flush."""
        for one in self:
            if fits(one):
                one.due = 0.0
                if flush:
                    one.begin_flush()
        self._order()

    def _order(self) -> None:
        self._due = sorted(self)


def _usual(name: ObjectName) -> bytes:
    """Return what the values of a task about `name` probably have, for zlib."""
    return _USUAL + name.key.encode("utf-8", "surrogatepass")


_USUAL = marshal.dumps(
    (
        "/",
        (False, False, False),
        (0, 0, 0),
        ("tmp", b"\x01"),
        ObjectMeta("application/octet-stream", Stored(0o100644, 10**18, 1000, 1000)).to_values(),
        (False, None, True, False, ()),
        None,
    )
)


def _values(task: Task, operation: PutFile) -> Any:
    """Return what the head of a sleeping task does not have, as values for `marshal`."""
    return (
        task.path,
        (task.reported, task.promised, task.ambiguous),
        (task.sent_hand_in, task.sent_commit, task.stored_hand_in),
        (operation.file.file, operation.file.dirty.to_bytes()),
        operation.meta.to_values(),
        (
            operation.replaces_large,
            operation.replaces_etag,
            operation.creates,
            operation.foreign_headers_unknown,
            operation.sent,
        ),
        operation.running.to_values() if operation.running is not None else None,
    )


def _from_values(name: ObjectName, size: int, values: Any) -> tuple[str, Any, Any, PutFile]:
    path, flags, counts, (file, dirty), meta, replaces, running = values
    replaces_large, replaces_etag, creates, foreign_headers_unknown, sent = replaces
    operation = PutFile(
        name,
        FileRecord(file, size, None, Blocks.from_bytes(dirty), None),
        ObjectMeta.from_values(meta),
        replaces_large,
        replaces_etag,
        creates,
        foreign_headers_unknown,
        (),
        sent,
        ObjectMeta.from_values(running) if running is not None else None,
    )
    return path, flags, counts, operation
