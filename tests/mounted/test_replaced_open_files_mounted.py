"""Renames onto open files that fail: by then libfuse has hidden the open file.

These run in a real mount.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import MAP_SHARED, mmap
from pathlib import Path

import pytest

from support.mounts import Mount
from swiftfs.demo.server import Fault, SwiftServer

NEW = "the file that is replaced"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def refused(swift: SwiftServer, container: str) -> Iterator[None]:
    swift.inject(Fault("COPY", f"/{container}/old", status=403))
    with pytest.raises(PermissionError):
        yield
    swift.clear_faults()


def write_both(mounted: Mount) -> None:
    (mounted.path / "old").write_text("the file that is renamed")
    (mounted.path / "new").write_text(NEW)
    mounted.expected = ["rename"]


def test_the_open_file_keeps_its_name(mounted: Mount, swift: SwiftServer, container: str) -> None:
    write_both(mounted)
    old, new = mounted.path / "old", mounted.path / "new"
    with new.open("r+") as file:
        for _ in range(2):
            with refused(swift, container):
                old.rename(new)
        assert names(mounted.path) == ["new", "old"]
        assert file.read() == NEW
        assert os.fstat(file.fileno()).st_ino == new.stat().st_ino
        file.write(" and more")
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        os.ftruncate(file.fileno(), len(NEW) + 4)
    assert new.read_text() == f"{NEW} and"
    assert new.stat().st_mode & 0o777 == 0o600
    mounted.remount()
    assert new.read_text() == f"{NEW} and"
    old.rename(new)
    assert names(mounted.path) == ["new"]


def test_a_file_that_replaced_an_open_one_can_be_mapped(mounted: Mount) -> None:
    write_both(mounted)
    mounted.expected = []
    old, new = mounted.path / "old", mounted.path / "new"
    with new.open() as replaced:
        old.rename(new)
        assert replaced.read() == NEW
    with new.open("r+b") as file, mmap(file.fileno(), 0, MAP_SHARED) as mapped:
        assert mapped[:] == b"the file that is renamed"


def test_the_file_that_was_closed_just_now_stays(mounted: Mount, swift: SwiftServer, container: str) -> None:
    write_both(mounted)
    old, new = mounted.path / "old", mounted.path / "new"
    for _ in range(20):
        new.write_text(NEW)
        with refused(swift, container):
            old.rename(new)
        assert new.read_text() == NEW
    mounted.remount()
    assert names(mounted.path) == ["new", "old"]


def test_it_stays_when_the_mount_itself_refuses_the_rename(mounted: Mount) -> None:
    write_both(mounted)
    new = mounted.path / "new"
    with new.open() as file:
        with pytest.raises(OSError, match="Read-only file system") as error:
            (mounted.path / ".swiftfs" / "log").rename(new)
        assert error.value.errno == errno.EROFS
        assert file.read() == NEW
    assert new.read_text() == NEW
    mounted.remount()
    assert new.read_text() == NEW
