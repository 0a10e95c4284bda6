"""A folder is renamed of which Swift has a part: that is copied, the rest gets new names in the journal."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.deadlines import within
from support.fresh_folders import (
    FRESH_FOLDERS,
    OPTIONS,
    Images,
    drained,
    killed,
    make,
    objects,
    sent,
    tree,
)
from support.halted_moves import Halt
from support.harness import ANY_END, ME, change, harness, names, put, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import NEW, OLD
from support.refused_changes import flush
from support.stored_objects import foreign, keys, refuse
from swiftfs.errors import AccessDenied, StoreError
from swiftfs.journal.moves import Unmoved
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

pytestmark = FRESH_FOLDERS

AT_ONCE = 4
"""Changes that are stored at once with `uploads=1`."""


def stored(store: MemoryStore, cache: Path, top: str) -> None:
    """Store a folder with two files in an earlier mount."""
    with harness(store, cache, OPTIONS) as filesystem:
        filesystem.mkdir(top, 0o755, ME)
        filesystem.mkdir(f"{top}/sub", 0o755, ME)
        write(filesystem, f"{top}/s", b"stored")
        write(filesystem, f"{top}/sub/s", NEW)


STORED = {"new": b"", "new/sub": b"", "new/s": b"stored", "new/sub/s": NEW}
FRESH = {"new/f": b"fresh", "new/sub/f": OLD, "new/more": b"", "new/more/f": b"fresh too"}


def add_fresh(filesystem: FileSystem, top: str) -> None:
    """Make the files and the folder of `FRESH` below `top`."""
    write(filesystem, f"{top}/f", FRESH["new/f"])
    write(filesystem, f"{top}/sub/f", FRESH["new/sub/f"])
    filesystem.mkdir(f"{top}/more", 0o755, ME)
    write(filesystem, f"{top}/more/f", FRESH["new/more/f"])


def test_only_what_swift_has_is_copied(store: MemoryStore, cache: Path) -> None:
    stored(store, cache, "/old")
    with harness(store, cache, OPTIONS) as filesystem:
        assert names(filesystem, "/old") == ["s", "sub"]
        add_fresh(filesystem, "/old")
        requests = sent(store, lambda: filesystem.rename("/old", "/new"))
        assert requests.count("copy") == 4
        assert not {"put", "put_manifest"} & set(requests)
        assert len(requests) <= 4 + 6
        assert names(filesystem, "/") == ["new"]
        assert names(filesystem, "/new") == ["f", "more", "s", "sub"]
        assert names(filesystem, "/new/sub") == ["f", "s"]
        assert read(filesystem, "/new/sub/f") == FRESH["new/sub/f"]
        assert read(filesystem, "/new/sub/s") == NEW
        assert read(filesystem, "/new/more/f") == b"fresh too"
        assert set(keys(store)) == set(STORED)
    assert objects(store) == {**STORED, **FRESH}


@pytest.mark.usual
def test_a_kill_at_any_request_leaves_all_files_together(
    store: MemoryStore, cache: Path, tmp_path: Path
) -> None:
    stored(store, cache, "/old")
    with harness(store, cache, OPTIONS) as filesystem:
        names(filesystem, "/old")
        add_fresh(filesystem, "/old")
        images = Images(store, cache, tmp_path, "list_page", "copy", "head", "delete_many", "delete")
        images.take("begin")
        filesystem.rename("/old", "/new")
        store.hook = None
        images.take("end")
    assert len(images.taken) > 6
    expected = {**STORED, **FRESH}
    found = set()
    for what, twin, image in images.taken:
        left = drained(twin, image)
        tops = {key.partition("/")[0] for key in left}
        assert len(tops) == 1, what
        assert {key.replace("old", "new", 1): data for key, data in left.items()} == expected, what
        found |= tops
    assert found == {"old", "new"}


def test_a_kill_before_a_rename_fails_spares_what_another_client_has_at_the_new_name(
    store: MemoryStore, cache: Path, tmp_path: Path
) -> None:
    """The folder of the new name is not empty: a file of that name would be replaced by what waits."""
    stored(store, cache, "/old")
    with harness(store, cache, OPTIONS, close_error=ANY_END) as filesystem:
        assert names(filesystem, "/") == ["old"]
        add_fresh(filesystem, "/old")
        foreign(store, "new/f", b"theirs")
        images = Images(store, cache, tmp_path, "head", "list_page")
        with pytest.raises(Unmoved, match="not empty"):
            filesystem.rename("/old", "/new")
        store.hook = None
    assert "head box/new/f" in [what for what, *_ in images.taken]
    for what, twin, image in images.taken:
        with harness(twin, image, OPTIONS, close_error=ANY_END):  # it may report that rename
            pass
        left = objects(twin)
        assert left.pop("new/f") == b"theirs", what
        assert {key.replace("old", "new", 1): data for key, data in left.items()} == {**STORED, **FRESH}


class ProtectedStore(MemoryStore):
    """It deletes no `protected` object."""

    protected: tuple[str, ...] = ()

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        wanted = list(names)
        refused = [name for name in wanted if name.key in self.protected]
        failed = super().delete_many(name for name in wanted if name not in refused)
        return {**failed, **{name: AccessDenied("no") for name in refused}}


def test_what_swift_does_not_delete_at_the_old_name_goes_later(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After the upload of a change of the same file, which has the new name by then."""
    store = ProtectedStore("box")
    with harness(store, cache, OPTIONS) as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        write(filesystem, "/old/s", b"stored")
        flush(filesystem)
        change(filesystem, "/old/s", 6, b" and more")
        store.protected = ("old/s",)
        filesystem.rename("/old", "/new")
        store.protected = ()
        assert read(filesystem, "/new/s") == b"stored and more"
        filesystem.setxattr("/", "swift.retry", b"1", 0)
        flush(filesystem)
    assert objects(store) == {"new": b"", "new/s": b"stored and more"}
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_move_that_fails_leaves_all_at_the_old_name(
    store: MemoryStore, cache: Path, tmp_path: Path
) -> None:
    stored(store, cache, "/old")
    with harness(store, cache, OPTIONS) as filesystem:
        names(filesystem, "/old")
        add_fresh(filesystem, "/old")
        handle = filesystem.open("/old/f", os.O_RDWR)
        refuse(store, "copy", AccessDenied)
        with pytest.raises(Unmoved):
            filesystem.rename("/old", "/new")
        store.hook = None
        twin = killed(store, cache, tmp_path / "image")
        assert names(filesystem, "/old") == ["f", "more", "s", "sub"]
        assert names(filesystem, "/old/more") == ["f"]
        put(filesystem, handle, 0, b"F")
        filesystem.release(handle)
    expected = {key.replace("new", "old", 1): data for key, data in {**STORED, **FRESH}.items()}
    assert objects(store) == {**expected, "old/f": b"Fresh"}
    assert drained(twin, tmp_path / "image") == expected


