"""Options: where they can be set, which place takes precedence, and the messages of errors.

These run in a real mount.
"""

from pathlib import Path

import pytest
from click.testing import CliRunner

from support.mounts import Mount
from swiftfs.cli import app, mount
from swiftfs.demo.server import SwiftServer
from swiftfs.service.mountpoint import MountRequest


def test_the_mount_command_passes_on_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swift: SwiftServer
) -> None:
    seen: list[MountRequest] = []
    monkeypatch.setattr(mount, "_serve", lambda request, _environment, **_how: seen.append(request))
    monkeypatch.setattr(mount, "check_mountpoint", lambda _path, **_how: None)
    monkeypatch.setenv("SWIFTFS_TTL", "9")
    words = ["mount", "box", str(tmp_path), "-o", "ro,uploads=2", "--uploads", "3", "--no-prefetch"]
    result = CliRunner().invoke(app.main, [*words, "--cache-dir", "cache"])
    assert result.exit_code == 0, result.output
    options = seen[0].options
    assert (options.ro, options.uploads, options.prefetch, options.ttl) == (True, 3, False, 9)
    assert seen[0].cache_dir == Path("cache").absolute()


@pytest.mark.mount_options("ro")
def test_a_flag_overrides_a_mount_option(mounted: Mount) -> None:
    with pytest.raises(OSError, match="Read-only"):
        (mounted.path / "file").touch()
    mounted.flags = ("--no-ro",)
    mounted.remount()
    (mounted.path / "file").touch()
    assert (mounted.path / "file").exists()
