"""A large sparse file: what is uploaded of it, and that it needs neither memory nor disk space."""

import os
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import Job
from support.mounts import Mount
from swiftfs.control.client import flush
from swiftfs.demo.server import SwiftServer

MIB, GIB = 1024**2, 1024**3

SIZE = int(os.environ.get("SWIFTFS_SPARSE_GIB", "2")) * GIB

CACHE = 256 * MIB
MOST_MEMORY = 150 * MIB
PIECE = 300_000
PLACES = 4


def pieces() -> dict[int, bytes]:
    """Return what is written, by offset: some of it early, where segments are small."""
    chance = random.Random(5)
    places = [0, 5 * MIB + 1, *(chance.randrange(SIZE - PIECE) for _ in range(PLACES)), SIZE - PIECE]
    return {place: chance.randbytes(PIECE) for place in places}


class Watch:
    """The peak use of a mount in bytes: `memory` without mapped files, and `disk`."""

    def __init__(self, mount: Mount) -> None:
        self._content = mount.cache / "content"
        self._status = Path(f"/proc/{mount.pid}/status")
        self.disk = self.memory = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample until the block ends."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.05):
                self.disk = max(self.disk, sum(map(_allocated, self._content.iterdir())))
                anonymous = re.search(r"RssAnon:\s*(\d+)", self._status.read_text())
                self.memory = max(self.memory, 1024 * int(anonymous[1]) if anonymous else 0)

        watch = threading.Thread(target=look)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()


def _allocated(path: Path) -> int:
    """Return the disk space of a file, in bytes; 0 if it is gone."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


@pytest.mark.timeout(300 + 60 * SIZE // GIB)
def test_a_sparse_file(swift: SwiftServer, connection: Connection, container: str, tmp_path: Path) -> None:
    written = pieces()
    with Mount(swift, container, tmp_path, f"settle=0.2,cache_size={CACHE // MIB}M") as mount:
        path, job, watch = mount.path / "sparse", Job(mount), Watch(mount)
        with watch.running():
            with path.open("xb") as stream:
                stream.truncate(SIZE)
                for place, piece in written.items():
                    assert os.pwrite(stream.fileno(), piece, place) == PIECE
            job.step("write")
            assert flush(mount.path, lambda _report: None).total == 0
        sent = sum(request.bytes_in for request in job.step("flush"))
        print(f"{sent // MIB} MiB sent, at most {watch.disk // MIB} of disk, {watch.memory // MIB} of memory")
        assert sent < SIZE / 2
        assert watch.memory < MOST_MEMORY
        assert watch.disk < 2 * CACHE
        mount.remount()
        again = Watch(mount)
        with again.running(), path.open("rb") as stream:
            for place, piece in written.items():
                assert os.pread(stream.fileno(), PIECE, place) == piece
        assert again.memory < MOST_MEMORY
        assert again.disk < 2 * CACHE
    assert int(connection.head_object(container, "sparse")["content-length"]) == SIZE
    for place, piece in written.items():
        headers = {"Range": f"bytes={place}-{place + PIECE - 1}"}
        assert connection.get_object(container, "sparse", headers=headers)[1] == piece
    nothing = next(
        place for place in range(MIB, SIZE, 7 * MIB) if all(abs(place - at) > MIB for at in written)
    )
    headers = {"Range": f"bytes={nothing}-{nothing + 99}"}
    assert connection.get_object(container, "sparse", headers=headers)[1] == bytes(100)
