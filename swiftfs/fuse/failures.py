"""Turns the exception of a callback into its errno, and logs what the user should know of it."""

import errno
import logging
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
