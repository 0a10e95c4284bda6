"""`swiftfs check`: what it finds, by a store in memory."""

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import force_setattr

from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import refuse
from support.stores import put
from swiftfs.attributes import Stored, encode_type
from swiftfs.cli.check import Check, Subject
from swiftfs.errors import AccessDenied, Ghost, Unavailable
from swiftfs.filecache.block_map import FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.journal.commits import Record
from swiftfs.journal.database import JournalDB
from swiftfs.journal.operations import Operation, PutFile
from swiftfs.maintenance.item_check import LOST_AFTER, Finding, Wanted
from swiftfs.maintenance.other_journals import PendingNames
from swiftfs.objects import DIRECTORY_TYPE, Limits, Manifest, ObjectName, Segment
from swiftfs.paths import Source
from swiftfs.store.protocol import Headers, ObjectMeta

pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")

FOREIGN = Headers("text/plain")
MARKER = Headers("application/directory")
TIME_NS = 1_700_000_000_123_456_789
FILE_MODE, LINK_MODE = 0o100644, 0o120777


def ours(mode: int = FILE_MODE, slo: str | None = None) -> Headers:
    return Headers(encode_type("text/plain", Stored(mode=mode, mtime_ns=TIME_NS, slo=slo)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(TIME_NS, TIME_NS))


def store_large(store: MemoryStore, key: str, *parts: bytes, is_ours: bool = True) -> list[Segment]:
    segments = [put(store, "box_segments", f"{key}/{number}", part) for number, part in enumerate(parts)]
    manifest = Manifest(tuple(segments))
    headers = ours(slo=manifest.etag) if is_ours else FOREIGN
    store.put_manifest(ObjectName("box", key), manifest, headers)
    return segments


def found(
    store: MemoryStore,
    against: Path | str = "",
    *paths: str,
    source: str = "box",
    roots: tuple[Path, ...] = (),
    **how: object,
) -> list[Finding]:
    """Return the findings of a check."""
    findings: list[Finding] = []
    subject = Subject(Source.parse(source), paths, str(against))
    pending = PendingNames(roots, subject.source, lambda _cache: False)
    pending.read()
    wanted = Wanted(source, subject.against, **how)  # type: ignore[arg-type]
    Check(store, subject, wanted, pending, findings.append, lambda _tally: None).run()
    return findings


def kinds(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.kind, one.path) for one in findings]


def methods(store: MemoryStore) -> list[str]:
    return [method for method, _ in store.requests]


def test_a_folder_and_its_copy_are_the_same_by_one_listing(store: MemoryStore, folder: Path) -> None:
    for number in range(30):
        name = f"d{number % 3}/file {number}"
        store.put(ObjectName("box", name), noise(1000, number), ours() if number % 2 else FOREIGN)
        write(folder / name, noise(1000, number))
    for marker in ("d0", "d1/", "empty"):
        store.put(ObjectName("box", marker), b"", MARKER)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("d0/file 0")
    os.utime(folder / "link", ns=(TIME_NS, TIME_NS), follow_symlinks=False)
    store.put(ObjectName("box", "link"), b"d0/file 0", ours(LINK_MODE))
    store.requests.clear()
    assert found(store, folder) == []
    assert methods(store) == ["list_page"]


def test_differences_have_a_line_each(store: MemoryStore, folder: Path) -> None:
    names = ["bytes", "here", "longer", "older", "same", "there", "type", "user"]
    for name in names:
        store.put(ObjectName("box", name), b"text", ours(0o100600 if name == "user" else FILE_MODE))
        write(folder / name, b"text")
    store.delete(ObjectName("box", "here"))
    (folder / "there").unlink()
    write(folder / "bytes", b"tex!")
    write(folder / "longer", b"text and more")
    os.utime(folder / "older", ns=(TIME_NS, TIME_NS - 10**10))
    (folder / "type").unlink()
    (folder / "type").symlink_to("same")
    (folder / "folder").mkdir()
    (folder / "user").chmod(0o644)
    differences = [
        ("bytes", "bytes"),
        ("only_here", "folder/"),
        ("only_here", "here"),
        ("size", "longer"),
        ("time", "older"),
        ("only_there", "there"),
        ("type", "type"),
    ]
    assert kinds(found(store, folder)) == differences
    assert kinds(found(store, folder, modes=True)) == [*differences, ("mode", "user")]
    without = [one for one in differences if one[0] != "time"]
    assert kinds(found(store, folder, times=False)) == without
    assert "get" not in methods(store)
    assert "head" not in methods(store)


