"""Inode numbers: two files never share one, and a file keeps its number when it is renamed."""

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import ME, get, harness, listed, put, write
from support.memory_store import MemoryStore
from support.stored_objects import refuse
from swiftfs.errors import AccessDenied
from swiftfs.namespace import inodes
from swiftfs.namespace.inodes import Inodes, folder_inode, inode_of
from swiftfs.objects import Attributes, ObjectName
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

SETTLINGS = ["", "settle=60"]
"""A file is stored when close() returns, or is pending; then a rename only changes the journal."""


@pytest.fixture(params=SETTLINGS)
def filesystem(store: MemoryStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FileSystem]:
    with harness(store, tmp_path, request.param) as built:
        yield built


def inode(filesystem: FileSystem, path: str) -> int:
    """Return the number of a path; assert that stat(2), readdir(3) and fstat(2) agree."""
    number = filesystem.getattr(path).inode
    parent, _, name = path.rpartition("/")
    numbers = {one: attributes.inode for one, attributes in listed(filesystem, parent or "/").items()}
    assert numbers[name] == number
    assert len(set(numbers.values())) == len(numbers)
    if not filesystem.getattr(path).is_directory:
        opened = filesystem.open(path, os.O_RDONLY)
        assert filesystem.getattr_handle(opened).inode == number
        filesystem.release(opened)
    return number


def test_a_new_file_at_the_old_name_of_another_has_a_number_of_its_own(filesystem: FileSystem) -> None:
    write(filesystem, "/a", b"1")
    first = inode(filesystem, "/a")
    filesystem.rename("/a", "/b")
    assert inode(filesystem, "/b") == first
    write(filesystem, "/a", b"2222")
    assert inode(filesystem, "/a") != first
    assert inode(filesystem, "/b") == first


def test_an_open_file_keeps_its_number_when_it_is_renamed(filesystem: FileSystem) -> None:
    handle = filesystem.create("/a", 0o644, os.O_RDWR, ME)
    put(filesystem, handle, 0, b"1")
    first = filesystem.getattr_handle(handle).inode
    filesystem.rename("/a", "/b")
    assert filesystem.getattr_handle(handle).inode == first == filesystem.getattr("/b").inode
    filesystem.flush(handle)
    other = filesystem.create("/a", 0o644, os.O_RDWR, ME)
    assert filesystem.getattr_handle(other).inode != first
    filesystem.rename("/a", "/c")
    filesystem.rename("/b", "/a")
    assert filesystem.getattr_handle(handle).inode == first == filesystem.getattr("/a").inode
    filesystem.release(handle)
    filesystem.release(other)
    assert inode(filesystem, "/a") == first


def test_an_unlinked_file_keeps_its_number_until_it_is_closed(filesystem: FileSystem) -> None:
    write(filesystem, "/a", b"old")
    handle = filesystem.open("/a", os.O_RDONLY)
    first = filesystem.getattr_handle(handle).inode
    filesystem.hide("/a", "/.fuse_hidden0000001a00000002")
    write(filesystem, "/a", b"new")
    second = inode(filesystem, "/a")
    assert filesystem.getattr_handle(handle).inode == first != second
    assert get(filesystem, handle) == b"old"
    filesystem.release(handle)
    assert inode(filesystem, "/a") == second


def test_a_file_that_replaces_another_keeps_its_own_number(filesystem: FileSystem) -> None:
    """Rsync and editors store a file so: under a temporary name first, which is often the same."""
    write(filesystem, "/file", b"0")
    seen = [inode(filesystem, "/file")]
    for version in range(1, 6):
        write(filesystem, "/file.tmp", b"%d" % version)
        mine = inode(filesystem, "/file.tmp")
        assert mine != seen[-1]
        filesystem.rename("/file.tmp", "/file")
        assert inode(filesystem, "/file") == mine
        seen.append(mine)


