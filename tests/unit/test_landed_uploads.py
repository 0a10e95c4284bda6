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
from support.harness import SHORT_RETRIES, copy_live, harness, read, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import body, foreign, keys
from support.upload_rig import Writer
from swiftfs.config.sources import parse_options
from swiftfs.errors import PreconditionFailed, Unavailable
from swiftfs.journal import outcomes, recovery
from swiftfs.objects import Manifest, ObjectInfo, ObjectName
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem
from swiftfs.service.build import MountRequest, build
from swiftfs.store import ConnectedAccount, Counters, RetryingStore
from swiftfs.store.protocol import Body, Headers

OPTIONS = "settle=0.01,segment_size=1M"
SIZES = {"60 KB": 60_000, "3.5 MB": 3_500_000}


class LandingStore(MemoryStore):
    """A store that loses the answer to the next PUT of a key in `watched`, and answers nothing after it.

    Before the loss `landed` is called. If not `lands`, the PUT is not executed.
    """

    lands = True

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.watched: set[str] = set()
        self.away = False
        self.landed: Callable[[], object] = lambda: None
        self.hook = self._refuse

    def _refuse(self, _method: str, _subject: str) -> None:
        if self.away:
            raise Unavailable("no answer")

    def _land(self, name: ObjectName, carry_out: Callable[[], ObjectInfo]) -> ObjectInfo:
        if name.container != "box" or name.key not in self.watched:
            return carry_out()
        self.watched.clear()
        if self.lands:
            carry_out()
        self.away = True
        self.landed()
        raise Unavailable("the answer was lost")

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        parent = super().put
        return self._land(name, lambda: parent(name, body, headers, if_absent=if_absent, etag=etag))

    def put_manifest(self, name: ObjectName, manifest: Manifest, headers: Headers) -> ObjectInfo:
        parent = super().put_manifest
        return self._land(name, lambda: parent(name, manifest, headers))