def test_the_time_of_another_client_s_file_costs_no_request(store: MemoryStore, folder: Path) -> None:
    store.put(ObjectName("box", "file"), b"text", Headers("text/plain", {"mtime": "1.0"}))
    write(folder / "file", b"text")
    store.requests.clear()
    assert found(store, folder) == []
    assert methods(store) == ["list_page"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_large_file_is_compared_by_the_md5s_of_its_segments(
    store: MemoryStore, folder: Path, is_ours: bool
) -> None:
    parts = [noise(5000, 1), noise(5000, 2), noise(10, 3)]
    store_large(store, "film", *parts, is_ours=is_ours)
    write(folder / "film", b"".join(parts))
    assert found(store, folder) == []
    assert "get" not in methods(store)
    data = bytearray(b"".join(parts))
    data[7000] ^= 1
    write(folder / "film", bytes(data))
    (one,) = found(store, folder)
    assert (one.kind, one.path) == ("bytes", "film")
    assert "from byte 5000 on" in one.text


def test_ranges_of_segments_are_compared_by_their_bytes_only(store: MemoryStore, folder: Path) -> None:
    first = put(store, "box_segments", "a", noise(5000, 1))
    cut = Segment(first.name, first.etag, first.size, 1000, 2000)
    manifest = Manifest((first, cut))
    store.put_manifest(ObjectName("box", "film"), manifest, ours(slo=manifest.etag))
    write(folder / "film", noise(5000, 1) + noise(5000, 1)[1000:3000])
    (one,) = found(store, folder)
    assert (one.kind, "--bodies" in one.text) == ("unknown", True)
    assert found(store, folder, percent=100.0) == []
    write(folder / "film", noise(5000, 1) + noise(2000, 9))
    assert kinds(found(store, folder, percent=100.0)) == [("bytes", "film")]


@pytest.mark.parametrize("is_ours", [True, False])
def test_segments_must_be_there_as_the_manifest_says(store: MemoryStore, is_ours: bool) -> None:
    for name in ("good", "gone", "other", "short"):
        store_large(store, name, b"first", b"second", is_ours=is_ours)
    store.delete(ObjectName("box_segments", "gone/1"))
    put(store, "box_segments", "other/0", b"fifth")
    put(store, "box_segments", "other/1", b"secret")
    put(store, "box_segments", "short/1", b"sec")
    findings = found(store)
    assert kinds(findings) == [("segment", "gone"), ("segment", "other"), ("segment", "short")]
    assert findings[0].text == "segment box_segments/gone/1 is missing"
    assert findings[1].text.startswith("segment box_segments/other/0 has ETag ")
    assert findings[1].text.endswith("; 1 more are missing or wrong")
    assert "get" not in methods(store)


def test_segments_that_are_replaced_meanwhile_are_not_missed(store: MemoryStore) -> None:
    segments = store_large(store, "film", b"old")

    def replace(method: str, subject: str) -> None:
        if method == "list_page" and subject == "box_segments/":
            store.hook = None
            store_large(store, "film", b"new", b"er")
            store.delete(segments[0].name)

    store.hook = replace
    assert found(store) == []


def test_segments_are_looked_up_by_few_pages() -> None:
    store = MemoryStore("box", "box_segments", limits=Limits(listing=10, bulk_delete=100))
    for number in range(200):
        put(store, "box_segments", f"other/{number:04}", b"x")
    store_large(store, "a", b"x")
    store_large(store, "z", b"x")
    store.requests.clear()
    assert found(store) == []
    pages = [subject for method, subject in store.requests if method == "list_page"]
    assert len(pages) == 3


def test_segments_of_nested_manifests_count_too(store: MemoryStore, folder: Path) -> None:
    inner = [put(store, "box_segments", f"i{number}", noise(100, number)) for number in range(2)]
    info = store.put_manifest(ObjectName("box_segments", "inner"), Manifest(tuple(inner)), FOREIGN)
    outer = Segment(info.version.name, info.version.etag, 200, nested=True)
    manifest = Manifest((outer, inner[0]))
    store.put_manifest(ObjectName("box", "film"), manifest, ours(slo=manifest.etag))
    write(folder / "film", noise(100, 0) + noise(100, 1) + noise(100, 0))
    assert found(store, folder) == []
    store.delete(ObjectName("box_segments", "i1"))
    assert kinds(found(store)) == [("segment", "film")]


DLO = "film/1700000000.000000/30/10"


def store_dlo(store: MemoryStore, *numbers: int) -> None:
    for number in numbers:
        put(store, "box_segments", f"{DLO}/{number:08}", noise(10, number))
    dlo = {"X-Object-Manifest": f"box_segments/{DLO}/"}
    store.put(ObjectName("box", "film"), b"", Headers("video/mp4", {}, dlo))


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((), "no segments begin with box_segments/film/"),
        ((0, 2), "segment 00000001 of box_segments/film/"),
        ((1, 2, 4), "segment 00000003 of box_segments/film/"),
        ((0, 1), "have 20 bytes instead of 30"),
        ((0, 1, 2), ""),
        ((1, 2, 3), ""),
    ],
)
def test_holes_of_a_dlo_are_seen(store: MemoryStore, numbers: tuple[int, ...], text: str) -> None:
    store_dlo(store, *numbers)
    findings = found(store)
    assert bool(findings) == bool(text)
    assert all(text in one.text and one.kind == "segment" for one in findings)


