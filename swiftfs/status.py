"""What waits in a mount, asked and hastened from outside through attributes of its root."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from swiftfs.attributes import FLUSH_ATTRIBUTE, RETRY_ATTRIBUTE, STATUS_ATTRIBUTE
from swiftfs.errors import ConfigurationError
from swiftfs.journal.report import Report

POLL_SECONDS = 0.1
"""Between two looks at how much still waits."""


def read_report(mountpoint: Path) -> Report:
    """Return what waits in the mount at `mountpoint`; raise `ConfigurationError` when there is none."""
    try:
        return Report.from_json(os.getxattr(mountpoint, STATUS_ATTRIBUTE).decode())
    except OSError as error:
        raise _explain(mountpoint, error) from None
    except (ValueError, TypeError, KeyError):
        raise ConfigurationError(f"{mountpoint} is mounted by another version of swiftfs") from None


def flush(mountpoint: Path, progress: Callable[[Report], None]) -> Report:
    """Return when Swift has all that was closed before, or has refused it, or is away.

    `progress` is called now and then with what waits. The last report is returned: nothing is `unflushed`
    when all went well. Errors as in `read_report`.
    """
    _order(mountpoint, FLUSH_ATTRIBUTE)
    while (report := read_report(mountpoint)).flushing:
        progress(report)
        time.sleep(POLL_SECONDS)
    return report


def retry(mountpoint: Path) -> None:
    """Have all that failed tried again, and return; errors as in `read_report`."""
    _order(mountpoint, RETRY_ATTRIBUTE)


def printable(text: str) -> str:
    """Return text in one line, in which nothing can command a terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _order(mountpoint: Path, attribute: str) -> None:
    try:
        os.setxattr(mountpoint, attribute, b"1")
    except OSError as error:
        raise _explain(mountpoint, error) from None


def _explain(mountpoint: Path, error: OSError) -> ConfigurationError:
    if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
        return ConfigurationError(f"{mountpoint} is not a swiftfs mount")
    if error.errno == errno.ENOTCONN:
        return ConfigurationError(
            f"{mountpoint}: its process had died: 'swiftfs umount' it, mount it again, and it goes on"
        )
    return ConfigurationError(f"{mountpoint}: {error.strerror}")
