"""The exceptions of swiftfs, the errno that a system call returns for each, and how messages are shown."""

import errno
import os
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path


def printable(text: str) -> str:
    """Return text in one line, without characters that control a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def command_line(command: str, *operands: object) -> str:
    """Return a command of swiftfs as a shell reads it, in quotes, for a message."""
    texts = [str(operand) for operand in operands]
    if any(text.startswith("-") for text in texts):
        texts.insert(0, "--")
    line = f"swiftfs {command} {' '.join(map(_quoted, texts))}"
    mark = '"' if "'" in line else "'"
    return f"{mark}{line}{mark}"


def _quoted(text: str) -> str:
    """Return a word as a shell reads it, in one line."""
    if text.isprintable():
        return shlex.quote(text)
    # ANSI-C quoting of bash, zsh and POSIX 2024.
    inner = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(inner)}'"


def pluralize(count: int, one: str, more: str = "") -> str:
    """Return a count with its noun: `1 change`, `2,000 changes`."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def in_words(seconds: float) -> str:
    """Return a duration in its two largest units, such as `4 h 12 min`."""
    whole = int(seconds + 0.5)
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (next_name, next_size) in pairwise(units):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{whole} s"


class SwiftfsError(Exception):
    """The base class; a system call that fails with the error returns `errno`."""

    errno: int = errno.EIO


class ConfigurationError(SwiftfsError):
    """A configuration or command that cannot work; the message says what to do instead."""

    errno = errno.EINVAL


class Gone(ConfigurationError):
    """Nothing is mounted at the path any more; the path itself may be gone."""


class NotAMount(Gone):
    """No swiftfs is mounted at the path."""


class DeadMount(ConfigurationError):
    """The process of the mount has died."""


class NotYours(ConfigurationError):
    """The mount belongs to another user."""


class ChangedDuringUpload(SwiftfsError):
    """Bytes changed while they were uploaded; another attempt will store the new ones.

    `etag` is the ETag of a version that this attempt stored nevertheless, empty if it stored none.
    """

    errno = errno.EAGAIN
    retryable = True

    def __init__(self, message: str, etag: str = "") -> None:
        super().__init__(message)
        self.etag = etag


class StoreError(SwiftfsError):
    """A request to Swift failed.

    If it is `retryable`, it may succeed when sent again, after `retry_after` seconds if the server named a
    pause. If it `may_land`, it, or an earlier attempt of the same call, was sent and not answered: the server
    may have carried it out, or may do so later. `etag` is then the ETag of the object it would store, if the
    sender knows it. `subject` is what the request was about, as the message has it before its first colon,
    empty if the error is not that of one request.
    """

    retryable = False
    may_land = False
    etag = ""
    subject = ""

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
    """403, or 401 with a new token."""

    errno = errno.EACCES


class LoginRefused(AccessDenied):
    """The login is refused, or the token is, and there is nothing to get another one with.

    That says nothing about the rights of the user: what is pending is kept for the next login.
    """


class ForeignManifest(AccessDenied):
    """An SLO, DLO or symlink takes its bytes from a place that the mount may not read."""


class Ghost(NotFound):
    """404 on an object that the container's listing still shows; a DELETE removes its listing row."""


class BadName(StoreError):
    """412 or 400 on a name: Swift cannot store an object with this name.

    Its errno is EIO. EINVAL would mean "into itself" from rename(2) and "not supported" from fsync(2), which
    programs ignore.
    """


class NameTooLong(BadName):
    """The name is longer than the server's limit."""

    errno = errno.ENAMETOOLONG


class BadRequest(StoreError):
    """400: the server does not understand the request. For the errno see `BadName`."""


class BadContainer(BadRequest):
    """400 on creating a container: its name or storage policy is bad. mkdir(2) returns EINVAL for that."""

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
    """409 on anything but the deletion of a container.

    On a change of an object, Swift has a version with a later timestamp: another client was faster, or the
    clocks of its servers differ. Swift's proxy answers a PUT of an object with 202 instead
    (`_check_failure_put_connections` in swift/proxy/controllers/obj.py).
    """

    errno = errno.EIO


class QuotaExceeded(StoreError):
    """413: a quota of the container or account is used up."""

    errno = errno.EDQUOT


class LinkLoop(StoreError):
    """409 on a symlink of Swift: it leads to itself, or over more links than the server follows."""

    errno = errno.ELOOP


class FolderTooLarge(StoreError):
    """A folder has more names than one call lists."""

    errno = errno.EFBIG


class TooLarge(StoreError):
    """413 on an object: larger than the server accepts in one request."""

    errno = errno.EFBIG


class NoSpace(StoreError):
    """507: the cluster has no space left."""

    errno = errno.ENOSPC


