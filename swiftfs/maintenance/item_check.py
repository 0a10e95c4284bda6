"""Checks one file or folder: what Swift says of it, whether a local one is the same, and what is found."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from pathlib import Path

from msgspec import Struct, field, to_builtins
from rich.filesize import decimal

from swiftfs.attributes import NS, decode_type
from swiftfs.errors import NotFound, StoreError, SwiftfsError, Unavailable, in_words
from swiftfs.maintenance.large_objects import Content, Needed, content_of, plain_content, problem_of
from swiftfs.maintenance.trees import Local, Remote, listed_row
from swiftfs.namespace.entry import Defaults, Entry, file_entry
from swiftfs.objects import ObjectName, Row
from swiftfs.paths import MAX_NAME_BYTES
from swiftfs.store.protocol import ObjectStore


class Weight(Enum):
    """What a finding means for the result: a difference, no result, or nothing."""

    DIFFERENCE = auto()
    UNKNOWN = auto()
    NOTE = auto()


KINDS = {
    **dict.fromkeys(("only_here", "only_there", "type", "size", "bytes", "time", "mode"), Weight.DIFFERENCE),
    **dict.fromkeys(("missing", "segment"), Weight.DIFFERENCE),
    **dict.fromkeys(("unknown", "pending"), Weight.UNKNOWN),
    **dict.fromkeys(("name", "orphans", "expires"), Weight.NOTE),
}
"""The kinds of findings. Programs read them: a word never changes its meaning."""


class Finding(Struct, frozen=True):
    """A sentence about `path`, which is relative to what is checked; `kind` is one of `KINDS`."""

    kind: str
    path: str
    text: str

    @property
    def weight(self) -> Weight:
        """What it means for the result."""
        return KINDS[self.kind]

    def to_json(self) -> dict[str, str]:
        """Return the fields that are printed; a path that is not UTF-8 has its bytes as `\\xNN`."""
        path = self.path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return {**to_builtins(self), "path": path}


Report = Callable[[Finding], None]


class Tally(Struct):
    """The numbers of what was checked; sizes in bytes. `hashed` was read here, `downloaded` from Swift."""

    files: int = 0
    folders: int = 0
    links: int = 0
    bytes: int = 0
    large: int = 0
    segments: int = 0
    expiring: int = 0
    hashed: int = 0
    downloaded: int = 0
    differences: int = 0
    unknown: int = 0
    notes: int = 0

    def add(self, other: "Tally") -> None:
        """Add the numbers of another part of what is checked."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def count(self, finding: Finding) -> None:
        """Count a finding."""
        match finding.weight:
            case Weight.DIFFERENCE:
                self.differences += 1
            case Weight.UNKNOWN:
                self.unknown += 1
            case Weight.NOTE:
                self.notes += 1


READ_BYTES = 1024 * 1024
"""Bytes of a read: while they are hashed, other threads run."""

PIECE = 64 * 1024 * 1024
"""Bytes of a GET: what a broken connection repeats at most."""

_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class ChangedMeanwhile(SwiftfsError):
    """A local file changed while it was read."""


class SpanHasher:
    """Hashes bytes that come in order, cut into spans of the given lengths."""

    def __init__(self, spans: Sequence[int]) -> None:
        self._spans = spans
        self._digests: list[str] = []
        self._current = hashlib.md5(usedforsecurity=False)
        self._left = spans[0] if spans else 0
        self._skip_empty()

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes; what comes behind the last span is ignored."""
        view = memoryview(data)
        while view and len(self._digests) < len(self._spans):
            part = view[: self._left]
            self._current.update(part)
            self._left -= len(part)
            view = view[len(part) :]
            self._skip_empty()

    def _skip_empty(self) -> None:
        while not self._left and len(self._digests) < len(self._spans):
            self._digests.append(self._current.hexdigest())
            self._current = hashlib.md5(usedforsecurity=False)
            number = len(self._digests)
            self._left = self._spans[number] if number < len(self._spans) else 0

    def copy(self) -> "SpanHasher":
        """Return one in the same state."""
        other = SpanHasher(())
        other._spans, other._digests = self._spans, list(self._digests)
        other._current, other._left = self._current.copy(), self._left
        return other

    @property
    def digests(self) -> list[str]:
        """The MD5s of the spans that are complete."""
        return self._digests


def hash_file(path: str, spans: Sequence[int], status: os.stat_result) -> list[str]:
    """Return the MD5s of a file's spans; raise `OSError`, `ChangedMeanwhile` unless it is as `status`."""
    hasher = SpanHasher(spans)
    descriptor = os.open(path, _READING)
    try:
        buffer = memoryview(bytearray(min(READ_BYTES, max(1, status.st_size))))
        left = sum(spans)
        while left and (count := os.readv(descriptor, [buffer[: min(left, len(buffer))]])):
            hasher.feed(buffer[:count])
            left -= count
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if left or _version(after) != _version(status):
        raise ChangedMeanwhile("it changed while it was read")
    return hasher.digests


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def hash_object(store: ObjectStore, name: ObjectName, spans: Sequence[int], *, etag: str) -> list[str]:
    """Return the MD5s of the spans of an object, which are as long as the object together.

    Its bytes are never in memory together. Errors are those of `get`.
    """
    hasher, size = SpanHasher(spans), sum(spans)
    for start in range(0, size, PIECE):
        hasher = _hash_piece(store, name, hasher, start, min(PIECE, size - start), etag, size)
    return hasher.digests


