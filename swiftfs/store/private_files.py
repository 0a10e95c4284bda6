"""Files with secrets: whose they are, and who else can read or change them."""

import os
import stat

from swiftfs.errors import ConfigurationError


def check_writers(name: str, found: os.stat_result) -> None:
    """Raise `ConfigurationError` if other users than root can change a file; `found` is its status."""
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"{name} belongs to another user: chown it, or make a copy")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"{name} can be changed by other users: chmod 600 it")


def is_readable_by_others(found: os.stat_result) -> bool:
    """Return whether the mode lets other users than the owner read a file."""
    return bool(found.st_mode & (stat.S_IRGRP | stat.S_IROTH))
