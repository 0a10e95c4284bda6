"""Unmounting: `swiftfs umount` waits until the mount's process has stored everything, and what that does.

How much it still has to store is in a file in its cache folder.
"""

import ctypes
import errno
import json
import logging
import os
import pwd
import select
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, to_builtins

from swiftfs.attributes import CACHE_ATTRIBUTE, PID_ATTRIBUTE
from swiftfs.concurrency import monotonic, new_thread, sleep
from swiftfs.config.cache_dir import DRAIN, write_whole
from swiftfs.control.client import flush, mountpoints
from swiftfs.control.mount_table import (
    OWN_TABLE,
    Holder,
    MountEntry,
    find_holders,
    fusermount,
    mount_entries,
    mounted_on,
)
from swiftfs.errors import DEAD_MOUNT, ConfigurationError, DeadMount, NotYours, SwiftfsError, mount_error
from swiftfs.journal.queue_report import QueueReport
from swiftfs.sqlite import is_for_want_of_space

if TYPE_CHECKING:
    from swiftfs.journal.journal import Journal

log = logging.getLogger(__name__)


class Drain(Struct, frozen=True):
    """How many files and deletions are pending, and why the rest could not be stored, empty without failure.

    A mount that is `held` was unmounted but is still mounted elsewhere: the process continues. One that has
    not `ended` may leave changes. A process of an earlier release does not say whether it has.
    """

    waiting: int
    failure: str = ""
    held: bool = False
    ended: bool = True

    def write(self, cache: Path) -> None:
        """Write it into `cache`; a failure of the disk is logged, and leaves an earlier state."""
        text = json.dumps(to_builtins(self))
        try:
            try:
                write_whole(_file(cache), text)
            except OSError as error:
                if not is_for_want_of_space(error, cache):
                    raise
                # In its place, which needs no more; who reads it meanwhile reads again.
                with _file(cache).open("r+b", buffering=0) as file:
                    file.write(text.encode().ljust(os.fstat(file.fileno()).st_size))
        except OSError as error:
            log.info("%s: %s", _file(cache), error)

    @classmethod
    def read(cls, cache: Path) -> "Drain":
        """Return the last state written; raise `OSError` or `ValueError` if it cannot be read."""
        found = json.loads(_file(cache).read_text())
        try:
            return cls(**{name: found[name] for name in cls.__struct_fields__ if name in found})
        except TypeError as error:
            raise ValueError(str(error)) from None


def _file(cache: Path) -> Path:
    return cache / DRAIN


POLL_SECONDS = 0.2
"""The interval in which the number of pending changes is read."""

HELD_SECONDS = 2.0
"""Longer than an ordinary unmount takes to end the mount."""

BUSY_SECONDS, BUSY_PAUSE = 1.0, 0.05
"""How long, and in which interval, a busy mount is tried again: `swiftfs status`, or a program that monitors
mounts, has a file open there for a moment."""

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
"""From Linux' `linux/fs.h`."""

LOOKS = 25
"""After this many intervals, search for other mounts of the device, unless the process has found some."""


def unmount(mountpoint: Path, progress: Callable[[int], None]) -> str:
    """Unmount `mountpoint` and return when its process has ended and all uploads are done.

    If it is still mounted elsewhere, the process continues: return when everything is stored, with a message
    that says where; else return an empty string. `progress` is called now and then with the number of pending
    files and deletions. Raise `ConfigurationError` if nothing is mounted there or if it is in use,
    `SwiftfsError` if something could not be stored, and `DeadMount`, after unmounting, if its process had
    died.
    """
    mountpoint = mountpoint.resolve()  # fusermount(1) does not resolve symbolic links
    # While it is mounted: afterwards there is nobody to ask.
    pid, cache, device = _look_at(mountpoint)
    try:
        # Before the unmount: afterwards the number could be another process's.
        process = os.pidfd_open(pid)
    except OSError as error:
        raise ConfigurationError(
            f"{mountpoint}: its process {pid} cannot be found: {error.strerror}"
        ) from None
    try:
        detach(mountpoint)
        held = _wait(process, pid, device, cache, progress)
    except KeyboardInterrupt:
        # Nobody may think that all is stored, or that it is mounted still.
        raise SwiftfsError(
            f"interrupted: {mountpoint} is unmounted, but its process may still store changes"
        ) from None
    finally:
        os.close(process)
    if failure := _failure(cache, is_held=bool(held)):
        raise SwiftfsError(f"{mountpoint} is unmounted, but {failure}{'; ' if held else ''}{held}")
    return f"{mountpoint} is unmounted, and everything is stored; {held}" if held else ""


