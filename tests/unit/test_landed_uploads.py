"""An upload was executed but not confirmed: the mount was killed, or the answer was lost.

The object is then what was about to be stored: readers and the next attempt continue with it.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import pytest

from support.edited_file import CHANGES, Edited
from support.harness import ME, copy_live, harness, read, write
from support.harness import change as edit
from support.jobs import wait_until
from support.late_store import LateStore, away, killed
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import body, foreign, keys, segments_of, ten_minutes_later
from support.upload_rig import Writer
from swiftfs.errors import PreconditionFailed
from swiftfs.filecache.upload_record import UploadRecord
from swiftfs.objects import Manifest
from swiftfs.posix.filesystem import FileSystem

pytestmark = [
    pytest.mark.usefixtures("no_retries"),  # readers come before them
    pytest.mark.store(LateStore, "box", "box_segments"),
]

OPTIONS = "settle=0.01,segment_size=1M"
SIZES = {"60 KB": 60_000, "3.5 MB": 3_500_000}


def watch(store: LateStore, *, lands: bool = True, lost: Callable[[], object] = lambda: None) -> None:
    """Lose the answer to the next upload of the file, and answer nothing after it; call `lost` then.

    If it does not land, the upload is not executed.
    """

    def end() -> None:
        store.loses.clear()
        store.hook = away
        lost()

    for method in ("put", "put_manifest"):
        store.lose(method, "file", lands=lands)
    store.on_loss = end


@contextmanager
def killed_at_upload(
    store: LateStore, cache: Path, image: Path, options: str = OPTIONS, *, lands: bool = True
) -> Iterator[FileSystem]:
    """A mount that is killed at its next upload of the file, after which `image` has a copy of the cache."""
    watch(store, lands=lands, lost=lambda: copy_live(cache, image))
    with killed(store, cache, options) as filesystem:
        yield filesystem
        wait_until(lambda: store.hook is away and (image / "journal.sqlite").exists())
        wait_until(lambda: all(one.reason for one in filesystem.waiting()))


def change_and_kill(
    store: LateStore,
    cache: Path,
    image: Path,
    data: bytes | bytearray,
    change: str,
    number: int = 1,
    *,
    lands: bool = True,
) -> bytearray:
    """Change the file, which holds `data`, in a mount that is killed at its upload; return its new bytes."""
    with killed_at_upload(store, cache, image, lands=lands) as filesystem:
        file = Edited(filesystem, bytearray(data))
        CHANGES[change](file, number)
    return file.model


def folder(root: Path, name: str) -> Path:
    (root / name).mkdir()
    return root / name


def stored(store: LateStore, root: Path, size: str, *, plain: bool = False) -> bytes:
    """Store the file by a mount with a cache of its own, or as another client if `plain`."""
    data = noise(SIZES[size])
    if plain:
        foreign(store, "file", data)
        return data
    with harness(store, folder(root, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", data)
    return data


def assert_stored(store: LateStore, model: bytes | bytearray, key: str = "file") -> None:
    assert body(store, key) == model
    assert keys(store) == [key]
    assert set(keys(store, "box_segments")) == segments_of(store, key)


CASES = [(size, False) for size in SIZES] + [("3.5 MB", True)]


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), CASES)
def test_a_reader_after_a_kill(store: LateStore, tmp_path: Path, size: str, plain: bool, change: str) -> None:
    data = stored(store, tmp_path, size, plain=plain)
    model = change_and_kill(store, folder(tmp_path, "second"), tmp_path / "image", data, change)
    assert body(store, "file") == model
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        assert read(filesystem, "/file") == model
    assert_stored(store, model)


@pytest.mark.matrix(7)
@pytest.mark.parametrize("then", ["append", "cut and grow", "patch", "shrink below a segment"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), [("60 KB", False), ("3.5 MB", False), ("3.5 MB", True)])
def test_a_writer_after_a_kill(
    store: LateStore, tmp_path: Path, size: str, plain: bool, change: str, then: str
) -> None:
    data = stored(store, tmp_path, size, plain=plain)
    model = change_and_kill(store, folder(tmp_path, "second"), tmp_path / "image", data, change)
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        file = Edited(filesystem, model)
        CHANGES[then](file, 2)
        assert read(filesystem, "/file") == file.model
    assert_stored(store, file.model)


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), CASES)
def test_a_reader_after_a_lost_answer(
    store: LateStore, tmp_path: Path, size: str, plain: bool, change: str
) -> None:
    data = stored(store, tmp_path, size, plain=plain)
    with harness(store, folder(tmp_path, "second"), OPTIONS) as filesystem:
        file = Edited(filesystem, bytearray(data))
        watch(store)
        CHANGES[change](file, 1)
        wait_until(lambda: store.hook is away and all(one.reason for one in filesystem.waiting()))
        store.hook = None
        assert read(filesystem, "/file") == file.model
        CHANGES[change](file, 2)
        assert read(filesystem, "/file") == file.model
    # The attempts that came after the lost one had no answer either, and may come late.
    ten_minutes_later(store, tmp_path / "second")
    assert_stored(store, file.model)


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), CASES)
def test_a_rename_after_a_kill(store: LateStore, tmp_path: Path, size: str, plain: bool, change: str) -> None:
    data = stored(store, tmp_path, size, plain=plain)
    model = change_and_kill(store, folder(tmp_path, "second"), tmp_path / "image", data, change)
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        filesystem.rename("/file", "/other")
        assert read(filesystem, "/other") == model
    assert_stored(store, model, "other")


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_renamed_before_it_was_stored(
    store: LateStore, tmp_path: Path, size: str, change: str
) -> None:
    waits = OPTIONS.replace("settle=0.01", "settle=1000")
    with killed_at_upload(store, folder(tmp_path, "second"), tmp_path / "image", waits) as filesystem:
        data = noise(SIZES[size])
        write(filesystem, "/temporary", data)
        filesystem.rename("/temporary", "/file")
        file = Edited(filesystem, bytearray(data))
        CHANGES[change](file, 1)
        filesystem.services.journal.flush_all()
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        assert read(filesystem, "/file") == file.model
        file = Edited(filesystem, file.model)
        CHANGES[change](file, 2)
        assert read(filesystem, "/file") == file.model
    assert_stored(store, file.model)


NEXT: dict[str, Callable[[FileSystem], object]] = {
    "write": lambda filesystem: write(filesystem, "/file", b"newer"),
    "append": lambda filesystem: edit(filesystem, "/file", 0, b"newer"),
    "chmod": lambda filesystem: filesystem.chmod("/file", 0o600),
    "unlink": lambda filesystem: filesystem.unlink("/file"),
    "rename": lambda filesystem: filesystem.rename("/file", "/other"),
}


@pytest.mark.parametrize("then", NEXT)
@pytest.mark.parametrize("size", [0, 1000])
def test_a_large_file_was_cut_before_a_kill(store: LateStore, tmp_path: Path, size: int, then: str) -> None:
    """What is stored now proves that its segments are needed no more, until that is changed too."""
    data = stored(store, tmp_path, "3.5 MB")
    with killed_at_upload(store, folder(tmp_path, "second"), tmp_path / "image") as filesystem:
        filesystem.truncate("/file", size)
    assert body(store, "file") == data[:size]
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        NEXT[then](filesystem)
    ten_minutes_later(store, tmp_path / "image")
    assert keys(store, "box_segments") == []


@pytest.mark.parametrize("then", NEXT)
def test_a_segment_of_the_next_upload_begins_before_the_end_of_this_one_is_recorded(
    store: LateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Its row in the journal says that the manifest without a record of its answer is ours."""
    cache, image, twin = folder(tmp_path, "second"), tmp_path / "image", MemoryStore("box", "box_segments")
    answered = UploadRecord.answered

    def answered_and_killed(record: UploadRecord, manifest: Manifest | None) -> bool:
        found = answered(record, manifest)
        if body(store, "file") == model:
            record.begin_segment("0000000000000")
            copy_live(cache, image)
            for name, container in store._containers.items():
                twin._containers[name].objects.update(container.objects)
        return found

    model = noise(SIZES["3.5 MB"])
    with harness(store, cache, OPTIONS) as filesystem:
        write(filesystem, "/file", model)
        wait_until(lambda: not filesystem.waiting())
        monkeypatch.setattr(UploadRecord, "answered", answered_and_killed)
        model += b"newer"
        edit(filesystem, "/file", SIZES["3.5 MB"], b"newer")
        wait_until(lambda: not filesystem.waiting())
    monkeypatch.undo()
    with harness(twin, image, OPTIONS) as filesystem:
        NEXT[then](filesystem)
    ten_minutes_later(twin, image)
    named = {name for key in keys(twin) for name in segments_of(twin, key)}
    assert set(keys(twin, "box_segments")) == named


