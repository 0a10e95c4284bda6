"""The cache folder of a mount: the names of its files, and its lock for one process at a time."""

import contextlib
import fcntl
import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from swiftfs.errors import ConfigurationError
from swiftfs.paths import Source

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
HEADS = "heads.sqlite"
"""Answers to HEAD requests."""
DRAIN = "drain.json"
"""How many changes are still to be stored after an unmount."""
LOG = "swiftfs.log"
"""The log of a background mount if there is no syslog."""

_SQLITE_SIDE_FILES = ("-wal", "-shm")


def damaged_journals(folder: Path) -> list[Path]:
    """Return the damaged journals that were set aside in a cache folder."""
    found = folder.glob(f"{DAMAGED_JOURNAL}*")
    return sorted(path for path in found if not path.name.endswith(_SQLITE_SIDE_FILES))


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


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the folder's lock; raise `BlockingIOError` if another process does."""
    mark = folder / LOCK
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # It would change the mode of somebody's folder, and delete what it does not know in `content`.
    if not mark.exists() and any(one.name != "lost+found" for one in folder.iterdir()):
        raise ConfigurationError(f"cache folder {folder} holds other files: choose an empty folder")
    folder.chmod(0o700)
    lock = os.open(mark, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        # The kernel releases it when the process dies, so no lock is left over after a kill -9.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
