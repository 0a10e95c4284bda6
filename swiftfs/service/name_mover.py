"""The thread that moves the names of replaced files away, in the mount that this process serves."""

import errno
import logging
import os
from functools import partial
from pathlib import Path

from swiftfs.concurrency import new_thread
from swiftfs.posix.replaced_files import Move, ReplacedFiles
from swiftfs.service.mount_caller import MountCaller

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a move is tried: its path may change meanwhile."""


class NameMover:
    """Makes the moves that `replaced` asks for, by another process, which begins with the first move."""

    def __init__(self, replaced: ReplacedFiles, mountpoint: Path) -> None:
        self._replaced = replaced
        self._caller = MountCaller(mountpoint)
        self._thread = new_thread(self._run, "replaced files")

    def start(self, device: int) -> None:
        """Begin, now that the mount on `device` answers."""
        self._caller.mounted(device)
        self._replaced.serve()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the process: the mount is gone."""
        self._replaced.stop()
        # The thread may wait for its answer.
        self._caller.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while (move := self._replaced.next_move()) is not None:
                self._make(move)
        finally:
            self._caller.end()

    def _make(self, move: Move) -> None:
        number, path = errno.EIO, move.path
        for _ in range(ATTEMPTS):
            if not self._replaced.is_asked(move):
                return
            path, alias = names = self._replaced.names(move)
            try:
                # At once, and not when the new name is removed too.
                moved = partial(self._replaced.end_move, move, is_moved=True)
                number = self._caller.call(path, alias, moved)
            except (OSError, ValueError) as error:
                log.info("the process that moves names has ended: %s", error)
                self._caller.end()
                continue
            if number == 0 or names == self._replaced.names(move):
                break
        if number and self._replaced.is_asked(move):
            reason = os.strerror(number)
            log.info("%s: the older version, which a program has open, keeps its name: %s", path, reason)
        self._replaced.end_move(move, is_moved=number == 0)
