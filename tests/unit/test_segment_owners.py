"""Segments are deleted with the object that they were uploaded for, and with no other that names them."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.deadlines import within
from support.harness import ME, change, harness, write
from support.memory_store import MemoryStore
from support.stored_objects import body, segments
from swiftfs.filecache.segment_container import LONGEST_KEY, is_segment_of
from swiftfs.journal import backlog, database
from swiftfs.journal.database import JournalDB
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024
OPTIONS = "segment_size=1M"
OURS = "swiftfs-0123456789abcdef0123456789abcdef"
TIME = "1795427137.042741"


def store_of(*containers: str) -> MemoryStore:
    return MemoryStore("box", "box_segments", *containers)


def everything(store: MemoryStore) -> set[str]:
    return {
        f"{container}/{row.key}"
        for container in store.list_containers().subdirs
        for row in store.list_page(container).rows
    }


def large(store: MemoryStore, name: str, *parts: str, size: int = MIB) -> Manifest:
    """Store an SLO as another client does, with those of its segments that do not exist."""
    found = []
    for part in parts:
        container, _, key = part.partition("/")
        segment = ObjectName(container, key)
        if part not in everything(store):
            store.put(segment, os.urandom(size), Headers("application/octet-stream"))
        info = store.head(segment)
        found.append(Segment(segment, info.version.etag, info.size))
    manifest = Manifest(tuple(found))
    container, _, key = name.partition("/")
    store.put_manifest(ObjectName(container, key), manifest, Headers("video/x"))
    return manifest


def remove(filesystem: FileSystem) -> None:
    filesystem.unlink("/victim")


def overwrite(filesystem: FileSystem) -> None:
    write(filesystem, "/victim", b"small now")


def overwrite_large(filesystem: FileSystem) -> None:
    write(filesystem, "/victim", os.urandom(3 * MIB))


def rename_over(filesystem: FileSystem) -> None:
    filesystem.rename("/other", "/victim")


def link_over(filesystem: FileSystem) -> None:
    filesystem.unlink("/victim")
    filesystem.symlink("other", "/victim", ME)


def truncate(filesystem: FileSystem) -> None:
    filesystem.truncate("/victim", MIB + 5)


def empty(filesystem: FileSystem) -> None:
    filesystem.truncate("/victim", 0)


def append(filesystem: FileSystem) -> None:
    change(filesystem, "/victim", filesystem.getattr("/victim").size, b"more")


def patch(filesystem: FileSystem) -> None:
    change(filesystem, "/victim", 10, b"patched" * 1000)


def remove_folder(filesystem: FileSystem) -> None:
    filesystem.unlink("/victim")
    filesystem.unlink("/other")


OPERATIONS = [
    remove,
    overwrite,
    overwrite_large,
    rename_over,
    link_over,
    truncate,
    empty,
    append,
    patch,
    remove_folder,
]

FOREIGN = [
    ("published/invoice.pdf", "published/b.pdf"),
    ("box/photo1.jpg", "box/photo2.jpg"),
    ("segments-for-victim/segment-1", "segments-for-victim/segment-2"),
    (f"published_segments/victim/{OURS}/0-a", f"published_segments/victim/{OURS}/1-b"),
    (f"box_segments/another/{OURS}/0-a", f"box_segments/another/{OURS}/1-b"),
    (f"box_segments/another/slo/{TIME}/2097152/1048576/00000000", f"box_segments/victim2/{OURS}/1-b"),
    (f"box_segments/d/victim/{OURS}/0-a", f"box_segments/victim/d/{OURS}/1-b"),
    ("box_segments/victim/notes.txt", "box_segments/victim/swiftfs-01/x"),
    (f"box_segments/{OURS}/0-a", f"box_segments/victim{OURS}/1-b"),
    (f"box/.swiftfs-segments/another/{OURS}/0-a", f"box/d/victim/{OURS}/1-b"),
    (f"box_segments/victim/{OURS}/deeper/0-a", f"pieces/victim/{OURS}/1-b"),
]
"""Segments of others that another client's manifest may name."""

OWN = [
    (f"box_segments/victim/{OURS}/0-a", f"box_segments/victim/{OURS}/1-b"),
    (f"box/.swiftfs-segments/victim/{OURS}/0-a", f"box/.swiftfs-segments/victim/{OURS}/1-b"),
    (f"box_segments/victim/slo/{TIME}/2097152/1048576/00000000", f"box_segments/victim/{TIME}/2/1/00000001"),
    (
        "box_segments/victim/2026-11-23-094537-yVhrl0V4T_entjW3n9v9Mg/00000000",
        "box/.file-segments/victim/2026-11-23-094537-yVhrl0V4T_entjW3n9v9Mg/00000001",
    ),
]
"""Own segments, named as each known client does."""


@pytest.mark.matrix(11)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("parts", FOREIGN)
def test_segments_of_others_stay(
    tmp_path: Path, operation: Callable[[FileSystem], None], parts: tuple[str, ...]
) -> None:
    store = store_of("published", "published_segments", "segments-for-victim", "pieces")
    store.put(ObjectName("box", "other"), b"other", Headers("text/plain"))
    large(store, "box/victim", *parts)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        operation(filesystem)
    assert everything(store) >= set(parts)


