"""`swiftfs export` and `swiftfs recover`: copy files that are not in Swift to another folder."""

import errno
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click
from msgspec import Struct
from rich.filesize import decimal

from swiftfs.attributes import CACHE_ATTRIBUTE, Stored
from swiftfs.cli.command_line import KINDS, complain
from swiftfs.config import cache_dir
from swiftfs.config.cache_dir import CONTENT, JOURNAL, LOST
from swiftfs.errors import (
    ConfigurationError,
    NotAMount,
    NotYours,
    SwiftfsError,
    mount_error,
    pluralize,
    printable,
)
from swiftfs.filecache.block_map import BLOCK, FileRecord, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.sparse_file import next_data, next_hole, synchronize
from swiftfs.journal import operations
from swiftfs.journal.operations import PutFile, PutMarker, PutSpecial, Unreadable, decode, encode
from swiftfs.journal.salvage import Found, Salvage, is_sound, path_of, salvage
from swiftfs.paths import escape

NAMELESS = "swiftfs-lost"
"""The folder for files whose names are lost."""

PARTIAL = ".swiftfs-partial"
"""The suffix of incomplete copies, whose missing bytes are zeros."""

ROUNDS = 3
"""Attempts to copy a file that changes during the copy."""

_MIB = 1024 * 1024
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAKING = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Tell = Callable[[str], None]


class NotCopied(SwiftfsError):
    """A file could not be copied, or changed meanwhile; the others may be."""


class Tally(Struct):
    """The numbers of copies; `bytes` are those of the files, without holes."""

    files: int = 0
    links: int = 0
    bytes: int = 0


def find_cache(path: Path) -> Path:
    """Return a mount's cache folder, or the path if it is one; else raise `ConfigurationError`."""
    try:
        return Path(os.fsdecode(os.getxattr(path, CACHE_ATTRIBUTE)))
    except OSError as error:
        reason = mount_error(path, error, "give its cache folder instead")
        if isinstance(reason, NotYours):  # it may be a cache folder as well
            raise ConfigurationError(f"{path}: {error.strerror}") from None
        if not isinstance(reason, NotAMount):
            raise reason from None
    if not (path / JOURNAL).exists() and not damaged_journals(path):
        raise ConfigurationError(f"{path} is neither a swiftfs mount nor a cache folder")
    return path


def damaged_journals(cache: Path) -> list[Path]:
    """Return the damaged journals of a cache folder, including its current one if that cannot be read."""
    own = cache / JOURNAL
    return [*cache_dir.damaged_journals(cache), *([own] if own.exists() and not is_sound(own) else [])]


