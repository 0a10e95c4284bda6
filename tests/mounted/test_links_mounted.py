"""Trees with hard links, copied by programs into a mount that makes copies of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mounts import Mount, run
from support.noise import OLD


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a small file of three names, a large one of two, and a symbolic link of two."""
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    (folder / "one").write_bytes(b"small")
    (folder / "large").write_bytes(OLD)
    (folder / "symlink").symlink_to("one")
    for old, new in (("one", "two"), ("one", "sub/three"), ("large", "sub/large")):
        (folder / new).hardlink_to(folder / old)
    os.link(folder / "symlink", folder / "sub" / "symlink", follow_symlinks=False)
    return folder


def by_tar(source: Path, target: Path) -> None:
    archive = source.parent / "tree.tar"
    run("tar", "-C", source, "-cf", archive, ".")
    target.mkdir()
    run("tar", "-C", target, "-xf", archive)


COPIERS: dict[str, Callable[[Path, Path], object]] = {
    "cp -a": lambda source, target: run("cp", "-a", source, target),
    "tar x": by_tar,
    "rsync -aH": lambda source, target: run("rsync", "-aH", f"{source}/", target),
}


@pytest.mark.matrix(1)
@pytest.mark.mount_options("hardlinks=copy,segment_size=1M")
@pytest.mark.parametrize("name", COPIERS)
def test_every_name_has_its_bytes(mounted: Mount, tree: Path, name: str) -> None:
    target = mounted.path / "copy"
    COPIERS[name](tree, target)
    if name == "rsync -aH":
        COPIERS[name](tree, target)  # again: that must not fail
    mounted.remount()
    run("diff", "-r", "--no-dereference", tree, target)
    for old, new in (("one", "two"), ("large", "sub/large")):
        assert (target / old).stat().st_mtime_ns == (target / new).stat().st_mtime_ns
    (target / "large").unlink()
    (target / "one").write_bytes(b"changed")
    mounted.remount()
    assert (target / "sub" / "large").read_bytes() == OLD
    assert (target / "two").read_bytes() == b"small"