def test_a_dlo_is_compared_by_its_segments(store: MemoryStore, folder: Path) -> None:
    store_dlo(store, 0, 1, 2)
    write(folder / "film", b"".join(noise(10, number) for number in range(3)))
    assert found(store, folder) == []
    write(folder / "film", noise(30, 7))
    assert kinds(found(store, folder)) == [("bytes", "film")]


def test_an_object_that_only_the_listing_has_is_missing(store: MemoryStore) -> None:
    store.put(ObjectName("box", "ghost"), b"text", FOREIGN)
    store.put(ObjectName("box", "deleted"), b"text", FOREIGN)

    def lose(method: str, subject: str) -> None:
        if (method, subject) == ("head", "box/deleted"):
            store.hook = None
            store.delete(ObjectName("box", "deleted"))
            store.hook = lose
        elif (method, subject) == ("head", "box/ghost"):
            raise Ghost(subject)

    store.hook = lose
    assert kinds(found(store)) == [("missing", "ghost")]


def test_what_cannot_be_told_has_a_line(store: MemoryStore, folder: Path) -> None:
    for name in ("closed", "open", "secret"):
        store.put(ObjectName("box", name), b"text", ours())
        write(folder / name, b"text")
    store_large(store, "film", b"x")
    write(folder / "film", b"x")

    refuse(store, "", AccessDenied, about="^box/film$")
    assert kinds(found(store, folder)) == [("unknown", "film")]
    store.hook = None
    if os.geteuid():
        (folder / "secret").chmod(0)
        assert kinds(found(store, folder)) == [("unknown", "secret")]


