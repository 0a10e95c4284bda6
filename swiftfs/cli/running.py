"""The commands that ask something of a running mount: `umount`, `flush`, `retry`, `set`, `pin`, `unpin`.

Two go through all files at some paths in it: `warm` lists and reads them, `thaw` has an archive unseal them.
"""

import errno
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

from swiftfs.attributes import (
    PIN_ATTRIBUTE,
    PINNED_ATTRIBUTE,
    REFRESH_ATTRIBUTE,
    STATE_ATTRIBUTE,
    THAW_ATTRIBUTE,
    UNPIN_ATTRIBUTE,
)
from swiftfs.cli.command_line import KINDS, complain, counts, spinner
from swiftfs.concurrency import Event, new_event, new_pool, sleep
from swiftfs.config.sources import SET_COMMAND, from_words
from swiftfs.control.client import flush, mount_of, read_state, retry, set_options, state_of
from swiftfs.errors import ConfigurationError, DeadMount, in_words, mount_error, pluralize, printable
from swiftfs.journal.queue_report import AWAY, QueuedChange
from swiftfs.objects import UNSEALED, CacheUse


def run_flush(mountpoint: Path) -> None:
    """Wait until all changes are stored; exit with code 1 if some could not be."""
    with spinner(f"flushing {mountpoint}") as show:
        report = flush(mountpoint, lambda now: show(f"{mountpoint}: {counts(now)}"))
    for change in report.refusals:
        complain(f"{change.path}: {_given_up(change)}")
    if report.refused > len(report.refusals):
        more = pluralize(report.refused - len(report.refusals), "more change")
        complain(f"{more}: refused and given up")
    if not report.unflushed and not report.refused:
        _tell_read_only(mountpoint)
        return
    failed = [change for change in report.changes if change.reason]
    for change in failed:
        complain(f"{change.path}: {change.reason}")
    if report.unflushed > len(failed):
        why = AWAY if report.away else "they wait for the changes above"
        more = pluralize(report.unflushed - len(failed), "more change")
        complain(f"{more}: {why}")
    sys.exit(1)


def _given_up(change: QueuedChange) -> str:
    is_move = KINDS.get(change.kind) == KINDS["Move"]
    done = "deleted" if change.kind == "Delete" else "moved" if is_move else "changed"
    return f"could not be {done} and was given up: {change.reason}"


def run_retry(mountpoint: Path) -> None:
    """Make the mount try failed changes again at once."""
    retry(mountpoint)
    _tell_read_only(mountpoint)


def _tell_read_only(mountpoint: Path) -> None:
    with suppress(ConfigurationError):  # another version: it has done what was asked
        state = read_state(mountpoint)
        if state.read_only and not state.report.total:
            click.echo(f"{mountpoint} is mounted read-only and has nothing to store")


def run_umount(mountpoint: Path) -> None:
    """Unmount, and return when everything is stored; errors as in `unmount`."""
    from swiftfs.control.unmount import unmount  # noqa: PLC0415  the others need nothing of it

    try:
        with spinner(f"unmounting {mountpoint}") as show:
            held = unmount(
                mountpoint,
                lambda waiting: show(f"{mountpoint}: {pluralize(waiting, 'change')} still to be stored"),
            )
    except DeadMount as error:  # it is unmounted, as was asked
        held = str(error)
    if held:
        complain(held)


def run_set(mountpoint: Path, words: tuple[str, ...], *, as_json: bool) -> None:
    """Change the options, and print those that can be changed as they are in force now."""
    for word in words:
        if "=" not in word:
            raise ConfigurationError(f"{word!r}: write OPTION=VALUE, such as bwlimit=2M")
    options = set_options(mountpoint, from_words(words, SET_COMMAND))
    if as_json:
        click.echo(json.dumps(options, indent=2))
        return
    for name, text in options.items():
        click.echo(f"{name}={text}")


def run_pin(paths: Iterable[Path], *, is_pin: bool, as_json: bool) -> None:
    """Pin or unpin the paths; without one, or with only a mount point, show what is pinned there."""
    paths = list(paths)
    if is_pin and len(paths) == 1 and os.path.ismount(paths[0].resolve()):
        state_of(paths[0])  # says what is there instead of a mount
        _show(mount_of(paths[0]), as_json=as_json)
        return
    failed = [path for path in paths if not _change(path, PIN_ATTRIBUTE if is_pin else UNPIN_ATTRIBUTE)]
    for mountpoint in dict.fromkeys(mount_of(path) for path in paths if path not in failed):
        _show(mountpoint, as_json=as_json)
    if failed:
        sys.exit(1)


