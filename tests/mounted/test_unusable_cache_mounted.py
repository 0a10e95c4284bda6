"""The cache folder of a running mount becomes unusable: nothing is accepted that would be lost."""

import errno
import os
import shutil

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.mounts import Mount

MOVED = "was moved or deleted under the mount"
DATA = b"data" * 1000

pytestmark = pytest.mark.mount_options("settle=600")


@pytest.fixture
def moved(mounted: Mount) -> Mount:
    """A mount whose cache folder is moved away by the test."""
    mounted.expected += [MOVED, "may not survive a power cut"]
    return mounted


def move(mount: Mount) -> None:
    mount.cache.rename(mount.cache.with_name("moved"))


def move_back(mount: Mount) -> None:
    mount.cache.with_name("moved").rename(mount.cache)


def refused(mount: Mount, name: str) -> bool:
    """Return whether a new file gets EIO."""
    with pytest.raises(OSError, match="Input/output error") as caught:
        (mount.path / name).write_bytes(DATA)
    return caught.value.errno == errno.EIO


def test_umount_does_not_trust_an_earlier_state(moved: Mount) -> None:
    (moved.path / "file").write_bytes(DATA)
    move(moved)
    process = moved.take_process()
    said = one_line(swiftfs("umount", moved.path))
    assert "is unmounted, but its process did not say whether everything is stored" in said
    process.wait()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_no_file_is_made_beside_another_journal(
    moved: Mount, connection: Connection, container: str, is_replaced: bool
) -> None:
    (moved.path / "before").write_bytes(DATA)
    with (moved.path / "open").open("wb", buffering=0) as file:
        file.write(DATA)
        move(moved)
        if is_replaced:
            shutil.copytree(moved.cache.with_name("moved"), moved.cache)
        assert refused(moved, "new")
        with pytest.raises(OSError, match="Input/output error"):
            os.close(os.dup(file.fileno()))
        with pytest.raises(OSError, match="Input/output error"):
            (moved.path / "folder").mkdir()
        assert MOVED in moved.log.read_text()
        if is_replaced:
            shutil.rmtree(moved.cache)
        assert not moved.cache.exists()
        move_back(moved)
    (moved.path / "new").write_bytes(DATA)
    moved.stop()
    for key in ("before", "open", "new"):
        assert connection.get_object(container, key)[1] == DATA


def test_the_next_mount_of_a_moved_folder_has_what_was_closed(
    moved: Mount, connection: Connection, container: str
) -> None:
    (moved.path / "before").write_bytes(DATA)
    move(moved)
    assert refused(moved, "new")
    moved.kill()
    moved.cache = moved.cache.with_name("moved")
    moved.start()
    assert [path.name for path in moved.path.iterdir()] == ["before"]
    moved.stop()
    assert connection.get_object(container, "before")[1] == DATA


def test_a_file_whose_local_file_was_deleted_is_stored_by_its_close(
    mounted: Mount, connection: Connection, container: str
) -> None:
    with (mounted.path / "file").open("wb", buffering=0) as file:
        file.write(DATA)
        shutil.rmtree(mounted.cache / "content")
    assert connection.get_object(container, "file")[1] == DATA
