"""Open files of which the kernel may have bytes in its page cache that arrived wrong.

The local file is repaired, or its bytes are refused, but the kernel answers reads from its own pages. An open
makes it drop the pages of the file, also for existing handles and mappings. Programs may not open the file
again, so a thread does it.
"""

from collections import deque

from swiftfs.concurrency import Condition
from swiftfs.posix.open_file import OpenFile


class WrongPages:
    """The files to open; `changed` guards every field, and is notified of every new file.

    If nothing serves them, only the opens of programs drop pages.
    """

    def __init__(self, changed: Condition) -> None:
        self._changed = changed
        self._files: deque[OpenFile] = deque()
        self._is_served = False

    def add(self, file: OpenFile) -> None:
        """Add a file that is to be opened."""
        with self._changed:
            if self._is_served and not any(one is file for one in self._files):
                self._files.append(file)
                self._changed.notify_all()

    def serve(self) -> None:
        """Begin to take files: a thread calls `next_file` from now on."""
        with self._changed:
            self._is_served = True

    def stop(self) -> None:
        """Take no more files; `next_file` returns None."""
        with self._changed:
            self._is_served = False
            self._files.clear()
            self._changed.notify_all()

    def next_file(self) -> OpenFile | None:
        """Wait for the next file that is still open, and return it; None at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: bool(self._files) or not self._is_served)
                if not self._is_served:
                    return None
                if (file := self._files.popleft()).users:
                    return file
