"""The cache folder of a mount: the names of its files, and its lock for one process at a time."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from swiftfs.errors import ConfigurationError, os_error
from swiftfs.paths import Source
from swiftfs.store.private_files import others_can_write

log = logging.getLogger(__name__)

LOCK = "lock"
"""Locked by the process that uses the folder."""
JOURNAL = "journal.sqlite"
JOURNAL_RESERVE = "journal.reserve"
"""Reserved disk space, which a commit can use when the disk is full."""
DAMAGED_JOURNAL = "journal.damaged-"
"""How the names of damaged journals begin."""
LOST = "lost"
"""The folder for unreadable records, and for local files that a damaged journal may have named."""
LATE = "late"
"""The folder for copies of files that a late request may overwrite."""
CONTENT = "content"
"""The folder for the bytes of files."""
VERSIONS = "content.sqlite"
"""Index of the versions and blocks that the files in `CONTENT` hold."""
PINS = "pins.json"
"""What stays in `CONTENT`."""
HEADS = "heads.sqlite"
"""Answers to HEAD requests."""
SOURCE = "source.json"
"""What the server has said about the source."""
LISTINGS = "listings.sqlite"
"""Listings of folders."""
DRAIN = "drain.json"
"""How many changes are still to be stored after an unmount."""
SPENT = "spent.json"
"""What requests and traffic have cost, by month."""
COPIES = "copies"
"""The folder beside the cache folders for the records of `swiftfs cp`."""
LOG = "swiftfs.log"
"""The log of a background mount if there is no syslog."""

_FOLDERS = frozenset({CONTENT, LOST, LATE, "lost+found"})

_FILES = frozenset(
    {LOCK, JOURNAL, JOURNAL_RESERVE, VERSIONS, PINS, HEADS, SOURCE, LISTINGS, DRAIN, SPENT, LOG}
)

_SIDE_FILES = ("-wal", "-shm", "-synced")

_OVERFLOW_USER = 65534
"""The owner that is shown for users who are unknown in this user namespace; user_namespaces(7)."""


def damaged_journals(folder: Path) -> list[Path]:
    """Return the damaged journals that were set aside in a cache folder."""
    found = folder.glob(f"{DAMAGED_JOURNAL}*")
    return sorted(path for path in found if not path.name.endswith(_SIDE_FILES))


def own_folder(who: str, source: Source) -> Path:
    """Return the cache folder of a source in the account `who`, below the user's cache folder."""
    # By the account, too: two accounts may have containers of one name.
    digest = hashlib.sha256(f"{who} {source}".encode()).hexdigest()[:12]
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", str(source)).strip("-")[:60]
    return platformdirs.user_cache_path("swiftfs") / f"{label or 'account'}-{digest}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Create the cache folder, for its owner only, and lock it against other mounts during the context.

    Raise `ConfigurationError` if it cannot be used, or holds other files.
    """
    try:
        lock = _lock(folder)
    except BlockingIOError:
        raise ConfigurationError(
            f"cache folder {folder} is in use by another mount: unmount that one, or use another --cache-dir"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"cache folder {folder}: {error.strerror}") from None
    try:
        yield folder
    except sqlite3.Error as error:
        raise ConfigurationError(f"cache folder {folder}: {error}") from error
    finally:
        os.close(lock)


class UsedFolder:
    """The cache folder `path` of a running mount, whose journal stays in it if somebody moves it.

    Not locked: two threads may log the same.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._identity = self._find()
        self._is_there = True

    def check(self) -> None:
        """Raise `OSError` EIO if the folder is not where its journal is any more."""
        if self._identity is None or self._find() == self._identity:
            self._is_there = True
            return
        if self._is_there:
            self._is_there = False
            log.error(
                "cache folder %s was moved or deleted under the mount: nothing is changed until it is back "
                "at its place; else unmount, and mount with the folder where it is",
                self._path,
            )
        raise os_error(errno.EIO, self._path)

    def release(self) -> None:
        """Let every later check succeed: the mount ends, and stores what it can."""
        self._identity = None

    def _find(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)  # noqa: PTH116  a `Path` takes longer than the system call
        except OSError:
            return None
        return found.st_dev, found.st_ino


