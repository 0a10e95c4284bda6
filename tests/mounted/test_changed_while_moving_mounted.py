"""Changes of a file whose older version is open, while the kernel still has that version at the name.

The kernel has one size for both then. With that of the new version the readers of the older one would miss
its end, or read zeros behind it. These run in a real mount, in which no name is moved until the test says so.
"""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pytest
from swiftclient import Connection

from support import mount_with_short_patience
from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from support.older_versions import (
    LONG,
    LONGER,
    SHORT,
    body_of,
    halt_moves,
    let_move,
    opened,
    refresh,
    replace,
)

pytestmark = pytest.mark.mount_options("settle=0.2,ttl=1,read_ahead=0")

SAME = noise(len(LONG), 3)
IDS = ["short", "longer", "same", "empty", "gone"]


@pytest.fixture(autouse=True)
def _hasty(mounted: Mount) -> None:
    mounted.program = (mount_with_short_patience.__file__,)
    mounted.remount()
    mounted.expected += ["EBUSY", "ESTALE"]


@pytest.fixture
def halted(mounted: Mount, connection: Connection, container: str) -> Path:
    return halt_moves(mounted, connection, container)


def written_over(path: Path) -> None:
    path.write_bytes(LONGER)


def emptied(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def emptied_by_a_reader(path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))


def appended_to(path: Path) -> None:
    with path.open("ab") as file:
        file.write(LONGER)


def written_behind_the_end(path: Path) -> None:
    """The last page of the older version stays in the kernel's cache, with zeros behind its end."""
    with path.open("r+b") as file:
        file.seek(len(LONG) + 4096)
        file.write(b"behind")


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def cut_while_open(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1000)


CHANGES = [
    written_over,
    emptied,
    emptied_by_a_reader,
    appended_to,
    written_behind_the_end,
    cut,
    cut_while_open,
]


def errno_of(change: Callable[[Path], object], path: Path) -> int | None:
    try:
        change(path)
    except OSError as error:
        return error.errno
    return None


@pytest.mark.matrix(8)
@pytest.mark.parametrize(
    "new", [SHORT, LONGER, SAME, b"", None], ids=["short", "longer", "same", "empty", "gone"]
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_reader_of_the_older_version_never_gets_another_end(
    halted: Path,
    mounted: Mount,
    connection: Connection,
    container: str,
    change: Callable[[Path], object],
    new: bytes | None,
) -> None:
    with opened(halted, LONG) as handle, mmap(handle, 0, access=ACCESS_READ) as mapped:
        if new is None:
            connection.put_object(container, "d/other", b"it keeps the folder")
            connection.delete_object(container, "d/file")
            refresh(mounted)
        else:
            replace(connection, mounted, container, "d/file", new)
        with ThreadPoolExecutor(1) as pool:
            changed = pool.submit(errno_of, change, halted)
            while not changed.done():
                assert body_of(handle) == LONG
        for _ in range(3):
            assert body_of(handle) == LONG
            assert os.fstat(handle).st_size == len(LONG)
        assert mapped[:] == LONG
        # Nobody has changed the new version.
        refusals = {errno.EBUSY} if new is not None else {errno.EBUSY, errno.ENOENT, errno.ESTALE}
        assert changed.result() in refusals
        let_move(mounted)
        wait_until(lambda: halted.read_bytes() == new if new is not None else not halted.exists())
        if new is not None or change is written_over:
            wait_until(lambda: errno_of(change, halted) is None)
        assert body_of(handle) == LONG
        assert mapped[:] == LONG
        # The kernel has asked for the name that the mover moves, also after it was told that it is gone.
        assert "keeps its name" not in mounted.log.read_text()
