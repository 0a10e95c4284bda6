"""Reads the status of a mount from its control folder, and starts a flush or retry by xattrs of its root."""

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from swiftfs.attributes import (
    FLUSH_ATTRIBUTE,
    MAX_XATTR_NAME,
    RETRY_ATTRIBUTE,
    SET_ATTRIBUTE,
    SET_SEPARATOR,
    STATUS_ATTRIBUTE,
)
from swiftfs.concurrency import monotonic, sleep
from swiftfs.control.mount_table import OWN_TABLE, mount_entries
from swiftfs.control.snapshot import MountStatus
from swiftfs.errors import ConfigurationError, NotAMount, mount_error
from swiftfs.journal.queue_report import QueueReport
from swiftfs.paths import HIDDEN_FOLDER

if TYPE_CHECKING:
    from swiftfs.config.sources import Setting

POLL_SECONDS = 0.1
"""The shortest interval in which the number of pending changes is read."""

REST = 10
"""The pause between reads of the report, as a multiple of the time of a read: to read 100,000 changes delays
uploads."""


def mountpoints() -> list[Path]:
    """Return where swiftfs is mounted, for this user or others (proc_pid_mountinfo(5))."""
    return [entry.mountpoint for entry in mount_entries(OWN_TABLE)]


def mount_of(path: Path) -> Path:
    """Return the mount point of the filesystem that `path`, or what it links to, is in."""
    path = path.resolve()
    # By the table too, as only its user may look at a mount.
    ours = set(mountpoints())
    return next(one for one in (path, *path.parents) if one in ours or os.path.ismount(one))


def read_state(mountpoint: Path) -> MountStatus:
    """Return the status of the mount at `mountpoint`; errors as in `read_report`."""
    try:
        return MountStatus.from_json((mountpoint / HIDDEN_FOLDER / "status.json").read_text())
    except FileNotFoundError:
        read_report(mountpoint)  # raises the error that says what is there instead
        raise ConfigurationError(_INCOMPATIBLE.format(mountpoint)) from None
    except OSError as error:
        raise mount_error(mountpoint, error) from None
    except ValueError:
        raise ConfigurationError(_INCOMPATIBLE.format(mountpoint)) from None


def state_of(path: Path) -> MountStatus:
    """Return the status of the mount that `path` is in; errors as in `read_report`."""
    try:
        return read_state(mount_of(path))
    except NotAMount:
        raise NotAMount(f"{path} is not in a swiftfs mount") from None


def read_report(mountpoint: Path) -> QueueReport:
    """Return the pending changes of the mount at `mountpoint`; raise `ConfigurationError` without a mount."""
    try:
        return QueueReport.from_json(os.getxattr(mountpoint, STATUS_ATTRIBUTE).decode())
    except OSError as error:
        raise mount_error(mountpoint, error) from None
    except (ValueError, TypeError, KeyError):
        raise ConfigurationError(_INCOMPATIBLE.format(mountpoint)) from None


def flush(mountpoint: Path, progress: Callable[[QueueReport], None]) -> QueueReport:
    """Return when all earlier changes are in Swift, or were refused, or when Swift does not answer.

    `progress` is called now and then with a report. The last report is returned: nothing is `unflushed`
    on success. Errors as in `read_report`.
    """
    _set_root_xattr(mountpoint, FLUSH_ATTRIBUTE)
    began = monotonic()
    while (report := read_report(mountpoint)).flushing:
        took = monotonic() - began
        progress(report)
        sleep(max(POLL_SECONDS, took * REST))
        began = monotonic()
    return report


def retry(mountpoint: Path) -> None:
    """Make the mount try failed changes again, without waiting for them; errors as in `read_report`."""
    _set_root_xattr(mountpoint, RETRY_ATTRIBUTE)


def set_options(mountpoint: Path, settings: Iterable["Setting"]) -> dict[str, str]:
    """Change options of the mount at `mountpoint`; return those in force that can be changed.

    Raise `ConfigurationError` if one is refused, and then none is changed; others as in `read_report`.
    """
    words = [f"{SET_SEPARATOR}{setting.name}={setting.text}" for setting in settings]
    request = SET_ATTRIBUTE + "".join(words)
    if len(request.encode()) > MAX_XATTR_NAME:
        raise ConfigurationError("the values are too long together: set one after the other, or mount again")
    try:
        answer = json.loads(os.getxattr(mountpoint, request))
        error, options = answer.get("error"), answer.get("options")
    except OSError as failure:
        if failure.errno in (errno.ENODATA, errno.EOPNOTSUPP) and is_mounted(mountpoint):
            raise ConfigurationError(_INCOMPATIBLE.format(mountpoint)) from None
        raise mount_error(mountpoint, failure) from None
    except (ValueError, AttributeError):
        raise ConfigurationError(_INCOMPATIBLE.format(mountpoint)) from None
    if error is not None or not isinstance(options, dict):
        raise ConfigurationError(str(error))
    return options


def is_mounted(mountpoint: Path) -> bool:
    """Return whether swiftfs is mounted there, by whatever release."""
    return mountpoint in mountpoints()


_INCOMPATIBLE = "{} is mounted by an incompatible version of swiftfs"


def _set_root_xattr(mountpoint: Path, attribute: str) -> None:
    try:
        try:
            os.setxattr(mountpoint, attribute, b"1")
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            # On a read-only mount, or one whose root has another owner, the kernel refuses setxattr(2).
            os.getxattr(mountpoint, attribute)
    except OSError as error:
        raise mount_error(mountpoint, error) from None