def test_rotated_logs_keep_their_numbers(filesystem: FileSystem) -> None:
    numbers: list[int] = []
    for version in range(6):
        for index in range(min(version, 3), 0, -1):
            filesystem.rename("/log" if index == 1 else f"/log.{index - 1}", f"/log.{index}")
        write(filesystem, "/log", b"%d" % version)
        numbers.insert(0, inode(filesystem, "/log"))
        names = ["/log", "/log.1", "/log.2", "/log.3"][: version + 1]
        assert [inode(filesystem, name) for name in names] == numbers[: len(names)]


def test_two_files_that_swap_names_keep_their_numbers(filesystem: FileSystem) -> None:
    write(filesystem, "/a", b"1")
    write(filesystem, "/b", b"22")
    before = inode(filesystem, "/a"), inode(filesystem, "/b")
    for _ in range(2):
        filesystem.rename("/a", "/third")
        filesystem.rename("/b", "/a")
        filesystem.rename("/third", "/b")
        before = before[::-1]
        assert (inode(filesystem, "/a"), inode(filesystem, "/b")) == before


def test_a_file_renamed_back_keeps_its_number(filesystem: FileSystem) -> None:
    write(filesystem, "/a", b"1")
    before = inode(filesystem, "/a")
    filesystem.rename("/a", "/b")
    filesystem.rename("/b", "/a")
    assert inode(filesystem, "/a") == before


def test_files_of_a_renamed_folder_keep_their_numbers(filesystem: FileSystem) -> None:
    filesystem.mkdir("/d", 0o755, ME)
    filesystem.mkdir("/d/sub", 0o755, ME)
    paths = ["", "/x", "/y", "/sub", "/sub/z"]
    for path in ("/d/x", "/d/first", "/d/sub/z"):
        write(filesystem, path, b"1")
    filesystem.rename("/d/first", "/d/y")
    before = [inode(filesystem, f"/d{path}") for path in paths]
    filesystem.rename("/d", "/e")
    assert [inode(filesystem, f"/e{path}") for path in paths] == before
    filesystem.mkdir("/d", 0o755, ME)
    write(filesystem, "/d/x", b"2")
    assert inode(filesystem, "/d") not in before
    assert inode(filesystem, "/d/x") not in before
    filesystem.rename("/e/sub", "/d/sub")
    assert inode(filesystem, "/d/sub/z") == before[-1]
    filesystem.rename("/d/sub/z", "/z")
    assert inode(filesystem, "/z") == before[-1]


@pytest.mark.parametrize("options", ["ttl=0", "ttl=0,settle=60"])
def test_files_of_a_renamed_folder_without_a_listing_keep_their_numbers(
    store: MemoryStore, tmp_path: Path, options: str
) -> None:
    for key in ("d/x", "d/sub/y"):
        store.put(ObjectName("box", key), b"1", Headers("text/plain"))
    with harness(store, tmp_path, options) as filesystem:
        before = [inode(filesystem, path) for path in ("/d", "/d/x", "/d/sub", "/d/sub/y")]
        filesystem.rename("/d", "/e")
        assert [inode(filesystem, path) for path in ("/e", "/e/x", "/e/sub", "/e/sub/y")] == before


