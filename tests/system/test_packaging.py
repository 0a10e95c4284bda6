"""The wheel: its contents, and that it runs in a clean environment."""

import importlib.util
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pip(python: Path | str, *words: object) -> None:
    """Run pip; skip the test if packages cannot be downloaded."""
    result = subprocess.run(
        [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode and any(
        text in result.stderr for text in ("No matching distribution", "Connection", "resolution")
    ):
        pytest.skip("the package index is out of reach")
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "man", "swiftfs", "tools"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    if importlib.util.find_spec("pip") is None:
        pytest.skip("no pip here")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, source)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_contains_the_package_its_types_and_its_commands(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert {"swiftfs/cli/app.py", "swiftfs/py.typed", "swiftfs/demo/tour.py"} <= set(names)
    assert not [name for name in names if not name.startswith("swiftfs")]
    assert "swiftfs = swiftfs.__main__:main" in points
    assert "mount.swiftfs = swiftfs.cli.mount_helper:main" in points
    assert "umount.fuse.swiftfs = swiftfs.cli.mount_helper:unmount_main" in points


@pytest.mark.slow
def test_a_clean_environment_runs_the_wheel(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path, symlinks=True)
    pip(sys.executable, "--python", tmp_path / "bin" / "python", "install", "--no-compile", wheel)
    for command, word, expected in (
        ("swiftfs", "--version", "swiftfs, version "),
        ("swiftfs", "version", "python-swiftclient "),
        ("mount.swiftfs", "--help", "Usage: mount.swiftfs"),
        ("umount.fuse.swiftfs", "--help", "Usage: umount.fuse.swiftfs"),
    ):
        program = str(tmp_path / "bin" / command)
        result = subprocess.run([program, word], capture_output=True, text=True, check=True)
        assert expected in result.stdout
    for page in ("man1/swiftfs.1", "man8/mount.swiftfs.8"):
        assert (tmp_path / "share" / "man" / page).read_text().startswith(".TH ")
