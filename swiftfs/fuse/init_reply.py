"""The answer to the kernel's first request (FUSE_INIT), where libfuse leaves out parallel lookups.

libfuse 3 has a flag for them, FUSE_CAP_PARALLEL_DIROPS, but before 3.17 it does not pass it on (`do_init` in
fuse_lowlevel.c of 3.14), and the kernel sends the lookups of one folder one after another. So the request is
answered here, with what libfuse would say and that flag. libfuse's own answer comes too late: the kernel does
not know the request any more (ENOENT), which libfuse ignores.
"""

import contextlib
import mmap
import os
import struct
from typing import Any

FIRST_RIGHT = (3, 17)
"""The first libfuse that passes the flag on."""

_PROTOCOL = 7, 31
"""The version of the kernel's protocol whose answer this is; Linux 5.3 has it."""

_SAME_IN_KERNEL = 0x4F45B
"""The bits of `want` that are those of the kernel, too (fuse_common.h and fuse_kernel.h)."""

_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22

_header = struct.Struct("=IiQ")
"""`struct fuse_out_header`: length, error, number of the request."""

_answer = struct.Struct("=IIIIHHIIHH32x")
"""`struct fuse_init_out`: version, max_readahead, flags, background, threshold, max_write, grain, pages."""


_FIRST_REQUEST = 2
"""The number of a connection's first request (`fuse_get_unique` in fs/fuse/dev.c); all others wait for it."""


def answer_init(device: int, connection: Any) -> None:
    """Answer the first request at the descriptor `device`; leave it to libfuse if that fails.

    `connection` is the `struct fuse_conn_info`, as it is after init.
    """
    flags = connection.want & _SAME_IN_KERNEL | _BIG_WRITES | _MAX_PAGES
    pages = (connection.max_write - 1) // mmap.PAGESIZE + 1
    numbers = connection.max_readahead, flags, 0, 0, connection.max_write, 1, pages, 0
    body = _answer.pack(*_PROTOCOL, *numbers)
    with contextlib.suppress(OSError):
        os.write(device, _header.pack(_header.size + len(body), 0, _FIRST_REQUEST) + body)
