"""Older versions as read-only files in `.versions`, without a kernel."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import ME, harness, listed, names, read, write
from support.memory_store import MemoryStore
from support.stored_objects import body, refuse
from swiftfs.errors import FolderTooLarge, Unavailable
from swiftfs.objects import History, Manifest, ObjectName, Segment
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

STORED = "text/plain;mtime=1700000000.5;mode=0100640;uid=7;gid=8"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("box", "box_segments")
    store.set_history("box", History.KEPT)
    for key, bodies in (
        ("d/a.txt", (b"one", b"three", b"now")),
        ("d/sub/b.tar.gz", (b"gone",)),
        ("d/only", (b"only",)),
        ("top", (b"1", b"2")),
    ):
        for content in bodies:
            store.put(ObjectName("box", key), content, Headers(STORED))
    store.delete(ObjectName("box", "d/sub/b.tar.gz"))
    return store


@pytest.fixture
def filesystem(store: MemoryStore, tmp_path: Path) -> Iterator[FileSystem]:
    with harness(store, tmp_path) as built:
        store.requests.clear()
        yield built


def refuses(number: int, call: object, *arguments: object) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        call(*arguments)  # type: ignore[operator]
    assert caught.value.errno == number, (call, arguments)


def test_no_listing_shows_it(filesystem: FileSystem) -> None:
    assert names(filesystem, "/") == ["d", "top"]
    assert names(filesystem, "/d") == ["a.txt", "only"]


def test_it_has_the_names_of_which_there_are_older_versions(filesystem: FileSystem) -> None:
    assert sorted(listed(filesystem, "/.versions")) == ["d", "top"]
    assert sorted(listed(filesystem, "/d/.versions")) == ["a.txt", "sub"]
    assert list(listed(filesystem, "/d/.versions/sub")) == ["b.tar.gz"]


def test_each_older_version_is_a_file(filesystem: FileSystem, store: MemoryStore) -> None:
    found = listed(filesystem, "/d/.versions/a.txt")
    ids = [number for number, _, _ in store._containers["box"].rows("d/a.txt")]
    assert len(ids) == 3
    assert all(name.startswith("20") and name.endswith("Z.txt") for name in found)
    newest, oldest = found
    assert newest > oldest
    assert newest[20:25] == ids[1][-5:]
    for name, content in ((newest, b"three"), (oldest, b"one")):
        path = f"/d/.versions/a.txt/{name}"
        shown = filesystem.getattr(path)
        assert shown == found[name]
        assert (shown.mode, shown.size, shown.uid, shown.gid) == (0o100640, len(content), 7, 8)
        assert shown.mtime_ns == 1_700_000_000_500_000_000
        assert read(filesystem, path) == content
    assert len({one.inode for one in found.values()}) == 2
    (name,) = listed(filesystem, "/d/.versions/sub/b.tar.gz")
    assert name.endswith("Z.tar.gz")
    assert read(filesystem, f"/d/.versions/sub/b.tar.gz/{name}") == b"gone"


def test_a_deleted_folder_is_shown_too(filesystem: FileSystem) -> None:
    refuses(errno.ENOENT, filesystem.getattr, "/d/sub")
    (name,) = listed(filesystem, "/.versions/d/sub/b.tar.gz")
    assert read(filesystem, f"/.versions/d/sub/b.tar.gz/{name}") == b"gone"


def test_the_folders_are_those_of_the_real_ones_without_write_bits(filesystem: FileSystem) -> None:
    real = filesystem.getattr("/d")
    for path in ("/d/.versions", "/d/.versions/a.txt", "/d/.versions/sub"):
        shown = filesystem.getattr(path)
        assert shown.is_directory
        assert stat.S_IMODE(shown.mode) == stat.S_IMODE(real.mode) & 0o555
        assert (shown.uid, shown.gid) == (real.uid, real.gid)
        assert shown.inode not in (real.inode, 0)


@pytest.mark.parametrize(
    "path",
    [
        "/d/.versions/none",
        "/d/.versions/only",
        "/d/.versions/a.txt/2026-01-01T00:00:00.000000Z.txt",
        "/d/.versions/a.txt/x",
        "/d/.versions/.versions",
        "/d/.versions/a%file",
        "/none/.versions",
        "/d/.versionsx",
    ],
)
def test_other_names_do_not_exist(filesystem: FileSystem, path: str) -> None:
    refuses(errno.ENOENT, filesystem.getattr, path)


def test_nothing_can_be_changed(filesystem: FileSystem, store: MemoryStore) -> None:
    (name, _) = listed(filesystem, "/d/.versions/a.txt")
    before = {key: list(kept) for key, kept in store._containers["box"].versions.items()}
    for path in ("/d/.versions", "/d/.versions/a.txt", f"/d/.versions/a.txt/{name}", "/d/.versions/new"):
        for call, *arguments in (
            (filesystem.mkdir, 0o755, ME),
            (filesystem.rmdir,),
            (filesystem.unlink,),
            (filesystem.rename, "/x"),
            (filesystem.link, "/x"),
            (filesystem.mknod, stat.S_IFREG | 0o644, 0, ME),
            (filesystem.create, 0o644, os.O_WRONLY, ME),
            (filesystem.chmod, 0o644),
            (filesystem.chown, 1, 1, ME),
            (filesystem.utimens, 1, 1),
            (filesystem.truncate, 0),
            (filesystem.setxattr, "user.x", b"1", 0),
            (filesystem.removexattr, "user.x"),
            (filesystem.hide, "/.fuse_hidden1"),
        ):
            refuses(errno.EROFS, call, path, *arguments)
        refuses(errno.EROFS, filesystem.rename, "/d/a.txt", path)
        refuses(errno.EROFS, filesystem.link, "/d/a.txt", path)
        refuses(errno.EROFS, filesystem.symlink, "target", path, ME)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
        refuses(errno.EROFS, filesystem.open, f"/d/.versions/a.txt/{name}", flags)
    assert store._containers["box"].versions == before


def test_what_a_file_or_folder_refuses(filesystem: FileSystem) -> None:
    (name, _) = listed(filesystem, "/d/.versions/a.txt")
    path = f"/d/.versions/a.txt/{name}"
    refuses(errno.EISDIR, filesystem.open, "/d/.versions/a.txt", os.O_RDONLY)
    refuses(errno.ENOTDIR, filesystem.opendir, path)
    refuses(errno.EINVAL, filesystem.readlink, path)
    refuses(errno.ENODATA, filesystem.getxattr, path, "user.x")
    assert filesystem.listxattr(path) == []


def test_a_link_may_name_a_version(filesystem: FileSystem) -> None:
    filesystem.symlink("../d/.versions/a.txt", "/link", ME)
    assert filesystem.readlink("/link") == "../d/.versions/a.txt"


def test_a_symbolic_link_has_versions(filesystem: FileSystem) -> None:
    filesystem.symlink("target", "/link", ME)
    filesystem.unlink("/link")
    (name,) = listed(filesystem, "/.versions/link")
    assert filesystem.getattr(f"/.versions/link/{name}").is_symlink
    assert filesystem.readlink(f"/.versions/link/{name}") == "target"


def test_an_object_of_another_client_counts_instead(store: MemoryStore, tmp_path: Path) -> None:
    store.put(ObjectName("box", "d/.versions/mine"), b"mine", Headers("text/plain"))
    with harness(store, tmp_path) as filesystem:
        assert names(filesystem, "/d") == [".versions", "a.txt", "only"]
        assert names(filesystem, "/d/.versions") == ["mine"]
        assert read(filesystem, "/d/.versions/mine") == b"mine"
        write(filesystem, "/d/.versions/new", b"new")
        assert body(store, "d/.versions/new") == b"new"
        assert sorted(listed(filesystem, "/.versions/d")) == [".versions", "a.txt", "sub"]


def test_without_versioning_it_is_an_ordinary_name(store: MemoryStore, tmp_path: Path) -> None:
    store.set_history("box", History.NONE)
    with harness(store, tmp_path) as filesystem:
        names(filesystem, "/d")
        store.requests.clear()
        refuses(errno.ENOENT, filesystem.getattr, "/d/.versions")
        assert store.requests == []
        filesystem.mkdir("/d/.versions", 0o755, ME)
        write(filesystem, "/d/.versions/a", b"mine")
    assert body(store, "d/.versions/a") == b"mine"


def test_ordinary_names_send_no_request_for_it(filesystem: FileSystem, store: MemoryStore) -> None:
    read(filesystem, "/d/a.txt")
    assert [method for method, _ in store.requests if "version" in method or "usage" in method] == []


def test_a_listing_answers_for_all_its_names(filesystem: FileSystem, store: MemoryStore) -> None:
    for name in listed(filesystem, "/d/.versions"):
        filesystem.getattr(f"/d/.versions/{name}")
    for name in listed(filesystem, "/d/.versions/a.txt"):
        filesystem.getattr(f"/d/.versions/a.txt/{name}")
    assert [method for method, _ in store.requests if method == "list_versions"] == ["list_versions"]


def test_an_outage_is_an_error(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "ttl=0", source="/") as filesystem:
        names(filesystem, "/box/d")

        refuse(store, "container_usage list_versions", Unavailable)
        with pytest.raises(Unavailable):
            filesystem.getattr("/box/d/.versions")
        store.hook = None
        assert filesystem.getattr("/box/d/.versions").is_directory
        refuses(errno.ENOENT, filesystem.getattr, "/.versions")


def test_a_large_version_is_read_by_ranges(store: MemoryStore, tmp_path: Path) -> None:
    parts = [ObjectName("box_segments", f"part-{number}") for number in range(3)]
    content = os.urandom(3 * 1024**2)
    segments = []
    for number, part in enumerate(parts):
        info = store.put(part, content[number * 1024**2 :][: 1024**2], Headers("a/b"))
        segments.append(Segment(part, info.version.etag, info.size))
    large = ObjectName("box", "d/large")
    manifest = Manifest(tuple(segments))
    store.put_manifest(large, manifest, Headers(f"{STORED};slo={manifest.etag}"))
    store.put(large, b"small", Headers(STORED))
    with harness(store, tmp_path) as filesystem:
        (name,) = listed(filesystem, "/d/.versions/large")
        path = f"/d/.versions/large/{name}"
        assert filesystem.getattr(path).size == len(content)
        assert read(filesystem, path) == content
        assert read(filesystem, "/d/large") == b"small"


def test_an_object_of_another_client_is_looked_at_when_it_is_opened(
    filesystem: FileSystem, store: MemoryStore
) -> None:
    for content in (b"first", b"second"):
        store.put(ObjectName("box", "foreign"), content, Headers("text/plain"))
    (name,) = listed(filesystem, "/.versions/foreign")
    store.requests.clear()
    assert filesystem.getattr(f"/.versions/foreign/{name}").size == 5
    assert store.requests == []
    assert read(filesystem, f"/.versions/foreign/{name}") == b"first"
    assert [method for method, _ in store.requests] == ["head", "get"]


def test_versioning_that_was_ended_still_shows_what_was_kept(store: MemoryStore, tmp_path: Path) -> None:
    store.set_history("box", History.KEPT, enabled=False)
    store.put(ObjectName("box", "top"), b"3", Headers(STORED))
    with harness(store, tmp_path) as filesystem:
        contents = [
            read(filesystem, f"/.versions/top/{name}") for name in listed(filesystem, "/.versions/top")
        ]
        assert contents == [b"2", b"1"]


def test_an_open_version_is_the_file_that_is_shown(filesystem: FileSystem) -> None:
    name = next(iter(listed(filesystem, "/d/.versions/a.txt")))
    path = f"/d/.versions/a.txt/{name}"
    handle = filesystem.open(path, os.O_RDONLY)
    try:
        opened, shown = filesystem.getattr_handle(handle), filesystem.getattr(path)
    finally:
        filesystem.release(handle)
    assert (opened.inode, opened.size, opened.mtime_ns, opened.mode) == (
        *(shown.inode, shown.size),
        *(shown.mtime_ns, shown.mode),
    )


def test_a_name_between_versions_and_folder(filesystem: FileSystem, store: MemoryStore) -> None:
    """`top-x` sorts after `top` and before `top/`."""
    for content in (b"1", b"2"):
        for key in ("top-x", "top/below"):
            store.put(ObjectName("box", key), content, Headers(STORED))
    found = listed(filesystem, "/.versions/top")
    assert [name for name in found if not name.endswith("Z")] == ["below"]
    assert len(found) == 2
    refuses(errno.ENOENT, filesystem.getattr, "/.versions/to")


def test_a_folder_with_too_many_versions(filesystem: FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftfs.posix.version_tree.MOST_LISTED", 2)
    with pytest.raises(FolderTooLarge, match="more than 2 versions"):
        filesystem.opendir("/d/.versions")


def test_a_name_with_more_versions_than_are_kept(
    filesystem: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftfs.posix.version_tree.MOST_KEPT", 2)
    assert len(listed(filesystem, "/d/.versions/a.txt")) == 2


def test_what_the_mount_hides_is_hidden_here_too(filesystem: FileSystem, store: MemoryStore) -> None:
    for key in (".swiftfs-segments/x/1", "d/.swiftfs-segments/x"):
        store.put(ObjectName("box", key), b"1", Headers(STORED))
    assert sorted(listed(filesystem, "/.versions")) == ["d", "top"]
    assert ".swiftfs-segments" in listed(filesystem, "/d/.versions")
