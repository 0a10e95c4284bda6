"""The Content-Type of a file is that of its final name, unless another client chose it."""

import os
from pathlib import Path

import pytest

from support.harness import ME, change, harness, put, sync_all, write
from support.memory_store import MemoryStore
from support.stored_objects import NEVER, refuse
from swiftfs.attributes import decode_type, guess_type
from swiftfs.errors import Unavailable
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

NAMES = [("page.part", "page.html"), (".page.css.Xy12", "page.css"), ("sedAbC", "logo.svg"), ("a.txt", "a")]
OWN_LARGE = "segment_size=1048576"


pytestmark = pytest.mark.mount_options(NEVER)


def type_of(store: MemoryStore, key: str) -> str:
    return decode_type(store.head(ObjectName("box", key)).content_type)[0]


def guessed(name: str) -> str:
    known = {"html": "text/html", "css": "text/css", "svg": "image/svg+xml", "txt": "text/plain"}
    return known.get(name.rpartition(".")[2], "application/octet-stream")


GUESSES = {
    "letter.odt": "application/vnd.oasis.opendocument.text",
    "Sheet.XLSX": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "photo.JPG": "image/jpeg",
    "보고서.hwp": "application/x-hwp",
    "page.html.gz": "application/gzip",
    "backup.tgz": "application/gzip",
    "drawing.svgz": "application/gzip",
    "backup.tar.zst": "application/zstd",
    "log.2026-11-28": "application/octet-stream",
    "data:text,x.html": "text/html",
    "a?b#c.css": "text/css",
    ".html": "application/octet-stream",
}


@pytest.mark.parametrize("name", GUESSES)
def test_the_type_is_that_of_the_last_ending(name: str) -> None:
    """A compressed file has no Content-Encoding, so it must not look like what is in it."""
    assert guess_type(name) == GUESSES[name]


@pytest.mark.parametrize(("old", "new"), NAMES)
def test_a_file_that_is_renamed_before_it_is_stored(
    store: MemoryStore, filesystem: FileSystem, old: str, new: str
) -> None:
    write(filesystem, f"/{old}", b"x")
    filesystem.rename(f"/{old}", f"/{new}")
    store.requests.clear()
    sync_all(filesystem)
    assert [method for method, _ in store.requests] == ["put"]
    assert type_of(store, new) == guessed(new)


@pytest.mark.parametrize(("old", "new"), NAMES)
def test_a_file_that_is_renamed_after_it_was_stored(
    store: MemoryStore, filesystem: FileSystem, old: str, new: str
) -> None:
    write(filesystem, f"/{old}", b"x")
    sync_all(filesystem)
    store.requests.clear()
    filesystem.rename(f"/{old}", f"/{new}")
    filesystem.chmod(f"/{new}", 0o600)
    sync_all(filesystem)
    assert [method for method, _ in store.requests] == ["copy", "head", "delete", "post"]
    assert type_of(store, new) == guessed(new)
    assert filesystem.getattr(f"/{new}").mode & 0o777 == 0o600


def test_a_rename_that_keeps_the_type_costs_nothing_more(store: MemoryStore, filesystem: FileSystem) -> None:
    write(filesystem, "/a.html", b"x")
    sync_all(filesystem)
    store.requests.clear()
    filesystem.rename("/a.html", "/b.html")
    sync_all(filesystem)
    assert [method for method, _ in store.requests] == ["copy", "head", "delete"]
    assert type_of(store, "b.html") == "text/html"


def test_a_file_that_is_renamed_while_it_is_open(store: MemoryStore, filesystem: FileSystem) -> None:
    """One that was never closed, one that was handed in, and one that is in Swift, and is changed later."""
    handle = filesystem.create("/a.part", 0o644, os.O_RDWR, ME)
    try:
        put(filesystem, handle, 0, b"one")
        for old, new in (("a.part", "b.html"), ("b.html", "c.css"), ("c.css", "d.svg")):
            filesystem.rename(f"/{old}", f"/{new}")
            put(filesystem, handle, 0, b"two")
            filesystem.flush(handle)
            if new == "c.css":
                sync_all(filesystem)
                assert type_of(store, new) == "text/css"
        sync_all(filesystem)
    finally:
        filesystem.release(handle)
    assert type_of(store, "d.svg") == "image/svg+xml"


def test_a_large_file_keeps_its_version_in_listings(store: MemoryStore, tmp_path: Path) -> None:
    """The listing shows the ETag of an SLO by its Content-Type, which the new type must repeat."""
    with harness(store, tmp_path, f"{OWN_LARGE},{NEVER}") as filesystem:
        write(filesystem, "/film.part", b"x" * 1500_000)
        sync_all(filesystem)
        filesystem.refresh()
        filesystem.rename("/film.part", "/film.mp4")
        sync_all(filesystem)
    info = store.head(ObjectName("box", "film.mp4"))
    media_type, stored = decode_type(info.content_type)
    assert (media_type, stored.slo) == ("video/mp4", info.version.etag)


def test_another_clients_type_stays(store: MemoryStore, filesystem: FileSystem) -> None:
    """Of an object that another client stored, and of ours to which one gave a type."""
    write(filesystem, "/ours.part", b"x")
    sync_all(filesystem)
    ours = ObjectName("box", "ours.part")
    sent = store.head(ours)
    _, _, parameters = sent.content_type.partition(";")
    store.post(ours, Headers(f"text/x-chosen;{parameters}", sent.metadata))
    store.put(ObjectName("box", "foreign.part"), b"y", Headers("application/octet-stream"))
    filesystem.refresh()
    for name in ("ours", "foreign"):
        filesystem.rename(f"/{name}.part", f"/{name}.html")
    sync_all(filesystem)
    assert type_of(store, "ours.html") == "text/x-chosen"
    assert store.head(ObjectName("box", "foreign.html")).content_type == "application/octet-stream"


def test_a_type_is_changed_in_the_call_without_a_write_delay(store: MemoryStore, tmp_path: Path) -> None:
    with harness(store, tmp_path, "sync") as filesystem:
        write(filesystem, "/a.part", b"x")
        filesystem.rename("/a.part", "/a.html")
        assert type_of(store, "a.html") == "text/html"


def test_a_type_that_cannot_be_changed_is_no_failure_of_the_rename(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with harness(store, tmp_path, "sync") as filesystem:
        write(filesystem, "/a.part", b"x")
        refuse(store, "post", Unavailable)
        filesystem.rename("/a.part", "/a.html")
        store.hook = None
        change(filesystem, "/a.html", 0, b"y")
    assert "keeps its Content-Type" in caplog.text
    assert type_of(store, "a.html") == "application/octet-stream"
