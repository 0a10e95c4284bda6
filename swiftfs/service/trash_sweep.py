"""Empties the trash of what has been there long enough: at the mount, and then once a day.

Swift deletes plain objects by itself. It would delete only the manifests of large ones.
"""

import logging

from swiftfs.concurrency import new_event, new_thread, unix_time_ns
from swiftfs.errors import Offline, SwiftfsError, pluralize
from swiftfs.posix.filesystem import FileSystem

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0
AGAIN_SECONDS = 3600.0
"""The pause after a failure."""

END_SECONDS = 2.0
"""How long an unmount waits for a running request."""


class TrashSweep:
    """The thread that empties the trash of a mount; none without a trash, or in a read-only mount."""

    def __init__(self, filesystem: FileSystem) -> None:
        services = filesystem.services
        self._days = 0 if services.options.ro else services.options.trash
        self._store, self._source = services.store, services.source
        self._trash = services.journal.trash
        self._prefix = services.source.prefix
        self._stopping = new_event()
        # A daemon: its running request must not delay the unmount.
        self._thread = new_thread(self._run, "trash", daemon=True)

    def start(self) -> None:
        """Start it; after the fork."""
        if self._days:
            self._thread.start()

    def stop(self) -> None:
        """End it, before the store is closed."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(END_SECONDS)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            pause = DAY_SECONDS if self._sweep() else AGAIN_SECONDS

    def _sweep(self) -> bool:
        """Empty the trash once; return whether that succeeded."""
        from swiftfs.maintenance.trash import TrashBin, sweep  # noqa: PLC0415  few mounts have a trash

        now = unix_time_ns()
        try:
            count, failed = sweep(TrashBin(self._store, self._source), self._days, lambda: now)
        except Offline as error:  # the log has said that the server is away
            log.debug("the trash: %s", error)
            return False
        except SwiftfsError as error:
            if not self._stopping.is_set():
                log.warning("the trash could not be emptied, and is tried again in an hour: %s", error)
            return False
        except Exception:  # the next attempt may succeed
            if not self._stopping.is_set():
                log.exception("the trash: unexpected error")
            return False
        self._trash.forget_ended(self._prefix, self._days, now)
        if count:
            log.info("deleted from the trash, as their time is over: %s", pluralize(count, "file"))
        if failed:
            log.warning(
                "the trash: %s could not be deleted; the next attempt is in an hour",
                pluralize(failed, "object"),
            )
        return not failed