def test_an_interrupted_move_that_is_given_up_leaves_all_at_the_old_name(
    store: MemoryStore, cache: Path, tmp_path: Path
) -> None:
    stored(store, cache, "/old")
    with harness(store, cache, OPTIONS) as filesystem:
        names(filesystem, "/old")
        add_fresh(filesystem, "/old")
        images = Images(store, cache, tmp_path, "copy")
        filesystem.rename("/old", "/new")
        store.hook = None
    _, twin, image = images.taken[0]
    refuse(twin, "copy", AccessDenied)
    with harness(twin, image, OPTIONS, close_error="given up") as filesystem:
        twin.hook = None
        assert names(filesystem, "/") == ["old"]
        assert names(filesystem, "/old") == ["f", "more", "s", "sub"]
    assert set(keys(twin)) == {key.replace("new", "old", 1) for key in {**STORED, **FRESH}}


@pytest.mark.usual
def test_what_runs_is_stored_first_and_the_rest_is_not(store: MemoryStore, cache: Path) -> None:
    with harness(store, cache, "settle=0.3,uploads=1") as filesystem, ThreadPoolExecutor(1) as pool:
        names(filesystem, "/")
        filesystem.mkdir("/old", 0o755, ME)
        halt = Halt(store, "put")
        for number in range(100):
            write(filesystem, f"/old/{number}", b"data")
        wait_until(lambda: [method for method, _ in store.requests].count("put") == AT_ONCE)
        renamed = pool.submit(filesystem.rename, "/old", "/new")
        wait_until(lambda: filesystem.services.open_files.barrier._moving)
        halt.go_on()
        renamed.result(within(20))
        copied = [method for method, _ in store.requests].count("copy")
        wait_until(lambda: not filesystem.waiting())
    # One more may have begun before the rename looked.
    assert AT_ONCE <= copied <= AT_ONCE + 1
    requests = [method for method, _ in store.requests]
    assert requests.count("put") == 101
    assert objects(store) == {"new": b"", **{f"new/{number}": b"data" for number in range(100)}}