def test_a_folder_that_cannot_be_read_is_one_line(
    store: MemoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("d/a", "d/b", "e"):
        store.put(ObjectName("box", name), b"text", ours())
        write(folder / name, b"text")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path == str(folder / "d"):
            raise OSError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (one,) = found(store, folder)
    assert (one.kind, one.path, one.text) == ("unknown", "d/", f"{folder}/d: Permission denied")


def test_an_outage_ends_the_check(store: MemoryStore) -> None:
    for number in range(500):
        store.put(ObjectName("box", f"file{number}"), b"text", FOREIGN)

    refuse(store, "head", Unavailable)
    with pytest.raises(Unavailable):
        found(store)
    assert methods(store).count("head") < 10 * LOST_AFTER


def test_one_object_that_the_server_cannot_serve_is_one_line(store: MemoryStore) -> None:
    for number in range(50):
        store.put(ObjectName("box", f"file{number}"), b"text", FOREIGN)

    refuse(store, "", Unavailable, about="^box/file7$")
    assert kinds(found(store)) == [("unknown", "file7")]


def test_names_that_no_local_folder_can_hold_are_notes(store: MemoryStore) -> None:
    for name in ("a//b", "d/../x", "n" * 300, "plain"):
        store.put(ObjectName("box", name), b"text", ours())
    findings = found(store)
    assert kinds(findings) == [("name", "a//b"), ("name", "d/../x"), ("name", "n" * 300)]
    assert all(one.weight.name == "NOTE" for one in findings)


def test_escaped_names_of_a_copy_are_understood(store: MemoryStore, folder: Path) -> None:
    pairs = {"a//b": "a/%empty/b", "d/..": "d/%dotdot", "f": "f%file", "f/x": "f/x", "p%file": "p%%file"}
    pairs |= {".swiftfs": "%.swiftfs", "100%": "100%"}
    for key, path in pairs.items():
        store.put(ObjectName("box", key), key.encode(), ours())
        write(folder / path, key.encode())
    assert [one for one in found(store, folder) if one.kind != "name"] == []


def test_a_name_that_is_not_utf_8_is_a_difference_in_words(store: MemoryStore, folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9")).mkdir()
    (folder / os.fsdecode(b"caf\xe9") / "x").touch()
    (one,) = found(store, folder)
    assert one.kind == "only_here"
    assert "no object can have this name" in one.text
    assert one.to_json()["path"] == "caf\\xe9/"


def test_only_what_is_at_and_below_a_path_is_checked(store: MemoryStore, folder: Path) -> None:
    for name in ("d", "d-0", "d/a", "d/e/b", "d0", "x"):
        store.put(ObjectName("box", name), b"" if name == "d" else b"text", MARKER if name == "d" else ours())
    assert kinds(found(store, folder, "d")) == [
        ("only_there", "d/"),
        ("only_there", "d/a"),
        ("only_there", "d/e/"),
        ("only_there", "d/e/b"),
    ]
    write(folder / "d/e/b", b"text")
    assert found(store, folder, "d/e") == []
    assert found(store, folder, "d/e/b") == []
    assert kinds(found(store, "", "nothing")) == [("missing", "nothing")]


def test_an_account_is_a_folder_of_containers(folder: Path) -> None:
    store = MemoryStore("box", "box_segments", "box-2", "empty")
    for container in ("box", "box-2"):
        store.put(ObjectName(container, "a/b"), b"text", ours())
        write(folder / container / "a/b", b"text")
    (folder / "empty").mkdir()
    assert found(store, folder, source="/") == []
    (folder / "box" / "a" / "b").unlink()
    assert kinds(found(store, folder, source="/")) == [("only_there", "box/a/b")]
    assert kinds(found(store, folder, "box/a", source="/")) == [("only_there", "box/a/b")]


def test_bodies_are_read_and_compared(store: MemoryStore) -> None:
    store.put(ObjectName("box", "file"), noise(1000), ours())
    store.put(ObjectName("box", "foreign"), noise(1000, 2), FOREIGN)
    store_large(store, "film", noise(500, 3), noise(500, 4))
    assert found(store, percent=100.0) == []
    for key, container in (("file", "box"), ("film/1", "box_segments")):
        stored = store._containers[container].objects[key]
        stored.__dict__["md5"] = stored.md5
        force_setattr(stored, "body", noise(len(stored.body), 9))
    assert kinds(found(store, percent=100.0)) == [("bytes", "file"), ("bytes", "film")]


def test_a_sample_depends_on_its_seed_only() -> None:
    names = [f"file{number}" for number in range(2000)]
    samples = [
        {name for name in names if Wanted("box", percent=10, seed=seed).reads(name)} for seed in (1, 1, 2)
    ]
    assert samples[0] == samples[1] != samples[2]
    assert all(120 < len(sample) < 280 for sample in samples)
    assert all(Wanted("box", percent=100).reads(name) for name in names)
    assert not any(Wanted("box").reads(name) for name in names)


def test_the_expiry_of_files_is_asked_for(store: MemoryStore) -> None:
    for name, moment in (("soon", "1"), ("later", "99999999999"), ("never", "")):
        kept = {"X-Delete-At": moment} if moment else {}
        store.put(ObjectName("box", name), b"text", Headers(ours().content_type, {}, kept))
    assert kinds(found(store, expiry=True)) == [("expires", "soon")]
    assert found(store) == []


def journal_with(folder: Path, *operations: Operation) -> None:
    folder.mkdir(parents=True)
    with closing(JournalDB(folder, "me")) as database:
        database.commit([Record(seq, f"/{seq}", one) for seq, one in enumerate(operations, 1)])


def test_changes_that_wait_here_are_no_differences(store: MemoryStore, folder: Path, tmp_path: Path) -> None:
    for name in ("new/deep/file", "other"):
        write(folder / name, b"text")
    record = FileRecord("0123", 4, None, Blocks(), None)
    operation = PutFile(ObjectName("box", "new/deep/file"), record, ObjectMeta("text/plain"))
    journal_with(tmp_path / "caches" / "one", operation)
    assert kinds(found(store, folder, roots=(tmp_path / "caches",))) == [("only_here", "other")]
    roots = [tmp_path / "caches"]
    (waiting,) = PendingNames(roots, Source("box"), lambda _cache: False).read()
    assert (waiting.changes, waiting.cache) == (1, tmp_path / "caches" / "one")
    assert PendingNames(roots, Source("another"), lambda _cache: False).read() == []
    assert PendingNames(roots, Source("box"), lambda _cache: True).read() == []


def test_a_missing_segment_is_a_difference_although_its_bytes_cannot_be_read(store: MemoryStore) -> None:
    store_large(store, "film", b"first", b"second")
    store.delete(ObjectName("box_segments", "film/1"))
    assert kinds(found(store, percent=100.0)) == [("segment", "film")]


def test_a_source_that_is_not_there_is_missing(store: MemoryStore) -> None:
    put(store, "box", "file", b"x")
    store.put(ObjectName("box", "empty"), b"", Headers(DIRECTORY_TYPE))
    assert found(store, source="box/empty") == []
    for source in ("box/typo", "box/file"):
        (finding,) = found(store, source=source)
        assert (finding.kind, finding.path) == ("missing", "")
        assert source in finding.text
