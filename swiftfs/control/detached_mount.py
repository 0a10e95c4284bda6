"""A mount that left its mount point and that the kernel still serves, for it is mounted elsewhere too.

A container or a unit with `PrivateMounts=` has a copy of every mount of the moment it began, and a bind mount
is another place in the same tree. The process lives until the last of them lets go.
"""

import logging
import os
import select
from pathlib import Path

from swiftfs.concurrency import new_thread
from swiftfs.control.drain import Drain
from swiftfs.control.mount_table import OWN_TABLE, MountEntry, mount_entries
from swiftfs.journal.journal import Journal
from swiftfs.journal.queue_report import QueueReport

log = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds in which an ordinary unmount has ended the mount."""

POLL_SECONDS = 0.2
"""Between two looks at how much still waits."""


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
            log.info("whether %s is unmounted is not watched: %s", self._mountpoint, error)
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
        log.info("%s is unmounted, but still mounted elsewhere: what waits is stored now", self._mountpoint)
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
    return report.left_over() if report.unflushed and not report.flushing else ""
