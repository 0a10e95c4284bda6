"""What is done with the trash without a mount: listed, restored and emptied; and its names."""

import os
from pathlib import Path

import pytest

from support.harness import harness, read, write
from support.memory_store import MemoryStore
from support.stored_objects import body, foreign, keys, refuse, segments
from support.trash import LARGE, MIB, TRASH, only
from swiftfs.maintenance.trash import Occupied, TrashBin, newest, sweep
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
from swiftfs.store.trash_names import RESTORED, TrashNames, is_over, is_temporary, parse

DAY_NS = 86_400 * 10**9
pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


def test_restoring(store: MemoryStore, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    with harness(store, tmp_path, LARGE) as filesystem:
        for path, content in (("/small", b"data"), ("/large", data)):
            write(filesystem, path, content)
            filesystem.utimens(path, 10**18, 123_456_789)
            filesystem.chmod(path, 0o600)
            filesystem.setxattr(path, "user.note", b"keep", 0)
        before = {key: store.head(ObjectName("box", key)) for key in ("small", "large")}
        filesystem.unlink("/small")
        filesystem.unlink("/large")
    trash = TrashBin(store, Source("box"))
    for file in list(trash.files()):
        trash.restore(file)
    assert keys(store) == ["large", "small"]
    for key, was in before.items():
        info = store.head(ObjectName("box", key))
        assert info.content_type == was.content_type
        assert dict(info.metadata) == {**was.metadata, RESTORED: info.version.etag}
        assert dict(info.preserved_headers) == dict(was.preserved_headers)
    (tmp_path / "other").mkdir()
    with harness(store, tmp_path / "other", "segment_size=1M") as filesystem:
        assert read(filesystem, "/large") == data
        filesystem.unlink("/large")
    assert segments(store) == set()  # they were the restored file's own


def test_restoring_does_not_replace_unless_forced(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, LARGE) as filesystem:
        write(filesystem, "/a", b"old")
        filesystem.unlink("/a")
        write(filesystem, "/a", os.urandom(2 * MIB))
    trash = TrashBin(store, Source("box"))
    (file,) = trash.files()
    with pytest.raises(Occupied, match="a: there is a file"):
        trash.restore(file)
    assert only(store) == file.name.key
    trash.restore(file, force=True)
    assert body(store, "a") == b"old"
    # What was replaced is in the trash, and owns its segments.
    assert only(store) != file.name.key
    trash.delete(trash.files())
    assert segments(store) == set()


@pytest.mark.parametrize("method", ["post", "put_manifest", "delete"])
def test_a_restoring_that_ends_halfway_loses_nothing(store: MemoryStore, tmp_path: Path, method: str) -> None:
    data = os.urandom(2 * MIB)
    with harness(store, tmp_path, LARGE) as filesystem:
        write(filesystem, "/a", data)
        filesystem.unlink("/a")
    trash = TrashBin(store, Source("box"))
    (file,) = trash.files()

    refuse(store, method, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        trash.restore(file)
    store.hook = lambda _method, _subject: None
    if method == "delete":  # both are there now, and emptying must not take the segments of the file
        trash.delete(trash.files())
        assert body(store, "a") == data
    else:
        trash.restore(file)
        assert (body(store, "a"), keys(store)) == (data, ["a"])


def test_a_sweep_takes_what_is_over(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, LARGE) as filesystem:
        write(filesystem, "/a", os.urandom(2 * MIB))
        write(filesystem, "/b", b"data")
        filesystem.unlink("/a")
        filesystem.unlink("/b")
        foreign(store, ".trash/other/file", b"not ours")
        trash = TrashBin(store, Source("box"))
        now = max(file.origin.deleted for file in trash.files()).timestamp() * 1e9
        assert sweep(trash, 30, lambda: int(now + 30 * DAY_NS)) == (0, 0)
        assert sweep(trash, 30, lambda: int(now + 31 * DAY_NS)) == (2, 0)
        filesystem.services.journal.trash.forget_ended("", 30, int(now + 31 * DAY_NS))
    assert keys(store) == [".trash/other/file"]
    assert segments(store) == set()


def test_names_in_the_trash() -> None:
    names = TrashNames(Source("box", "sub/"), 30)
    first, second = (names.entry_of(ObjectName("box", "sub/d/a@b"), 1) for _ in range(2))
    assert first != second
    found = parse(first, "sub/")
    assert found is not None
    assert found.key == "sub/d/a@b"
    assert first.startswith(f"sub/.trash/{found.day}/d/a@b@")
    assert parse(first, "") is None
    assert parse("sub/.trash/2026-13-45/a@000000.000000", "sub/") is None
    assert names.entry_of(ObjectName("box", "sub/a"), 0) == ""
    assert TrashNames(Source("box"), 0).entry_of(ObjectName("box", "a"), 1) == ""
    with pytest.raises(OSError, match="too long"):
        names.entry_of(ObjectName("box", "sub/" + "a" * 1010), 1)


def test_a_day_is_over_when_its_last_file_is() -> None:
    noon = 1_795_953_600 * 10**9  # 2026-11-29 12:00 UTC
    assert not is_over("2026-10-30", 30, noon)
    assert is_over("2026-10-29", 30, noon)
    assert not is_over("other", 30, noon)
    assert not is_over("2026-99-99", 30, noon)


def test_the_newest_of_each_name(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, TRASH) as filesystem:
        for path, data in (("/a", b"one"), ("/a", b"two"), ("/b", b"three")):
            write(filesystem, path, data)
            filesystem.unlink(path)
    found = newest(TrashBin(store, Source("box")).files())
    assert [body(store, file.name.key) for file in found] == [b"two", b"three"]


@pytest.mark.parametrize(
    "name", [".a.XyZ123", "a.swp", ".b.swo", "a~", ".goutputstream-X", "4913", ".fuse_hidden0"]
)
def test_temporary_names(name: str) -> None:
    assert is_temporary(f"folder/{name}")


@pytest.mark.parametrize("name", ["a.XyZ123", ".a.backup", "swp", "a~b", "14913", ".bashrc"])
def test_other_names(name: str) -> None:
    assert not is_temporary(name)
