"""Checks which other users can read or change a file."""

import grp
import os
import pwd
import stat
import struct
from pathlib import Path

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