@pytest.fixture
def store() -> LandingStore:
    return LandingStore("box", "box_segments")


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delay retries, so that readers come first."""
    monkeypatch.setattr(recovery, "RECOVERY_SECONDS", 1000.0)
    monkeypatch.setattr(outcomes, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(outcomes, "LONGEST_PAUSE", 1000.0)


@contextmanager
def killed(store: LandingStore, cache: Path, image: Path, options: str = OPTIONS) -> Iterator[FileSystem]:
    """A mount that is killed at its next upload of the file, after which `image` has a copy of the cache."""
    store.landed = lambda: copy_live(cache, image)
    patient = RetryingStore(store, SHORT_RETRIES)
    request = MountRequest(Source.parse("box"), Path("/nowhere"), parse_options([options + ",drain=0"]))
    filesystem = build(ConnectedAccount(patient, Counters(), "memory"), request, cache)
    try:
        filesystem.begin()
        yield filesystem
        wait_until(lambda: store.away and (image / "journal.sqlite").exists())
        wait_until(lambda: all(one.reason for one in filesystem.waiting()))
    finally:
        store.away = True
        with pytest.raises(Exception, match=r"changes? stay"):
            filesystem.close()
        store.away = False


def folder(root: Path, name: str) -> Path:
    (root / name).mkdir()
    return root / name


def stored(store: LandingStore, root: Path, size: str, *, plain: bool = False) -> bytes:
    """Store the file by a mount with a cache of its own, or as another client if `plain`."""
    data = noise(SIZES[size])
    if plain:
        foreign(store, "file", data)
        return data
    with harness(store, folder(root, "first"), OPTIONS) as filesystem:
        write(filesystem, "/file", data)
    return data


def named(store: MemoryStore, key: str = "file") -> set[str]:
    name = ObjectName("box", key)
    return {one.name.key for one in store.manifest(name).segments} if store.head(name).is_slo else set()


def assert_stored(store: LandingStore, model: bytes | bytearray, key: str = "file") -> None:
    assert body(store, key) == model
    assert keys(store) == [key]
    assert set(keys(store, "box_segments")) == named(store, key)


CASES = [(size, False) for size in SIZES] + [("3.5 MB", True)]


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), CASES)
def test_a_reader_after_a_kill(
    store: LandingStore, tmp_path: Path, size: str, plain: bool, change: str
) -> None:
    data = stored(store, tmp_path, size, plain=plain)
    with killed(store, folder(tmp_path, "second"), tmp_path / "image") as filesystem:
        file = Edited(filesystem, bytearray(data))
        store.watched = {"file"}
        CHANGES[change](file, 1)
    assert body(store, "file") == file.model
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        assert read(filesystem, "/file") == file.model
    assert_stored(store, file.model)


@pytest.mark.matrix(7)
@pytest.mark.parametrize("then", ["append", "cut and grow", "patch", "shrink below a segment"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), [("60 KB", False), ("3.5 MB", False), ("3.5 MB", True)])
def test_a_writer_after_a_kill(
    store: LandingStore, tmp_path: Path, size: str, plain: bool, change: str, then: str
) -> None:
    data = stored(store, tmp_path, size, plain=plain)
    with killed(store, folder(tmp_path, "second"), tmp_path / "image") as filesystem:
        file = Edited(filesystem, bytearray(data))
        store.watched = {"file"}
        CHANGES[change](file, 1)
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        file = Edited(filesystem, file.model)
        CHANGES[then](file, 2)
        assert read(filesystem, "/file") == file.model
    assert_stored(store, file.model)


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), CASES)
def test_a_reader_after_a_lost_answer(
    store: LandingStore, tmp_path: Path, size: str, plain: bool, change: str
) -> None:
    data = stored(store, tmp_path, size, plain=plain)
    with harness(store, folder(tmp_path, "second"), OPTIONS) as filesystem:
        file = Edited(filesystem, bytearray(data))
        store.watched = {"file"}
        CHANGES[change](file, 1)
        wait_until(lambda: store.away and all(one.reason for one in filesystem.waiting()))
        store.away = False
        assert read(filesystem, "/file") == file.model
        CHANGES[change](file, 2)
        assert read(filesystem, "/file") == file.model
    assert_stored(store, file.model)


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), CASES)
def test_a_rename_after_a_kill(
    store: LandingStore, tmp_path: Path, size: str, plain: bool, change: str
) -> None:
    data = stored(store, tmp_path, size, plain=plain)
    with killed(store, folder(tmp_path, "second"), tmp_path / "image") as filesystem:
        file = Edited(filesystem, bytearray(data))
        store.watched = {"file"}
        CHANGES[change](file, 1)
    with harness(store, tmp_path / "image", OPTIONS) as filesystem:
        filesystem.rename("/file", "/other")
        assert read(filesystem, "/other") == file.model
    assert_stored(store, file.model, "other")


@pytest.mark.matrix(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_renamed_before_it_was_stored(
    store: LandingStore, tmp_path: Path, size: str, change: str
) -> None:
    waits = OPTIONS.replace("settle=0.01", "settle=1000")
    with killed(store, folder(tmp_path, "second"), tmp_path / "image", waits) as filesystem:
        store.watched = {"file"}
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


@pytest.mark.matrix(7)
@pytest.mark.parametrize("lands", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("size", "plain"), CASES)
def test_a_second_kill(
    store: LandingStore, tmp_path: Path, size: str, plain: bool, change: str, lands: bool
) -> None:
    """The second mount dies after its own upload was executed, or before."""
    data = stored(store, tmp_path, size, plain=plain)
    with killed(store, folder(tmp_path, "second"), tmp_path / "image") as filesystem:
        file = Edited(filesystem, bytearray(data))
        store.watched = {"file"}
        CHANGES[change](file, 1)
    store.lands = lands
    with killed(store, tmp_path / "image", tmp_path / "next") as filesystem:
        file = Edited(filesystem, file.model)
        store.watched = {"file"}
        CHANGES[change](file, 2)
    with harness(store, tmp_path / "next", OPTIONS) as filesystem:
        assert read(filesystem, "/file") == file.model
        file = Edited(filesystem, file.model)
        CHANGES[change](file, 3)
        assert read(filesystem, "/file") == file.model
    assert body(store, "file") == file.model
    assert named(store) <= set(keys(store, "box_segments"))
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