def _hash_piece(
    store: ObjectStore, name: ObjectName, before: SpanHasher, start: int, length: int, etag: str, size: int
) -> SpanHasher:
    hasher, expected = before.copy(), start

    def take(offset: int, data: bytes) -> None:
        nonlocal hasher, expected
        if offset == start != expected:  # the request is repeated
            hasher, expected = before.copy(), start
        hasher.feed(data)
        expected = offset + len(data)

    store.get(name, take, offset=start, length=length, etag=etag, size=size)
    return hasher


LOST_AFTER = 10
"""Items without an answer, one after the other, after which the server counts as absent."""

TYPES = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Found = tuple[str, str]
"""The kind of a finding, and what it says."""

_DEFAULTS = Defaults(uid=0, gid=0, special=True)


class Wanted(Struct, frozen=True):
    """What to compare besides type, size and MD5, and whether there is a local folder, called `against`.

    Of `percent` of the files the bytes are read; which ones depends on `seed` and their names. With `expiry`
    each file is asked for when it expires.
    """

    source: str
    against: str = ""
    times: bool = True
    modes: bool = False
    percent: float = 0.0
    seed: int = 0
    expiry: bool = False

    def reads(self, position: str) -> bool:
        """Return whether the bytes of a file are to be read."""
        if not self.percent:
            return False
        digest = hashlib.md5(f"{self.seed}/{position}".encode(errors="replace"), usedforsecurity=False)
        return int.from_bytes(digest.digest()[:6], "big") < self.percent / 100 * 2**48


class Outcome(Struct):
    """What the check of some items has found, and its numbers. `expiries` are paths with an X-Delete-At."""

    findings: list[Finding] = field(default_factory=list)
    needed: list[Needed] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    expiries: list[tuple[str, str]] = field(default_factory=list)


