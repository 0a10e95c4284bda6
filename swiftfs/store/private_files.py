"""Reads files that a user names, and checks which other users can read or change a file.

They may be pipes; no read waits for ever.
"""

import errno
import grp
import os
import pwd
import select
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from swiftfs.concurrency import monotonic
from swiftfs.errors import ConfigurationError

_ACL = "system.posix_acl_access"
_USER, _OWNING_GROUP, _GROUP = 0x02, 0x04, 0x08
"""Tags of entries of an access control list, `include/uapi/linux/posix_acl.h`."""
_WRITE = 0x02


def check_writers(name: str, found: os.stat_result) -> None:
    """Raise `ConfigurationError` if other users than root can change a file; `found` is its status."""
    _check_owner(name, found)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"{name} can be changed by other users: chmod 600 it")


def check_trusted(name: str, descriptor: int) -> None:
    """Raise `ConfigurationError` if others than this user and root can change an open file without secrets.

    The user's private group may have write permission, which the umask 002 gives to all new files.
    """
    found = os.fstat(descriptor)
    _check_owner(name, found)
    if others_can_write(descriptor, found):
        raise ConfigurationError(f"{name} can be changed by other users: chmod go-w it")


def is_readable_by_others(found: os.stat_result) -> bool:
    """Return whether the mode lets other users than the owner read a file."""
    return bool(found.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def others_can_write(place: Path | int, found: os.stat_result) -> bool:
    """Return whether others than the owner, root and this user's private group may write to a file or folder.

    `found` is its status. Modes and access control lists count.
    """
    if found.st_mode & stat.S_IWOTH:
        return True
    if not found.st_mode & stat.S_IWGRP:  # where there is a list, these bits limit all its entries
        return False
    try:
        entries = list(struct.iter_unpack("<HHI", os.getxattr(place, _ACL)[4:]))
    except OSError:  # there is none
        return not _is_private(found.st_gid)
    writers = [(tag, who) for tag, bits, who in entries if bits & _WRITE]
    trusted = {(_USER, 0), (_USER, os.geteuid())}
    if any(tag in (_USER, _GROUP) and (tag, who) not in trusted for tag, who in writers):
        return True
    return any(tag == _OWNING_GROUP for tag, _ in writers) and not _is_private(found.st_gid)


def _is_private(gid: int) -> bool:
    """Return whether a group is the one that this user alone is in: its primary group, with its name."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    if (user.pw_gid, user.pw_name) != (gid, group.gr_name) or set(group.gr_mem) - {user.pw_name}:
        return False
    # A directory service may know users that it does not list; none of them has another one's private group.
    return all(one.pw_uid == user.pw_uid for one in pwd.getpwall() if one.pw_gid == gid)


def _check_owner(name: str, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"{name} belongs to another user: chown it, or make a copy")


PIPE_SECONDS = 10.0
"""How long a pipe may take: a password manager may ask its user."""

MOST_BYTES = 1024**2

_NOTHING = os.makedev(1, 3)
"""/dev/null, which stands for an empty file."""


def read_own_file(path: Path, check: Callable[[int], None]) -> str:
    """Return the text of a file or pipe that `check` accepts, given its open descriptor.

    Raise `OSError` if it cannot be read, is something else, or takes too long; its `strerror` is for users.
    Raise `ValueError` unless it is text in UTF-8.
    """
    # Otherwise opening a FIFO waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == _NOTHING:
            return ""
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
            raise OSError(errno.EINVAL, "it is neither a file nor a pipe")
        check(descriptor)
        # `utf-8-sig`: editors of other systems begin a file with a byte order mark.
        return _read(descriptor).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    # Not until the first read: a pipe to which nobody writes yet has ended, as read(2) sees it.
    incoming = select.poll()
    incoming.register(descriptor, select.POLLIN)
    end = monotonic() + PIPE_SECONDS
    read = b""
    while len(read) <= MOST_BYTES:
        if not incoming.poll(max(0.0, end - monotonic()) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"its end did not come within {PIPE_SECONDS:.0f} seconds")
        piece = os.read(descriptor, 65536)
        if not piece:
            return read
        read += piece
    raise OSError(errno.EFBIG, f"it is longer than {MOST_BYTES} bytes")
