"""A file that is deleted at its last close, and the same bytes stored anew at its name before that."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.harness import copy_live, harness, read
from support.jobs import wait_until
from support.late_store import settle
from support.memory_store import MemoryStore
from support.noise import LARGE
from support.stored_objects import body, foreign, keys
from swiftfs.journal import journal, recovery
from swiftfs.objects import Limits, ObjectInfo, ObjectName
from swiftfs.posix.filesystem import FileSystem

OPTIONS = "ttl=1000,read_ahead=0"
NS = 10**9


class WholeSeconds(MemoryStore):
    """A store whose HEADs have no X-Timestamp: the time is that of Last-Modified, rounded up."""

    def head(self, name: ObjectName) -> ObjectInfo:
        info = super().head(name)
        return replace(info, last_modified_ns=-(-info.last_modified_ns // NS) * NS)


class LookAlike(MemoryStore):
    """A store of another kind, whose HEADs have another time than the rows of its listings."""

    def head(self, name: ObjectName) -> ObjectInfo:
        info = super().head(name)
        return replace(info, last_modified_ns=info.last_modified_ns + NS)


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete the file soon after its last close, or at a start: no rename to its name follows here."""
    monkeypatch.setattr(recovery, "RECOVERY_SECONDS", 0.0)
    monkeypatch.setattr(journal, "HIDDEN_SECONDS", 0.02)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("box")
    foreign(store, "file", LARGE)
    return store


def unlink_open(
    filesystem: FileSystem, path: str = "/file", during: Callable[[], object] = lambda: None
) -> None:
    """Delete a file that is open and not read; close it after `during`."""
    handle = filesystem.open(path, os.O_RDONLY)
    filesystem.unlink(path)
    during()
    filesystem.release(handle)
    wait_until(lambda: not filesystem.waiting())


def test_what_another_client_stored_stays(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, OPTIONS) as filesystem:
        unlink_open(filesystem, during=lambda: foreign(store, "file", LARGE))
    assert body(store, "file") == LARGE


def test_it_stays_after_a_kill(store: MemoryStore, tmp_path: Path) -> None:
    image = kill(store, tmp_path, lambda filesystem, end: unlink_open(filesystem, during=end))
    assert keys(store) == []
    foreign(store, "file", LARGE)
    with harness(store, image, OPTIONS) as filesystem:
        wait_until(lambda: not filesystem.waiting())
        assert read(filesystem, "/file") == LARGE
    assert body(store, "file") == LARGE


def kill(
    store: MemoryStore,
    root: Path,
    job: Callable[[FileSystem, Callable[[], None]], object],
    options: str = OPTIONS,
) -> Path:
    """Run a job; return a copy of the cache folder of the moment when it called its second argument."""
    (cache := root / "cache").mkdir()
    with harness(store, cache, options) as filesystem:
        job(filesystem, lambda: copy_live(cache, root / "image"))
    return root / "image"


def nothing(_filesystem: FileSystem) -> str:
    return "/file"


def chmod(filesystem: FileSystem) -> str:
    filesystem.chmod("/file", 0o600)
    return "/file"


def set_metadata(filesystem: FileSystem) -> str:
    filesystem.setxattr("/file", "user.one", b"1", 0)
    return "/file"


def rename(filesystem: FileSystem) -> str:
    filesystem.rename("/file", "/other")
    return "/other"


def rename_folder(filesystem: FileSystem) -> str:
    filesystem.rename("/folder", "/elsewhere")
    return "/elsewhere/file"


CHANGES = [nothing, chmod, set_metadata, rename, rename_folder]
Change = Callable[[FileSystem], str]


@pytest.mark.parametrize("make", CHANGES)
def test_what_only_this_mount_has_changed_is_deleted(
    store: MemoryStore, tmp_path: Path, make: Change
) -> None:
    foreign(store, "folder/file", LARGE)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.getattr("/file")
        filesystem.getattr("/folder/file")
        path = make(filesystem)
        unlink_open(filesystem, path)
        with pytest.raises(FileNotFoundError):
            filesystem.getattr(path)
    assert path[1:] not in keys(store)


@pytest.mark.parametrize("make", [chmod, set_metadata])
def test_what_an_earlier_mount_had_changed_is_deleted(
    store: MemoryStore, tmp_path: Path, make: Change
) -> None:
    def change(filesystem: FileSystem, end: Callable[[], None]) -> None:
        make(filesystem)
        end()

    image = kill(store, tmp_path, change, f"{OPTIONS},settle=1000")
    with harness(store, image, f"{OPTIONS},settle=0.01") as filesystem:
        filesystem.getattr("/file")
        unlink_open(filesystem, during=lambda: settle(filesystem))
    assert keys(store) == []


@pytest.mark.parametrize("kind", [WholeSeconds, LookAlike])
def test_only_exact_times_of_a_swift_count(tmp_path: Path, kind: type[MemoryStore]) -> None:
    store = kind("box", limits=Limits(is_swift=kind is WholeSeconds, bulk_delete=1000))
    foreign(store, "file", LARGE)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        unlink_open(filesystem)
    assert keys(store) == []
