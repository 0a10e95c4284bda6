"""Files that come back from the trash: nothing takes them, or their segments, away again."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from support.harness import harness, read, write
from support.late_store import LateStore, remove, repair, store_file
from support.memory_store import MemoryStore
from support.stored_objects import body, foreign, keys, segments
from swiftfs.errors import AccessDenied, StoreError
from swiftfs.maintenance.trash import Occupied, TrashBin, TrashedFile
from swiftfs.objects import ObjectName, ObjectVersion, Row
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import CopyRequest
from swiftfs.store.trash_names import RESTORED, TrashNames, parse

MIB = 1024 * 1024
LARGE = "trash=30,segment_size=1M"


@pytest.fixture
def data() -> bytes:
    return os.urandom(2 * MIB)


@pytest.fixture
def box(cache: Path, data: bytes) -> MemoryStore:
    """A store with the large file `a` in the trash, which owns its segments."""
    store = MemoryStore("box", "box_segments")
    with harness(store, cache, LARGE) as filesystem:
        write(filesystem, "/a", data)
        filesystem.unlink("/a")
    return store


def trash_of(store: MemoryStore) -> TrashBin:
    return TrashBin(store, Source("box"))


def twin_of(file: TrashedFile) -> ObjectName:
    """Return the name of another copy of the same file in the trash."""
    return ObjectName("box", file.name.key[:-6] + "999999")


def test_the_mark_of_a_restored_file_is_no_attribute(tmp_path: Path, box: MemoryStore) -> None:
    (file,) = trash_of(box).files()
    trash_of(box).restore(file)
    assert RESTORED in box.head(ObjectName("box", "a")).metadata
    with harness(box, tmp_path, LARGE) as filesystem:
        assert not [name for name in filesystem.listxattr("/a") if "restored" in name]
        filesystem.chmod("/a", 0o600)


def test_a_restore_that_was_killed_at_its_end_is_repeated(
    box: MemoryStore, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = trash_of(box).files()
    with monkeypatch.context() as patch:

        def die(_name: ObjectName) -> None:
            raise KeyboardInterrupt

        patch.setattr(box, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            trash_of(box).restore(file)
    trash_of(box).restore(file)
    assert (keys(box), body(box, "a")) == (["a"], data)


def test_segments_that_the_file_names_again_stay_when_another_copy_ends(
    tmp_path: Path, box: MemoryStore, data: bytes
) -> None:
    """Two mounts that delete a file at once may each put it into the trash, as its segments' owner."""
    (file,) = trash_of(box).files()
    box.copy(CopyRequest(file.name, twin_of(file), manifest_only=True))
    trash_of(box).restore(file)
    assert trash_of(box).delete(trash_of(box).files()) == {}
    assert (keys(box), body(box, "a")) == (["a"], data)
    with harness(box, tmp_path, "segment_size=1M") as filesystem:
        filesystem.unlink("/a")
    assert segments(box) == set()


def test_a_copy_that_ends_leaves_the_other_one_whole(box: MemoryStore, data: bytes) -> None:
    (file,) = trash_of(box).files()
    box.copy(CopyRequest(file.name, twin_of(file), manifest_only=True))
    assert trash_of(box).delete([file]) == {}
    (other,) = trash_of(box).files()
    trash_of(box).restore(other)
    assert body(box, "a") == data


def test_a_copy_that_cannot_be_deleted_keeps_the_segments(box: MemoryStore, data: bytes) -> None:
    (file,) = trash_of(box).files()
    box.copy(CopyRequest(file.name, twin_of(file), manifest_only=True))
    delete_many = box.delete_many

    def refuse_one(names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        wanted = list(names)
        done = delete_many([name for name in wanted if name != file.name])
        return done | {name: AccessDenied("no") for name in wanted if name == file.name}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box, "delete_many", refuse_one)
        assert set(trash_of(box).delete(trash_of(box).files())) == {file.name}
    trash_of(box).restore(file)
    assert body(box, "a") == data


def test_two_copies_of_a_file_take_its_segments_along(box: MemoryStore) -> None:
    (file,) = trash_of(box).files()
    box.copy(CopyRequest(file.name, twin_of(file), manifest_only=True))
    assert trash_of(box).delete(trash_of(box).files()) == {}
    assert (keys(box), segments(box)) == ([], set())


@pytest.mark.store(LateStore, "box")
@pytest.mark.mount_options("settle=0.01,trash=30")
def test_a_restored_version_is_not_taken_for_a_late_request(store: LateStore, filesystem: FileSystem) -> None:
    """A mount looks later whether a PUT that it has repeated was carried out once more."""
    store.lose("put", "file")
    store_file(filesystem, b"old")
    remove(filesystem)
    (file,) = trash_of(store).files()
    trash_of(store).restore(file)
    repair(filesystem)
    filesystem.refresh()
    assert read(filesystem, "/file") == b"old"
    assert keys(store) == ["file"]


