"""A mount that was unmounted but is still mounted elsewhere, so that its process continues.

A container or a unit with `PrivateMounts=` has a copy of every mount that existed at its start, and a bind
mount is another place in the same tree. The process lives until the last of them is unmounted.
"""

import logging
import os
import select
from pathlib import Path

from swiftfs.concurrency import new_thread
from swiftfs.control.mount_table import OWN_TABLE, MountEntry, mount_entries
from swiftfs.control.unmount import Drain
from swiftfs.journal.journal import Journal
from swiftfs.journal.queue_report import QueueReport

log = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds after which an ordinary unmount has ended the mount."""

POLL_SECONDS = 0.2
"""The interval in which the number of pending changes is written."""


class DetachWatch:
    """A thread that stores everything after an unmount, and writes how much is pending to `drain.json`."""

    def __init__(self, mountpoint: Path, journal: Journal, cache: Path) -> None:
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
            Drain(report.flushing, _failure(report), held=True, ended=False).write(self._cache)
            if self._has_ended(POLL_SECONDS):
                return

    def _is_mounted(self) -> bool:
        return any(entry == self._entry for entry in mount_entries(OWN_TABLE))

    def _has_ended(self, seconds: float) -> bool:
        return bool(select.select([self._ended], [], [], seconds)[0])


def _failure(report: QueueReport) -> str:
    """Return a message about changes that could not be stored, empty if all are."""
    return report.left_over() if report.unflushed and not report.flushing else ""