class Export:
    """Copies from the cache folder `cache` to `target`, a folder that is empty or does not exist.

    `tell` is called with a line for each file that could not be copied completely. Raise `SwiftfsError` if
    `target` cannot be written to.

    INVARIANT: symbolic links are made after the last file, so that no path leads out of `target`.
    """

    def __init__(self, cache: Path, target: Path, tell: Tell) -> None:
        self._folders = (cache / CONTENT, cache / LOST)
        self._target = target
        self._tell = tell
        self._links: list[tuple[str, PutSpecial]] = []
        self.tally = Tally()
        try:
            target.mkdir(mode=0o700, exist_ok=True)
            empty = not any(target.iterdir())
        except OSError as error:
            raise ConfigurationError(f"{target}: {error.strerror}") from None
        if not empty:
            raise ConfigurationError(f"{target} is not empty: choose an empty folder")

    def export(self, journal: Path) -> None:
        """Copy the files of a cache folder's journal; its mount may continue meanwhile."""
        self.take(salvage(journal), lambda: salvage(journal))

    def take(self, salvaged: Salvage, again: Callable[[], Salvage] | None = None) -> None:
        """Copy the files of a journal.

        `again` reads it once more: a copy is good if the record is unchanged afterwards, because the local
        file of a stored file may lose its bytes.
        """
        for problem in salvaged.problems:
            self._tell(problem)
        pending = _last_of_each(salvaged.found)
        for found in pending.values():
            self._take_small(found)
        reasons: dict[str, str] = {}
        for _ in range(ROUNDS if again else 1):
            copies, reasons = self._copy_files(pending)
            now = _last_of_each(again().found) if again else pending
            for key, copy in copies.items():
                if key in now and encode(now[key].operation) == encode(pending[key].operation):
                    self._accept(copy)
                else:
                    copy.path.unlink()
                    reasons[key] = "it changed while it was copied"
            pending = {key: now[key] for key in reasons if key in now}
        for key, found in pending.items():
            self._tell(f"{found.path}: {reasons[key]}")

    def take_lost(self, folder: Path, known: Iterable[str]) -> None:
        """Copy the files of a folder whose names are not `known`, under their names there."""
        taken = set(known)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name in taken or not path.is_file() or path.is_symlink():
                continue
            record = FileRecord(path.name, path.stat().st_size, None, Blocks(), None)
            try:
                target = self._new(f"/{NAMELESS}/{path.name}")
                self._accept(_Copy(target, self._copy(record, target)))
            except NotCopied as error:
                self._tell(f"{path}: {error}")

    def finish(self) -> None:
        """Make the links, and return when everything is on the disk."""
        for path, operation in self._links:
            try:
                _make_small(self._new(path), operation)
            except OSError as error:
                self._tell(f"{path}: {error.strerror}")
            except NotCopied as error:
                self._tell(f"{path}: {error}")
            else:
                self.tally.links += 1
        synchronize(self._target)

    def _accept(self, copy: "_Copy") -> None:
        self.tally.files += 1
        self.tally.bytes += copy.bytes
        if copy.line:
            self._tell(copy.line)

    def _take_small(self, found: Found) -> None:
        if isinstance(found.operation, PutMarker):
            with suppress(NotCopied):
                self._new(f"{found.path.rstrip('/')}/x")
        elif isinstance(found.operation, PutSpecial):
            self._links.append((found.path, found.operation))

    def _copy_files(self, pending: dict[str, Found]) -> tuple[dict[str, "_Copy"], dict[str, str]]:
        """Copy files; return the copies, and the reasons for the failed ones."""
        copies, reasons = {}, {}
        for key, found in pending.items():
            if isinstance(found.operation, PutFile):
                try:
                    copies[key] = self._copy_file(found, found.operation)
                except NotCopied as error:
                    reasons[key] = str(error)
        return copies, reasons

    def _copy_file(self, found: Found, operation: PutFile) -> "_Copy":
        record, path = operation.file, found.path
        with self._open(record) as local:
            cut = max(0, record.size - os.fstat(local.fileno()).st_size)
        suffix = "" if record.is_whole and not cut else PARTIAL
        target = self._new(path, suffix)
        copied = self._copy(record, target)
        _set_attributes(target, operation.meta.stored)
        line = ""
        if cut:
            line = f"{path}: {cut} of its {record.size} bytes are gone; the others are copied to {target}"
        elif suffix:
            line = f"{path}: {copied} of its {record.size} bytes are copied to {target}; {_rest_of(record)}"
        elif found.doubt:
            line = f"{path}: {found.doubt}: check {target}"
        elif target != self._target / path.strip("/"):
            line = f"{path}: copied as {target}"
        return _Copy(target, copied, line)

    def _open(self, record: FileRecord) -> BinaryIO:
        """Open a local file, in the folder where it is now."""
        for folder in self._folders:
            with suppress(FileNotFoundError, NotADirectoryError):
                return os.fdopen(os.open(folder / record.file, _READING), "rb")
        raise NotCopied(f"its local file {record.file} is gone")

    def _copy(self, record: FileRecord, target: Path) -> int:
        """Copy the bytes of a local file; return how many."""
        copied = 0
        try:
            with self._open(record) as local, os.fdopen(os.open(target, _MAKING, 0o600), "wb") as copy:
                before = _state_of(local.fileno())
                for start, end in _runs(local.fileno(), record):
                    for offset in range(start, end, _MIB):
                        copy.seek(offset)
                        copied += copy.write(os.pread(local.fileno(), min(_MIB, end - offset), offset))
                # Holes at the end are part of the file.
                copy.truncate(record.size)
                changed = _state_of(local.fileno()) != before
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SwiftfsError(f"{target}: {error.strerror}") from None
            target.unlink(missing_ok=True)
            raise NotCopied(str(error.strerror)) from None
        if changed:
            target.unlink()
            raise NotCopied("it changed while it was copied")
        return copied

    def _new(self, path: str, suffix: str = "") -> Path:
        """Return a free name as close to `path` as possible, and make its folders."""
        *folders, name = map(_component, path.strip("/").split("/"))
        place = self._target
        try:
            for folder in folders:
                place = _free(place / folder, _is_no_folder)
                place.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise NotCopied(f"{place}: {error.strerror}") from None
        return _free(place / (name + suffix), os.path.lexists)


class _Copy(Struct, frozen=True):
    """A copy, the number of its `bytes`, and a `line` to report about it."""

    path: Path
    bytes: int
    line: str = ""


def read_set_aside(folder: Path) -> Salvage:
    """Return the operations that a mount wrote into the folder `lost` because it did not trust them."""
    salvaged = Salvage()
    for path in sorted(folder.glob("intent-*.json")):
        try:
            operation = decode(path.read_text())
        except (Unreadable, UnicodeDecodeError):
            continue  # the text itself is copied
        if isinstance(operation, PutFile):
            salvaged.found.append(Found(path_of(operation), operation, f"set aside as {path.name}"))
    return salvaged


