"""The times of folders that store none: never 1970, and the same at each look, as rsync needs."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount, run
from swiftfs.demo.server import SwiftServer

DIRECTORY = "application/directory"
OLDEST = 10**18
"""In ns: the year 2001. All containers here are younger."""


@pytest.fixture
def filled(connection: Connection, container: str) -> str:
    """A container with folders of each kind, as other clients leave them."""
    for number in range(3):
        connection.put_object(container, f"implied/deep/sub{number}/file", b"text")
    connection.put_object(container, "marked", b"", content_type=DIRECTORY)
    connection.put_object(container, "marked/implied/file", b"text")
    connection.put_object(container, "slash/", b"", content_type=DIRECTORY)
    connection.put_object(container, "slash/file", b"text")
    connection.put_object(container, "typed", b"", content_type=f"{DIRECTORY};mode=040755")
    connection.put_object(container, "typed/file", b"text")
    return container


def refresh(mount: Mount) -> None:
    """Let the mount drop its listings."""
    os.setxattr(mount.path, "swift.refresh", b"1")


def times(root: Path, top: str = "") -> dict[str, int]:
    """Return the times of `root`, and of the folder `top` in it and all below."""
    folders = [root, *(Path(folder) for folder, _, _ in os.walk(root / top))]
    return {str(folder.relative_to(root)): folder.stat().st_mtime_ns for folder in folders}


def dated(mount: Mount, container: str = "") -> dict[str, int]:
    """Return the times of all folders; assert that each is a real one, and that all looks agree.

    In a mount of an account only of those in `container`: other tests have theirs beside it.
    """
    top = container if mount.source == "/" else ""
    found = times(mount.path, top)
    assert min(found.values()) > OLDEST, found
    refresh(mount)
    # A flat listing shows them now, and then each folder's own.
    run("find", mount.path / top, "-newermt", "2001-01-01")
    assert times(mount.path, top) == found
    for folder in sorted(found, reverse=True):
        refresh(mount)
        assert (mount.path / folder).stat().st_mtime_ns == found[folder], folder
    return found


@pytest.fixture(
    params=["container", "container, cold", "prefix", "marked prefix", "absent prefix", "account"]
)
def mount(request: pytest.FixtureRequest, swift: SwiftServer, filled: str, tmp_path: Path) -> Iterator[Mount]:
    """A mount of each kind."""
    kinds = {
        "container": filled,
        "container, cold": filled,
        "prefix": f"{filled}/implied",
        "marked prefix": f"{filled}/marked",
        "absent prefix": f"{filled}/absent",
        "account": "/",
    }
    options = "ttl=0" if "cold" in request.param else ""
    with Mount(swift, kinds[request.param], tmp_path, options) as mount:
        yield mount


@pytest.mark.matrix(2)
def test_folders_have_a_time_that_stays(mount: Mount, filled: str) -> None:
    before = dated(mount, filled)
    mount.remount()
    assert dated(mount, filled) == before


@pytest.mark.matrix(2)
def test_own_changes_give_folders_a_time_that_stays(mount: Mount, filled: str) -> None:
    top = mount.path / filled if mount.source == "/" else mount.path
    (top / "new").mkdir()
    (top / "new" / "file").write_text("text")
    (top / "implied2" / "x").mkdir(parents=True)
    os.utime(top / "implied2", ns=(OLDEST + 7, OLDEST + 7))
    assert (top / "implied2").stat().st_mtime_ns == OLDEST + 7
    if mount.source != "/":
        os.utime(top, ns=(OLDEST + 9, OLDEST + 9))
    before = dated(mount, filled)
    mount.remount()
    # What was made in a folder afterwards is not stored as its time.
    unset = {str(folder.relative_to(mount.path)) for folder in (top / "new", top)} - {"."}
    after = dated(mount, filled)
    assert {name for name in before if before[name] != after[name]} <= unset


def test_a_change_of_a_folder_without_a_marker_keeps_its_time(
    swift: SwiftServer, filled: str, tmp_path: Path
) -> None:
    with Mount(swift, filled, tmp_path) as mount:
        before = dated(mount)
        (mount.path / "implied").chmod(0o700)
        os.setxattr(mount.path / "implied/deep", "user.note", b"text")
        assert dated(mount) == before
        now = time.time_ns()
        (mount.path / "marked/implied/file").unlink()  # the folder gets a marker, and so stays
        after = dated(mount)
        assert after.pop("marked/implied") >= now
        del before["marked/implied"]
        assert after == before
        mount.remount()
        after = dated(mount)
        assert after.pop("marked/implied") >= now, "it is stored in the marker"
        assert after == before


def test_a_renamed_folder_without_a_marker_has_a_time(
    swift: SwiftServer, filled: str, tmp_path: Path
) -> None:
    with Mount(swift, filled, tmp_path) as mount:
        before = dated(mount)
        (mount.path / "implied").rename(mount.path / "moved")
        after = dated(mount)
        assert after["moved"] == before["implied"]
        assert after["moved/deep"] == before["implied/deep"]
        assert after.pop(".") > before["."]
        mount.remount()
        again = dated(mount)
        assert again.pop(".") == before["."], "nothing stores it"
        assert again == after


def test_a_container_that_is_made_has_a_time_that_stays(
    swift: SwiftServer, filled: str, tmp_path: Path
) -> None:
    with Mount(swift, "/", tmp_path) as mount:
        made = mount.path / f"{filled}-made"
        made.mkdir()
        before = made.stat().st_mtime_ns
        assert before > OLDEST
        refresh(mount)
        assert made.stat().st_mtime_ns == before
        mount.remount()
        assert made.stat().st_mtime_ns == before