def _look_at(mountpoint: Path) -> tuple[int, Path, int]:
    """Return the process, the cache folder and the device of a mount; unmount one whose process has died.

    Errors as in `unmount`.
    """
    try:
        pid = int(os.getxattr(mountpoint, PID_ATTRIBUTE))
        cache = Path(os.fsdecode(os.getxattr(mountpoint, CACHE_ATTRIBUTE)))
        return pid, cache, mountpoint.stat().st_dev
    except OSError as error:
        reason = mount_error(mountpoint, error)
        if isinstance(reason, DeadMount):
            detach(mountpoint, is_dead=True)
            raise DeadMount(
                f"{mountpoint} is unmounted; its process had died: mount it again to continue with "
                "what is not stored yet"
            ) from None
        raise for_root(mountpoint, reason) from None


def _failure(cache: Path, *, is_held: bool) -> str:
    """Return what a mount that ended, or `is_held`, has left and why; empty if everything is stored."""
    unknown = "its process did not say whether everything is stored"
    try:
        drain = Drain.read(cache)
    except (OSError, ValueError) as error:
        reason = f" ({error})"
    else:
        if drain.failure or drain.ended or is_held:
            return drain.failure
        reason = ""
    return f"{unknown}{reason}; the next mount with the cache folder {cache} continues"


def for_root(mountpoint: Path, error: ConfigurationError) -> ConfigurationError:
    """Return the error; for root, with what to do: the kernel keeps root out too without `allow_root`."""
    there = mounted_on(mountpoint) if isinstance(error, NotYours) and os.geteuid() == 0 else None
    if there is None or there.user is None:
        return error
    try:
        user = pwd.getpwuid(there.user).pw_name
    except KeyError:
        user = f"#{there.user}"
    return NotYours(
        f"{mountpoint} belongs to the user {user}: 'sudo -u {user} swiftfs umount {mountpoint}' waits until "
        f"everything is stored, 'umount {mountpoint}' does not"
    )


def _wait(process: int, pid: int, device: int, cache: Path, progress: Callable[[int], None]) -> str:
    """Return when the process has ended, or has stored everything but continues; then return why.

    `process` is a descriptor of the process `pid`.
    """
    looks, held_from = 0, monotonic() + HELD_SECONDS
    # A pidfd is readable when the process has ended (pidfd_open(2)).
    while not select.select([process], [], [], POLL_SECONDS)[0]:
        drain = Drain(0, ended=False)
        with suppress(OSError, ValueError):  # it matters when the process has ended
            drain = Drain.read(cache)
        progress(drain.waiting)
        if drain.held and not drain.waiting and monotonic() > held_from:
            return _still_held(find_holders(device))
        looks += 1
        if looks % LOOKS == 0 and not drain.held:
            # Its process may still see its mount, if it runs in another namespace.
            holders = [one for one in find_holders(device) if _is_served_by(pid, one)]
            if holders and _flush(holders[0], progress):
                return _still_held(holders)
    return ""


def _is_served_by(pid: int, holder: Holder) -> bool:
    """Return whether the process serves what is mounted there: device numbers are soon reused."""
    with suppress(OSError):
        return int(os.getxattr(holder.reachable, PID_ATTRIBUTE)) == pid
    return False


def _flush(holder: Holder, progress: Callable[[int], None]) -> bool:
    """Flush the mount through another namespace; return False if it ends meanwhile."""
    try:
        report = flush(holder.reachable, lambda now: progress(now.total))
    except ConfigurationError:
        return False
    if report.unflushed:
        raise SwiftfsError(f"{holder.mountpoint} is unmounted here, but {report.left_over()}")
    return True


def _still_held(holders: Sequence[Holder]) -> str:
    who = ", ".join(map(str, holders)) or "a mount namespace that you may not look into"
    return f"its process continues as long as it is still mounted on {who}"