def _change(path: Path, attribute: str) -> bool:
    state_of(path)  # says what is there instead of a mount
    try:
        os.getxattr(path, attribute)
    except OSError as error:
        too_many = error.errno == errno.E2BIG
        complain(f"{path}: {'too many paths are pinned: pin a folder above' if too_many else error.strerror}")
        return False
    return True


def _show(mountpoint: Path, *, as_json: bool) -> None:
    state = read_state(mountpoint)
    use = state.cache
    if as_json:
        values = {"mountpoint": str(mountpoint), "pins": state.pins, "bytes": use.pinned, "limit": use.limit}
        click.echo(json.dumps(values, indent=2))
        return
    for path in state.pins:
        click.echo(printable(f"{mountpoint}{path}"))
    pinned = pluralize(len(state.pins), "path")
    click.echo(f"{pinned} pinned, {decimal(use.pinned)} in the cache of {decimal(use.limit)}")


PARALLEL = 8
"""How many files to read, or to ask for, at once: a mount downloads the pieces of each in parallel, too."""

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


def run_warm(paths: Iterable[Path], *, data: bool, as_json: bool) -> None:
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
    """Yield the files, with their sizes, that fit into their mount's cache beside each other and the pins."""
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


SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two questions about the files; each question is a request for each file."""

PAUSES = 20
"""How often to ask at least until the time that the archive has named."""


class FileState(Struct, frozen=True):
    """What the archive says of a file; `seconds` until it can be read, 0 where it does not say it."""

    path: Path
    state: str
    seconds: float = 0.0
    error: str = ""

    @classmethod
    def parse(cls, path: Path, text: str) -> "FileState":
        """Read the value of an xattr, such as `unsealing 14400`."""
        state, _, seconds = text.partition(" ")
        return cls(path, state, float(seconds or 0))

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.state == UNSEALED or bool(self.error)

    def to_json(self) -> dict[str, object]:
        """Return the fields that are printed."""
        shown = {"path": str(self.path), "state": self.state, "seconds": self.seconds}
        return {**shown, "error": self.error} if self.error else shown


def run_thaw(paths: Iterable[Path], *, wait: bool, as_json: bool) -> None:
    """Ask for the files, and wait until all can be read unless `wait` is false; exit with 1 on a failure."""
    paths = list(paths)
    for path in paths:
        state_of(path)  # says what is there instead of a mount
    found = list(dict.fromkeys(file for path in paths for file in _files_at(path)))
    with new_pool("thaw", PARALLEL) as pool:
        files = list(pool.map(lambda file: _look(file, THAW_ATTRIBUTE), found))
    if wait:
        with spinner("waiting for the archive") as show:
            while not all(one.is_done for one in files):
                show(_thawed(files))
                sleep(_pause(files))
                files = [one if one.is_done else _look(one.path, STATE_ATTRIBUTE) for one in files]
    failed = [one for one in files if one.error]
    if as_json:
        click.echo(json.dumps([one.to_json() for one in files], indent=2))
    elif not failed or len(failed) < len(files):
        click.echo(_thawed(files))
    for one in failed:
        complain(f"{one.path}: {one.error}")
    if failed:
        sys.exit(1)


def _files_at(path: Path) -> Iterator[Path]:
    """Yield the path if it is a file, else all files below."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise mount_error(path, error) from None
    if not stat.S_ISDIR(mode):
        yield path
        return
    for folder, _, names in os.walk(path, onerror=_raise):
        for name in sorted(names):
            file = Path(folder, name)
            if stat.S_ISREG(file.lstat().st_mode):
                yield file


def _raise(error: OSError) -> None:
    # What cannot be listed must not count as thawed.
    raise mount_error(Path(error.filename or ""), error) from None


def _look(path: Path, attribute: str) -> FileState:
    try:
        return FileState.parse(path, os.getxattr(path, attribute).decode())
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return FileState(path, "", error="not a file in a swiftfs mount")
        return FileState(path, "", error=error.strerror or str(error))


def _pause(files: Iterable[FileState]) -> float:
    left = max((one.seconds for one in files if not one.is_done), default=0.0) or LONGEST_PAUSE
    return min(max(left / PAUSES, SHORTEST_PAUSE), LONGEST_PAUSE)


def _thawed(files: list[FileState]) -> str:
    readable = sum(one.state == UNSEALED for one in files)
    text = f"{readable:,} of {pluralize(len(files), 'file')} can be read"
    left = max((one.seconds for one in files if not one.is_done), default=0.0)
    return f"{text}, the last one in about {in_words(left)}" if left else text
