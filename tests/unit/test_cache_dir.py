"""The cache folder among other users: whose it must be, and what must not lie in it."""

import os
from pathlib import Path

import pytest

from support.other_users import NOBODY, as_root
from swiftfs.config.cache_dir import LOCK, locked, new_file
from swiftfs.control.unmount import Drain
from swiftfs.errors import ConfigurationError


def refusal(folder: Path) -> str:
    """Return why a folder is refused as a cache folder."""
    with pytest.raises(ConfigurationError) as caught, locked(folder):
        pass
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache folder that was used before."""
    with locked(tmp_path / "cache") as used:
        return used


def test_only_the_owner_can_enter(folder: Path) -> None:
    folder.chmod(0o755)
    with locked(folder):
        assert (folder.stat().st_mode & 0o777, (folder / LOCK).stat().st_mode & 0o777) == (0o700, 0o600)


@as_root
def test_the_folder_of_another_user(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o755)
    assert "belongs to another user: use another --cache-dir, or chown it" in refusal(folder)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_link_to_a_folder(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert refusal(link).endswith("is a symbolic link: give the folder that it leads to")


@pytest.mark.parametrize("name", [LOCK, "drain.json", "content", "journal.sqlite"])
def test_a_planted_link(folder: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    advice = "use another --cache-dir, or put what it leads to in its place"
    assert refusal(folder).endswith(f"{name} is a symbolic link: {advice}")
    assert target.read_text() == "precious"


@pytest.mark.parametrize(
    "name", ["content", "lost", "late", LOCK, "journal.sqlite", "heads.sqlite", "pins.json"]
)
def test_a_file_in_the_place_of_a_folder_or_a_folder_in_that_of_a_file(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    if name in ("content", "lost", "late"):
        (folder / name).touch()
    else:
        (folder / name).mkdir()
    assert refusal(folder).endswith(
        f"{name} was not made by swiftfs: use another --cache-dir, or move it away"
    )


@as_root
@pytest.mark.parametrize("name", ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-synced", "content"])
def test_a_file_of_another_user(folder: Path, name: str) -> None:
    if name == "content":
        (folder / name).mkdir()
    else:
        (folder / name).touch()
    os.chown(folder / name, NOBODY, NOBODY)
    assert refusal(folder).endswith(f"{name} belongs to another user: use another --cache-dir, or chown it")
    os.chown(folder / name, os.geteuid(), -1)
    with locked(folder):
        pass


@pytest.mark.parametrize("mode", [0o777, 0o703])
def test_a_parent_that_all_may_write_to(tmp_path: Path, mode: int) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(mode)
    assert f"other users can replace it, as they can write to {parent}" in refusal(parent / "cache")
    parent.chmod(0o1777)
    with locked(parent / "cache") as made:
        assert made.is_dir()


@as_root
@pytest.mark.parametrize("above", [False, True])
def test_a_parent_that_a_group_may_write_to(tmp_path: Path, above: bool) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, -1, NOBODY)
    shared.chmod(0o770)
    folder = shared / "own" / "cache" if above else shared / "cache"
    assert f"other users can replace it, as they can write to {shared}" in refusal(folder)
    shared.chmod(0o1770)
    with locked(folder) as made:
        assert made.is_dir()


@as_root
def test_a_parent_of_another_user(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    os.chown(parent, NOBODY, NOBODY)
    assert f"as they can write to {parent}" in refusal(parent / "cache")


def test_a_link_in_the_place_of_a_new_file(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (folder / "drain.new").symlink_to(target)
    Drain(3).write(folder)
    assert (target.read_text(), Drain.read(folder)) == ("precious", Drain(3))


def test_a_new_file_is_its_owners(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("an older one")
    file.chmod(0o666)
    with os.fdopen(new_file(file), "w") as new:
        new.write("new")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o600)