@pytest.mark.parametrize("then", NEXT)
def test_a_patch_without_an_answer_is_followed(store: LateStore, tmp_path: Path, then: str) -> None:
    stored(store, tmp_path, "3.5 MB")
    with harness(store, folder(tmp_path, "second"), OPTIONS) as filesystem:
        watch(store)
        edit(filesystem, "/file", 2_000_000, b"newer")
        wait_until(lambda: store.hook is away and all(one.reason for one in filesystem.waiting()))
        store.hook = None
        NEXT[then](filesystem)
    ten_minutes_later(store, tmp_path / "second")
    named = {name for key in keys(store) for name in segments_of(store, key)}
    assert set(keys(store, "box_segments")) == named


def test_a_link_had_replaced_a_large_file_before_a_kill(store: LateStore, tmp_path: Path) -> None:
    stored(store, tmp_path, "3.5 MB")
    waits = OPTIONS.replace("settle=0.01", "settle=1000")
    with killed_at_upload(store, folder(tmp_path, "second"), tmp_path / "image", waits) as filesystem:
        filesystem.symlink("target", "/link", ME)
        filesystem.rename("/link", "/file")
        filesystem.services.journal.flush_all()
    assert body(store, "file") == b"target"
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        assert filesystem.readlink("/file") == "target"
    ten_minutes_later(store, tmp_path / "image")
    assert keys(store, "box_segments") == []


