"""A cache folder is never on another mount of swiftfs: the journal must be on the disk at once."""

from pathlib import Path

import pytest

from support.options import parse_options
from swiftfs.errors import ConfigurationError
from swiftfs.paths import Source
from swiftfs.service.mount import _cache_folder
from swiftfs.service.mountpoint import MountRequest


@pytest.fixture(autouse=True)
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of mounts with two: a swiftfs, and another file system."""
    table = tmp_path / "mountinfo"
    line = "36 35 0:{0} / {1} rw - {2} swift:box rw,user_id=0,group_id=0\n"
    places = [
        line.format(40, f"{tmp_path}/a", "fuse.swiftfs"),
        line.format(41, f"{tmp_path}/b", "fuse.sshfs"),
    ]
    table.write_text("".join(places))
    monkeypatch.setattr("swiftfs.service.mount.OWN_TABLE", table)


def request(folder: Path | None, mountpoint: Path) -> MountRequest:
    return MountRequest(Source("box"), mountpoint, parse_options([]), cache_dir=folder)


@pytest.mark.parametrize("place", ["a", "a/cache", "a/deep/cache"])
def test_a_cache_folder_in_another_mount_is_refused(tmp_path: Path, place: str) -> None:
    text = f"cache folder {tmp_path / place} is inside {tmp_path}/a, where a swiftfs is mounted"
    with pytest.raises(ConfigurationError, match=text):
        _cache_folder(request(tmp_path / place, tmp_path / "m"), "who")


def test_so_is_the_source_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    with pytest.raises(ConfigurationError, match="where a swiftfs is mounted"):
        _cache_folder(request(None, tmp_path / "m"), "who")


@pytest.mark.parametrize("place", ["b/cache", "c", "ab"])
def test_any_other_folder_is_used(tmp_path: Path, place: str) -> None:
    assert _cache_folder(request(tmp_path / place, tmp_path / "m"), "who") == tmp_path / place