@pytest.mark.parametrize("parts", OWN)
def test_own_segments_are_deleted_with_the_object(tmp_path: Path, parts: tuple[str, ...]) -> None:
    store = store_of()
    large(store, "box/victim", *parts)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.unlink("/victim")
    assert everything(store) == set()


def test_only_own_segments_of_a_manifest_that_names_both_are_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of()
    mine, other = f"box_segments/victim/{OURS}/0-a", f"box_segments/another/{OURS}/0-a"
    large(store, "box/another", other)
    large(store, "box/victim", mine, other, other)
    caplog.set_level(logging.INFO, "swiftfs")
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.unlink("/victim")
    assert everything(store) == {other, "box/another"}
    (line,) = [record for record in caplog.records if "are kept" in record.getMessage()]
    assert (line.levelno, line.getMessage().split()[0]) == (logging.INFO, "1")


def test_segments_in_a_container_given_by_an_option_are_deleted(tmp_path: Path) -> None:
    store = store_of("pieces")
    with harness(store, tmp_path, f"{OPTIONS},segments=pieces") as filesystem:
        write(filesystem, "/victim", os.urandom(3 * MIB))
        assert len(segments(store, "pieces")) == 3
        filesystem.unlink("/victim")
    assert everything(store) == set()


def rename_folder(filesystem: FileSystem) -> None:
    filesystem.mkdir("/d", 0o755, ME)
    filesystem.rename("/big", "/d/big")
    filesystem.rename("/d", "/e")
    filesystem.rename("/e/big", "/victim")


def rename_once(filesystem: FileSystem) -> None:
    filesystem.rename("/big", "/victim")


def rename_twice(filesystem: FileSystem) -> None:
    filesystem.rename("/big", "/between")
    filesystem.rename("/between", "/victim")


def rename_and_back(filesystem: FileSystem) -> None:
    filesystem.rename("/big", "/victim")
    filesystem.rename("/victim", "/big")
    filesystem.rename("/big", "/victim")


def rename_and_patch(filesystem: FileSystem) -> None:
    filesystem.rename("/big", "/between")
    change(filesystem, "/between", MIB + 10, b"patched" * 1000)
    filesystem.rename("/between", "/victim")


def rename_and_cut(filesystem: FileSystem) -> None:
    filesystem.rename("/big", "/victim")
    filesystem.truncate("/victim", 2 * MIB + 5)


RENAMES = [rename_once, rename_twice, rename_and_back, rename_and_patch, rename_and_cut, rename_folder]


@pytest.mark.matrix(9)
@pytest.mark.parametrize("rename", RENAMES)
@pytest.mark.parametrize("operation", [remove, overwrite, overwrite_large, rename_over, empty])
@pytest.mark.parametrize("remounts", [True, False])
@pytest.mark.parametrize("foreign", [True, False])
def test_segments_belong_to_the_renamed_file(
    tmp_path: Path,
    rename: Callable[[FileSystem], None],
    operation: Callable[[FileSystem], None],
    remounts: bool,
    foreign: bool,
) -> None:
    store = store_of()
    store.put(ObjectName("box", "other"), b"other", Headers("text/plain"))
    if foreign:
        large(store, "box/big", *(f"box_segments/big/slo/{TIME}/4/1/{part:08d}" for part in range(4)))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        if not foreign:
            write(filesystem, "/big", os.urandom(4 * MIB))
        rename(filesystem)
        if not remounts:
            operation(filesystem)
    if remounts:
        with harness(store, tmp_path, OPTIONS) as filesystem:
            operation(filesystem)
    store_names = {row.key for row in store.list_page("box").rows}
    named = (
        {one.name.key for one in store.manifest(ObjectName("box", "victim")).segments}
        if operation is overwrite_large
        else set()
    )
    assert segments(store) == named
    assert "big" not in store_names


def test_segments_of_a_temporary_file_that_is_renamed_are_deleted_with_it(tmp_path: Path) -> None:
    """As rsync does: its segments have the temporary name."""
    store = store_of()
    data = os.urandom(4 * MIB)
    with harness(store, tmp_path, f"{OPTIONS},settle=1000") as filesystem:
        for _ in range(2):
            write(filesystem, "/.big.Xyz123", data)
            _begin_segments(filesystem)
            filesystem.rename("/.big.Xyz123", "/big")
            filesystem.services.journal.flush_below(Folder("box", ""))
            assert body(store, "big") == data
            assert len(segments(store)) == 4
            assert any(key.startswith(".swiftfs-segments/.big.Xyz123/") for key in segments(store))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.unlink("/big")
    assert everything(store) == set()


def _begin_segments(filesystem: FileSystem) -> None:
    """Upload all full segments of pending files."""
    for use in filesystem.services.file_cache._used.values():
        assert use.cached_file is not None
        use.cached_file.uploads.begin_full(4 * MIB, lambda _start, _end: True)


