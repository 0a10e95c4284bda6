"""Records which objects are below the prefix of one file's segments, and which manifests may name them."""

import re
import uuid
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from swiftfs.concurrency import Rank, new_lock, unix_time
from swiftfs.filecache.segment_container import LONGEST_KEY, SegmentContainer, SegmentContainerChooser
from swiftfs.objects import Manifest, ObjectName

_UNIQUE = 12
"""Hexadecimal digits at the end of a segment's name."""

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


@dataclass(frozen=True, slots=True)
class UnreferencedPrefix:
    """A prefix with segments that no manifest names; `named` are the keys of those that a manifest does name.

    If `named` is None there are no others. `file` is the local file of the segments. A manifest of one of
    `objects` may name them. `asked` are the ETags of manifests whose PUT has no answer; the last one was sent
    at `since` (Unix seconds). `landed` are those of them that Swift was seen to have. `sent` are the keys of
    segments that are being stored, or were when the process died: Swift may still carry that out.
    """

    prefix: ObjectName
    named: frozenset[str] | None
    file: str = ""
    objects: frozenset[ObjectName] = frozenset()
    asked: frozenset[str] = frozenset()
    since: float = 0.0
    landed: frozenset[str] = frozenset()
    sent: frozenset[str] = frozenset()

    @property
    def is_in_doubt(self) -> bool:
        """Whether the PUT of a manifest may still be carried out."""
        return bool(self.asked - self.landed)


