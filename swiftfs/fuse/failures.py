"""Failures in words: what callbacks raise becomes an errno and a log line, what libfuse writes becomes a
reason.
"""

import errno
import logging
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from swiftfs.errors import Offline, StoreError, SwiftfsError, errno_of

log = logging.getLogger(__name__)

_EVERYDAY = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EINVAL}
"""Store errors that programs cause in ordinary use: logged at DEBUG, all others as warnings."""

_FULL = (
    "the disk of the cache folder is full, or cache_size is full of what is not in Swift yet: free space on "
    "that disk, or raise cache_size; 'swiftfs status' shows what waits, and why"
)
"""What to do about an ENOSPC of the local disk; that of Swift has a `StoreError`."""

_TOO_MANY = (
    "programs have as many files open as this mount's process may open: raise its hard limit "
    "('ulimit -Hn', LimitNOFILE= of a service), then mount again"
)
"""What to do about an EMFILE."""


def log_failure(name: str, args: tuple[Any, ...], handle: int | None, error: BaseException) -> int:
    """Log `error`, an unexpected one as an error, and return its positive errno.

    `handle` is that of the open file that the callback `name` is about, None if it has none.
    """
    # Each new file begins with a lookup that fails: no message is made that nobody reads.
    if isinstance(error, FileNotFoundError) and error.errno and not log.isEnabledFor(logging.DEBUG):
        return error.errno
    subject = _subject(name, args, handle)
    # A name that is not UTF-8 cannot be an object's: no fault of ours, so it is not logged as one.
    if isinstance(error, UnicodeDecodeError) and error.object in args:
        number = errno.EILSEQ
    else:
        number = errno_of(error)
        known = getattr(error, "errno", None)
        if not isinstance(error, OSError | SwiftfsError) or known != number:
            log.error(
                "%s %s failed: %r",
                name,
                subject,
                error,
                exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
            )
            return number
    if number == errno.ENOSPC and not isinstance(error, StoreError):
        log.warning("%s %s: ENOSPC: %s", name, subject, _FULL)
    if number == errno.EMFILE:
        log.warning("%s %s: EMFILE: %s", name, subject, _TOO_MANY)
    # That the server is away was logged when that began.
    everyday = not isinstance(error, StoreError) or isinstance(error, Offline) or number in _EVERYDAY
    code = errno.errorcode.get(number, number)
    log.log(
        logging.DEBUG if everyday else logging.WARNING,
        "%s %s: %s (%s)",
        name,
        subject,
        code,
        error,
    )
    return number


def _subject(name: str, args: tuple[Any, ...], handle: int | None) -> str:
    """Return the subject of a callback: its path or, since open files come without one, its handle."""
    path = args[1 if name == "symlink" else 0] if args else None
    if isinstance(path, bytes):
        return repr(path.decode("utf-8", "backslashreplace"))
    return "the mount" if handle is None else f"handle {handle}"


_REMEDIES = (
    ("failed to exec fusermount*: No such file or directory", ": install the package fuse3"),
    ("failed to open /dev/fuse: Permission denied", ": its mode should be 666"),
    ("mount failed: Operation not permitted", ": fusermount should belong to root and be set-user-ID"),
    ("option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf", ", by root"),
    # It runs as root, which the mount of a user does not let in.
    (
        "failed to access mountpoint *: Permission denied",
        ": choose a folder that is not in another FUSE mount",
    ),
)
"""Messages of libfuse and fusermount, as patterns, and what to do about them; it is appended."""


class DivertedStderr:
    """Descriptor 2, redirected to memory: libfuse reports only there why it cannot mount."""

    def __init__(self) -> None:
        self._stderr = os.dup(2)
        self._memory = os.memfd_create("libfuse-stderr")
        os.dup2(self._memory, 2)

    def restore(self) -> str:
        """Put descriptor 2 back and return what was written meanwhile (nothing the second time)."""
        if self._memory < 0:
            return ""
        os.dup2(self._stderr, 2)
        text = os.pread(self._memory, 65536, 0).decode("utf-8", "replace")
        os.close(self._stderr)
        os.close(self._memory)
        self._memory = -1
        return text


def first_reason(said: str) -> str:
    """Return the first line of libfuse or fusermount without the program's name, and what to do."""
    for line in said.splitlines():
        program, colon, reason = line.partition(": ")
        if line.strip():
            ours = colon and Path(program).name in {"fuse", "fusermount", "fusermount3", "swiftfs"}
            text = reason if ours else line
            return text + next((todo for said, todo in _REMEDIES if fnmatchcase(text, said)), "")
    return "libfuse gives no reason"
