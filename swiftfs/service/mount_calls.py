"""A program that makes calls in a mount, for the process that serves the mount.

It is a process of its own. The kernel closes /dev/fuse only when all threads of the serving process have
ended: if one of them waited for an answer of its own mount when the process was killed, neither would ever
end.

Arguments: the mount point, its device as in `st_dev`, and the number of the process that serves it. A request
on standard input is three texts with a NUL behind each: a folder of the mount, a name in it, and its new
name. If that is empty, the file is opened and closed instead of moved. The answers are lines: 0 or the errno
when that is done, and an empty one when nothing is held open any more.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import suppress

FOLDER = os.O_PATH | os.O_DIRECTORY
"""How folders are opened: no request reaches the filesystem for it."""


def main() -> None:
    """Serve until standard input ends."""
    mountpoint, device, process = os.fsencode(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    request = b""
    while part := os.read(0, 65536):
        request += part
        if request.count(b"\0") == 3:
            folder, name, alias, _ = request.split(b"\0")
            request = b""
            for number in call(mountpoint, device, process, (folder, name, alias)):
                os.write(1, b"%d\n" % number)
            os.write(1, b"\n")


def call(mountpoint: bytes, device: int, process: int, request: tuple[bytes, bytes, bytes]) -> Iterator[int]:
    """Make the calls of a request, and yield 0 or the errno.

    Nothing is done unless the mount is that of `process`: it may be unmounted, and another one be there.
    """
    folder, name, alias = request
    descriptors: list[int] = []
    try:
        descriptors.append(root := os.open(mountpoint, FOLDER))
        # While the root is open no other mount gets its device number.
        served = os.getxattr(f"/proc/self/fd/{root}", "swiftfs.pid")
        descriptors.append(parent := os.open(folder or b".", FOLDER | os.O_NOFOLLOW, dir_fd=root))
        # Something else may be mounted below.
        devices = {os.fstat(one).st_dev for one in descriptors}
        if int(served) != process or devices != {device}:
            raise OSError(errno.ESTALE, "another mount")  # noqa: TRY301
        if alias:
            yield from move(parent, name, alias)
        else:
            # It may be something else by now, such as a FIFO.
            os.close(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent))
            yield 0
    except (OSError, ValueError) as error:
        yield (error.errno if isinstance(error, OSError) else None) or errno.EIO
    finally:
        for one in descriptors:
            os.close(one)


def move(parent: int, name: bytes, alias: bytes) -> Iterator[int]:
    """Move a name in the folder `parent`, yield 0, and then remove the new name."""
    # The filesystem learns by this that the next lookup of `name` is ours.
    with suppress(FileNotFoundError):
        os.stat(alias, dir_fd=parent)
        raise OSError(errno.EEXIST, "the new name is there")
    os.rename(name, alias, src_dir_fd=parent, dst_dir_fd=parent)
    yield 0
    # It is nobody's: the kernel forgets it, and libfuse hides it while the file is open.
    with suppress(OSError):
        os.unlink(alias, dir_fd=parent)


if __name__ == "__main__":
    main()
