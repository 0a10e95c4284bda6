"""Names in the trash: which files go there, and where.

A file at `a/b` of a mount that is deleted on 29 November 2026 at 19:30:12 UTC is kept as the object
`.trash/2026-11-29/a/b@193012.000000`. The time makes a second deletion on one day another object, and needs
no request. INVARIANT: the names never change: another release must find what this one has put there.
"""

import errno
import re
from datetime import datetime, timedelta, timezone

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.concurrency import unix_time_ns
from swiftfs.errors import os_error
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.paths import MAX_KEY_BYTES, Source
from swiftfs.store.protocol import Headers

TRASH_FOLDER = ".trash"
"""The folder in a mount's root, or in each container of an account, with what was deleted."""

TRASH_PREFIX = TRASH_FOLDER + "/"

OWNER = "swiftfs%00trash"
"""Metadata of a large object in the trash: its segments are its own. No xattr can have this name."""

RESTORED = "swiftfs%00restored"
"""Metadata of an object that was put back: its ETag then. No xattr can have this name.

So a mount that has stored the same version before, and lost the answer, does not take it for that request."""

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_ENTRY = re.compile(r"(\d{4}-\d{2}-\d{2})/(.+)@(\d{6}\.\d{6})", re.DOTALL)
_TIME = "%Y-%m-%d %H%M%S.%f"

_NEVER_KEPT = re.compile(
    r"""\..+\.(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{6}  # rsync: .NAME.XXXXXX, never of six small letters only
    | .*\.sw[a-z] | .*~ | 4913                  # vim, and backups of many editors
    | \.goutputstream-.*                        # GNOME
    | .*\.fuse_hidden.*                         # libfuse, for open files
    """,
    re.VERBOSE | re.DOTALL,
)
"""Temporary files of programs, by their names; docs/configuration.md lists them."""


class Trashed(Struct, frozen=True):
    """Where an object in the trash came from: its key then, and when it was deleted (UTC)."""

    day: str
    key: str
    deleted: datetime


def as_restored(headers: Headers, etag: str) -> Headers:
    """Return the headers of a version that is put back."""
    return replace(headers, metadata={**headers.metadata, RESTORED: etag})


def is_restored(info: ObjectInfo) -> bool:
    """Return whether the object is as it was put back."""
    return info.metadata.get(RESTORED) == info.version.etag


def is_temporary(key: str) -> bool:
    """Return whether a file has the name of a temporary file, so that it is never kept."""
    return _NEVER_KEPT.fullmatch(key.rpartition("/")[2]) is not None


def parse(key: str, prefix: str) -> Trashed | None:
    """Return what the key of an object in the trash below `prefix` says; None for any other key."""
    match = _ENTRY.fullmatch(key.removeprefix(prefix + TRASH_PREFIX))
    if match is None or not key.startswith(prefix + TRASH_PREFIX):
        return None
    try:
        deleted = datetime.strptime(f"{match[1]} {match[3]}", _TIME).replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return Trashed(match[1], prefix + match[2], deleted)


def is_over(day: str, days: int, now_ns: int) -> bool:
    """Return whether all of a `day` of the trash is `days` days old; False for a name that is no day."""
    if _DAY.fullmatch(day) is None:
        return False
    try:
        begin = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    except ValueError:
        return False
    return begin + timedelta(days=days + 1) <= datetime.fromtimestamp(now_ns / 1e9, timezone.utc)


def is_in_trash(path: str, source: Source) -> bool:
    """Return whether a path of the mount is the trash's folder, or lies below it."""
    names = path.split("/")
    return names[2 if source.is_account else 1 :][:1] == [TRASH_FOLDER]


class TrashNames:
    """Names the objects in the trash of a mount; none if files are kept for 0 `days`."""

    def __init__(self, source: Source, days: int) -> None:
        self.days = days
        self._prefix = source.prefix
        self._last = 0

    def entry_of(self, name: ObjectName, size: int) -> str:
        """Return the key under which an object of `size` bytes is kept; empty for one that is not kept.

        Each call returns another one. Raise `OSError` ENAMETOOLONG if the key would be too long.
        """
        if not (self.days and size) or is_temporary(name.key):
            return ""
        # Of one mount no two have the same microsecond, also if the clock is set back.
        self._last = now = max(unix_time_ns() // 1000, self._last + 1)
        moment = datetime.fromtimestamp(now // 10**6, timezone.utc).replace(microsecond=now % 10**6)
        inside = name.key.removeprefix(self._prefix)
        key = f"{self._prefix}{TRASH_PREFIX}{moment:%Y-%m-%d}/{inside}@{moment:%H%M%S.%f}"
        if len(key.encode()) > MAX_KEY_BYTES:
            raise os_error(errno.ENAMETOOLONG, f"{name.key}: with the trash's folder")
        return key
