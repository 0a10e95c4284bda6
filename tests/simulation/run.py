"""Runs a history and returns its failures."""

import gc
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from simulation.adversary import DELETED_BY_THEM, REFUSALS, SEGMENTS, Adversary
from simulation.attributes import KnownAttributes
from simulation.context import MountContext
from simulation.disk import Disk, watched
from simulation.logs import UnexpectedErrors
from simulation.model import Model
from simulation.mount import (
    Tree,
    attributes_of,
    broken_manifests,
    detach,
    is_marker,
    mount,
    moves_to,
    moving_from,
    orphans,
    stored_attributes,
    stored_body,
    stored_tree,
    tree_of,
    will_replace,
)
from simulation.plan import BEGIN, END, History, Kill, Life
from simulation.programs import Program
from simulation.runtime import seeded
from simulation.scheduler import Scheduler, SimThread, SimulationError, scheduling
from simulation.second import SecondMount
from simulation.words import describe_bytes
from swiftfs import concurrency, sqlite
from swiftfs.config.cache_dir import CONTENT
from swiftfs.errors import NotFound, PreconditionFailed, SwiftfsError
from swiftfs.journal import backlog, schema, task_queue
from swiftfs.journal.queue_report import QueuedChange
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

T = TypeVar("T")

FOLDER = "swiftfs-simulation-"
"""The beginning of the names of cache folders."""

QUIET_SECONDS = 1500.0
"""Virtual seconds after the last fault within which the queue and the leftovers must be empty."""

MOVED_SECONDS = 30.0
"""Virtual seconds within which a mount has looked at the objects that the one before was moving."""

IDLE_SYNC_SECONDS = 15.0
"""Virtual seconds between two syncs of the database while the end of a history is waited for."""

