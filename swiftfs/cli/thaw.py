"""`swiftfs thaw`: ask an archive for files, and wait until they can be read."""

import errno
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from msgspec import Struct

from swiftfs.attributes import STATE_ATTRIBUTE, THAW_ATTRIBUTE
from swiftfs.cli.wording import complain, spinner
from swiftfs.concurrency import new_pool, sleep
from swiftfs.control.client import state_of
from swiftfs.errors import in_words, mount_error, pluralize
from swiftfs.objects import UNSEALED

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two questions about the files; each question is a request for each file."""

PARALLEL = 8
"""How many files to ask for at once."""

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


def run(paths: Iterable[Path], *, wait: bool, as_json: bool) -> None:
    """Ask for the files, and wait until all can be read unless `wait` is false; exit with 1 on a failure."""
    paths = list(paths)
    for path in paths:
        state_of(path)  # says what is there instead of a mount
    found = list(dict.fromkeys(file for path in paths for file in _files(path)))
    with new_pool("thaw", PARALLEL) as pool:
        files = list(pool.map(lambda file: _look(file, THAW_ATTRIBUTE), found))
    if wait:
        with spinner("waiting for the archive") as show:
            while not all(one.is_done for one in files):
                show(_progress(files))
                sleep(_pause(files))
                files = [one if one.is_done else _look(one.path, STATE_ATTRIBUTE) for one in files]
    failed = [one for one in files if one.error]
    if as_json:
        click.echo(json.dumps([one.to_json() for one in files], indent=2))
    elif not failed or len(failed) < len(files):
        click.echo(_progress(files))
    for one in failed:
        complain(f"{one.path}: {one.error}")
    if failed:
        sys.exit(1)


def _files(path: Path) -> Iterator[Path]:
    """Yield the path if it is a file, else all files below."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise mount_error(path, error) from None
    if not stat.S_ISDIR(mode):
        yield path
        return
    for folder, _, names in os.walk(path, onerror=_stop):
        for name in sorted(names):
            file = Path(folder, name)
            if stat.S_ISREG(file.lstat().st_mode):
                yield file


def _stop(error: OSError) -> None:
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


def _progress(files: list[FileState]) -> str:
    readable = sum(one.state == UNSEALED for one in files)
    text = f"{readable:,} of {pluralize(len(files), 'file')} can be read"
    left = max((one.seconds for one in files if not one.is_done), default=0.0)
    return f"{text}, the last one in about {in_words(left)}" if left else text
