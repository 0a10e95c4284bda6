"""A mount that left its mount point and that the kernel still serves, for it is mounted elsewhere too.

A container or a unit with `PrivateMounts=` has a copy of every mount of the moment it began, and a bind mount
is another place in the same tree. The process lives until the last of them lets go.
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
"""Seconds in which an ordinary unmount has ended the mount."""

POLL_SECONDS = 0.2
"""Between two looks at how much still waits."""

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """A swiftfs in a table of mounts: its device as `st_dev` has it, and where it is mounted."""

    device: int
    mountpoint: Path


@dataclass(frozen=True, slots=True)
class Holder:
    """A process in whose mount namespace a mount is still to be found, and where."""

    pid: int
    command: str
    mountpoint: Path

    def __str__(self) -> str:
        return f"{self.mountpoint} in the mount namespace of process {self.pid} ({self.command})"

    @property
    def reachable(self) -> Path:
        """The mount, by a path that leads into the namespace."""
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
    """Return a process of each mount namespace that has the device mounted, as far as this user may see."""
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
    """A thread that stores everything once the mount left its mount point, and records how much waits."""

    def __init__(self, mountpoint: Path, journal: Journal, cache: Path) -> None:
        self._mountpoint = mountpoint
        self._journal = journal
        self._cache = cache
        self._entry: MountEntry | None = None
        self._ended = os.eventfd(0)
        self._thread = new_thread(self._watch, "detached")

    def start(self, device: int) -> None:
        """Begin, now that the mount on `device` answers; nothing is watched without a table of mounts."""
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
            changes.register(table, select.POLLPRI)  # the kernel says when the table changes
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
    """Return what to say of changes that were to be stored and could not be, empty when all are."""
    return unflushed(report) if report.unflushed and not report.flushing else ""


def unflushed(report: QueueReport) -> str:
    """Return in words what a flush has left."""
    first = next((change for change in report.changes if change.reason), None)
    why = "the server does not answer" if report.away else "they could not be stored"
    if first is not None:
        why = f"the first is {first.path}: {first.reason}"
    return f"{report.unflushed} changes are not stored yet: {why}"
