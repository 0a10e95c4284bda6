"""Every failure the floors speak of, and the one table that turns a failure into an errno."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path


class SwiftfsError(Exception):
    """A failure with a meaning; `errno` is what a system call answers for it."""

    errno: int = errno.EIO


class ConfigurationError(SwiftfsError):
    """What the user asked for cannot be done as asked; the message says what to do instead."""

    errno = errno.EINVAL


class NotAMount(ConfigurationError):
    """No swiftfs is mounted there."""


class DeadMount(ConfigurationError):
    """The process of the mount there was killed."""


class NotYours(ConfigurationError):
    """The mount belongs to another user."""


class ChangedDuringUpload(SwiftfsError):
    """Bytes changed while they were uploaded; another attempt stores them as they are then."""

    errno = errno.EAGAIN
    retryable = True


class StoreError(SwiftfsError):
    """Swift, or the way to it, answered something else than asked.

    `retryable` says that the same request may succeed if it is sent again; `retry_after` is the pause in
    seconds that the server asked for, if it did. A request that `may_land` was sent and not answered: the
    server may carry it out later, and `etag` is then the object's, where the sender knows it.
    """

    retryable = False
    may_land = False
    etag = ""

    def __init__(
        self, message: str, *, retry_after: float | None = None, may_land: bool | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        if may_land is not None:
            self.may_land = may_land


class NotFound(StoreError):
    """404: the server says that the object or container does not exist."""

    errno = errno.ENOENT


class AccessDenied(StoreError):
    """403, or a 401 that a fresh token did not cure."""

    errno = errno.EACCES


class Ghost(NotFound):
    """404 on an object that the container's listing shows all the same; a DELETE makes its row go."""


class BadName(StoreError):
    """412 or 400 on a name: Swift cannot store an object called so.

    Its errno is not EINVAL, of which rename(2) says "into itself" and fsync(2) "not supported": programs
    take that for no failure.
    """


class NameTooLong(BadName):
    """The name is longer than the server's limit."""

    errno = errno.ENAMETOOLONG


class BadRequest(StoreError):
    """400: the server does not understand the request; as for the errno, see `BadName`."""


class BadContainer(BadRequest):
    """400 on a container that is to be made: its name or its storage policy. mkdir(2) says so by EINVAL."""

    errno = errno.EINVAL


class PreconditionFailed(StoreError):
    """412: the object is not the version that the request named."""

    errno = errno.ESTALE


class AlreadyExists(StoreError):
    """412 on `If-None-Match: *`: an object of this name exists."""

    errno = errno.EEXIST


class Conflict(StoreError):
    """409: a container is not empty, or the object changed a moment ago."""

    errno = errno.ENOTEMPTY


class Clash(Conflict):
    """409 on anything but the deletion of a container: a change of an object has a later timestamp, say."""

    errno = errno.EIO


class QuotaExceeded(StoreError):
    """413: a quota of the container or account is used up."""

    errno = errno.EDQUOT


class TooLarge(StoreError):
    """413 on an object: larger than the server takes in one request."""

    errno = errno.EFBIG


class NoSpace(StoreError):
    """507: the cluster has no room."""

    errno = errno.ENOSPC


class BadRange(StoreError):
    """416: the range begins at or after the object's end; as for the errno, see `BadName`."""


class Corrupt(StoreError):
    """Bytes that do not match their length or checksum; another attempt may bring the right ones."""

    retryable = True


class BodyChanged(Corrupt):
    """The body was written to while it was sent. Only who begins anew, perhaps with a copy, gets further."""

    retryable = False


class Unavailable(StoreError):
    """No answer, a broken connection or a server error: nothing is known about the object."""

    retryable = True
    may_land = True


class TimedOut(Unavailable):
    """No answer within the deadline."""

    errno = errno.ETIMEDOUT


def errno_of(error: BaseException) -> int:
    """Return the positive errno a system call answers for `error`.

    An `OSError` without an errno (`requests.ConnectionError` is one) and everything unforeseen is EIO.
    """
    number = getattr(error, "errno", None)
    if isinstance(error, OSError | SwiftfsError) and isinstance(number, int) and number > 0:
        return number
    return errno.EIO


def os_error(number: int, subject: str | None = None) -> OSError:
    """Build the `OSError` of errno `number` about `subject` with the system's own text."""
    return OSError(number, os.strerror(number), subject)


_NO_MOUNT = "{} is not a swiftfs mount"
_PRIVATE = "{}: only whoever mounted it may ask (root too, with allow_root or allow_other)"
_MOUNT_POINT_ERRORS: Mapping[int, tuple[type[ConfigurationError], str]] = {
    errno.ENODATA: (NotAMount, _NO_MOUNT),
    errno.EOPNOTSUPP: (NotAMount, _NO_MOUNT),
    errno.ENOTCONN: (DeadMount, "{}: its process had died: {}"),
    errno.EACCES: (NotYours, _PRIVATE),
    errno.EPERM: (NotYours, _PRIVATE),
}
"""What it means when a question to a mount fails so; the second `{}` is what to do."""


def mount_error(
    mountpoint: Path, error: OSError, remedy: str = "'swiftfs umount' it, mount it again, and it goes on"
) -> ConfigurationError:
    """Return what it means that a question to the mount at `mountpoint` failed with `error`.

    `remedy` is what to do when the process of the mount died.
    """
    kind, text = _MOUNT_POINT_ERRORS.get(error.errno or 0, (ConfigurationError, f"{{}}: {error.strerror}"))
    return kind(text.format(mountpoint, remedy))


def mount_point_error(mountpoint: Path, error: OSError) -> ConfigurationError:
    """Return why nothing can be mounted on `mountpoint`, which failed with `error`."""
    if error.errno == errno.ENOTCONN:
        return mount_error(mountpoint, error, "fusermount -u it first")
    return ConfigurationError(f"mount point {mountpoint}: {error.strerror}")