class BadRange(StoreError):
    """416: the range begins at or after the object's end. For the errno see `BadName`."""


class Corrupt(StoreError):
    """Bytes that do not match their length or checksum; another attempt may return the right ones."""

    retryable = True


class UnknownManifest(StoreError):
    """A manifest with an entry of a kind that swiftfs does not know, so nobody knows what it names."""


class BodyChanged(Corrupt):
    """The body was modified while it was sent. The caller must start again, perhaps with a copy."""

    retryable = False


class Unavailable(StoreError):
    """No answer, a broken connection or a server error: nothing is known about the object."""

    retryable = True
    may_land = True


class NotSwift(Unavailable):
    """An answer that is not Swift's, such as that of a captive portal: it counts as none."""


class Offline(Unavailable):
    """The server is away, as is known already: nothing was sent."""

    may_land = False


class NotBegun(Offline):
    """The server is away, and a change of which nothing was sent yet has to wait."""


class Postponed(Unavailable):
    """429, 498 or 503, and the server names a pause that is longer than the call may take."""

    errno = errno.EBUSY


class Sealed(StoreError):
    """429 on an object of an archive, whose bytes cannot be read yet; the request has asked for them.

    It is not `retryable` if the server does not say when.
    """

    errno = errno.EBUSY
    retryable = True


class TimedOut(Unavailable):
    """No answer within the deadline."""

    errno = errno.ETIMEDOUT


class CutFile(OSError):
    """EIO: the local file of a change that waits was deleted or cut from outside, `path` or empty."""

    def __init__(self, path: str, damage: str) -> None:
        super().__init__(errno.EIO, damage, path)

    def __str__(self) -> str:
        name = f"its local file {self.filename}".rstrip()
        return f"{name} is {self.strerror}: write the file anew, or delete it"


def errno_of(error: BaseException) -> int:
    """Return the positive errno that a system call returns for `error`.

    It is EIO for an `OSError` without an errno (such as `requests.ConnectionError`) and for any other error.
    """
    number = getattr(error, "errno", None)
    if isinstance(error, OSError | SwiftfsError) and isinstance(number, int) and number > 0:
        return number
    return errno.EIO


def os_error(number: int, subject: str | None = None) -> OSError:
    """Return the `OSError` of errno `number` about `subject`, with the system's message."""
    return OSError(number, os.strerror(number), subject)


def is_disk_full(error: BaseException) -> bool:
    """Return whether the local disk is full, or its quota is used up. That of Swift has a `StoreError`."""
    if not isinstance(error, OSError) or isinstance(error, SwiftfsError):
        return False
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def drop_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error that is kept, and of its causes.

    The frames refer to the bytes that could not be sent: those would stay mapped, and their descriptor open.
    """
    following: BaseException | None = error
    while following is not None:
        following.__traceback__ = None
        following = following.__cause__ or following.__context__


DEAD_MOUNT = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
"""The errnos of calls on a mount whose process has died; calls that were running then get ECONNABORTED."""

_NO_MOUNT = "{} is not a swiftfs mount"
_DIED = "{}: its process has died: {}"
_AGAIN = "mount it again to continue"
_PRIVATE = "{}: only the user who mounted it may do this (root too, with allow_root or allow_other)"
_MOUNT_POINT_ERRORS: Mapping[int, tuple[type[ConfigurationError], str]] = {
    errno.ENODATA: (NotAMount, _NO_MOUNT),
    errno.EOPNOTSUPP: (NotAMount, _NO_MOUNT),
    **dict.fromkeys(DEAD_MOUNT, (DeadMount, _DIED)),
    **{
        number: (Gone, f"{{}}: {os.strerror(number)}")
        for number in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV)
    },
    errno.EACCES: (NotYours, _PRIVATE),
    errno.EPERM: (NotYours, _PRIVATE),
}
"""What an errno from a mount point means; the second `{}` is what to do."""


def mount_error(mountpoint: Path, error: OSError, remedy: str = _AGAIN) -> ConfigurationError:
    """Return the meaning of an `error` from a call on the mount at `mountpoint`.

    `remedy` is what to do if the process of the mount has died.
    """
    kind, text = _MOUNT_POINT_ERRORS.get(error.errno or 0, (ConfigurationError, f"{{}}: {error.strerror}"))
    return kind(text.format(mountpoint, remedy))


def mount_point_error(mountpoint: Path, error: OSError) -> ConfigurationError:
    """Return why nothing can be mounted on `mountpoint`, a call on which failed with `error`."""
    if error.errno in DEAD_MOUNT:
        return mount_error(mountpoint, error, "run 'fusermount -u' on it first")
    hint = ": mkdir it, or mount with --create" if error.errno == errno.ENOENT else ""
    return ConfigurationError(f"mount point {mountpoint}: {error.strerror}{hint}")
