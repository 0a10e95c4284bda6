"""A server that lists a folder without an end: an error, and memory for a page of its names."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from support import mount_with_folder_limit
from support.deadlines import within
from support.hostile_server import HostileServer, Response, hostile_server
from support.mounts import Mount

MIB = 2**20
ROWS = 10_000
NAME = "folder/{:012d}" + "-a-long-name" * 20
NAME_BYTES = len(NAME.format(0)) - len("folder/")
NAMES = 300_000
KEPT_BY_LIBFUSE = 20_000 * 1024  # `MOST_NAMES` of fuse/libfuse3.py, which loads the library
"""Bytes that libfuse 3 takes for the names that it gets with their attributes."""


@dataclass
class Endless:
    """Where a mount finds the server."""

    server: HostileServer

    def environment(self) -> Mapping[str, str]:
        return self.server.environment

    def respond(self, _: bytes) -> Response:
        asked = urlsplit(self.server.paths[-1])
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        if "format" not in query:
            return Response(
                status=204, headers={"X-Container-Object-Count": "1", "X-Container-Bytes-Used": "1"}
            )
        if query.get("prefix") != "folder/":
            return Response(b'[{"subdir": "folder/"}]' if "marker" not in query else b"[]")
        marker = query.get("marker")
        first = 0 if marker is None else int(marker[len("folder/") :][:12]) + 1
        return Response(json.dumps([self.row(number) for number in range(first, first + ROWS)]).encode())

    def row(self, number: int) -> Mapping[str, object]:
        digest = md5(b"%d" % number, usedforsecurity=False).hexdigest()
        time = "2026-01-01T00:00:00.000000"
        key = NAME.format(number)
        return {"name": key, "bytes": 1, "hash": digest, "content_type": "a/b", "last_modified": time}


@pytest.mark.slow
def test_a_folder_without_an_end(tmp_path: Path) -> None:
    with hostile_server() as server:
        endless = Endless(server)
        server.respond = endless.respond
        mount = Mount(endless, "box", tmp_path, "mtime=listing")  # type: ignore[arg-type]
        mount.program = (mount_with_folder_limit.__file__, str(NAMES * (NAME_BYTES + 24)))
        mount.expected.append("EFBIG")
        with mount:
            before = mount.rss_peak()
            command = ["ls", "-f", str(mount.path / "folder")]
            with (tmp_path / "names").open("wb") as names:  # 76 MB
                found = subprocess.run(
                    command, stdout=names, stderr=subprocess.PIPE, text=True, timeout=within(240), check=False
                )
            grown = mount.rss_peak() - before
            logged = [line for line in mount.log.read_text().splitlines() if "EFBIG" in line]
    print(f"{NAMES} names of {NAME_BYTES} bytes: {grown / MIB:.0f} MiB")
    assert "File too large" in found.stderr
    # The first page was listed before the limit counts.
    with (tmp_path / "names").open("rb") as names:
        assert NAMES - ROWS <= sum(1 for _ in names) <= NAMES + 2 * ROWS
    assert grown < NAMES * NAME_BYTES + KEPT_BY_LIBFUSE
    assert len(logged) == 1, logged