def missing_folders(folder: Path) -> list[Path]:
    """Return the folder and those above it that do not exist, the innermost first.

    One that cannot be looked at, such as a dead mount, exists: whoever uses it gets the error.
    """
    return [one for one in (folder, *folder.parents) if _is_missing(one)]


def _is_missing(folder: Path) -> bool:
    try:
        folder.stat()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR)
    return False


def is_unused(folder: Path) -> bool:
    """Return whether a cache folder that this process holds locked has nothing in it."""
    return [path.name for path in folder.iterdir()] == [LOCK]


def remove_unused(folder: Path, made: list[Path]) -> None:
    """Remove a cache folder that this process holds locked and that no mount has used, and `made`."""
    # The lock goes last: until then no other mount begins to use the folder.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == LOCK):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    remove_empty(made)


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to one that is in use."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def new_file(path: Path) -> int:
    """Return a descriptor for writing to the new file `path`, for its owner only; an older one is removed.

    Raise `OSError`. An existing link is removed, never followed.
    """
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_whole(path: Path, text: str) -> None:
    """Write a file that others may read at any moment: old or new. Raise `OSError`."""
    unfinished = path.with_suffix(".new")
    try:
        with os.fdopen(new_file(unfinished), "w") as file:
            file.write(text)
        unfinished.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the folder's lock; raise `BlockingIOError` if another process does."""
    if folder.is_symlink():
        raise ConfigurationError(
            f"cache folder {folder} is a symbolic link: give the folder that it leads to"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_parents(folder)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_owners(folder, opened)
        os.fchmod(opened, 0o700)
        lock = os.open(LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=opened)
    finally:
        os.close(opened)
    try:
        # The kernel releases it when the process dies, so no lock is left over after a kill -9.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _check_owners(folder: Path, opened: int) -> None:
    """Refuse the folder `opened` if it or what lies in it is not this user's, or has another purpose."""
    if os.fstat(opened).st_uid != os.geteuid():
        raise ConfigurationError(
            f"cache folder {folder} belongs to another user: use another --cache-dir, or chown it"
        )
    names = os.listdir(opened)
    # It would change the mode of somebody's folder, and delete what it does not know in `content`.
    if LOCK not in names and any(name != "lost+found" for name in names):
        raise ConfigurationError(f"cache folder {folder} holds other files: choose an empty folder")
    for name in names:
        found = os.stat(name, dir_fd=opened, follow_symlinks=False)
        # Whoever could write to the folder may have planted a link, or a file that only looks like ours. But
        # it may be ours: without the journal changes are lost, so no message advises to remove it.
        if stat.S_ISLNK(found.st_mode):
            raise ConfigurationError(
                f"cache folder {folder}: {name} is a symbolic link: use another --cache-dir, or put what it "
                "leads to in its place"
            )
        if found.st_uid != os.geteuid() and name != "lost+found":
            raise ConfigurationError(
                f"cache folder {folder}: {name} belongs to another user: use another --cache-dir, or chown it"
            )
        if not _has_our_type(name, found.st_mode):
            raise ConfigurationError(
                f"cache folder {folder}: {name} was not made by swiftfs: use another --cache-dir, or move it "
                "away"
            )


def _has_our_type(name: str, mode: int) -> bool:
    """Return whether what has this name in a cache folder is a file or a folder, as we make it."""
    if name in _FOLDERS:
        return stat.S_ISDIR(mode)
    return stat.S_ISREG(mode) or name not in _FILES


def _check_parents(folder: Path) -> None:
    """Refuse a folder that other users could replace: those who own a parent, or may write to one."""

    trusted = {0, os.geteuid()}
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        trusted.add(_OVERFLOW_USER)  # / of a rootless container
    for parent in folder.resolve().parents:
        found = parent.stat()
        # In a sticky folder, such as /tmp, others cannot rename what is this user's.
        is_open = not found.st_mode & stat.S_ISVTX and others_can_write(parent, found)
        if is_open or found.st_uid not in trusted:
            raise ConfigurationError(
                f"cache folder {folder}: other users can replace it, as they can write to {parent}: "
                "use another --cache-dir"
            )
