"""Without the packages of an extra: what needs them names the extra in one line, everything else works."""

import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.commands import one_line
from support.mounts import clean_environment
from swiftfs.demo.server import SwiftServer

ROOT = Path(__file__).parents[2]

MISSING = "needs the package openstacksdk: pip install 'swiftfs[clouds]'"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all packages that are installed here but openstacksdk."""
    folder = tmp_path_factory.mktemp("packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith("openstack"):
            (folder / package.name).symlink_to(package)
    return folder


def swiftfs(
    packages: Path, *words: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `swiftfs` with only those packages."""
    return subprocess.run(
        [sys.executable, "-S", "-m", "swiftfs", *words],
        env={**clean_environment(), "PYTHONPATH": f"{ROOT}:{packages}", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_cloud_names_the_package_that_is_missing(packages: Path, tmp_path: Path) -> None:
    result = swiftfs(packages, "probe", "box", "--os-cloud", "demo")
    assert one_line(result) == f"swiftfs: --os-cloud {MISSING}\n"
    result = swiftfs(packages, "mount", "box", str(tmp_path), environment={"OS_CLOUD": "demo"})
    assert one_line(result) == f"swiftfs: OS_CLOUD {MISSING}\n"


@pytest.mark.usefixtures("connection")
def test_without_a_cloud_it_is_not_needed(packages: Path, swift: SwiftServer, container: str) -> None:
    result = swiftfs(packages, "gc", container, environment=swift.environment())
    assert (result.returncode, result.stderr) == (0, "")
    assert "0 uploads, 0 segments" in result.stdout


def test_the_version_shows_that_it_is_missing(packages: Path) -> None:
    assert "openstacksdk not installed" in swiftfs(packages, "version").stdout.splitlines()
