"""Changes of a large object upload what changed: the plan as a function, the requests on a real Swift."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swiftclient import Connection

from support.jobs import methods, wait_until
from support.mounts import Mount, swift_cli
from support.noise import noise
from swiftfs.demo.server import RecordedRequest, SwiftServer
from swiftfs.filecache.block_map import BLOCK, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.segment_layout import PIECE, Gap, Part, compact, plan, span
from swiftfs.objects import ObjectName, Segment

MIB = 1024**2
LIMIT_BYTES = 3_000_000


def segment(number: int, size: int) -> Segment:
    return Segment(ObjectName("box_segments", f"s{number}"), f"{number:032x}", size)


def blocks(ranges: Sequence[tuple[int, int]]) -> Blocks:
    changed = Blocks()
    for first, last in ranges:
        changed.add(first, last)
    return changed


@st.composite
def changes(draw: st.DrawFn) -> tuple[list[Segment], int, int, list[tuple[int, int]]]:
    """Return old segments, how many of their bytes are kept, the new size, and the changed blocks."""
    sizes = draw(st.lists(st.integers(1, 5 * MIB), min_size=1, max_size=8))
    total = sum(sizes)
    kept = draw(st.integers(0, total))
    size = draw(st.one_of(st.just(kept), st.integers(kept, kept + 4 * MIB)))
    places = draw(st.lists(st.tuples(st.integers(0, total // BLOCK), st.integers(1, 12)), max_size=5))
    return [segment(i, n) for i, n in enumerate(sizes)], kept, size, [(a, a + n) for a, n in places]


def old_place(old: Sequence[Segment], part: Segment) -> int:
    """Return the range of the old file that a part contains."""
    before = 0
    for candidate in old:
        if candidate.name == part.name:
            return before + part.first
        before += candidate.span
    raise AssertionError(part)


@given(changes(), st.sampled_from([PIECE, 4 * PIECE, 16 * PIECE]))
def test_a_plan_is_the_new_file_and_keeps_no_changed_byte(
    case: tuple[list[Segment], int, int, list[tuple[int, int]]], largest: int
) -> None:
    old, kept, size, ranges = case
    changed = blocks(ranges)
    parts = plan(old, kept, size, changed, largest)
    position = 0
    for part in parts:
        assert span(part) > 0
        if isinstance(part, Gap):
            assert part.start == position
            assert span(part) < largest + PIECE
        else:
            assert old_place(old, part) == position
            assert position + span(part) <= kept
            assert not changed.touches(*block_range(position, position + span(part)))
            assert span(part) >= PIECE or part in old
        position += span(part)
    assert position == size


@given(changes(), st.integers(1, 6))
def test_compaction_keeps_the_bytes_and_reduces_the_parts(
    case: tuple[list[Segment], int, int, list[tuple[int, int]]], limit: int
) -> None:
    old, kept, size, ranges = case
    parts = plan(old, kept, size, blocks(ranges), PIECE)
    fewer: list[Part] = compact(parts, limit, 64 * PIECE)
    assert sum(map(span, fewer)) == size
    assert len(fewer) <= max(limit, 1)
    position = 0
    for part in fewer:
        assert not isinstance(part, Gap) or part.start == position
        position += span(part)


def content(size: int) -> bytearray:
    """Return bytes without repetitions; they are joined in place, because a second copy is too much."""
    data = bytearray()
    for start in range(0, size, MIB):
        data += noise(min(MIB, size - start), start + 1)
    return data


def traffic(requests: Sequence[RecordedRequest]) -> tuple[int, int]:
    """Return the bytes sent to and received from the server."""
    return sum(r.bytes_in for r in requests), sum(r.bytes_out for r in requests)


def data_requests(swift: SwiftServer) -> list[RecordedRequest]:
    requests = [r for r in swift.requests() if "/auth" not in r.path and r.path != "/info"]
    swift.reset_requests()
    return requests


def stored_md5(connection: Connection, container: str, name: str) -> str:
    _, chunks = connection.get_object(container, name, resp_chunk_size=MIB)
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def md5(data: bytes | bytearray) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def listed_segments(connection: Connection, container: str) -> set[str]:
    return {row["name"] for row in connection.get_container(f"{container}_segments")[1]}


def named_segments(connection: Connection, container: str, name: str) -> set[str]:
    body = connection.get_object(container, name, query_string="multipart-manifest=get")[1]
    return {part["name"].partition("_segments/")[2] for part in json.loads(body)}


@pytest.fixture
def large(mounted: Mount, connection: Connection, container: str) -> bytearray:
    """A file of 64 MiB, `big`, stored, but not known to the mount."""
    data = content(64 * MIB)
    (mounted.path / "big").write_bytes(data)
    mounted.remount()
    (mounted.path / "big").stat()
    mounted.swift.reset_requests()
    return data


class LargeFile:
    """`big` on a mount, and its expected bytes; each change is checked by requests and another client."""

    def __init__(self, mount: Mount, connection: Connection, container: str, data: bytearray) -> None:
        self.mount = mount
        self.path = mount.path / "big"
        self.data = data
        self._connection = connection
        self._container = container

    def change(self, offset: int, written: bytes, most_requests: int) -> None:
        """Write `written` at `offset`; assert few requests and bytes, and what another client reads."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(written)
        self.data[offset : offset + len(written)] = written
        requests = data_requests(self.mount.swift)
        assert len(requests) <= most_requests, methods(requests)
        assert max(traffic(requests)) <= LIMIT_BYTES
        assert stored_md5(self._connection, self._container, "big") == md5(self.data)
        named = named_segments(self._connection, self._container, "big")
        assert listed_segments(self._connection, self._container) == named
        self.mount.swift.reset_requests()

    def forget(self) -> None:
        """Let the mount know the file from a listing only."""
        self.mount.remount()
        self.path.stat()
        self.mount.swift.reset_requests()


