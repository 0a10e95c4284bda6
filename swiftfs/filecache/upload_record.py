"""Records the segments below one file's prefix, and the manifests that may name them."""

import itertools
import math
import re
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from enum import Enum

from msgspec import Struct

from swiftfs.concurrency import Executor, Lock, steady_time
from swiftfs.filecache.segment_container import (
    LONGEST_KEY,
    SegmentContainer,
    SegmentContainerChooser,
    place_inside,
)
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.objects import Manifest, ObjectName, check_transition, equal_but
from swiftfs.store.protocol import ObjectStore

RECORDS_KEPT = 3
"""The stored states of a file whose records' segments are kept: more than the journal has records of."""

_UNIQUE = 12
"""Hexadecimal digits at the end of a segment's name."""

_revisions = itertools.count(1)

NO_JOURNAL = "0" * 12
"""Stands for a journal's id in the prefixes of `swiftfs cp`: the only copy of a file is never below one."""

_PREFIX = re.compile(r".+/swiftfs-[0-9a-f]{20}([0-9a-f]{12})/?", re.DOTALL)


def segment_prefix(name: ObjectName, journal: str = "") -> str:
    """Return a prefix for segment keys that no other upload of any client has.

    It ends in the id, 12 hexadecimal digits, of the `journal` that knows whether the upload goes on.
    """
    key = name.key.encode()[:LONGEST_KEY].decode(errors="ignore")
    # A new prefix for each local file: two uploads of one name must never delete each other's segments.
    return f"{key}/swiftfs-{uuid.uuid4().hex[: 32 - len(journal)]}{journal}/"


def journal_of(prefix: str) -> str | None:
    """Return the id of the journal that made a prefix of ours, None for a prefix of another client.

    Uploads of release 0.1 have random digits there, which are no journal's.
    """
    match = _PREFIX.fullmatch(prefix)
    return match[1] if match else None


class UnreferencedPrefix(Struct, frozen=True):
    """A prefix with segments that no manifest names; `named` are the keys of those that a manifest does name.

    If `named` is None there are no others. `file` is the local file of the segments. A manifest of one of
    `objects` may name them. `asked` are the ETags of manifests whose PUT has no answer; the last one was sent
    at `since` (Unix seconds). `landed` are those of them that Swift was seen to have. `sent` are the keys of
    segments that are being stored, or were when the process died: Swift may still carry that out.

    Of two of one process about one prefix, that with the higher `revision` is newer. The default is the last.
    """

    prefix: ObjectName
    named: frozenset[str] | None
    file: str = ""
    objects: frozenset[ObjectName] = frozenset()
    asked: frozenset[str] = frozenset()
    since: float = 0.0
    landed: frozenset[str] = frozenset()
    sent: frozenset[str] = frozenset()
    revision: float = math.inf

    def __eq__(self, other: object) -> bool:
        return equal_but("revision", self, other)

    def __hash__(self) -> int:
        raise TypeError("it is not hashed")

    def has_new(self, segment: ObjectName) -> bool:
        """Return whether a segment was stored for the upload, and no answered manifest named it."""
        is_below = segment.container == self.prefix.container and segment.key.startswith(self.prefix.key)
        return is_below and segment.key not in (self.named or ())

    @property
    def may_land_late(self) -> bool:
        """Whether the PUT of a manifest may still be carried out."""
        return bool(self.asked - self.landed)


def write_no_row(_row: UnreferencedPrefix) -> None:
    """Do nothing: there is no journal."""


class SharedUploads(Struct, frozen=True):
    """What the uploads of the segments of all files share.

    `places` says which container the segments go to, `layout` where in a file they begin. `on_first_put` is
    called with a prefix before the first segment is stored below it, `on_put` before each later one. The
    prefix ends in the id of the `journal`.
    """

    store: ObjectStore
    places: SegmentContainerChooser
    pool: Executor
    layout: SegmentLayout
    on_first_put: Callable[[UnreferencedPrefix], None] = write_no_row
    on_put: Callable[[UnreferencedPrefix], None] = write_no_row
    journal: str = ""


class PrefixState(Enum):
    """Whether there may be segments below a prefix that no manifest names, and whether a row tells of them.

    The row is in the journal's database.
    """

    UNUSED = "unused"
    """There are none."""
    INHERITED = "inherited"
    """An earlier process may have stored some; it left no row."""
    RECORDED = "recorded"
    """There is a row."""


FOLLOWING: Mapping[PrefixState, tuple[PrefixState, ...]] = {
    PrefixState.UNUSED: (PrefixState.RECORDED,),
    PrefixState.INHERITED: (PrefixState.RECORDED, PrefixState.UNUSED),
    PrefixState.RECORDED: (PrefixState.RECORDED, PrefixState.UNUSED),
}