def died(mountpoint: Path) -> bool:
    """Return whether a swiftfs is mounted there whose process was killed."""
    try:
        # Not stat(2): the kernel may answer it from its cache for a second.
        os.close(os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        return error.errno in DEAD_MOUNT and mountpoint.resolve() in mountpoints()
    return False


def detach(mountpoint: Path, *, is_dead: bool = False) -> None:
    """Unmount, a busy mount within `BUSY_SECONDS`; raise `ConfigurationError` with the reason of a refusal.

    One whose process is dead is also removed while programs have files or folders open there: they get
    ENOTCONN as before, and the next mount need not wait for their end.
    """
    until = monotonic() + BUSY_SECONDS
    while reason := _refusal(mountpoint, is_dead=is_dead):
        if not _is_busy(reason) or monotonic() > until:
            hint = " (a program has a file or folder open there)" if _is_busy(reason) else ""
            raise ConfigurationError(f"cannot unmount {mountpoint}: {reason}{hint}")
        sleep(BUSY_PAUSE)


def _refusal(mountpoint: Path, *, is_dead: bool) -> str:
    """Unmount; return why that is refused, or an empty string."""
    if os.geteuid() == 0 and (number := _unmount_by_root(mountpoint, is_dead=is_dead)) != errno.EPERM:
        return os.strerror(number) if number else ""
    # A user who is not root may unmount FUSE only by this set-user-ID program.
    if (command := fusermount()) is None:
        raise SwiftfsError("fusermount is missing: install the package fuse3")
    arguments = [command, "-u", *(["-z"] if is_dead else []), str(mountpoint)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if not result.returncode:
        return ""
    words = " ".join(result.stderr.split())
    return words.partition(f"{mountpoint}: ")[2] or words or f"fusermount ended with {result.returncode}"


def _is_busy(reason: str) -> bool:
    return "busy" in reason


def _unmount_by_root(mountpoint: Path, *, is_dead: bool) -> int:
    """Unmount by umount2(2), which needs no /etc/mtab as fusermount does; return an errno, 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if is_dead else 0)
    failed = libc.umount2(os.fsencode(mountpoint), flags)
    return ctypes.get_errno() if failed else 0


GRACE = 1.0
"""Seconds after which an ordinary unmount has ended the mount."""

WRITE_SECONDS = 0.2
"""The interval in which a held mount writes the number of pending changes."""


class DetachWatch:
    """A thread that stores everything after an unmount, and writes how much is pending to `drain.json`.

    The process of a mount that was unmounted may continue: a container or a unit with `PrivateMounts=` has a
    copy of every mount that existed at its start, and a bind mount is another place in the same tree. It
    lives until the last of them is unmounted.
    """

    def __init__(self, mountpoint: Path, journal: "Journal", cache: Path) -> None:
        self._mountpoint = mountpoint
        self._journal = journal
        self._cache = cache
        self._entry: MountEntry | None = None
        # A descriptor, so that poll(2) can wait for it and the table together.
        self._ended = os.eventfd(0)
        self._thread = new_thread(self._watch, "detached")

    def start(self, device: int) -> None:
        """Begin, now that the mount on `device` answers; do nothing if there is no table of mounts."""
        self._entry = MountEntry(device, self._mountpoint.resolve())
        try:
            watched = self._is_mounted()
        except OSError as error:
            log.info("cannot watch whether %s is unmounted: %s", self._mountpoint, error)
            return
        if watched:
            self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started."""
        os.eventfd_write(self._ended, 1)
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._ended)

    def _watch(self) -> None:
        with OWN_TABLE.open("rb") as table:
            changes = select.poll()
            changes.register(self._ended, select.POLLIN)
            changes.register(table, select.POLLPRI)  # the kernel signals a change of the table
            while self._is_mounted():
                changes.poll()
                if self._has_ended(0):
                    return
        if self._has_ended(GRACE):
            return
        log.info(
            "%s is unmounted, but still mounted elsewhere: pending changes are stored now", self._mountpoint
        )
        # The process may live for long: what was written must not wait for that.
        self._journal.flush_all()
        while True:
            report = self._journal.report()
            Drain(report.flushing, _unstored(report), held=True, ended=False).write(self._cache)
            if self._has_ended(WRITE_SECONDS):
                return

    def _is_mounted(self) -> bool:
        return any(entry == self._entry for entry in mount_entries(OWN_TABLE))

    def _has_ended(self, seconds: float) -> bool:
        return bool(select.select([self._ended], [], [], seconds)[0])


def _unstored(report: QueueReport) -> str:
    """Return a message about changes that could not be stored, empty if all are."""
    return report.left_over() if report.unflushed and not report.flushing else ""
