"""Changes below a folder while it moves: they wait, and are stored under the new name.

These run in a real mount.
"""

import mmap
import os
from concurrent.futures import ThreadPoolExecutor

from swiftclient import Connection

from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.demo.server import Fault, SwiftServer


def test_a_mapped_file_is_stored_under_its_folders_new_name(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    old = bytes(100_000)
    connection.put_object(container, "d/x", old)
    connection.put_object(container, "d/y", b"y")
    path, moved = mounted.path / "d" / "x", mounted.path / "e"
    with path.open("r+b") as file, ThreadPoolExecutor(1) as threads:
        with mmap.mmap(file.fileno(), len(old)) as mapping:
            swift.inject(Fault("COPY", "/d/y", delay=1.5))
            renamed = threads.submit((mounted.path / "d").rename, moved)
            wait_until(lambda: any(one.method == "COPY" for one in swift.requests()))
            mapping[:3] = b"new"
            mapping.flush()
        os.close(os.dup(file.fileno()))
        renamed.result(within(60))
    new = b"new" + old[3:]
    assert (moved / "x").read_bytes() == new
    wait_until(lambda: connection.get_object(container, "e/x")[1] == new)
    assert [row["name"] for row in connection.get_container(container)[1]] == ["e/x", "e/y"]