class UploadRecord:
    """The record of one file's segments, all below `prefix`; written before the request that makes it true.

    `_on_first_put` is called before the first segment that no manifest names is stored, and `_on_put` before
    each later one; the request waits for it. `_asked` are the ETags of manifests whose PUT has no answer;
    `_landed` are those of them that Swift was seen to have. Those that are `_settled`, by an answer, stay
    among them until the journal has recorded that. `_sent` are the keys of segments whose PUT has no
    answer, `_inherited` those of an earlier process. `named` are the segments of the manifest that Swift has.
    The record `is_inherited` until somebody has looked for the segments of an earlier process.

    `lock` is the file's. It guards every field, and is held neither across the network nor while the row is
    written: the revisions say which of two rows is newer.
    """

    def __init__(
        self,
        shared: SharedUploads,
        lock: Lock,
        name: ObjectName,
        prefix: ObjectName | None = None,
        file: str = "",
    ) -> None:
        self._places = shared.places
        self._container = name.container
        self._on_first_put, self._on_put = shared.on_first_put, shared.on_put
        self._file = file
        self._objects = {name}
        self._asked: set[str] = set()
        self._landed: set[str] = set()
        self._settled: set[str] = set()
        self._sent: set[str] = set()
        self._inherited: set[str] = set()
        self._since = 0.0
        self._prefix = prefix
        self._name = name
        self._journal = shared.journal
        self._is_placed = self.is_inherited = prefix is not None
        # The record of a file may name a prefix whose row is gone: a manifest named all its segments.
        self._state = PrefixState.UNUSED if prefix is None else PrefixState.INHERITED
        self.named: set[ObjectName] = set()
        self.lock = lock

    def _become(self, state: PrefixState) -> None:
        check_transition("a prefix", FOLLOWING, self._state, state)
        self._state = state

    @property
    def prefix(self) -> ObjectName:
        """Where the segments are; made when it is first needed, since most files have none.

        The record of a close may name it before anything is stored there, so the server is not asked yet.
        """
        with self.lock:
            if self._prefix is None:
                place = self._places.likely(self._container)
                self._prefix = place.name(segment_prefix(self._name, self._journal))
            return self._prefix

    def keep_out_of(self, dlo_prefix: ObjectName) -> None:
        """Put the segments elsewhere if they would be below a DLO's prefix, and so a part of that object."""
        prefix, below = self.prefix, SegmentContainer(dlo_prefix.container, dlo_prefix.key)
        with self.lock:
            if self._state is PrefixState.UNUSED and below.holds(prefix):
                self._prefix = place_inside(self._container).name(segment_prefix(self._name, self._journal))
                self._is_placed = True

    @property
    def has_prefix(self) -> bool:
        """Whether anybody has needed the prefix."""
        return self._prefix is not None

    @property
    def has_begun(self) -> bool:
        """Whether there may be segments that no manifest names."""
        return self._state is not PrefixState.UNUSED

    def update(self, *, all_named: bool) -> UnreferencedPrefix | None:
        """Return the row to write now, None if nothing has begun since the last time. Lock held.

        `all_named` means that Swift's manifest names every segment.
        """
        if self._state is PrefixState.UNUSED:
            return None
        asked = self._asked - self._settled
        # While a manifest may still come to stand, the row must stay, with the names that it needs. What was
        # `_inherited` is taken by then: this is called after an upload, which has looked for it.
        if all_named and not (asked or self._sent):
            self._become(PrefixState.UNUSED)
            return UnreferencedPrefix(self.prefix, None, revision=next(_revisions))
        self._become(PrefixState.RECORDED)
        return self._unreferenced(asked)

    def _unreferenced(self, asked: Collection[str] | None = None) -> UnreferencedPrefix:
        """Return the row, with the manifests `asked` for, or with all that are not recorded as answered yet.

        Lock held.
        """
        asked = frozenset(self._asked if asked is None else asked)
        return UnreferencedPrefix(
            self.prefix,
            frozenset(name.key for name in self.named),
            self._file,
            frozenset(self._objects),
            asked,
            self._since,
            asked & self._landed,
            frozenset(self._sent | self._inherited),
            next(_revisions),
        )

    def state(self) -> UnreferencedPrefix:
        """Return what may be below the prefix, and which manifests may name it."""
        with self.lock:
            return self._unreferenced()

    def asks(self, name: ObjectName, manifest: Manifest) -> bool:
        """Record that the manifest is about to be stored as `name`, because the answer may be lost.

        Return False if an earlier PUT of it has no answer.
        """
        place = self._places.of(self._container)
        with self.lock:
            self._place(place)
            is_new = manifest.etag not in self._asked - self._settled
            self._settled.discard(manifest.etag)
            self._objects.add(name)
            self._asked.add(manifest.etag)
            self._since = steady_time()
            row = self._unreferenced()
        # Without the lock, which writers need: this waits for the journal's disk.
        self._on_first_put(row)
        with self.lock:
            self._become(PrefixState.RECORDED)
        return is_new

    def refused(self, manifest: Manifest) -> None:
        """Record that Swift refused the manifest."""
        with self.lock:
            self._asked.discard(manifest.etag)

    def answered(self, manifest: Manifest | None) -> bool:
        """Record that Swift has `manifest`, None for a file stored whole; return whether that is in doubt.

        It is in doubt if an earlier PUT of another manifest, with other segments, may still be carried out.
        """
        with self.lock:
            if manifest is not None:
                self._landed.add(manifest.etag)
            in_doubt = bool(self._asked - self._landed - self._settled)
            # Not forgotten yet: a writer may record a segment of the next upload before the journal records
            # the end of this one. If the process dies between the two, the row tells the next one that this
            # version is ours.
            self._settled |= self._asked
            return in_doubt

    def ended(self) -> None:
        """Record that the journal has recorded the answers. Lock held."""
        self._asked -= self._settled
        self._landed -= self._settled
        self._settled.clear()

    def landed(self, etag: str) -> bool:
        """Return whether the version that Swift has is a manifest of ours whose PUT had no answer.

        If it is, record that this PUT was carried out.
        """
        with self.lock:
            is_new = etag in self._asked - self._landed
            if is_new:
                self._landed.add(etag)
            row, is_ours = self._unreferenced(), etag in self._landed
        if is_new:
            with suppress(OSError):  # without the record clean-up waits some minutes before it deletes
                self._on_first_put(row)
        return is_ours

    @property
    def is_unanswered(self) -> bool:
        """Whether the PUT of a manifest has no answer."""
        with self.lock:
            return bool(self._asked - self._settled)

    def recall(self, state: UnreferencedPrefix) -> None:
        """Take over the record of an earlier process."""
        with self.lock:
            self._objects |= state.objects
            self._asked |= state.asked
            self._landed |= state.landed
            self._inherited |= state.sent
            self._since = max(self._since, state.since)
            self._become(PrefixState.RECORDED)

    def take_inherited(self, listed: Collection[str], needed: Collection[ObjectName]) -> set[ObjectName]:
        """Return and forget the segments that an earlier process has sent and Swift has not `listed`.

        Those that are `needed` are not among them: they were answered, and a listing may lag. Lock held.
        """
        inherited, self._inherited = self._inherited, set()
        names = {ObjectName(self.prefix.container, key) for key in inherited.difference(listed)}
        return names.difference(needed, self.named)

    def begin_segment(self, what: str) -> ObjectName:
        """Return the name for a segment, which is recorded with the prefix before it is stored.

        It is never used again, because a manifest may name the old segment.
        """
        # Without the lock: it may send requests.
        place = self._places.of(self._container)
        with self.lock:
            self._place(place)
            name = ObjectName(self.prefix.container, f"{self.prefix.key}{what}-{uuid.uuid4().hex[:_UNIQUE]}")
            self._sent.add(name.key)
            row, has_row = self._unreferenced(), self._state is PrefixState.RECORDED
        try:
            if has_row:
                # With a full disk the PUT frees space. Without the record a kill -9 at this moment may leave
                # a segment.
                with suppress(OSError):
                    self._on_put(row)
            else:
                # Committed before the first PUT, or a kill -9 would leave segments that nobody looks for.
                self._on_first_put(row)
        except BaseException:
            with self.lock:
                self.segments_ended([name])
            raise
        with self.lock:
            self._become(PrefixState.RECORDED)
        return name

    def segments_ended(self, names: Iterable[ObjectName]) -> None:
        """Record that segments are stored, or will not be, or are to be deleted. Lock held."""
        self._sent.difference_update(name.key for name in names)

    def _place(self, place: SegmentContainer) -> None:
        if not self._is_placed:
            # The server has refused the likely place.
            self._prefix = place.instead(self._places.likely(self._container), self.prefix)
            self._is_placed = True


