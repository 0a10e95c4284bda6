"""Which names of a folder libfuse 3 gets with their attributes (FUSE_READDIRPLUS), and how many of them fit.

The kernel does not look such a name up. libfuse counts a lookup of each that it is given, the kernel only of
those that it gets: one that does not fit would be counted once too often, and libfuse would keep it for ever
(`fill_dir_plus` in fuse.c of 3.9 to 3.18). So libfuse gets none that does not fit.
"""

import ctypes
from collections.abc import Sequence

FIRST_COMPARED = (3, 9)
"""The first libfuse whose `struct fuse_dh` was compared with ours."""

MOST_NAMES = 20_000
"""So many names of an open folder have attributes. The kernel and libfuse keep a KiB for each, and it takes
longer to read more of them than the attributes are valid."""

_LOCK_SIZES = (40, 48, 24, 32)
"""`pthread_mutex_t`: of x86-64, of ARM with 64 bits, and others."""

ENTRY_BYTES = 152
"""`FUSE_NAME_OFFSET_DIRENTPLUS` of the kernel's protocol: what an entry takes besides its name."""


class _Buffer(ctypes.Structure):
    """`struct fuse_dh` of fuse.c behind its lock, as far as `needlen`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("mount", "request", "contents", "first", "last")),
        *((name, ctypes.c_uint) for name in ("used", "size", "wanted")),
    )


def room_in(buffer: int, mount: int) -> int:
    """Return how many bytes are left in the buffer at an address, 0 if it is not one of the `struct fuse`."""
    for size in _LOCK_SIZES:
        found = _Buffer.from_address(buffer + size)
        if found.mount == mount:
            return int(found.wanted - found.used)
    return 0


def count_fitting(names: Sequence[bytes], room: int) -> int:
    """Return how many of the names fit into so many bytes, each with attributes."""
    for count, name in enumerate(names):
        room -= (ENTRY_BYTES + len(name) + 7) & ~7
        if room < 0:
            return count
    return len(names)
