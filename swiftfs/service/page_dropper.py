"""The thread that lets the kernel drop pages with wrong bytes, in the mount that this process serves."""

import errno
import logging
import os
from pathlib import Path

from swiftfs.concurrency import new_thread
from swiftfs.posix.wrong_pages import WrongPages
from swiftfs.service.mount_caller import MountCaller

log = logging.getLogger(__name__)


class PageDropper:
    """Opens the files of `wrong_pages`, by another process: the kernel drops their pages at that."""

    def __init__(self, wrong_pages: WrongPages, mountpoint: Path) -> None:
        self._wrong_pages = wrong_pages
        self._caller = MountCaller(mountpoint)
        self._thread = new_thread(self._run, "wrong pages")

    def start(self, device: int) -> None:
        """Begin, now that the mount on `device` answers."""
        self._caller.mounted(device)
        self._wrong_pages.serve()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the process: the mount is gone."""
        self._wrong_pages.stop()
        # The thread may wait for its answer.
        self._caller.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (file := self._wrong_pages.next_file()) is not None:
            path, number = file.known_as, errno.EIO
            try:
                number = self._caller.call(path, "", lambda: None)
            except (OSError, ValueError) as error:
                log.info("the process that opens files has ended: %s", error)
            finally:
                # It is rarely needed.
                self._caller.end()
            if number:
                reason = os.strerror(number)
                log.info("%s: the kernel may keep wrong bytes until the next open: %s", path, reason)