class RecordedSegments:
    """The segments of one file that its records in the journal name. Not locked: the file's lock guards it.

    The last record needs those that are `protected`. Those that any record of the last `RECORDS_KEPT` stored
    states named are not deleted, because that record may be needed again. Of these, `held` are the ones that
    no manifest names.
    """

    def __init__(self) -> None:
        self.protected: frozenset[ObjectName] = frozenset()
        self.held: list[ObjectName] = []
        self._states: deque[set[ObjectName]] = deque([set()], RECORDS_KEPT)

    def all(self) -> set[ObjectName]:
        """Return those that any of these records named."""
        return set[ObjectName]().union(*self._states)

    def protect(self, names: Collection[ObjectName]) -> None:
        """Record that a record names these."""
        if names or self.protected:
            self.protected = frozenset(names)
            self._states[-1] |= self.protected

    def end_state(self) -> None:
        """Record that the state of the last records is stored, and that the journal has dropped them."""
        self._states.append(set(self.protected))

    def hold(self, unused: Iterable[ObjectName]) -> list[ObjectName]:
        """Hold those of the `unused` ones that a record named; return the others."""
        recorded = self.all()
        free: list[ObjectName] = []
        for name in unused:
            (self.held if name in recorded else free).append(name)
        return free

    def take_held(self) -> list[ObjectName]:
        """Return and forget all that are held."""
        held, self.held = self.held, []
        return held

    def take_released(self) -> list[ObjectName]:
        """Return and forget the held ones that no record needs any more."""
        return self.hold(self.take_held())