def test_another_client_s_file_does_not_own_segments_of_the_renamed_file_it_replaces(tmp_path: Path) -> None:
    store = store_of()
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/big", os.urandom(3 * MIB))
        filesystem.rename("/big", "/moved")
        write(filesystem, "/big", os.urandom(2 * MIB))
    named = store.manifest(ObjectName("box", "big")).segments
    moved = segments(store) - {one.name.key for one in named}
    large(store, "box/moved", *(f"{one.name}" for one in named))
    with harness(store, tmp_path, OPTIONS) as filesystem:
        filesystem.unlink("/moved")
    assert segments(store) == moved | {one.name.key for one in named}


def test_without_the_journal_that_renamed_it_a_file_s_segments_stay(tmp_path: Path) -> None:
    store = store_of()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with harness(store, tmp_path / "one", OPTIONS) as filesystem:
        write(filesystem, "/big", os.urandom(3 * MIB))
        filesystem.rename("/big", "/moved")
    before = segments(store)
    with harness(store, tmp_path / "two", OPTIONS) as filesystem:
        filesystem.unlink("/moved")
    assert segments(store) == before
    assert segments(store, "box") == set()


def test_segments_of_keys_with_the_same_beginning_are_distinguished(tmp_path: Path) -> None:
    """Keys that are shortened in the names of their segments have prefixes that begin alike."""
    store = store_of()
    one, two = ("d" * 200 + "/") * 4 + "one", ("d" * 200 + "/") * 4 + "two"
    assert len(one) > LONGEST_KEY
    data = os.urandom(3 * MIB)
    with harness(store, tmp_path, OPTIONS) as filesystem:
        for part in range(4):
            filesystem.mkdir("/" + "/".join(["d" * 200] * (part + 1)), 0o755, ME)
        write(filesystem, f"/{one}", data)
        mine = segments(store)
        large(store, f"box/{two}", *(f"box_segments/{key}" for key in sorted(mine)))
        filesystem.refresh()
        filesystem.unlink(f"/{two}")
        assert body(store, one) == data
        filesystem.unlink(f"/{one}")
    assert segments(store) == set()


def test_a_key_of_the_longest_length_does_not_own_segments_of_longer_keys() -> None:
    owner = ObjectName("box", "x" * LONGEST_KEY)
    assert not is_segment_of(ObjectName("box_segments", f"{owner.key}/{OURS}/0-a"), owner)


def test_claims_do_not_accumulate(tmp_path: Path) -> None:
    store = store_of()
    with harness(store, tmp_path, OPTIONS) as filesystem:
        for _ in range(3):
            write(filesystem, "/big", os.urandom(2 * MIB))
            filesystem.rename("/big", "/moved")
            change(filesystem, "/moved", 0, b"patched" * 1000)
        assert len(filesystem.services.journal._db.rows("claims")) <= 4
        filesystem.unlink("/moved")
        assert filesystem.services.journal._db.rows("claims") == []
    assert segments(store) == set()


def test_nobody_waits_for_the_disk_to_learn_whose_a_segment_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = JournalDB(tmp_path, "box of memory")
    owners = SegmentOwnership(db)
    source, target = ObjectName("box", "a"), ObjectName("box", "b")
    segment = ObjectName("box_segments", f"a/{OURS}/0-a")
    answers = []
    with ThreadPoolExecutor(1) as pool, closing(db):

        def sync(_log: Path) -> None:
            answers.append(pool.submit(owners.owned, target, "etag", [segment]).result(within(20)))

        monkeypatch.setattr(database, "sync_data", sync)
        owners.record_move(source, target, "etag")
        owners.share([(target, source)], 1.0)
        assert answers == [{segment}] * 2


def test_a_deletion_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut would leave segments to `gc`, and no more."""
    monkeypatch.setattr(backlog, "SYNC_SECONDS", 1000.0)
    synced: list[Path] = []
    store = store_of()
    with harness(store, tmp_path, OPTIONS) as filesystem:
        write(filesystem, "/big", os.urandom(2 * MIB))
        monkeypatch.setattr(database, "sync_data", synced.append)
        filesystem.unlink("/big")
        assert (segments(store), synced) == (set(), [])


def test_the_claims_of_a_manifest_are_on_the_disk_before_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else, after a power cut, segments that a moved file goes on using would count as another object's."""
    on_disk: list[list[tuple[Any, ...]]] = []
    prefix = "old/swiftfs-0123456789abcdef0123456789abcdef/"
    segment = Segment(ObjectName("box_segments", f"{prefix}1-a"), "0" * 32, 10)
    with closing(JournalDB(tmp_path, "me")) as log:
        monkeypatch.setattr(database, "sync_data", lambda _path: on_disk.append(log.rows("claims")))
        SegmentOwnership(log).record_manifest(
            ObjectName("box", "new"), "", Manifest((segment,)), ObjectName("box_segments", prefix)
        )
        assert on_disk[-1] == log.rows("claims") != []