@pytest.mark.matrix(7)
@pytest.mark.parametrize("lands", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), CASES)
def test_a_second_kill(
    store: LateStore, tmp_path: Path, size: str, plain: bool, change: str, lands: bool
) -> None:
    """The second mount dies after its own upload was executed, or before."""
    data = stored(store, tmp_path, size, plain=plain)
    model = change_and_kill(store, folder(tmp_path, "second"), tmp_path / "image", data, change)
    model = change_and_kill(store, tmp_path / "image", tmp_path / "next", model, change, 2, lands=lands)
    with harness(store, tmp_path / "next", OPTIONS) as filesystem:
        assert read(filesystem, "/file") == model
        file = Edited(filesystem, model)
        CHANGES[change](file, 3)
        assert read(filesystem, "/file") == file.model
    assert body(store, "file") == file.model
    assert segments_of(store) <= set(keys(store, "box_segments"))
    if lands:
        assert_stored(store, file.model)


def test_a_reader_continues_when_an_upload_is_answered_during_its_get(tmp_path: Path) -> None:
    """Its GET of the old version is refused, because the upload has just been executed."""
    sent, asked = Event(), Event()

    def hook(method: str, _subject: str) -> None:
        if method == "put_manifest":
            sent.set()
            asked.wait()
        elif sent.is_set() and not asked.is_set():
            if method == "get":
                raise PreconditionFailed("412")
            asked.set()
            storing.result()

    with closing(Writer(tmp_path)) as writer, ThreadPoolExecutor() as pool:
        writer.fill(os.urandom(3_000_000))
        writer.run()
        writer.reopen()
        writer.write(10, b"changed")
        writer.store.hook = hook
        storing = pool.submit(writer.run)
        sent.wait()
        assert writer.read() == writer.model
        assert asked.is_set()