class ItemCheck:
    """Checks items, each with at most one request unless it is a large object or differs."""

    def __init__(self, store: ObjectStore, wanted: Wanted) -> None:
        self._store = store
        self._wanted = wanted
        self._unanswered = 0

    def check(self, remote: Remote | None, local: Local | None, outcome: Outcome) -> None:
        """Check what is in Swift and what is here; one of both may be None. Add what is found.

        Raise `Unavailable` if the server does not answer for several items in a row.
        """
        one = remote or local
        assert one is not None
        try:
            found = self._check(remote, local, outcome)
            outcome.findings += [Finding(kind, one.position, text) for kind, text in found]
        except Unavailable as error:
            # Other threads count too: an outage ends the check as soon as all have met it.
            self._unanswered += 1
            if self._unanswered > LOST_AFTER:
                raise
            outcome.findings.append(Finding("unknown", one.position, str(error)))
        except (StoreError, ChangedMeanwhile) as error:
            outcome.findings.append(Finding("unknown", one.position, str(error)))
        except OSError as error:
            assert local is not None
            # What is gone since the folder was read was not there.
            if error.errno != errno.ENOENT:
                text = f"{local.path}: {error.strerror}"
                outcome.findings.append(Finding("unknown", one.position, text))

    def _check(self, remote: Remote | None, local: Local | None, outcome: Outcome) -> Iterator[Found]:
        if local is not None and local.status is None:
            yield "unknown", f"{local.path}: {local.error}"
            return
        if remote is None:
            assert local is not None
            yield from self._only_here(local)
            return
        yield from _odd_name(remote)
        if self._wanted.against and local is None:
            yield "only_there", f"only in {self._wanted.source}, not in {self._wanted.against}"
        if remote.unreadable:
            yield "unknown", "its row in the listing cannot be read"
        elif remote.is_folder:
            outcome.tally.folders += 1
        else:
            yield from self._file(_File(self._store, remote), local, outcome)

    def _only_here(self, local: Local) -> Iterator[Found]:
        text = f"only in {self._wanted.against}, not in {self._wanted.source}"
        if local.has_no_object:
            below = ", with all that is below it" if local.is_folder else ""
            text += f": no object can have this name{below}"
        yield "only_here", text

    def _file(self, file: "_File", local: Local | None, outcome: Outcome) -> Iterator[Found]:
        try:
            found = list(self._compare(file, local, outcome)) if local is not None else []
            # The bytes of a local file have shown what another client's object is.
            if file.entry.is_slo or self._wanted.expiry or (local is None and file.entry.is_slo is None):
                file.ask()
            found += self._read(file, outcome)
        except NotFound:
            if listed_row(self._store, file.remote.name) is not None:
                yield "missing", "the listing shows it, but there is no such object"
            return
        if file.is_asked:
            self._unanswered = 0
        file.count(outcome)
        yield from found
        if file.is_asked and file.content.gaps:
            yield "segment", file.content.gaps

    def _compare(self, file: "_File", local: Local, outcome: Outcome) -> Iterator[Found]:
        assert local.status is not None
        here, there = stat.S_IFMT(local.status.st_mode), stat.S_IFMT(file.entry.attributes.mode)
        if here != there:
            yield "type", f"{TYPES.get(there, 'unknown')} in {self._wanted.source}, here {TYPES[here]}"
            return
        if there == stat.S_IFREG:
            yield from self._compare_bytes(file, local, local.status, outcome)
        elif there == stat.S_IFLNK and _md5(os.fsencode(Path(local.path).readlink())) != file.row.hash:
            yield "bytes", "the symbolic link has another target"
        yield from self._compare_attributes(file, local.status)

    def _compare_bytes(
        self, file: "_File", local: Local, status: os.stat_result, outcome: Outcome
    ) -> Iterator[Found]:
        if file.entry.is_slo is None and not file.row.size:
            file.ask()  # it may be a DLO: a listing does not show its size
        if file.entry.is_slo:
            file.ask()
        if file.content.size != status.st_size:
            sizes = f"{file.content.size} bytes in {self._wanted.source}, here {status.st_size}"
            yield "size", sizes
            return
        digests = self._hash(file, local, status, outcome)
        if _differs(file.content, digests) and file.entry.is_slo is None and not file.is_asked:
            # Another client's large object: its row does not say so.
            file.ask()
            if file.content.size == status.st_size:
                digests = self._hash(file, local, status, outcome)
        if place := _differs(file.content, digests):
            yield "bytes", f"other bytes, {place}"
        elif any(part.md5 is None for part in file.content.parts):
            yield from self._compare_ranges(file, digests, outcome)

    def _hash(self, file: "_File", local: Local, status: os.stat_result, outcome: Outcome) -> list[str]:
        outcome.tally.hashed += status.st_size
        return hash_file(local.path, file.content.spans, status)

    def _compare_ranges(self, file: "_File", digests: list[str], outcome: Outcome) -> Iterator[Found]:
        """Compare ranges of segments, of which Swift says no MD5."""
        unknown = sum(part.size for part in file.content.parts if part.md5 is None)
        if not self._wanted.percent:
            yield (
                "unknown",
                f"no MD5 is known of {decimal(unknown)}, which are ranges of segments: --bodies reads them",
            )
        elif self._download(file, outcome) != digests:
            yield "bytes", "other bytes, in a range of a segment"

    def _compare_attributes(self, file: "_File", status: os.stat_result) -> Iterator[Found]:
        shown = file.entry.attributes
        if self._wanted.times and shown.mtime_ns // NS != status.st_mtime_ns // NS:
            yield from self._compare_times(file, status)
        here, there = stat.S_IMODE(status.st_mode) & 0o777, stat.S_IMODE(shown.mode) & 0o777
        if self._wanted.modes and here != there and decode_type(file.row.content_type)[1].mode is not None:
            yield "mode", f"mode {there:04o} in {self._wanted.source}, here {here:04o}"

    def _compare_times(self, file: "_File", status: os.stat_result) -> Iterator[Found]:
        mtime_ns = decode_type(file.row.content_type)[1].mtime_ns
        if mtime_ns is None and file.is_asked:
            mtime_ns = file.content.mtime_ns
        # As rsync does: it does not set a time that is in the same second.
        seconds = 0 if mtime_ns is None else mtime_ns // NS - status.st_mtime_ns // NS
        if seconds:
            late = "later" if seconds > 0 else "earlier"
            yield "time", f"its time is {in_words(abs(seconds))} {late} than here"

    def _read(self, file: "_File", outcome: Outcome) -> Iterator[Found]:
        """Read the bytes of a file, if it is chosen, and compare them with the MD5s that Swift says."""
        if not self._wanted.reads(file.remote.position):
            return
        try:
            yield from self._read_bytes(file, outcome)
        except StoreError:
            # A missing segment is reported when all segments are looked up.
            if not any(problem_of(self._store, one) for one in file.content.needed):
                raise

    def _read_bytes(self, file: "_File", outcome: Outcome) -> Iterator[Found]:
        if place := _differs(file.content, self._download(file, outcome)):
            yield "bytes", f"Swift has other bytes than it says, {place}"
        # The MD5 of a range is unknown: the whole segment is read.
        ranges = (one.segment for one in file.content.needed if one.segment.length is not None)
        for name, etag, size in dict.fromkeys((one.name, one.etag, one.size) for one in ranges):
            outcome.tally.downloaded += size
            if hash_object(self._store, name, [size], etag=etag) != [etag]:
                yield "segment", f"segment {name} has other bytes than Swift says"

    def _download(self, file: "_File", outcome: Outcome) -> list[str]:
        if not file.digests:
            if file.entry.is_slo is not False:
                file.ask()
            content = file.content
            file.digests = hash_object(self._store, file.remote.name, content.spans, etag=content.etag)
            outcome.tally.downloaded += content.size
        return file.digests


