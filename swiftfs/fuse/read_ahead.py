"""How far the kernel reads ahead in the files that it opens."""

import contextlib
import os
from pathlib import Path

_DEVICES = Path("/sys/class/bdi")
"""Has a folder for each mount, by the number of its device. Only root may write there."""


class KernelReadAhead:
    """Lets the kernel read files that are all local by the largest requests, and others as by itself.

    The kernel reads 128 KiB ahead, whatever libfuse allows. That is a setting of the whole mount, but an open
    file keeps the one of the moment when it was opened (`do_dentry_open` of Linux). More for all files would
    let programs that read little, and mappings, download more than they need.

    Two opens at the same time may get the setting of each other: it is only a hint. Not locked.
    """

    def __init__(self, request_bytes: int) -> None:
        self._largest = request_bytes // 1024
        self._default = self._now = 0
        self._file: int | None = None

    def begin(self, device: int) -> None:
        """Begin to choose for the mount with the number `device`; do nothing where this process may not."""
        path = _DEVICES / f"{os.major(device)}:{os.minor(device)}" / "read_ahead_kb"
        with contextlib.suppress(OSError):
            self._default = self._now = int(path.read_text())
            if self._default < self._largest:
                self._file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def choose(self, *, is_local: bool) -> None:
        """Choose for the file whose open is about to be answered."""
        wanted = self._largest if is_local else self._default
        if self._file is not None and wanted != self._now:
            self._now = wanted
            with contextlib.suppress(OSError):
                os.pwrite(self._file, str(wanted).encode(), 0)

    def end(self) -> None:
        """Choose no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
