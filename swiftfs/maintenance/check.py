"""Checks whether what a listing shows is really there, and the same as in a local folder.

The listing and the sorted walk of the folder are merged, so that neither is in memory; files are checked in
batches by several threads. The segments that manifests name are looked up in their own listings at the end.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from msgspec import Struct

from swiftfs.concurrency import Executor, Future, new_pool, unix_time_ns
from swiftfs.errors import StoreError, in_words
from swiftfs.maintenance.findings import Finding, Report, Tally, Weight
from swiftfs.maintenance.item_check import ItemCheck, Outcome, Wanted
from swiftfs.maintenance.large_objects import Needed, NeededSegments, problem_of
from swiftfs.maintenance.other_journals import PendingNames
from swiftfs.maintenance.trees import Local, Remote, local_tree, remote_tree
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectName
from swiftfs.paths import Source, unescape, without_hidden
from swiftfs.store.protocol import ObjectStore

BATCH = 64
"""Items that a thread checks in a row: to hand over each one takes longer than to hash a small file."""

BATCH_BYTES = 32 * 1024 * 1024
"""Bytes after which a batch ends."""

THREADS = 16
"""Parallel requests; most answers are small."""

READERS = max(4, min(8, os.cpu_count() or 1))
"""Parallel readers of a local folder: a disk may be slower with more."""

AHEAD = 4
"""Batches for each thread that wait, or whose findings wait for those before them."""

SOON_NS = 30 * 86_400 * 10**9
"""The time before its end in which a file "expires soon"."""

Pair = tuple[Remote | None, Local | None]


class Subject(Struct, frozen=True):
    """What is checked: a source, `paths` in it (all without), and the local folder to compare it with."""

    source: Source
    paths: tuple[str, ...] = ()
    against: str = ""


class Check:
    """One check. `report` is called for each finding, and `progress` now and then with the numbers so far."""

    def __init__(
        self,
        store: ObjectStore,
        subject: Subject,
        wanted: Wanted,
        pending: PendingNames,
        report: Report,
        progress: Callable[[Tally], None],
    ) -> None:
        self.tally = Tally()
        self._store = store
        self._subject = subject
        self._wanted = wanted
        self._pending = pending
        self._report = report
        self._progress = progress
        self._items = ItemCheck(store, wanted)

    def run(self) -> None:
        """Check everything. Raise `StoreError` if a listing fails, or the server does not answer any more."""
        threads = READERS if self._subject.against and not self._wanted.percent else THREADS
        with closing(NeededSegments()) as needed:
            pool = new_pool("check", threads)
            try:
                for path in self._subject.paths or ("",):
                    self._check_below(path, pool.submit, threads * AHEAD, needed)
                self._check_segments(needed, pool)
            finally:
                pool.shutdown(cancel_futures=True)

    def _check_below(
        self, path: str, submit: Callable[..., Future[Outcome]], most: int, needed: NeededSegments
    ) -> None:
        running: deque[Future[Outcome]] = deque()
        found = 0
        for batch in _batches(self._pairs(path)):
            running.append(submit(self._check_batch, batch))
            found += len(batch)
            if len(running) > most:
                self._take(running.popleft().result(), needed)
        while running:
            self._take(running.popleft().result(), needed)
        if path and not found:
            self._tell(Finding("missing", path, f"neither a file nor a folder in {self._wanted.source}"))
        elif not found and not self._is_there():
            text = f"there is no folder {self._subject.source}: check its name; a file is given as PATH"
            self._tell(Finding("missing", "", text))

    def _is_there(self) -> bool:
        """Return whether the source itself exists: a container, or a prefix with a marker."""
        source = self._subject.source
        if not source.prefix:
            return True
        plain = source.prefix.removesuffix("/")
        rows = self._store.list_page(source.container, prefix=plain, limit=1).rows
        return any(row.key in (plain, source.prefix) and is_marker(row) for row in rows)

    def _pairs(self, path: str) -> Iterator[Pair]:
        remote = remote_tree(self._store, self._subject.source, _key(path))
        if not self._subject.against:
            return ((one, None) for one in remote)
        return _merged(remote, local_tree(Path(self._subject.against), path))

    def _check_batch(self, batch: Sequence[Pair]) -> Outcome:
        outcome = Outcome()
        for remote, local in batch:
            self._items.check(remote, local, outcome)
        return outcome

    def _take(self, outcome: Outcome, needed: NeededSegments) -> None:
        self.tally.add(outcome.tally)
        needed.add(outcome.needed)
        for finding in outcome.findings:
            self._tell(finding)
        for path, moment in outcome.expiries:
            self._note_expiry(path, moment)
        self._progress(self.tally)

    def _note_expiry(self, path: str, moment: str) -> None:
        self.tally.expiring += 1
        left_ns = int(moment) * 10**9 - unix_time_ns() if moment.isdecimal() else SOON_NS
        if left_ns < SOON_NS:
            self._tell(Finding("expires", path, f"Swift deletes it in {in_words(max(0, left_ns) / 10**9)}"))

    def _check_segments(self, needed: NeededSegments, pool: Executor) -> None:
        """Report each file of which segments are missing or wrong, with the first of them."""
        broken: dict[str, list[str]] = {}
        unlisted = needed.unlisted(self._store)
        while chunk := list(islice(unlisted, BATCH)):
            for one, found in zip(chunk, pool.map(self._problem_of, chunk), strict=True):
                if isinstance(found, StoreError):
                    self._tell(Finding("unknown", one.path, str(found)))
                elif found:
                    broken.setdefault(one.path, []).append(found)
        for path, texts in broken.items():
            others = f"; {len(texts) - 1} more are missing or wrong" if len(texts) > 1 else ""
            self._tell(Finding("segment", path, texts[0] + others))
        self.tally.segments = needed.count
        self._progress(self.tally)

    def _problem_of(self, one: Needed) -> str | StoreError:
        try:
            return problem_of(self._store, one)
        except StoreError as error:
            return error

    def _tell(self, finding: Finding) -> None:
        if finding.weight is Weight.DIFFERENCE and self._pending.covers(self._name_of(finding.path)):
            return  # the caller was told that changes wait
        self.tally.count(finding)
        self._report(finding)

    def _name_of(self, position: str) -> ObjectName:
        source = self._subject.source
        if source.is_account:
            return ObjectName.parse(position)
        return ObjectName(source.container, source.prefix + position)


def _merged(remote: Iterator[Remote], local: Iterator[Local]) -> Iterator[Pair]:
    """Yield what is at each place of two trees."""
    there, here = next(remote, None), next(local, None)
    while there is not None or here is not None:
        if here is not None and here.is_folder and here.status is None:
            # A folder that cannot be read: nothing is known of what should be there.
            yield None, here
            while there is not None and there.position.startswith(here.position):
                there = next(remote, None)
            here = next(local, None)
        elif here is None or (there is not None and there.place < here.place):
            yield there, None
            there = next(remote, None)
        elif there is None or here.place < there.place or here.has_no_object:
            yield None, here
            here = next(local, None)
        else:
            yield there, here
            there, here = next(remote, None), next(local, None)


def _batches(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        row = pair[0].row if pair[0] is not None else None
        size += row.size if row is not None else 0
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _key(path: str) -> str:
    """Return the key that a path in the mount stands for."""
    return "/".join(unescape(name)[0] for name in without_hidden(f"/{path}")[1:].split("/"))
