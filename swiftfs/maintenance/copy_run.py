"""Copies what a walk finds, many objects at once, and counts them."""

from collections import deque
from collections.abc import Callable, Iterable

from msgspec import Struct, field

from swiftfs.concurrency import Executor, Future, new_pool
from swiftfs.errors import SwiftfsError, Unavailable
from swiftfs.maintenance.copy_records import CopyRecords
from swiftfs.maintenance.copy_walk import Refused, Skipped, Step
from swiftfs.maintenance.object_copy import Changed, ObjectCopier, ReplacedSegments, Transfer, check_kinds
from swiftfs.maintenance.orphan_segments import may_be_manifest

PARALLEL = 16
"""Objects, and segments of large ones, that are copied at once: the server does the work."""

AHEAD = 4 * PARALLEL
"""Objects that are found before they are copied: more would only fill the memory."""


class Tally(Struct):
    """What was done: objects `copied` and `skipped`, `failures` by name, and whether it was `stopped`.

    It was stopped if the server does not answer: then the next object would fail as well.
    """

    copied: int = 0
    skipped: int = 0
    failures: list[Refused] = field(default_factory=list)
    stopped: bool = False


class Progress(Struct, frozen=True):
    """Called with the objects and bytes that were found to copy, and with the objects that are done."""

    found: Callable[[int, int], None]
    done: Callable[[int], None]


class CopyRun:
    """Copies with `copier`, which has threads of its own for segments, `segments`."""

    def __init__(
        self,
        copier: ObjectCopier,
        records: CopyRecords,
        replaced: ReplacedSegments,
        segments: Executor,
        progress: Progress,
    ) -> None:
        self.tally = Tally()
        self._copier = copier
        self._records = records
        self._replaced = replaced
        self._segments = segments
        self._progress = progress
        self._pending: deque[tuple[Transfer, Future[bool]]] = deque()

    def run(self, steps: Iterable[Step]) -> None:
        """Copy everything; a failure ends only its object, unless the server does not answer.

        After an interruption nothing else begins, and nobody waits for what the server is doing.
        """
        pool = new_pool("copy", PARALLEL)
        try:
            for step in steps:
                self._take(step, pool)
                while len(self._pending) >= AHEAD:
                    self._wait()
                if self.tally.stopped:
                    break
            while self._pending:
                self._wait()
        except BaseException as error:
            self._segments.shutdown(wait=False, cancel_futures=True)
            pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        pool.shutdown()
        if not self.tally.failures:
            self._records.end_folders()
        self._replaced.finish()

    def _take(self, step: Step, pool: Executor) -> None:
        if isinstance(step, Skipped):
            self.tally.skipped += 1
        elif isinstance(step, Refused):
            self.tally.failures.append(step)
        else:
            self._begin(step, pool)

    def _begin(self, transfer: Transfer, pool: Executor) -> None:
        try:
            check_kinds(transfer)
        except SwiftfsError as error:
            self.tally.failures.append(Refused(str(transfer.source), str(error)))
            return
        if transfer.replaces is not None and may_be_manifest(transfer.replaces):
            self._replaced.open()
        self._progress.found(1, transfer.size)
        self._pending.append((transfer, pool.submit(self._copy, transfer)))

    def _copy(self, transfer: Transfer) -> bool:
        # The objects behind one that got no answer would all wait as long for theirs.
        if self.tally.stopped:
            raise Unavailable(f"{transfer.source} was not copied: the server does not answer")
        return self._copier.copy(transfer)

    def _wait(self) -> None:
        transfer, future = self._pending.popleft()
        try:
            if future.result():
                self.tally.copied += 1
            else:
                self.tally.skipped += 1
        except SwiftfsError as error:
            self.tally.failures.append(Refused(str(transfer.source), str(error)))
            self.tally.stopped |= isinstance(error, Unavailable) and not isinstance(error, Changed)
        self._progress.done(1)