PLAIN = {"small": ("trash=30", 500), "large": (LARGE, 2 * MIB), "medium": ("trash=30", 2 * MIB)}
"""Options and sizes of what is stored again, by its bytes or manifest, and of what is copied."""


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("force", [False, True], ids=["plain", "force"])
def test_what_is_stored_during_a_restore_stays(tmp_path: Path, kind: str, force: bool) -> None:
    options, size = PLAIN[kind]
    store = MemoryStore("box", "box_segments")
    with harness(store, tmp_path, options) as filesystem:
        write(filesystem, "/a", os.urandom(size))
        filesystem.unlink("/a")
    (file,) = trash_of(store).files()
    if force:
        foreign(store, "a", b"replaced")

    def store_another(method: str, subject: str) -> None:
        if method == "post":  # after the file was looked for
            store.hook = None
            foreign(store, "a", b"newer")

    before = store.head(file.name)
    store.hook = store_another
    with pytest.raises(Occupied, match="a: another client has stored a file meanwhile, which stays"):
        trash_of(store).restore(file, force=force)
    assert body(store, "a") == b"newer"
    after = store.head(file.name)
    assert (after.metadata, after.preserved_headers) == (before.metadata, before.preserved_headers)


@pytest.mark.parametrize("kind", ["small", "medium"])
def test_a_plain_file_comes_back_with_all_it_had(tmp_path: Path, kind: str) -> None:
    options, size = PLAIN[kind]
    data = os.urandom(size)
    store = MemoryStore("box", "box_segments")
    with harness(store, tmp_path, options) as filesystem:
        write(filesystem, "/a", data)
        filesystem.setxattr("/a", "user.note", b"keep", 0)
        before = store.head(ObjectName("box", "a"))
        filesystem.unlink("/a")
    (file,) = trash_of(store).files()
    store.requests.clear()
    trash_of(store).restore(file)
    found = store.head(ObjectName("box", "a"))
    assert (body(store, "a"), keys(store)) == (data, ["a"])
    assert dict(found.metadata) == {**before.metadata, RESTORED: before.version.etag}
    assert (found.content_type, found.preserved_headers) == (before.content_type, before.preserved_headers)
    methods = [method for method, _ in store.requests][:7]
    if kind == "small":
        assert methods[:6] == ["head", "head", "post", "get", "put", "delete"]
    else:
        assert methods == ["head", "head", "post", "head", "copy", "head", "delete"]


@pytest.mark.parametrize("force", [False, True], ids=["plain", "force"])
def test_the_copy_stays_if_the_restored_file_is_not_there(
    tmp_path: Path, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, size = PLAIN["medium"]
    data = os.urandom(size)
    store = MemoryStore("box", "box_segments")
    with harness(store, tmp_path, options) as filesystem:
        write(filesystem, "/a", data)
        filesystem.unlink("/a")
    (file,) = trash_of(store).files()
    if force:
        foreign(store, "a", b"replaced")
    copy = store.copy

    def lie(request: CopyRequest) -> ObjectVersion:
        if request.target.key != "a":
            return copy(request)
        return ObjectVersion(request.target, store.head(request.source).version.etag)

    monkeypatch.setattr(store, "copy", lie)
    with pytest.raises(StoreError):
        trash_of(store).restore(file, force=force)
    assert body(store, file.name.key) == data


NAMED = {
    "d/": "d/%empty",
    "d/.": "d/%dot",
    "%empty": "%%empty",
    "both": "both",
    "a%file": "a%%file",
    ".swiftfs": "%.swiftfs",
    "ü b": "ü b",
}
"""Keys with their paths in a mount."""


@pytest.mark.parametrize("source", ["box", "box/sub", "/"])
@pytest.mark.parametrize(("key", "path"), NAMED.items())
def test_a_file_in_the_trash_has_the_path_of_the_mount(source: str, key: str, path: str) -> None:
    mounted = Source.parse(source)
    if mounted.is_account:
        path = f"box/{path.removeprefix('%') if key == '.swiftfs' else path}"
    entry = TrashNames(mounted, 30).entry_of(ObjectName("box", mounted.prefix + key), 1)
    origin = parse(entry, mounted.prefix)
    assert origin is not None
    row = Row(entry, 1, "", "text/plain", "")
    file = TrashedFile(ObjectName("box", entry), row, origin)
    assert file.path(mounted) == path
    assert file.lies_at(mounted, path)
    assert file.lies_at(mounted, path.split("/")[0])
    assert not file.lies_at(mounted, f"{path}/below")
    if key == "both":  # beside a folder of that name
        assert file.lies_at(mounted, f"{path}%file")