class UploadRecord:
    """What is recorded of one file's segments, all below `prefix`, before the request that makes it true.

    `_on_first_put` is called before the first segment that no manifest names is stored, and `_on_put` before
    each later one; the request waits for it. `_asked` are the ETags of manifests whose PUT has no answer;
    `_landed` are those of them that Swift was seen to have. `_sent` are the keys of segments whose PUT has no
    answer, `_inherited` those of an earlier process. `named` are the segments of the manifest that Swift has.
    The record `is_inherited` until somebody has looked for the segments of an earlier process.

    `lock` guards every field, and those of the uploader. It is not held across the network, nor while the
    record is written. `begin_lock` comes before it; while it is held no upload begins.
    """

    def __init__(
        self,
        places: SegmentContainerChooser,
        name: ObjectName,
        prefix: ObjectName | None = None,
        on_first_put: Callable[[UnreferencedPrefix], None] | None = None,
        file: str = "",
        journal: str = "",
        on_put: Callable[[UnreferencedPrefix], None] | None = None,
    ) -> None:
        self._places = places
        self._container = name.container
        self._on_first_put = on_first_put
        self._on_put = on_put
        self._file = file
        self._objects = {name}
        self._asked: set[str] = set()
        self._landed: set[str] = set()
        self._sent: set[str] = set()
        self._inherited: set[str] = set()
        self._since = 0.0
        # The record of a close may name the prefix before anything is stored there. The server is not asked
        # yet.
        self.prefix = prefix or places.likely(name.container).name(segment_prefix(name, journal))
        self._is_placed = prefix is not None
        self._has_begun = self.is_inherited = prefix is not None
        # The record of a file may name a prefix whose row is gone: a manifest named all its segments.
        self._has_row = False
        self.named: set[ObjectName] = set()
        self.begin_lock = new_lock(Rank.SEGMENTS_BEGIN)
        self.lock = new_lock(Rank.SEGMENTS)

    @property
    def has_begun(self) -> bool:
        """Whether there may be segments that no manifest names."""
        return self._has_begun

    def update(self, *, all_named: bool) -> UnreferencedPrefix | None:
        """Return what is below the prefix now, None if nothing has begun since the last time.

        Both locks are held. `all_named` means that Swift's manifest names every segment.
        """
        if not self._has_begun:
            return None
        # While a manifest may still come to stand, the row must stay, with the names that it needs.
        stored = all_named and not (self._asked or self._sent or self._inherited)
        self._has_begun = self._has_row = not stored
        return UnreferencedPrefix(self.prefix, None) if stored else self._state()

    def _state(self) -> UnreferencedPrefix:
        return UnreferencedPrefix(
            self.prefix,
            frozenset(name.key for name in self.named),
            self._file,
            frozenset(self._objects),
            frozenset(self._asked),
            self._since,
            frozenset(self._landed),
            frozenset(self._sent | self._inherited),
        )

    def state(self) -> UnreferencedPrefix:
        """Return what may be below the prefix, and which manifests may name it."""
        with self.lock:
            return self._state()

    def asks(self, name: ObjectName, manifest: Manifest) -> bool:
        """Record that the manifest is about to be stored as `name`, because the answer may be lost.

        Return False if an earlier PUT of it has no answer.
        """
        self.begin_storing()
        with self.begin_lock:
            with self.lock:
                is_new = manifest.etag not in self._asked
                self._objects.add(name)
                self._asked.add(manifest.etag)
                self._since = unix_time()
                state = self._state()
            # Outside of `lock`, which writers need: this waits for the journal's disk.
            if self._on_first_put is not None:
                self._on_first_put(state)
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
            in_doubt = bool(self._asked - self._landed - ({manifest.etag} if manifest else set()))
            self._asked.clear()
            self._landed.clear()
            return in_doubt

    def landed(self, etag: str) -> bool:
        """Return whether the version that Swift has is a manifest of ours whose PUT had no answer.

        If it is, record that this PUT was carried out.
        """
        with self.begin_lock:
            with self.lock:
                is_new = etag in self._asked - self._landed
                if is_new:
                    self._landed.add(etag)
                state, is_ours = self._state(), etag in self._landed
            if is_new and self._on_first_put is not None:
                with suppress(OSError):  # without the record clean-up waits some minutes before it deletes
                    self._on_first_put(state)
        return is_ours

    @property
    def is_in_doubt(self) -> bool:
        """Whether the PUT of a manifest has no answer."""
        with self.lock:
            return bool(self._asked)

    def recall(self, state: UnreferencedPrefix) -> None:
        """Take over the record of an earlier process."""
        with self.lock:
            self._objects |= state.objects
            self._asked |= state.asked
            self._landed |= state.landed
            self._inherited |= state.sent
            self._since = max(self._since, state.since)
            self._has_row = True

    def take_inherited(self, listed: Collection[str], needed: Collection[ObjectName]) -> set[ObjectName]:
        """Return and forget the segments that an earlier process has sent and Swift has not `listed`.

        Those that are `needed` are not among them: they were answered, and a listing may lag. Lock held.
        """
        inherited, self._inherited = self._inherited, set()
        names = {ObjectName(self.prefix.container, key) for key in inherited.difference(listed)}
        return names.difference(needed, self.named)

    def begin_storing(self) -> None:
        """Choose the container, and record the prefix before the first object is stored below it."""
        # Without the locks: it may send requests.
        place = self._places.of(self._container)
        with self.begin_lock:
            self._begin(place)

    def begin_segment(self, what: str) -> ObjectName:
        """Return the name for a segment, which is recorded with the prefix before it is stored.

        It is never used again, because a manifest may name the old segment.
        """
        place = self._places.of(self._container)
        with self.begin_lock:
            self._place(place)
            name = ObjectName(self.prefix.container, f"{self.prefix.key}{what}-{uuid.uuid4().hex[:_UNIQUE]}")
            with self.lock:
                self._sent.add(name.key)
            if not self._has_row:
                try:
                    self._begin(place)
                except BaseException:
                    with self.lock:
                        self.segments_ended([name])
                    raise
            elif self._on_put is not None:
                # With a full disk the PUT frees space. Without the record a kill -9 at this moment may leave
                # a segment.
                with suppress(OSError):
                    self._on_put(self.state())
        return name

    def segments_ended(self, names: Iterable[ObjectName]) -> None:
        """Record that segments are stored, or will not be, or are to be deleted. Lock held."""
        self._sent.difference_update(name.key for name in names)

    def _place(self, place: SegmentContainer) -> None:
        if not self._is_placed:
            # The server has refused the likely place.
            self.prefix = place.instead(self._places.likely(self._container), self.prefix)
            self._is_placed = True

    def _begin(self, place: SegmentContainer) -> None:
        self._place(place)
        # The row is committed before the first PUT, or a kill -9 would leave segments that nobody looks for.
        if not self._has_row and self._on_first_put is not None:
            self._on_first_put(self.state())
        self._has_begun = self._has_row = True