def test_the_budget_of_a_large_file(
    mounted: Mount, connection: Connection, container: str, large: bytearray
) -> None:
    file = LargeFile(mounted, connection, container, large)
    file.change(50 * MIB + 5000, b"x" * 4096, most_requests=7)
    file.change(len(large), b"append", most_requests=7)
    file.forget()
    file.change(len(large), b"more", most_requests=7)
    file.forget()
    file.path.rename(mounted.path / "moved")
    wait_until(lambda: methods(mounted.swift.requests())["DELETE"] == 1)
    assert len(data_requests(mounted.swift)) <= 4
    (mounted.path / "moved").unlink()
    mounted.remount()
    requests = data_requests(mounted.swift)
    requests = [r for r in requests if "/.swiftfs-" not in r.path]  # a check whether it may write
    deletion = [r for r in requests if r.method in ("DELETE", "POST") or "manifest" in r.query]
    assert len(deletion) <= 3, methods(deletion)
    assert not listed_segments(connection, container)


@pytest.mark.matrix(2)
@pytest.mark.parametrize("origin", ["ours", "swift-slo", "swift-dlo", "plain"])
@pytest.mark.mount_options("segment_size=1M")
def test_changes_of_every_kind_of_large_object(
    mounted: Mount, connection: Connection, container: str, origin: str, tmp_path: Path
) -> None:
    data = content(12 * MIB + 12345)
    local = tmp_path / "big"
    local.write_bytes(data)
    if origin == "ours":
        (mounted.path / "big").write_bytes(data)
        mounted.remount()
    elif origin == "plain":
        connection.put_object(container, "big", bytes(data))
    else:
        how = ["--use-slo"] if origin == "swift-slo" else []
        swift_cli(mounted.swift, "upload", "-S", 4 * MIB, *how, "--object-name", "big", container, local)
    path = mounted.path / "big"
    path.stat()
    mounted.swift.reset_requests()
    with path.open("r+b") as file:
        file.seek(5 * MIB + 77)
        file.write(b"patch" * 100)
    data[5 * MIB + 77 : 5 * MIB + 577] = b"patch" * 100
    sent, received = traffic(data_requests(mounted.swift))
    if origin != "swift-dlo":
        assert max(sent, received) <= LIMIT_BYTES
    assert stored_md5(connection, container, "big") == md5(data)
    with path.open("ab") as file:
        file.write(b"tail" * 1000)
    data += b"tail" * 1000
    assert stored_md5(connection, container, "big") == md5(data)
    os.truncate(path, 10 * MIB + 3)
    del data[10 * MIB + 3 :]
    assert stored_md5(connection, container, "big") == md5(data)
    os.truncate(path, 11 * MIB)
    data += bytes(11 * MIB - len(data))
    assert stored_md5(connection, container, "big") == md5(data)
    mounted.remount()
    assert md5(path.read_bytes()) == md5(data)


@pytest.mark.mount_options("segment_size=1M")
def test_a_patch_of_a_version_that_another_client_replaced_is_stored_whole(
    mounted: Mount, connection: Connection, container: str
) -> None:
    data = content(8 * MIB)
    path = mounted.path / "big"
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.read(1)
        for row in connection.get_container(f"{container}_segments")[1]:
            connection.delete_object(f"{container}_segments", row["name"])
        connection.put_object(container, "big", b"another client's")
        file.seek(5 * MIB)
        file.write(b"ours")
        data[5 * MIB : 5 * MIB + 4] = b"ours"
    assert stored_md5(connection, container, "big") == md5(data)
