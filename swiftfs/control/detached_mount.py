"""A mount that was unmounted but is still mounted elsewhere, so that its process continues.

A container or a unit with `PrivateMounts=` has a copy of every mount that existed at its start, and a bind
mount is another place in the same tree. The process lives until the last of them is unmounted.
"""

import logging
import os
import re
import select
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from swiftfs.concurrency import new_thread
from swiftfs.control.drain import Drain
from swiftfs.journal.journal import Journal
from swiftfs.journal.report import QueueReport

log = logging.getLogger(__name__)

PROCESSES = Path("/proc")
OWN_TABLE = Path("/proc/self/mountinfo")
TYPE = b"fuse.swiftfs"

GRACE = 1.0
"""Seconds after which an ordinary unmount has ended the mount."""

POLL_SECONDS = 0.2
"""The interval in which the number of pending changes is written."""

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """A swiftfs in a table of mounts: its device as in `st_dev`, and where it is mounted."""

    device: int
    mountpoint: Path


@dataclass(frozen=True, slots=True)
class Holder:
    """A process whose mount namespace still has a mount, and where."""

    pid: int
    command: str
    mountpoint: Path

    def __str__(self) -> str:
        return f"{self.mountpoint} in the mount namespace of process {self.pid} ({self.command})"

    @property
    def reachable(self) -> Path:
        """The mount by a path into the namespace."""
        return PROCESSES / str(self.pid) / "root" / str(self.mountpoint).lstrip("/")


def mount_entries(table: Path) -> Iterator[MountEntry]:
    """Yield the swiftfs mounts of a `mountinfo` (proc_pid_mountinfo(5)); raise `OSError`."""
    for line in table.read_bytes().split(b"\n"):
        before, _, after = line.partition(b" - ")
        if after.split(b" ")[0] == TYPE:
            fields = before.split(b" ")
            major, minor = fields[2].split(b":")
            plain = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
            yield MountEntry(os.makedev(int(major), int(minor)), Path(os.fsdecode(plain)))


def find_holders(device: int) -> list[Holder]:
    """Return a process of each mount namespace with the device mounted, if this user may see it."""
    found: dict[str, Holder] = {}
    for folder in sorted(PROCESSES.glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):
            namespace = str((folder / "ns" / "mnt").readlink())
            if namespace in found:
                continue
            for entry in mount_entries(folder / "mountinfo"):
                if entry.device == device:
                    command = (folder / "comm").read_text().strip()
                    found[namespace] = Holder(int(folder.name), command, entry.mountpoint)
                    break
    return list(found.values())


class DetachWatch:
    """A thread that stores everything after an unmount, and writes how much is pending to `drain.json`."""

    def __init__(self, mountpoint: Path, journal: Journal, cache: Path) -> None:
        self._mountpoint = mountpoint
        self._journal = journal
        self._cache = cache
        self._entry: MountEntry | None = None
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
        self._journal.flush_all()
        while True:
            report = self._journal.report()
            Drain(report.flushing, _failure(report), held=True).write(self._cache)
            if self._has_ended(POLL_SECONDS):
                return

    def _is_mounted(self) -> bool:
        return any(entry == self._entry for entry in mount_entries(OWN_TABLE))

    def _has_ended(self, seconds: float) -> bool:
        return bool(select.select([self._ended], [], [], seconds)[0])


def _failure(report: QueueReport) -> str:
    """Return a message about changes that could not be stored, empty if all are."""
    return unflushed(report) if report.unflushed and not report.flushing else ""


def unflushed(report: QueueReport) -> str:
    """Return a message about the changes that a flush could not store."""
    first = next((change for change in report.changes if change.reason), None)
    why = "the server does not answer" if report.away else "they could not be stored"
    if first is not None:
        why = f"the first is {first.path}: {first.reason}"
    return f"{report.unflushed} changes are not stored yet: {why}"
