"""What libfuse and fusermount write to standard error, caught, and made a reason."""

import os
from fnmatch import fnmatchcase
from pathlib import Path

_REMEDIES = (
    ("failed to exec fusermount*: No such file or directory", ": install the package fuse3"),
    ("failed to open /dev/fuse: Permission denied", ": its mode should be 666"),
    ("mount failed: Operation not permitted", ": fusermount should belong to root and be set-user-ID"),
    ("option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf", ", by root"),
    # It runs as root, which the mount of a user does not let in.
    (
        "failed to access mountpoint *: Permission denied",
        ": choose a folder that is not in another FUSE mount",
    ),
)
"""Messages of libfuse and fusermount, as patterns, and what to do about them; it is appended."""


class DivertedStderr:
    """Descriptor 2, redirected to memory: libfuse reports only there why it cannot mount."""

    def __init__(self) -> None:
        self._stderr = os.dup(2)
        self._memory = os.memfd_create("libfuse-stderr")
        os.dup2(self._memory, 2)

    def restore(self) -> str:
        """Put descriptor 2 back and return what was written meanwhile (nothing the second time)."""
        if self._memory < 0:
            return ""
        os.dup2(self._stderr, 2)
        text = os.pread(self._memory, 65536, 0).decode("utf-8", "replace")
        os.close(self._stderr)
        os.close(self._memory)
        self._memory = -1
        return text


def first_reason(said: str) -> str:
    """Return the first line of libfuse or fusermount without the program's name, and what to do."""
    for line in said.splitlines():
        program, colon, reason = line.partition(": ")
        if line.strip():
            ours = colon and Path(program).name in {"fuse", "fusermount", "fusermount3", "swiftfs"}
            text = reason if ours else line
            return text + next((todo for said, todo in _REMEDIES if fnmatchcase(text, said)), "")
    return "libfuse gives no reason"
