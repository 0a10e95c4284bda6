"""`swiftfs warm`: let a mount learn of a tree, and of its bytes, before they are needed."""

import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import click
from msgspec import Struct, field
from rich.filesize import decimal

from swiftfs.attributes import PINNED_ATTRIBUTE, REFRESH_ATTRIBUTE
from swiftfs.cli.wording import complain, spinner
from swiftfs.concurrency import Event, new_event, new_pool
from swiftfs.control.client import mount_of, read_state, state_of
from swiftfs.errors import pluralize
from swiftfs.objects import CacheUse

PARALLEL = 8
"""How many files to read at once: the mount downloads the pieces of each in parallel, too."""

PIECE = 1024 * 1024
"""Bytes of one read(2)."""

MOST_SHOWN = 20
"""How many failures are printed; the others are counted."""


class Warmed(Struct):
    """What the mount has learned, and the paths that it could not."""

    folders: int = 0
    names: int = 0
    files: int = 0
    bytes: int = 0
    left_out: int = 0
    left_out_bytes: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def fail(self, path: object, error: OSError) -> None:
        """Record that a path could not be learned of."""
        self.failed.append((str(path), error.strerror or str(error)))

    def to_json(self) -> str:
        """Return it as it is printed."""
        names = ("folders", "names", "files", "bytes", "left_out", "left_out_bytes")
        failed = [{"path": path, "error": error} for path, error in self.failed]
        return json.dumps({**{name: getattr(self, name) for name in names}, "failed": failed}, indent=2)

    def __str__(self) -> str:
        known = f"{pluralize(self.names, 'name')} in {pluralize(self.folders, 'folder')} listed"
        if not self.files:
            return known
        return f"{known}; {pluralize(self.files, 'file')} of {decimal(self.bytes)} in the cache"


def run(paths: Iterable[Path], *, data: bool, as_json: bool) -> None:
    """List everything at `paths` and below, with `data` read all files too; exit with 1 if that failed."""
    warmed, stopped = Warmed(), new_event()
    with spinner("listing") as show:
        try:
            files = list(_files(paths, warmed, lambda: show(str(warmed))))
            if data:
                _read_all(_fitting(files, warmed), warmed, stopped, lambda: show(str(warmed)))
        finally:
            stopped.set()
    click.echo(warmed.to_json() if as_json else str(warmed))
    for path, error in warmed.failed[:MOST_SHOWN]:
        complain(f"{path}: {error}")
    if len(warmed.failed) > MOST_SHOWN:
        complain(f"{pluralize(len(warmed.failed) - MOST_SHOWN, 'more path')} could not be read")
    if warmed.left_out:
        complain(
            f"{pluralize(warmed.left_out, 'file')} of {decimal(warmed.left_out_bytes)} do not fit into the "
            "cache and were not read: raise cache_size"
        )
    if warmed.failed or warmed.left_out:
        sys.exit(1)


def _files(paths: Iterable[Path], warmed: Warmed, progress: Callable[[], None]) -> Iterator[Path]:
    """Yield all regular files at the paths and below, each once."""
    seen: set[Path] = set()
    for path in paths:
        state_of(path)  # says what is there instead of a mount
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            warmed.fail(path, error)
            continue
        found = _below(path, warmed, progress) if stat.S_ISDIR(mode) else [path] * stat.S_ISREG(mode)
        for file in found:
            if file not in seen:
                seen.add(file)
                yield file


def _below(path: Path, warmed: Warmed, progress: Callable[[], None]) -> Iterator[Path]:
    """Yield the files below a folder; the mount lists a tree that is walked by flat listings."""
    with suppress(OSError):  # the kernel refuses it for a read-only mount, which lists anew after `ttl`
        os.setxattr(path, REFRESH_ATTRIBUTE, b"1")
    folders = [path]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            warmed.fail(folder, error)
            continue
        warmed.folders += 1
        warmed.names += len(inside)
        progress()
        # In the order of a listing, so that its next page has the next folders.
        folders += [Path(entry.path) for entry in reversed(inside) if entry.is_dir(follow_symlinks=False)]
        yield from (Path(entry.path) for entry in inside if entry.is_file(follow_symlinks=False))


def _fitting(files: Iterable[Path], warmed: Warmed) -> Iterator[tuple[Path, int]]:
    """Yield the files that fit into their mount's cache beside each other, with their sizes.

    So none evicts another, nor what is pinned.
    """
    caches: dict[Path, Space] = {}
    for file in files:
        try:
            size = file.lstat().st_size
        except OSError as error:
            warmed.fail(file, error)
            continue
        mountpoint = mount_of(file)
        if mountpoint not in caches:
            caches[mountpoint] = Space.of(read_state(mountpoint).cache)
        if caches[mountpoint].take(file, size):
            yield file, size
        else:
            warmed.left_out += 1
            warmed.left_out_bytes += size


class Space(Struct):
    """The space of a cache in bytes: what is `left`, and what the copies of `pinned` files take by now."""

    left: int
    pinned: int

    @classmethod
    def of(cls, cache: CacheUse) -> "Space":
        """Return the space that a cache has now."""
        # Not less than nothing: a pinned copy that is there takes no space, however full the cache is.
        return cls(max(0, cache.limit - cache.dirty - cache.pinned), cache.pinned)

    def take(self, file: Path, size: int) -> bool:
        """Take the space for a file; return False if it does not fit."""
        # The copy of a pinned file may be there already.
        there = min(self.pinned, size) if self.pinned and _is_pinned(file) else 0
        if size - there > self.left:
            return False
        self.left -= size - there
        self.pinned -= there
        return True


def _is_pinned(file: Path) -> bool:
    with suppress(OSError):
        return os.getxattr(file, PINNED_ATTRIBUTE) == b"1"
    return False


def _read_all(
    files: Iterable[tuple[Path, int]], warmed: Warmed, stopped: Event, progress: Callable[[], None]
) -> None:
    with new_pool("warm", PARALLEL) as pool:
        reading = [(file, size, pool.submit(_read, file, stopped)) for file, size in files]
        try:
            for file, size, future in reading:
                try:
                    future.result()
                except OSError as error:
                    warmed.fail(file, error)
                else:
                    warmed.files += 1
                    warmed.bytes += size
                progress()
        except BaseException:
            stopped.set()  # Ctrl-C: the others end after their piece
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _read(file: Path, stopped: Event) -> None:
    """Read a file to its end, by the mount's own read-ahead; raise `OSError`."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while not stopped.is_set() and os.read(descriptor, PIECE):
            pass
    finally:
        os.close(descriptor)
