"""`swiftfs gc`: it finds what no manifest names, and nothing that one does."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from support.memory_store import MemoryStore
from support.stores import TEXT, put
from swiftfs.attributes import Stored
from swiftfs.errors import ConfigurationError, NotFound
from swiftfs.filecache.block_map import FileRecord, StoredSegment
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.segment_container import SEGMENT_NAME
from swiftfs.filecache.upload_record import journal_of, segment_prefix
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import PutFile
from swiftfs.journal.schema import SCHEMA
from swiftfs.maintenance.orphan_segments import Search
from swiftfs.maintenance.other_journals import Journaled, journaled
from swiftfs.objects import History, Manifest, ObjectName, Segment
from swiftfs.paths import Source
from swiftfs.sqlite import make_tables
from swiftfs.store.protocol import CopyRequest, Headers, ObjectMeta

MIB = 1024 * 1024
OURS = "swiftfs-0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("key", "upload"),
    [
        (f"d/film.mkv/{OURS}/0000000000000-0123456789ab", f"d/film.mkv/{OURS}"),
        ("f/slo/1795427137.042741/3145728/1048576/00000002", "f/slo/1795427137.042741/3145728/1048576"),
        ("f/1795427137.042741/3145728/1048576/00000002", "f/1795427137.042741/3145728/1048576"),
        (
            "a b/2026-11-23-094537-yVhrl0V4T_entjW3n9v9Mg/00000000",
            "a b/2026-11-23-094537-yVhrl0V4T_entjW3n9v9Mg",
        ),
        ("f/1795427137.042741387/3145728/00000002", "f/1795427137.042741387/3145728"),
    ],
)
def test_the_names_of_segments(key: str, upload: str) -> None:
    match = SEGMENT_NAME.fullmatch(key)
    assert match is not None
    assert match[1] == upload


@pytest.mark.parametrize("key", ["film.mkv", "a/b/00000001", f"{OURS}/x", "segments/1/2", "a/swiftfs-01/x"])
def test_other_names_are_no_segments(key: str) -> None:
    assert SEGMENT_NAME.fullmatch(key) is None


@contextmanager
def search_of(store: MemoryStore) -> Iterator[Search]:
    search = Search(store, Source("a"), lambda _looked: None)
    try:
        yield search
    finally:
        search.close()


def run_search(search: Search) -> list[ObjectName]:
    now = time.time_ns() + 10**12
    search.run(elsewhere="", limit_ns=now, journaled=(), now_ns=now)
    return [upload.prefix for upload in search.candidates.uploads()]


def test_a_file_that_is_renamed_while_we_look_is_found() -> None:
    store = MemoryStore("a", "a_segments", "b", "c")
    segment = put(store, "a_segments", f"film/{OURS}/0000000000000-0123456789ab", b"x" * 10)
    source, target = ObjectName("c", "film"), ObjectName("b", "film")
    store.put_manifest(source, Manifest((segment,)), Headers("video/x;mode=0100644;slo=" + "0" * 32))
    moved = False

    def move(method: str, subject: str) -> None:
        nonlocal moved
        if method == "list_page" and subject.startswith("c") and not moved:  # `b` was listed before
            moved = True
            store.copy(CopyRequest(source, target, manifest_only=True))
            store.delete(source)

    store.hook = move
    with search_of(store) as search:
        assert run_search(search) == []
    assert moved


def test_what_an_older_version_names_is_needed() -> None:
    store = MemoryStore("a", "a_segments")
    store.set_history("a", History.KEPT)
    old, new, left = (
        put(store, "a_segments", f"film/{OURS[:-1]}{number}/0-0", b"x" * 10) for number in range(3)
    )
    headers = Headers("video/x;mode=0100644;slo=" + "0" * 32)
    for segment in (old, new):
        store.put_manifest(ObjectName("a", "film"), Manifest((segment,)), headers)
    store.delete(ObjectName("a", "film"))
    with search_of(store) as search:
        assert run_search(search) == [ObjectName("a_segments", left.name.key.rpartition("/")[0] + "/")]
        assert (search.looked.versions, search.looked.manifests) == (2, 2)
    store.set_history("a", History.NONE)
    with search_of(store) as search:
        assert len(run_search(search)) == 3


@pytest.mark.parametrize("gone", [False, True])
def test_what_is_listed_and_not_found_is_not_gone(gone: bool) -> None:
    """Some replicas may lack it for a moment; what the listing has forgotten was deleted."""
    store = MemoryStore("a", "a_segments")
    part = put(store, "a_segments", f"film/{OURS}/0000000000000-0123456789ab", b"part")
    film = ObjectName("a", "film")
    store.put_manifest(film, Manifest((part,)), TEXT)

    def lose(method: str, subject: str) -> None:
        if subject == str(film) and method in ("head", "manifest"):
            if gone:
                store.hook = None
                store.delete(film)
            raise NotFound(subject)

    store.hook = lose
    with search_of(store) as search:
        if gone:
            assert run_search(search) == [ObjectName("a_segments", f"film/{OURS}/")]
        else:
            with pytest.raises(ConfigurationError, match="a/film is listed, but the server does not find it"):
                run_search(search)


def test_a_dlo_protects_objects_below_its_prefix() -> None:
    store = MemoryStore("a", "a_segments")
    for key in ("film", "film2"):
        put(store, "a_segments", f"{key}/1795427137.042741/3145728/00000000", b"x")
    manifest = Headers(
        "video/x", preserved_headers={"X-Object-Manifest": "a_segments/film/1795427137.042741/"}
    )
    store.put(ObjectName("a", "renamed"), b"", manifest)
    with search_of(store) as search:
        assert run_search(search) == [ObjectName("a_segments", "film2/1795427137.042741/3145728/")]


def test_what_a_nested_large_object_names_is_needed() -> None:
    """Its name is that of a segment, so nobody asks it unless a manifest says that it is one."""
    store = MemoryStore("a", "a_segments")
    left, deep, second = (
        put(store, "a_segments", f"part/{OURS}/{number}-0", b"x" * 10) for number in range(3)
    )
    inner = nested(store, f"inner/{OURS}/0-0", (deep,))
    middle = nested(store, f"middle/{OURS}/0-0", (inner, second))
    store.put_manifest(ObjectName("a", "film"), Manifest((middle, middle)), TEXT)
    nested(store, f"orphan/{OURS}/0-0", (left,))
    store.requests.clear()
    with search_of(store) as search:
        run_search(search)
        orphans = set(search.candidates.names())
    assert orphans == {left.name, ObjectName("a_segments", f"orphan/{OURS}/0-0")}
    asked = [subject for method, subject in store.requests if method in ("head", "manifest")]
    assert asked == ["a/film", "a/film", f"{middle.name}", f"{inner.name}"] * 2


def nested(store: MemoryStore, key: str, segments: tuple[Segment, ...]) -> Segment:
    """Store a large object with the name of a segment, and return it as one."""
    name = ObjectName("a_segments", key)
    info = store.put_manifest(name, Manifest(segments), TEXT)
    return Segment(name, info.version.etag, info.size, nested=True)


def test_an_upload_with_one_young_segment_is_young() -> None:
    store = MemoryStore("a", "a_segments")
    first = put(store, "a_segments", f"film/{OURS}/0-0", b"x")
    between = store.head(first.name).last_modified_ns
    time.sleep(0.01)
    put(store, "a_segments", f"film/{OURS}/1-0", b"x")
    store.put(ObjectName("a", "o"), b"", TEXT)
    with search_of(store) as search:
        search.run(elsewhere="", limit_ns=between + 1000, journaled=(), now_ns=between)
        assert not search.candidates


def test_uploads_of_a_journal_that_a_mount_has_open_stay(tmp_path: Path) -> None:
    folder = tmp_path / "box-0123"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "journal.sqlite")) as journal:
        journal.execute("PRAGMA locking_mode = EXCLUSIVE")
        journal.execute("PRAGMA journal_mode = WAL")
        make_tables(journal, SCHEMA)
        journal.execute("INSERT INTO uploads VALUES ('a_segments', ?, '[]')", (f"film/{OURS}/",))
        journal.commit()
        prefixes = journaled(tmp_path).prefixes
    assert prefixes == {ObjectName("a_segments", f"film/{OURS}/")} == journaled(folder).prefixes
    store = MemoryStore("a", "a_segments")
    put(store, "a_segments", f"film/{OURS}/0-0", b"x")
    with search_of(store) as search:
        now = time.time_ns() + 10**12
        search.run(elsewhere="", limit_ns=now, journaled=prefixes, now_ns=now)
        assert not search.candidates


def test_a_journal_that_cannot_be_read_does_not_count_as_empty(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        journaled(tmp_path)
    assert journaled(tmp_path / "missing") == Journaled()


def test_segments_that_an_operation_names_stay(tmp_path: Path) -> None:
    """A record of a file may outlive that of its upload."""
    prefix = ObjectName("a_segments", f"film/{OURS}/")
    name = ObjectName("a", "film")
    placed = StoredSegment(0, Segment(ObjectName("a_segments", "film/other/0-0"), "e", MIB))
    saved = FileRecord("local", MIB, None, Blocks(), prefix, (placed,))
    with closing(JournalDB(tmp_path, "me")) as log:
        log.commit([Record(1, "/film", PutFile(name, saved, ObjectMeta("a/b", Stored())))])
        said = journaled(tmp_path)
        assert said == Journaled(frozenset({log.id}), frozenset({prefix, placed.segment.name}))
    with closing(JournalDB(tmp_path, "me")) as log:
        assert journaled(tmp_path).ids == {log.id}


def test_the_prefix_of_an_upload_has_the_id_of_its_journal() -> None:
    name = ObjectName("box", "swiftfs-" + "a" * 32 + "/x")
    assert journal_of(segment_prefix(name, "0123456789ab")) == "0123456789ab"
    assert journal_of("film/slo/1795427137.042741/3145728/1048576/") is None
    assert len({segment_prefix(name, "0123456789ab") for _ in range(100)}) == 100
