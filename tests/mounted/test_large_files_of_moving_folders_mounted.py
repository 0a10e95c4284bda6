"""A large file below a folder that moves, changed meanwhile: its manifest keeps every segment it names.

These run in a real mount.
"""

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from swiftclient import Connection

from support.deadlines import within
from support.jobs import wait_until
from support.large_files import manifest_names, segment_names
from support.mounts import Mount
from support.noise import noise
from support.upload_rig import MIB
from swiftfs.demo.server import Fault, SwiftServer

OPTIONS = "segment_size=1M"
SIZE = 3 * MIB + 1000


def test_a_mapped_large_file_of_a_real_mount(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    body = bytearray(noise(SIZE))
    with Mount(swift, container, tmp_path / "mount", f"{OPTIONS},settle=0.2") as mount:
        folder, moved = mount.path / "d", mount.path / "e"
        folder.mkdir()
        (folder / "x").write_bytes(body)
        (folder / "y").write_bytes(b"y")
        wait_until(lambda: {row["name"] for row in connection.get_container(container)[1]} >= {"d/x", "d/y"})
        with (folder / "x").open("r+b") as file, ThreadPoolExecutor(1) as threads:
            with mmap.mmap(file.fileno(), SIZE) as mapping:
                mapping[MIB - 50 : MIB + 50] = body[MIB - 50 : MIB + 50] = noise(100, 1)
                mapping.flush()
                swift.inject(Fault("COPY", "/d/y", delay=1.5))
                renamed = threads.submit(folder.rename, moved)
                wait_until(lambda: any(one.method == "COPY" for one in swift.requests()))
                mapping[10:110] = body[10:110] = noise(100, 2)
                mapping.flush()
            os.close(os.dup(file.fileno()))
            renamed.result(within(60))
        assert (moved / "x").read_bytes() == body
        wait_until(lambda: connection.get_object(container, "e/x")[1] == body)
        (moved / "x").rename(moved / "z")
        with (moved / "z").open("r+b") as file:
            file.seek(2 * MIB + 77)
            file.write(b"more")
        body[2 * MIB + 77 : 2 * MIB + 81] = b"more"
    with Mount(swift, container, tmp_path / "mount", f"{OPTIONS},settle=0.2") as mount:
        assert (mount.path / "e" / "z").read_bytes() == body
    assert connection.get_object(container, "e/z")[1] == body
    assert manifest_names(connection, container, "e/z") == segment_names(connection, container)