PATIENCE = 4000.0
"""Virtual seconds that programs may take: a call that takes longer hangs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a history: its failures, the checksum of its choices, and its events."""

    failures: tuple[str, ...]
    digest: int
    points: int
    story: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The first failure, without names and numbers."""
        first = self.failures[0].splitlines()[0] if self.failures else ""
        return re.sub(r"[/\d]\S*|'.*", "", first)[:60]


def run(history: History, folder: Path | None = None) -> Outcome:
    """Run a history in a new folder below `folder`."""
    with ExitStack() as stack:
        cache = Path(tempfile.mkdtemp(prefix=FOLDER, dir=folder))
        stack.callback(shutil.rmtree, cache, ignore_errors=True)
        scheduler = stack.enter_context(scheduling(history.seed, history.rates))
        scheduler.folder = str(cache)
        second = cache / "second" if history.two_mounts else None
        simulation = _Simulation(history, scheduler, cache, second)
        stack.enter_context(seeded(scheduler, simulation.log_handler()))
        stack.enter_context(watched(simulation.disk, simulation.mark))
        # Of half of the seeds every file that waits is packed at once: else so few never are.
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(backlog, "SYNC_SECONDS", backlog.SYNC_SECONDS)  # `_settle` changes it
        patch.setattr(task_queue, "AWAKE", 0 if history.seed // 2 % 2 else task_queue.AWAKE)
        # What takes time and decides nothing here: all databases are of this release, and the disk is large.
        patch.setattr(sqlite, "_check_format_read_only", lambda _path, _schema: None)
        patch.setattr(schema, "RESERVE", 4096)
        try:
            simulation.run()
        except SimulationError as error:
            scheduler.failures.append(str(error))
        scheduler.failures.extend(concurrency.take_violations())
        story = tuple(f"{when:10.3f} {text}" for when, text in scheduler.events)
        return Outcome(tuple(scheduler.failures), scheduler.digest, scheduler.points, story)


def close_left() -> None:
    """Close descriptors that killed mounts have left open; no history may be running."""
    gc.collect()  # mappings have descriptors of their own, which they close when they are freed
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(link.readlink())
            if f"/{FOLDER}" in target and f"/{CONTENT}/" in target:
                os.close(int(link.name))


class _Simulation:
    """The store, the model and the mounts of one history."""

    def __init__(self, history: History, scheduler: Scheduler, cache: Path, second: Path | None) -> None:
        self._history = history
        # Others wait until the listings show all: a mount finds the segments of a dead process by a listing.
        self._is_hasty = bool(history.seed % 2) and history.lag > 0.0
        self._scheduler = scheduler
        self._cache = cache
        self._model = Model()
        refusals = any(one.kind in REFUSALS for one in history.faults)
        self._attributes = KnownAttributes(self._model, has_refusals=refusals)
        self.disk = Disk(cache, history.seed, self._is_disk_full, may_be_cut=history.has_power_cuts)
        self._store = Adversary(
            scheduler,
            history.faults,
            history.outages,
            lag=history.lag,
            bulk=history.bulk,
            seed=history.seed,
        )
        self._store.changed = self._check_object
        self._unfinished: list[str] = []
        self._had_power_cut = self._needs_person = False
        self._was_killed = False
        self._filesystem: FileSystem | None = None
        self._second = SecondMount(scheduler, self._store, second, history) if second is not None else None

    def run(self) -> None:
        """Run all lives; then check the result without faults."""
        for number, life in enumerate(self._history.lives, 1):
            self._scheduler.record(f"mount {number}")
            if not self._run_life(life):
                break
        if self._scheduler.failures:
            return
        self._store.calm()
        self._scheduler.record("the last mount; nothing fails any more")
        self._finish()

    def _run_life(self, life: Life) -> bool:
        """Mount, run the programs, and end the mount; return whether another life can follow."""
        kill = life.kill
        if kill is not None and kill.step == BEGIN:
            return self._run_beginning(kill)
        filesystem = self._mount()
        if filesystem is None:
            return False
        if not self._look(filesystem, "at the mount"):
            self._unmount(filesystem)
            return False
        doubts = any(fault.kind == "flipped" for fault in self._history.faults)
        shared = self._scheduler, self._store, self._model, filesystem, self._attributes
        context = MountContext(*shared, doubts_reads=doubts, second=self._second)
        programs = [
            self._scheduler.spawn(
                partial(Program(context, f"program {number}").run, steps, self._kill_of(life, number)),
                f"program {number}",
            )
            for number, steps in enumerate(life.programs)
        ]
        self._wait_for(programs, "the programs")
        if kill is not None and kill.step == END:
            self._scheduler.kill_at = self._scheduler.points + kill.points
        elif kill is not None and not self._scheduler.killed:
            self._kill_idle()
        if not self._scheduler.killed:
            self._unmount(filesystem)
        if self._scheduler.killed:
            self._kill(cut=kill is not None and kill.cut)
        return not self._scheduler.failures

    def _run_beginning(self, kill: Kill) -> bool:
        """Kill a mount as it takes up what the one before has left."""
        self._scheduler.kill_at = self._scheduler.points + kill.points
        self._mount()
        if not self._scheduler.killed:
            self._kill_idle()
        self._kill(cut=kill.cut)
        return not self._scheduler.failures

    def _kill_idle(self) -> None:
        self._scheduler.kill_at = self._scheduler.points + 1
        self._wait_for([self._scheduler.spawn(lambda: self._scheduler.sleep(1e6), "idle")], "the kill")

    def _kill_of(self, life: Life, number: int) -> Callable[[int], None]:
        def begins(step: int) -> None:
            if life.kill is not None and number == 0 and step == life.kill.step:
                self._scheduler.kill_at = self._scheduler.points + life.kill.points

        return begins

    def _is_disk_full(self) -> bool:
        if not self._store.loud or not any(
            one.includes(self._scheduler.now) for one in self._history.disk_full
        ):
            return False
        self._store.met.append("the disk is full")
        return True

    def log_handler(self) -> logging.Handler:
        """Return what learns from the log."""
        return UnexpectedErrors(self._scheduler, self._unfinished, self._model.stayed, self._model.remnants)

    def mark(self) -> Callable[[], None]:
        """Return what records that all that holds now is synced to the disk."""
        if not self._history.has_power_cuts:
            return lambda: None
        return partial(self._model.synced, self._model.moment())

    def _kill(self, *, cut: bool) -> None:
        self._scheduler.record("power cut" if cut else "kill -9")
        self._was_killed = True
        self._scheduler.freeze()
        self._store.client_died()
        self._model.crashed()
        if cut:
            self.disk.cut()
            self._model.lost_power()
            self._had_power_cut = True
            self._is_hasty = False  # what the mount has stored just now it may not know any more
        else:
            detach(self._cache)
        if self._second is not None:
            self._second.killed()

    def _unmount(self, filesystem: FileSystem) -> None:
        def close() -> None:
            with suppress(SwiftfsError):
                filesystem.close()
            if self._second is not None:
                self._second.end()

        self._scheduler.record("unmount")
        self._wait_for([self._scheduler.spawn(close, "unmount")], "the unmount")
        if self._scheduler.killed:
            return
        self._model.unmounted()
        for thread in self._scheduler.threads:
            if thread.name != "late answers":  # it may wait for an answer; it ends with the process
                self._scheduler.failures.append(f"the unmount left the thread {thread.stack()}")
        self._scheduler.freeze()
        self._store.client_died()

    def _mount(self) -> FileSystem | None:
        """Mount, with repetitions while the server does not answer."""

        def attempt(begin: Callable[[], T]) -> T:
            self._scheduler.sleep(self._lag_of_others())
            while True:
                try:
                    return begin()
                except (SwiftfsError, OSError) as error:
                    self._scheduler.record(f"no mount: {error}")
                    self._scheduler.sleep(30.0)

        first = partial(mount, self._store, self._cache, self._history.options)
        self._filesystem = filesystem = self._do(lambda: attempt(first), "mount")
        if (second := self._second) is not None:
            self._do(lambda: attempt(second.begin), "second mount")
        return filesystem

    def _look(self, filesystem: FileSystem, when: str, *, again: bool = False) -> bool:
        """Compare what the mount shows with the model; no request fails meanwhile.

        Return False if it is wrong; that is no failure while a late request may be unnoticed. Attributes that
        the mount has stored for the one before it may be old until the listings show them.
        """
        loud, self._store.loud, self._scheduler.may_stall = self._store.loud, False, False
        found = self._do(partial(self._tree, filesystem), "look")
        look = partial(attributes_of, filesystem, found or {}, has_tags=self._history.has_tags)
        seen = self._do(look, "look at attributes") if found else {}
        self._store.loud, self._scheduler.may_stall = loud, True
        if found is None:
            return False
        problems = self._model.problems(found)
        if not problems and (self._store.has_remnants or self._store.is_unsettled):
            return False  # what a program sees may be undone later
        if not problems and seen is not None:
            wrong = self._attributes.problems(found, seen)
            if wrong and self._lag_of_others() and not again:
                return self._look(filesystem, when, again=True)
            self._scheduler.failures += [f"{when}: {problem}" for problem in wrong]
            self._model.adopt(found)
            self._attributes.adopt(seen)
        elif not self._store.is_unsettled:
            self._scheduler.failures += [f"{when}: {problem}" for problem in self._lasting(found)]
        return not problems

    def _tree(self, filesystem: FileSystem, *, again: bool = False) -> Tree | None:
        """Return what a mount shows; None if a call fails because a late request is undone meanwhile.

        What a power cut has left in Swift in a newer version than in the journal is listed as before, until
        its move has looked.
        """
        if lag := self._lag_of_others():
            self._scheduler.sleep(lag)
            filesystem.refresh()
        try:
            return self._tree_now(filesystem)
        except (SwiftfsError, OSError) as error:
            if lag and self._second is not None and isinstance(error, PreconditionFailed):
                return self._tree(filesystem)  # replaced after the pause
            if self._had_power_cut and isinstance(error, PreconditionFailed) and not again:
                self._scheduler.sleep(MOVED_SECONDS)
                return self._tree(filesystem, again=True)
            if not self._store.is_unsettled:
                raise
            return None

    def _tree_now(self, filesystem: FileSystem) -> Tree:
        look = partial(tree_of, filesystem, mixed=self._model.mixed, lost=self._model.lost_paths)
        try:
            return look()
        except FileNotFoundError:  # a folder was there only as long as a deletion below it waited
            return look()

    def _lag_of_others(self) -> float:
        """Return for how many seconds listings may not show what another client has stored.

        A mount knows its own changes, and those of the mounts before it. With `sync` it forgets a change
        whose call has failed; the next one cannot know that it was carried out, and only its answer lost.
        """
        forgets = self._was_killed and self._history.options.get("sync", False)
        is_forgotten = forgets and any(one.kind == "lost" for one in self._history.faults)
        return self._history.lag if self._model.theirs or not self._is_hasty or is_forgotten else 0.0

    def _lasting(self, found: Tree) -> list[str]:
        """Return problems that remain even if the mount could not finish an interrupted rename."""
        return self._model.problems(found, torn=bool(self._store.met))

    def _finish(self) -> None:
        filesystem = self._mount()
        if filesystem is None:
            return
        self._look(filesystem, "at the last mount")
        self._do(partial(self._settle, filesystem), "settle")
        if not self._scheduler.failures:
            self._look(filesystem, "when all is quiet")
        if self._second is not None and not self._scheduler.failures:
            differences = self._do(self._second.differences, "second look") or []
            self._scheduler.failures += [f"the second mount shows another {path}" for path in differences]
        if self._scheduler.failures:
            return
        self._unmount(filesystem)
        self._check_server()

    def _settle(self, filesystem: FileSystem) -> bool:
        """Wait until nothing is pending and nothing is watched."""
        journal = filesystem.services.journal
        end = self._scheduler.now + QUIET_SECONDS
        journal.retry()
        if self._second is not None:
            self._second.retry()
        self._scheduler.sleep(5.0)
        # The thread that syncs would make most of the points of a history. From now on nothing is killed.
        backlog.SYNC_SECONDS = IDLE_SYNC_SECONDS
        while self._scheduler.now < end:
            watched = journal.late.counts().watched > 0
            is_idle = self._second is None or self._second.is_idle()
            if not filesystem.waiting() and not watched and is_idle and not self._store.is_unsettled:
                break
            self._scheduler.sleep(20.0)
        waiting = filesystem.waiting()
        if self._model.mixed:  # a file changed here and elsewhere at once may wait for a person
            self._needs_person = any(change.state == "parked" for change in waiting)
            waiting = []
        parked = {change.path for change in waiting if self._is_of_two(change)}
        for change in waiting:
            if change.path in parked:  # or it waits behind that
                self._needs_person = True
            else:
                self._scheduler.failures.append(f"still waiting at the end: {change}")
        # Segments that a lost manifest may name are kept for ten minutes.
        if orphans(self._store):
            self._scheduler.sleep(700.0)
        return True

    def _is_of_two(self, change: QueuedChange) -> bool:
        """Return whether a change waits because another client has stored something at its new name."""
        if change.kind == "MoveObject":
            return change.state == "parked" and "another client" in change.reason
        return change.path in self._model.their_paths

    def _check_server(self) -> None:
        failures = self._scheduler.failures
        failures += [f"half an object: {problem}" for problem in broken_manifests(self._store)]
        if failures or self._needs_person:
            return
        found = stored_tree(self._store)
        problems = self._lasting(found)
        problems = problems or self._attributes.problems(found, stored_attributes(self._store, found))
        failures += [f"at the server: {problem}" for problem in problems]
        if not self._history.lag and not any(one.kind in ("lost", "late") for one in self._history.faults):
            lost = [path for path, body in self._model.due.items() if body not in found.values()]
            failures += [f"destroyed: what another client has stored as {path}" for path in lost]
        # What a late request or another client overwrites, while it moves, leaves its segments: nothing
        # proves that no other name needs them.
        is_known = not self._store.was_overtaken and not self._store.was_separated
        # After a power cut nothing may name the prefix of an upload that began within its last second.
        if not self._model.mixed and is_known and not self._is_hasty and not self._had_power_cut:
            left = [name for name in orphans(self._store) if not self._was_given_up(name)]
            failures += [f"an orphan segment: {name}" for name in left]

    def _was_given_up(self, segment: str) -> bool:
        """Return whether a segment is of an `unnamed` file, or of a file of an unfinished rename.

        Who replaces a file leaves its segments, and a rename that fails then does not delete them. A mount
        that could not finish the rename of an earlier one does not know whether the old place still has the
        file, or another client has renamed it from there; nor who has removed one that is gone. So it has no
        proof for the segments if the file is deleted or overwritten at the new one.
        """
        if segment in self._store.unnamed:
            return True
        return any(segment.startswith(f"{key.rstrip('/')}/") for key in self._unfinished)

    def _check_object(self, method: str, name: ObjectName) -> None:
        """Assert, after a change at the server, that other clients read no partial objects."""
        if name.container == SEGMENTS:
            if method.startswith("delete"):
                broken = broken_manifests(self._store)
                self._scheduler.failures += [f"half an object: {problem}" for problem in broken]
            return
        try:
            body = stored_body(self._store, name)
        except NotFound as error:
            self._scheduler.failures.append(f"half an object: {name} names {error}, which is gone")
            return
        path = f"/{name.key.rstrip('/')}"
        if method == "theirs" and is_marker(self._store, name):
            self._model.their_folders.add(path)
        elif method == "theirs" and body is not None:
            sure = any(fault.kind == "theirs first" for fault in self._history.faults)
            self._model.stored_theirs(path, body, sure=sure)
            one = self._filesystem
            if one is not None and (will_replace(one, name) or moves_to(one, name)):
                self._model.touch(path)
            self._lost_below(name)
        if self._second is not None and method in ("theirs", DELETED_BY_THEM):
            self._model.shared(path)
        if method == DELETED_BY_THEM:
            self._model.deleted_theirs(path)
            self._lost_below(name)
        is_known = body is None or body in self._model.bodies or self._model.may_be_mixed(body)
        if body is not None and not is_known and not self._model.mixed:
            self._scheduler.failures.append(f"invented: {method} made {name} {describe_bytes(body)}")

    def _lost_below(self, name: ObjectName) -> None:
        """Record that another client has replaced or deleted what is to move from a name."""
        if self._filesystem is not None:
            for new in moving_from(self._filesystem, self._store, name):
                self._model.lost(new)

    def _do(self, call: Callable[[], T], name: str) -> T | None:
        """Make a call in a simulated thread; return None if it failed."""
        results: list[T] = []
        thread = self._scheduler.spawn(lambda: results.append(call()), name)
        self._wait_for([thread], f"the {name}")
        return results[0] if results else None

    def _wait_for(self, threads: Sequence[SimThread], what: str) -> None:
        end = self._scheduler.now + PATIENCE
        left = list(threads)

        def is_over() -> bool:  # called after each switch
            while left and left[-1].ended:
                left.pop()
            return not left or self._scheduler.now > end

        self._scheduler.run(is_over)
        if self._scheduler.now > end and not self._scheduler.killed:
            raise SimulationError(f"{what} hang\n{self._scheduler.stacks()}")
