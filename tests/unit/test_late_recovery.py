"""Changes that were being sent at a kill, and were changed again before the next mount sent them."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.harness import ME, harness, put, write
from support.jobs import wait_until
from support.late_store import (
    FILE,
    LATE,
    OPTIONS,
    LateStore,
    kill_during,
    late,
    recorded,
    remove,
    repair,
    settle,
    store_file,
)
from support.power_cut import refusing
from support.stored_objects import body, keys
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

pytestmark = LATE

MIB = 1024 * 1024

Job = Callable[[FileSystem], object]


def stored(store: LateStore, cache: Path, job: Job) -> Path:
    """Do a job with a mount of its own; return the cache folder of the next one."""
    (cache / "before").mkdir()
    (cache / "mount").mkdir()
    with harness(store, cache / "before", OPTIONS) as filesystem:
        job(filesystem)
        settle(filesystem)
    return cache / "mount"


def write_old(filesystem: FileSystem) -> None:
    write(filesystem, "/file", b"old")


@pytest.mark.parametrize("size", [5000, 3 * MIB])
def test_a_file_that_is_written_again(store: LateStore, tmp_path: Path, size: int) -> None:
    cache = stored(store, tmp_path, write_old)
    data = os.urandom(size)
    method = "put" if size < MIB else "put_manifest"
    died = kill_during(store, cache, method, "file", lambda filesystem: write(filesystem, "/file", data))
    with harness(store, died, OPTIONS) as filesystem:
        write(filesystem, "/file", b"newer")
        settle(filesystem)
        assert late(filesystem).counts().watched == 1
        if method == "put":  # the segments of the other have gone
            store.land()
            assert body(store, "file") == data
        repair(filesystem)
        assert body(store, "file") == b"newer"


def test_a_file_that_is_deleted(store: LateStore, tmp_path: Path) -> None:
    cache = stored(store, tmp_path, write_old)
    died = kill_during(store, cache, "put", "file", lambda filesystem: write(filesystem, "/file", b"sent"))
    with harness(store, died, OPTIONS) as filesystem:
        filesystem.unlink("/file")
        settle(filesystem)
        store.land()
        assert keys(store) == ["file"]
        repair(filesystem)
        assert keys(store) == []


def test_a_file_that_is_renamed(store: LateStore, tmp_path: Path) -> None:
    cache = stored(store, tmp_path, lambda _: None)
    died = kill_during(store, cache, "put", "file", lambda filesystem: write(filesystem, "/file", b"sent"))
    with harness(store, died, OPTIONS) as filesystem:
        filesystem.rename("/file", "/there")
        settle(filesystem)
        store.land()
        assert keys(store) == ["file", "there"]
        repair(filesystem)
        assert keys(store) == ["there"]
        assert body(store, "there") == b"sent"


def test_a_file_whose_attributes_change(store: LateStore, tmp_path: Path) -> None:
    cache = stored(store, tmp_path, write_old)
    died = kill_during(store, cache, "put", "file", lambda filesystem: write(filesystem, "/file", b"sent"))
    with harness(store, died, OPTIONS) as filesystem:
        filesystem.chmod("/file", 0o400)
        settle(filesystem)
        was = store.head(FILE)
        store.land()
        assert store.head(FILE).content_type != was.content_type
        repair(filesystem)
        assert store.head(FILE).content_type == was.content_type
        assert body(store, "file") == b"sent"


def test_a_deletion_that_a_new_file_makes_needless(store: LateStore, tmp_path: Path) -> None:
    cache = stored(store, tmp_path, write_old)
    died = kill_during(store, cache, "delete", "file", lambda filesystem: filesystem.unlink("/file"))
    with harness(store, died, OPTIONS) as filesystem:
        store_file(filesystem, b"new")
        store.land()
        assert keys(store) == []
        repair(filesystem)
        assert body(store, "file") == b"new"


def test_a_deletion_that_a_move_over_it_makes_needless(store: LateStore, tmp_path: Path) -> None:
    def both(filesystem: FileSystem) -> None:
        write(filesystem, "/file", b"old")
        write(filesystem, "/other", b"other")

    cache = stored(store, tmp_path, both)
    died = kill_during(store, cache, "delete", "file", lambda filesystem: filesystem.unlink("/file"))
    with harness(store, died, OPTIONS) as filesystem:
        filesystem.rename("/other", "/file")
        late(filesystem).fetch()
        store.land()
        assert keys(store) == []
        repair(filesystem)
        assert body(store, "file") == b"other"


def test_attributes_that_change_again(store: LateStore, tmp_path: Path) -> None:
    cache = stored(store, tmp_path, write_old)
    died = kill_during(store, cache, "post", "file", lambda filesystem: filesystem.chmod("/file", 0o600))
    with harness(store, died, OPTIONS) as filesystem:
        filesystem.chmod("/file", 0o444)
        settle(filesystem)
        store.land()
        assert "mode=0100600" in store.head(FILE).content_type
        repair(filesystem)
        assert "mode=0100444" in store.head(FILE).content_type


def test_attributes_that_new_bytes_make_needless(store: LateStore, tmp_path: Path) -> None:
    cache = stored(store, tmp_path, write_old)
    died = kill_during(store, cache, "post", "file", lambda filesystem: filesystem.chmod("/file", 0o600))
    with harness(store, died, OPTIONS) as filesystem:
        write(filesystem, "/file", b"newer")
        filesystem.chmod("/file", 0o444)
        settle(filesystem)
        was = store.head(FILE)
        store.land()
        repair(filesystem)
        assert store.head(FILE).content_type == was.content_type
        assert body(store, "file") == b"newer"


def test_a_folder_that_is_removed(store: LateStore, tmp_path: Path) -> None:
    cache = stored(store, tmp_path, lambda _: None)
    died = kill_during(store, cache, "put", "d", lambda filesystem: filesystem.mkdir("/d", 0o755, ME))
    with harness(store, died, OPTIONS) as filesystem:
        filesystem.rmdir("/d")
        settle(filesystem)
        store.land()
        assert keys(store) == ["d"]
        repair(filesystem)
        assert keys(store) == []


def test_a_link_that_is_made_anew(store: LateStore, tmp_path: Path) -> None:
    cache = stored(store, tmp_path, lambda _: None)
    died = kill_during(store, cache, "put", "l", lambda filesystem: filesystem.symlink("old", "/l", ME))
    with harness(store, died, OPTIONS) as filesystem:
        filesystem.unlink("/l")
        filesystem.symlink("new", "/l", ME)
        settle(filesystem)
        store.land()
        assert body(store, "l") == b"old"
        repair(filesystem)
        assert body(store, "l") == b"new"


def test_a_second_loss_of_a_name_that_is_watched_already(store: LateStore, tmp_path: Path) -> None:
    cache = stored(store, tmp_path, lambda _: None)

    def twice(filesystem: FileSystem) -> None:
        store.lose("put", "file")
        callback, store.on_loss = store.on_loss, None
        store_file(filesystem, b"first")
        store.lose("put", "file")
        store.on_loss = callback
        write(filesystem, "/file", b"second")

    died = kill_during(store, cache, "put", "file", twice)
    with harness(store, died, OPTIONS) as filesystem:
        settle(filesystem)
        store_file(filesystem, b"third")
        store.land()  # the second comes last
        assert body(store, "file") == b"second"
        repair(filesystem)
        assert body(store, "file") == b"third"


def test_what_is_sent_again_as_it_was_costs_no_looks(store: LateStore, tmp_path: Path) -> None:
    def jobs(filesystem: FileSystem) -> None:
        write(filesystem, "/file", b"newer")
        write(filesystem, "/large", bytes(range(256)) * 12_000)
        filesystem.chmod("/other", 0o600)
        filesystem.chmod("/large2", 0o600)
        filesystem.mkdir("/d", 0o755, ME)

    def prepare(filesystem: FileSystem) -> None:
        write(filesystem, "/file", b"old")
        write(filesystem, "/other", b"other")
        write(filesystem, "/large2", os.urandom(2 * MIB))

    cache = stored(store, tmp_path, prepare)
    died = kill_during(store, cache, "put", "file", jobs)
    with harness(store, died, OPTIONS) as filesystem:
        settle(filesystem)
        assert late(filesystem).counts().watched == 0


def test_a_second_close_during_the_upload(store: LateStore, tmp_path: Path) -> None:
    """When the process dies, the journal has the second close only, while the first is uploaded."""
    cache = stored(store, tmp_path, write_old)

    def close_twice(filesystem: FileSystem) -> None:
        kill = store.on_loss
        assert kill is not None
        handle = filesystem.create("/file", 0o644, os.O_WRONLY | os.O_TRUNC, ME)

        def close_and_kill() -> None:
            store.on_loss = kill
            put(filesystem, handle, 0, b"second")
            filesystem.flush(handle)
            kill()

        store.on_loss = close_and_kill
        put(filesystem, handle, 0, b"first")
        filesystem.flush(handle)
        wait_until(lambda: store.on_loss is None)
        filesystem.release(handle)

    died = kill_during(store, cache, "put", "file", close_twice)
    with harness(store, died, OPTIONS) as filesystem:
        settle(filesystem)
        assert body(store, "file") == b"second"
        store.land()
        assert body(store, "file") == b"first"
        repair(filesystem)
        assert body(store, "file") == b"second"


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_another_client_has_made_empty_too_is_not_what_came_late(
    store: LateStore, filesystem: FileSystem, *, is_folder: bool
) -> None:
    """All empty objects have one ETag: it does not tell whose they are."""
    store.lose("put", "file")
    if is_folder:
        filesystem.mkdir("/file", 0o755, ME)
    else:
        write(filesystem, "/file", b"")
    wait_until(lambda: store.lost == 1)
    settle(filesystem)
    (filesystem.rmdir if is_folder else filesystem.unlink)("/file")
    settle(filesystem)
    assert keys(store) == []
    store.put(FILE, b"", Headers("application/directory" if is_folder else "text/plain"))
    repair(filesystem)
    assert keys(store) == ["file"]
    assert late(filesystem).counts().put_right == 0


def test_what_is_stored_after_a_late_deletion_has_the_headers_of_what_was_deleted(
    store: LateStore, filesystem: FileSystem
) -> None:
    store_file(filesystem, b"old")
    store.lose("delete", "file")
    remove(filesystem)
    store_file(filesystem, b"new")
    filesystem.setxattr("/file", "user.tag", b"1", 0)
    settle(filesystem)
    filesystem.refresh()
    late(filesystem).fetch()
    handle = filesystem.open("/file", os.O_WRONLY)
    store.land()
    assert keys(store) == []
    put(filesystem, handle, 0, b"newest")
    filesystem.release(handle)
    settle(filesystem)
    assert body(store, "file") == b"newest"
    assert store.head(FILE).metadata["tag"] == "1"


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_new_attributes_keep_the_tag_that_a_late_request_has_undone(
    store: LateStore, filesystem: FileSystem, size: int
) -> None:
    store.lose("put" if size < MIB else "put_manifest", "file")
    store_file(filesystem, bytes(size))
    filesystem.setxattr("/file", "user.tag", b"1", 0)
    settle(filesystem)
    assert store.head(FILE).metadata["tag"] == "1"
    store.land()
    assert "tag" not in store.head(FILE).metadata
    filesystem.refresh()
    filesystem.chmod("/file", 0o600)
    settle(filesystem)
    assert store.head(FILE).metadata["tag"] == "1"


def test_what_a_full_disk_has_refused_to_remember_is_saved_later(
    store: LateStore, cache: Path, filesystem: FileSystem
) -> None:
    with ExitStack() as full:
        db = filesystem.services.journal._db
        store.lose("put", "file")
        store.on_loss = lambda: full.enter_context(refusing(db))
        write(filesystem, "/file", b"data")
        wait_until(lambda: not filesystem.waiting())
        assert store.lost == 1
        assert recorded(cache) == 0
    store_file(filesystem, b"other", "/other")
    assert recorded(cache) == 1