def test_a_new_listing_restores_no_old_number(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        write(filesystem, "/a", b"1")
        before = inode(filesystem, "/a")
        filesystem.rename("/a", "/b")
        filesystem.refresh()
        assert inode(filesystem, "/b") == before
        store.put(ObjectName("box", "b"), b"of another client", Headers("text/plain"))
        store.put(ObjectName("box", "a"), b"of another client", Headers("text/plain"))
        filesystem.refresh()
        assert inode(filesystem, "/b") == before
        assert inode(filesystem, "/a") != before


def test_the_next_mount_derives_numbers_from_names(store: MemoryStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with harness(store, tmp_path / "one") as filesystem:
        write(filesystem, "/a", b"1")
        filesystem.rename("/a", "/b")
        assert inode(filesystem, "/b") == inode_of(ObjectName("box", "a"))
    with harness(store, tmp_path / "two") as filesystem:
        assert inode(filesystem, "/b") == inode_of(ObjectName("box", "b"))


def test_a_rename_that_fails_changes_no_number(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path) as filesystem:
        write(filesystem, "/a", b"1")
        write(filesystem, "/b", b"2")
        before = inode(filesystem, "/a"), inode(filesystem, "/b")
        refuse(store, "copy", AccessDenied)
        with pytest.raises(AccessDenied):
            filesystem.rename("/a", "/b")
        store.hook = None
        assert (inode(filesystem, "/a"), inode(filesystem, "/b")) == before


class Model:
    """A tree of files and folders, each with an identity; paths of folders end in `/`."""

    def __init__(self, inodes_: Inodes, source: Source) -> None:
        self.inodes = inodes_
        self.source = source
        self.living: dict[str, int] = {}
        self.given: dict[int, int] = {}

    def number(self, path: str) -> int:
        folder = path.endswith("/")
        bare = path.rstrip("/")
        default = folder_inode(self.source.folder(bare)) if folder else inode_of(self.source.object(bare))
        kind = 0o040755 if folder else 0o100644
        return self.inodes.of(bare, Attributes(kind, 0, 0, 0, 0, default)).inode

    def check(self) -> None:
        numbers = {path: self.number(path) for path in self.living}
        assert len(set(numbers.values())) == len(numbers)
        for path, identity in self.living.items():
            assert self.given.setdefault(identity, numbers[path]) == numbers[path], path


@pytest.mark.matrix(5)
@pytest.mark.parametrize("seed", range(20))
def test_random_renames_keep_the_numbers(seed: int) -> None:
    """Files and folders are made, renamed over each other and removed."""
    random_ = random.Random(seed)
    source = Source.parse("box" if seed % 2 else "box/some/prefix")
    model, identities = Model(Inodes(source), source), itertools.count()
    names = ["a", "b", "c"]
    for _ in range(400):
        folders = ["/", *(path for path in model.living if path.endswith("/") and path.count("/") < 4)]
        target = random_.choice(folders) + random_.choice(names)
        chance = random_.random()
        if chance < 0.4:
            path = target + random_.choice(["", "/"])
            if target not in model.living and target + "/" not in model.living:
                model.living[path] = next(identities)
        elif not model.living:
            continue
        elif chance < 0.85:
            _rename(model, random_.choice(list(model.living)), target)
        else:
            path = random_.choice(list(model.living))
            if not path.endswith("/") or sum(one.startswith(path) for one in model.living) == 1:
                del model.living[path]
                model.inodes.forget(path.rstrip("/"), is_folder=path.endswith("/"))
        model.check()


def _rename(model: Model, old: str, target: str) -> None:
    folder = old.endswith("/")
    new = target + "/" * folder
    if old == new or (folder and new.startswith(old)) or (target if folder else target + "/") in model.living:
        return
    if folder:
        if any(path.startswith(new) and path != new for path in model.living):
            return
        moved = {path: new + path.removeprefix(old) for path in model.living if path.startswith(old)}
        model.inodes.move_folder(old.rstrip("/"), target)
    else:
        moved = {old: new}
        model.inodes.move(old, new)
    model.living.pop(new, None)
    model.living.update({moved[path]: model.living.pop(path) for path in list(moved)})


def test_the_memory_for_numbers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes, "REMEMBERED", 100)
    monkeypatch.setattr(inodes, "REMEMBERED_FOLDERS", 10)
    source = Source.parse("box")
    model, identities = Model(Inodes(source), source), itertools.count()
    for index in range(1000):
        model.living[f"/{index}.tmp"] = next(identities)
        _rename(model, f"/{index}.tmp", f"/{index}")
        model.living[f"/{index}.tmp"] = next(identities)
        if index % 10 == 0:
            model.living[f"/d{index}/"] = next(identities)
            model.living[f"/d{index}/x"] = next(identities)
            _rename(model, f"/d{index}/", f"/e{index}")
        if index % 100 == 0:
            numbers = [model.number(path) for path in model.living]
            assert len(set(numbers)) == len(numbers)
    assert len(model.inodes._numbers) <= 100
    assert len(model.inodes._places) <= 12