def test_a_change_of_a_file_that_swift_has_is_stored_first(store: MemoryStore, cache: Path) -> None:
    """Its other bytes are at the old name alone."""
    with harness(store, cache, OPTIONS) as filesystem:
        filesystem.mkdir("/old", 0o755, ME)
        write(filesystem, "/old/large", NEW)
    for path in (cache / "content").iterdir():
        path.unlink()
    with harness(store, cache, OPTIONS) as filesystem:
        change(filesystem, "/old/large", 5, b"changed")
        write(filesystem, "/old/fresh", b"fresh")
        filesystem.chmod("/old", 0o700)
        filesystem.rename("/old", "/new")
        assert [one.path for one in filesystem.waiting()] == ["/new/fresh"]
    assert objects(store) == {
        "new": b"",
        "new/fresh": b"fresh",
        "new/large": NEW[:5] + b"changed" + NEW[12:],
    }


def test_a_mount_that_does_not_know_what_another_client_stored_below_looks(
    store: MemoryStore, cache: Path
) -> None:
    with harness(store, cache, f"{OPTIONS},ttl=0") as filesystem:
        make(filesystem, "/old")
        foreign(store, "old/sub/theirs", b"theirs")
        requests = sent(store, lambda: filesystem.rename("/old", "/new"))
        assert "put" not in requests
        assert requests.count("copy") == 1
    assert objects(store) == {**tree("new"), "new/sub/theirs": b"theirs"}


def test_a_listing_that_finds_nothing_below_is_enough(store: MemoryStore, cache: Path) -> None:
    with harness(store, cache, OPTIONS) as filesystem:
        names(filesystem, "/")
        make(filesystem, "/old")
        filesystem.setxattr("/", "swift.refresh", b"1", 0)
        requests = sent(store, lambda: filesystem.rename("/old", "/new"))
        assert set(requests) == {"list_page"}
        assert len(requests) <= 4
        assert names(filesystem, "/") == ["new"]
        assert names(filesystem, "/new/sub") == ["b", "deep", "link"]
    assert objects(store) == tree("new")


def test_open_files_are_handed_in_meanwhile(store: MemoryStore, cache: Path) -> None:
    with harness(store, cache, "settle=0.05") as filesystem, ThreadPoolExecutor(4) as pool:
        names(filesystem, "/")
        filesystem.mkdir("/old", 0o755, ME)
        handles = [filesystem.create(f"/old/{number}", 0o644, os.O_RDWR, ME) for number in range(4)]

        def work(handle: int) -> None:
            for turn in range(40):
                put(filesystem, handle, 3 * turn, b"%02d " % turn)
                filesystem.flush(handle)

        done = [pool.submit(work, handle) for handle in handles]
        for old, new in [("/old", "/new"), ("/new", "/old")] * 5:
            filesystem.rename(old, new)
        for future in done:
            future.result(within(60))
        for handle in handles:
            filesystem.release(handle)
    text = b"".join(b"%02d " % turn for turn in range(40))
    assert objects(store) == {"old": b"", **{f"old/{number}": text for number in range(4)}}


def test_an_empty_folder_at_the_target_is_replaced(filesystem: FileSystem, store: MemoryStore) -> None:
    filesystem.mkdir("/new", 0o700, ME)
    flush(filesystem)
    make(filesystem, "/old")
    requests = sent(store, lambda: filesystem.rename("/old", "/new"))
    assert requests.count("copy") == 1  # the marker, with its attributes
    flush(filesystem)
    assert objects(store) == tree("new")
    assert filesystem.getattr("/new").mode & 0o777 == 0o750