def _last_of_each(found: Iterable[Found]) -> dict[str, Found]:
    """Return the operations with data: the last one of each path, and every doubtful one, by a unique key."""
    last: dict[str, Found] = {}
    for one in found:
        if isinstance(one.operation, PutFile | PutSpecial | PutMarker):
            file = one.operation.file.file if one.doubt and isinstance(one.operation, PutFile) else ""
            last[f"{one.path}\0{file}"] = one
    return last


def _component(name: str) -> str:
    """Return a name that cannot lead out of a folder, and is valid on Linux (at most 255 bytes)."""
    name = (escape(name) if name in ("", ".", "..") else name).replace("\0", "%00")
    longest = 255 - len(PARTIAL) - len(".99")
    data = name.encode(errors="replace")
    return name if len(data) <= longest else data[:longest].decode(errors="ignore")


def _free(path: Path, is_taken: Callable[[Path], bool]) -> Path:
    if not is_taken(path):
        return path
    others = (path.with_name(f"{path.name}.{number}") for number in itertools.count(2))
    return next(other for other in others if not is_taken(other))


def _is_no_folder(path: Path) -> bool:
    return os.path.lexists(path) and (path.is_symlink() or not path.is_dir())


def _state_of(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _runs(descriptor: int, record: FileRecord) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a local file with the file's bytes: of a whole one everything but holes."""
    if not record.is_whole:
        here = record.dirty.copy()
        for stored in record.evicted:
            here.discard(-(-stored.start // BLOCK), (stored.start + stored.segment.span) // BLOCK)
        for first, last in here.runs(*block_range(0, record.size)):
            yield first * BLOCK, min(last * BLOCK, record.size)
        return
    position = 0
    while (start := next_data(descriptor, position, record.size)) < record.size:
        position = next_hole(descriptor, start, record.size)
        yield start, position


def _rest_of(record: FileRecord) -> str:
    """Return where the bytes of a file are that its local file lacks."""
    places = []
    if record.base is not None:
        places.append(f"in the object {record.base.name}, ETag {record.base.etag}")
    if record.evicted:
        places.append(f"in its segments below {record.prefix}")
    return f"the others are {', or '.join(places)}"


def _set_attributes(path: Path, stored: Stored) -> None:
    if stored.mode is not None:
        path.chmod(stored.mode & 0o777)
    if stored.mtime_ns is not None:
        os.utime(path, ns=(stored.mtime_ns, stored.mtime_ns))


def _make_small(path: Path, operation: PutSpecial) -> None:
    stored = operation.meta.stored
    if stat.S_ISLNK(stored.mode or 0):
        path.symlink_to(operation.body.decode())
    else:
        os.mknod(path, stored.mode or 0, stored.device or 0)


class _Lines:
    """Prints each failure in a line, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, line: str) -> None:
        complain(line)
        self.count += 1


def run_export(origin: Path, target: Path) -> None:
    """Copy pending files out of a mount or a cache folder; exit with code 1 if not all could be copied."""
    cache = find_cache(origin)
    lines = _Lines()
    export = Export(cache, target, lines)
    export.export(cache / JOURNAL)
    export.finish()
    _end(export.tally, target, lines)


def run_recover(origin: Path, target: Path | None) -> None:
    """Show the contents of damaged journals, or copy them to `target`."""
    cache = find_cache(origin)
    lost = cache / LOST
    salvages = [salvage(journal) for journal in damaged_journals(cache)] + [read_set_aside(lost)]
    if not any(one.found or one.problems for one in salvages) and not lost.is_dir():
        click.echo(f"{cache} holds no damaged journal")
        return
    lines = _Lines()
    if target is None:
        for one in salvages:
            _show(one, lines)
        files = len(list(lost.iterdir())) if lost.is_dir() else 0
        click.echo(f"{pluralize(files, 'file')} in {lost}; with DIR, all of this is copied there")
        return
    export = Export(cache, target, lines)
    for one in salvages:
        _show(one, lambda _: None)
        export.take(one)
    held = (found.operation for one in salvages for found in one.found)
    export.take_lost(lost, [one.file.file for one in held if isinstance(one, PutFile)])
    export.finish()
    _end(export.tally, target, lines)


def _show(salvaged: Salvage, tell: Callable[[str], None]) -> None:
    for problem in salvaged.problems:
        tell(problem)
    for found in salvaged.found:
        click.echo(_line(found))


def _line(found: Found) -> str:
    size = decimal(found.operation.file.size) if isinstance(found.operation, PutFile) else ""
    kind = operations.KINDS[type(found.operation)]
    cells = (found.path, KINDS.get(kind, kind), size, found.doubt)
    return "\t".join(map(printable, cells)).rstrip("\t")


def _end(tally: Tally, target: Path, lines: _Lines) -> None:
    others = (
        f", {pluralize(tally.links, 'link or special file', 'links and special files')}"
        if tally.links
        else ""
    )
    click.echo(f"copied {pluralize(tally.files, 'file')}{others}, {decimal(tally.bytes)}, to {target}")
    if lines.count:
        sys.exit(1)
