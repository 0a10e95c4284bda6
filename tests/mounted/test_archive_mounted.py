"""Files of an archive, which a server like OVH's Public Cloud Archive has sealed."""

import errno
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.concurrency import monotonic
from swiftfs.demo.server import Fault, SwiftServer

HOURS = 4 * 3600
STATE, DELAY = "X-Ovh-Retrieval-State", "X-Ovh-Retrieval-Delay"


@pytest.fixture(autouse=True)
def no_faults_are_left(swift: SwiftServer) -> Iterator[None]:
    yield
    swift.clear_faults()


def seal(swift: SwiftServer, path: str, *, state: str = "sealed", seconds: int = HOURS) -> None:
    """Let the server say of the objects at `path` (a regular expression) what an archive says."""
    path += r"\?"  # the end of the name: a fault looks at path and query
    told = {STATE: state}
    if state == "unsealing":
        told[DELAY] = str(seconds)
    if state != "unsealed":
        refusal = {**told, "Retry-After": str(seconds)}
        swift.inject(Fault("GET", path, status=429, headers=refusal))
    swift.inject(Fault("HEAD", path, headers=told))


def stored(mounted: Mount, name: str, data: bytes) -> Path:
    """Store a file, and forget its bytes."""
    (mounted.path / name).write_bytes(data)
    mounted.remount()
    return mounted.path / name


def state(file: Path) -> str:
    return os.getxattr(file, "swift.state").decode()


def gets(swift: SwiftServer, name: str) -> int:
    return sum(one.method == "GET" and one.path.endswith(name) for one in swift.requests())


def test_a_sealed_file_is_busy_at_once(mounted: Mount, swift: SwiftServer) -> None:
    mounted.expected = ["is sealed in the archive"]
    file = stored(mounted, "film", b"bytes")
    seal(swift, "/film")
    begun = monotonic()
    with pytest.raises(OSError, match="busy") as caught:
        file.read_bytes()
    assert caught.value.errno == errno.EBUSY
    assert monotonic() - begun < within(3)
    lines = [line for line in mounted.log.read_text().splitlines() if "EBUSY" in line]
    assert re.search(r"film is sealed in the archive, and cannot be read for 4 h \(until 20\d\d-", lines[0])


def test_swift_state_says_what_the_archive_says(mounted: Mount, swift: SwiftServer) -> None:
    file = stored(mounted, "film", b"bytes")
    assert state(file) == "unsealed"
    seal(swift, "/film")
    assert state(file) == "sealed"
    swift.clear_faults()
    seal(swift, "/film", state="unsealing")
    assert state(file) == f"unsealing {HOURS}"
    assert gets(swift, "/film") == 0  # a GET would ask for the file, which costs money
    swift.clear_faults()
    seal(swift, "/film", state="unsealed")
    assert state(file) == "unsealed"


def test_thaw_asks_and_waits(mounted: Mount, swift: SwiftServer) -> None:
    stored(mounted, "film", b"bytes")
    seal(swift, "/film")
    swift.reset_requests()
    with ThreadPoolExecutor(1) as pool:
        command = pool.submit(swiftfs, "thaw", mounted.path)
        wait_until(lambda: gets(swift, "/film") == 1)
        swift.clear_faults()
        seal(swift, "/film", state="unsealing", seconds=1)
        assert not command.done()
        swift.clear_faults()
        result = command.result(within(90))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "1 of 1 file can be read\n"
    assert gets(swift, "/film") == 1
    assert (mounted.path / "film").read_bytes() == b"bytes"


@pytest.mark.mount_options("segment_size=1M")
def test_thaw_asks_for_the_sealed_segments_of_a_large_file(
    mounted: Mount, swift: SwiftServer, connection: Connection
) -> None:
    mounted.expected = ["is sealed in the archive"]
    data = os.urandom(3 * 1024**2)
    file = stored(mounted, "film", data)
    names = [row["name"] for row in connection.get_container(f"{mounted.source}_segments")[1]]
    assert len(names) == 3
    seal(swift, "|".join(map(re.escape, names[1:])).join("()"))
    seal(swift, f"/{mounted.source}(_segments/.swiftfs-segments)?/film.*", state="unsealed")
    assert state(file) == "sealed"
    swift.inject(Fault("GET", rf"/{mounted.source}/film\?$", status=409))  # as Swift answers then
    with pytest.raises(OSError, match="busy"):
        file.read_bytes()
    swift.reset_requests()
    result = swiftfs("thaw", "--no-wait", "--json", file)
    assert result.returncode == 0, result
    assert json.loads(result.stdout) == [{"path": str(file), "state": "sealed", "seconds": 0.0}]
    asked = [one.path for one in swift.requests() if one.status == 429]
    assert len(asked) == len(set(asked)) == 2
    swift.clear_faults()
    assert file.read_bytes() == data


def test_sealed_files_are_not_downloaded_in_advance(mounted: Mount, swift: SwiftServer) -> None:
    mounted.expected = ["is sealed in the archive"]
    for number in range(30):
        (mounted.path / f"file{number:02}").write_text("text")
    mounted.remount()
    seal(swift, "/file..")
    swift.reset_requests()
    files = sorted(mounted.path.iterdir())[:10]
    for file in files:
        with pytest.raises(OSError, match="busy"):
            file.read_bytes()
    asked = {one.path.rpartition("/")[2] for one in swift.requests() if one.status == 429}
    assert asked == {file.name for file in files}


def test_thaw_of_ordinary_files_is_done_at_once(mounted: Mount, swift: SwiftServer) -> None:
    (mounted.path / "folder").mkdir()
    (mounted.path / "folder" / "one").write_text("1")
    (mounted.path / "two").write_text("2")
    swift.reset_requests()
    result = swiftfs("thaw", mounted.path, mounted.path / "two")
    assert (result.returncode, result.stdout) == (0, "2 of 2 files can be read\n")
    assert not any(one.method == "GET" and one.path.endswith("two") for one in swift.requests())


def test_thaw_elsewhere_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for name in ("file", "none"):
        assert "is not in a swiftfs mount" in one_line(swiftfs("thaw", tmp_path / name))


def test_a_server_that_asks_for_a_long_pause_is_not_waited_for(mounted: Mount, swift: SwiftServer) -> None:
    mounted.expected = ["asks for a pause"]
    swift.inject(Fault("GET", "format=json", status=503, headers={"Retry-After": "7200"}))
    begun = monotonic()
    with pytest.raises(OSError, match="busy"):
        list(mounted.path.iterdir())
    assert monotonic() - begun < within(3)
    assert re.search(r"503 .*the server asks for a pause of 2 h \(until ", mounted.log.read_text())
