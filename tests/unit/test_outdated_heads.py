"""A HEAD's answer counts as long as the row is the same; a listing that lags shows the row of before."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import change, harness, write
from support.lagging_store import LaggingStore
from support.noise import OLD
from support.stored_objects import foreign
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers


class SlowStore(LaggingStore):
    """A store in which something happens `meanwhile` between a HEAD and its answer, once."""

    meanwhile: Callable[[], None] | None = None

    def head(self, name: ObjectName) -> ObjectInfo:
        info = super().head(name)
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            meanwhile()
        return info


pytestmark = [
    pytest.mark.store(SlowStore, "box"),
    pytest.mark.mount_options("ttl=0", "segment_size=1M"),
]


def prepare(store: LaggingStore, folder: Path) -> None:
    """Store a file of an earlier mount, whose Content-Type hints at its ETag, and one of another client."""
    folder.mkdir()
    with harness(store, folder, "segment_size=1M") as earlier:
        write(earlier, "/large", OLD)
    foreign(store, "foreign", b"theirs")


@pytest.mark.parametrize("path", ["/large", "/foreign"])
def test_a_tag_stays_that_no_listing_shows_yet(
    store: LaggingStore, tmp_path: Path, filesystem: FileSystem, path: str
) -> None:
    prepare(store, tmp_path / "earlier")
    filesystem.getattr(path)
    store.stop()
    filesystem.setxattr(path, "user.tag", b"1", 0)
    change(filesystem, path, 0, b"newer")
    store.go_on()
    assert filesystem.getxattr(path, "user.tag") == b"1"


def test_an_answer_that_is_on_its_way_during_a_change_is_not_kept(
    store: SlowStore, tmp_path: Path, filesystem: FileSystem
) -> None:
    prepare(store, tmp_path / "earlier")
    handle = filesystem.open("/large", os.O_RDWR)
    filesystem.setxattr("/large", "user.first", b"1", 0)
    store.stop()
    entry = filesystem.services.namespace.lookup("/large", complete=False)
    store.meanwhile = lambda: filesystem.setxattr("/large", "user.tag", b"1", 0)
    filesystem.services.namespace.check("/large", entry)
    filesystem.release(handle)
    change(filesystem, "/large", 0, b"newer")
    assert filesystem.getxattr("/large", "user.tag") == b"1"


def test_the_next_mount_knows_that_an_answer_is_outdated(store: LaggingStore, tmp_path: Path) -> None:
    foreign(store, "foreign", b"theirs")
    with harness(store, tmp_path, "ttl=0") as first:
        first.getattr("/foreign")
    with harness(store, tmp_path, "ttl=0") as second:
        store.stop()
        second.setxattr("/foreign", "user.tag", b"1", 0)
    with harness(store, tmp_path, "ttl=0") as third:
        assert third.getxattr("/foreign", "user.tag") == b"1"


def test_the_mode_of_a_folder_stays_that_no_listing_shows_yet(
    store: LaggingStore, filesystem: FileSystem
) -> None:
    store.put(ObjectName("box", "folder"), b"", Headers("application/directory"))
    filesystem.getattr("/folder")
    store.stop()
    filesystem.chmod("/folder", 0o700)
    assert stat.S_IMODE(filesystem.getattr("/folder").mode) == 0o700
    filesystem.setxattr("/folder", "user.tag", b"1", 0)
    assert stat.S_IMODE(filesystem.getattr("/folder").mode) == 0o700