class _File:
    """A file in Swift: what its row says, and what was asked for besides."""

    def __init__(self, store: ObjectStore, remote: Remote) -> None:
        assert remote.row is not None
        self.remote = remote
        self.row: Row = remote.row
        self.entry: Entry = file_entry("", remote.container, self.row, _DEFAULTS)
        self.content: Content = plain_content(self.row)
        self.digests: list[str] = []
        self.is_asked = False
        self._store = store

    def ask(self) -> None:
        """Learn what the object consists of; raise `NotFound`, and other errors of the store."""
        if not self.is_asked:
            name, path = self.remote.name, self.remote.position
            self.content = content_of(self._store, name, path, is_slo=bool(self.entry.is_slo))
            self.is_asked = True

    def count(self, outcome: Outcome) -> None:
        """Add the file to the numbers, and its segments to those that are needed."""
        outcome.tally.links += self.entry.attributes.is_symlink
        outcome.tally.files += not self.entry.attributes.is_symlink
        outcome.tally.bytes += self.content.size
        outcome.tally.large += self.content.is_large
        outcome.needed += self.content.needed
        if self.content.expires:
            outcome.expiries.append((self.remote.position, self.content.expires))


def _differs(content: Content, digests: list[str]) -> str:
    """Return where the first part with another MD5 is, or an empty string."""
    begin = 0
    for part, digest in zip(content.parts, digests, strict=True):
        if part.md5 not in (None, digest):
            return f"MD5 {digest} instead of {part.md5}" + (f" from byte {begin} on" if begin else "")
        begin += part.size
    return ""


def _odd_name(remote: Remote) -> Iterator[Found]:
    """Say if other programs cannot have a file of this name."""
    if remote.row is None or (remote.row.key.endswith("/") and remote.is_folder):
        return
    components = remote.position.rstrip("/").split("/") if remote.is_folder else remote.position.split("/")
    if "" in components:
        yield "name", "no local folder can hold this name: it has an empty part"
    elif not {".", ".."}.isdisjoint(components):
        yield "name", "no local folder can hold this name: a part of it is . or .."
    elif any(len(one.encode()) > MAX_NAME_BYTES for one in components):
        yield "name", f"no local folder can hold this name: a part of it has more than {MAX_NAME_BYTES} bytes"


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
