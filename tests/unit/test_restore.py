"""Older versions are brought back: which one, and what stays."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from support.memory_store import MemoryStore
from support.stored_objects import body, keys
from swiftfs.attributes import stored_at_ns
from swiftfs.cli.restore import (
    Outcome,
    Restorer,
    Result,
    check_history,
    failure_of,
    kept_below,
    kept_object,
)
from swiftfs.errors import ConfigurationError, Unavailable
from swiftfs.objects import History, Manifest, ObjectName, OlderName, Segment
from swiftfs.store.protocol import Headers
from swiftfs.store.trash_names import is_restored

STORED = Headers("text/plain;mtime=1700000000.5;mode=0100640", {"note": "1"})
FOLDER = Headers("application/directory")


def name(key: str) -> ObjectName:
    return ObjectName("box", key)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("box", "box_segments")
    store.set_history("box", History.KEPT)
    return store


def now(store: MemoryStore) -> int:
    """Return a time after all changes so far, and before all later ones."""
    return store._now()


def restored(store: MemoryStore, folder: str, moment_ns: int) -> dict[str, Outcome]:
    results: list[Result] = []
    with ThreadPoolExecutor(2) as pool:
        Restorer(store, moment_ns).run(kept_below(store, name(folder)), pool, results.append)
    return {one.name.key: one.outcome for one in results}


def test_a_folder_is_as_it_was(store: MemoryStore) -> None:
    store.put(name("d"), b"", FOLDER)
    for key in ("d/kept", "d/changed", "d/deleted", "d/sub/deep", "other"):
        store.put(name(key), b"then", STORED)
    store.put(name("d/gone"), b"then", STORED)
    store.delete(name("d/gone"))
    moment = now(store)
    store.put(name("d/changed"), b"now", Headers("a/b"))
    for key in ("d/deleted", "d/sub/deep"):
        store.delete(name(key))
    store.put(name("d/later"), b"now", STORED)
    store.put(name("d/gone"), b"now", STORED)
    store.put(name("other"), b"now", STORED)
    assert restored(store, "d", moment) == {
        "d/changed": Outcome.RESTORED,
        "d/deleted": Outcome.RESTORED,
        "d/gone": Outcome.ABSENT,
        "d/kept": Outcome.UNCHANGED,
        "d/later": Outcome.LATER,
        "d/sub/deep": Outcome.RESTORED,
    }
    assert keys(store) == [
        "d",
        "d/changed",
        "d/deleted",
        "d/gone",
        "d/kept",
        "d/later",
        "d/sub/deep",
        "other",
    ]
    bodies = {key: body(store, key) for key in keys(store)}
    assert [key for key, content in bodies.items() if content == b"now"] == ["d/gone", "d/later", "other"]
    info = store.head(name("d/changed"))
    assert info.content_type == STORED.content_type
    # A mount that has stored the same bytes before must not take it for a late request of its own.
    assert is_restored(info)
    assert STORED.metadata.items() < info.metadata.items()


def test_what_is_replaced_becomes_a_version(store: MemoryStore) -> None:
    store.put(name("file"), b"then", STORED)
    moment = now(store)
    store.put(name("file"), b"now", STORED)
    between = now(store)
    assert restored(store, "", moment) == {"file": Outcome.RESTORED}
    assert body(store, "file") == b"then"
    assert restored(store, "", between) == {"file": Outcome.RESTORED}
    assert body(store, "file") == b"now"


def test_a_second_run_copies_nothing(store: MemoryStore) -> None:
    store.put(name("file"), b"then", STORED)
    moment = now(store)
    store.delete(name("file"))
    assert restored(store, "", moment) == {"file": Outcome.RESTORED}
    assert restored(store, "", moment) == {"file": Outcome.UNCHANGED}
    assert [method for method, _ in store.requests].count("copy") == 1


def test_the_segments_of_a_large_file_are_not_copied(store: MemoryStore) -> None:
    part = ObjectName("box_segments", "part")
    info = store.put(part, b"x" * 10, STORED)
    manifest = Manifest((Segment(part, info.version.etag, 10),))
    store.put_manifest(name("large"), manifest, Headers(f"a/b;mode=0100644;slo={manifest.etag}"))
    moment = now(store)
    store.put(name("large"), b"small", STORED)
    assert restored(store, "", moment) == {"large": Outcome.RESTORED}
    assert store.manifest(name("large")) == manifest
    assert body(store, "large") == b"x" * 10


def test_a_large_file_without_its_segments_is_not_restored(store: MemoryStore) -> None:
    parts = [ObjectName("box_segments", f"d/part-{number}") for number in range(2)]
    etags = [store.put(part, b"x" * 10, STORED).version.etag for part in parts]
    segments = [Segment(part, etag, 10) for part, etag in zip(parts, etags, strict=True)]
    store.put_manifest(name("large"), Manifest(tuple(segments)), Headers("a/b"))
    moment = now(store)
    store.put(name("large"), b"small", STORED)
    store.delete(parts[1])
    result = Restorer(store, moment).restore(kept_object(store, name("large")))
    assert result.outcome is Outcome.FAILED
    assert "1 of the 2 segments" in result.reason
    assert "d/part-1" in str(failure_of(result))
    assert body(store, "large") == b"small"
    store.delete(parts[0])
    store.delete_container("box_segments")
    assert "2 of the 2 segments" in Restorer(store, moment).restore(kept_object(store, name("large"))).reason


def test_one_version_by_its_id(store: MemoryStore) -> None:
    for content in (b"1", b"2", b"3"):
        store.put(name("file"), content, STORED)
    kept = kept_object(store, name("file"))
    assert Restorer(store, version_id=kept.versions[1].version_id).restore(kept).outcome is Outcome.RESTORED
    assert body(store, "file") == b"2"
    with pytest.raises(ConfigurationError, match="no version 12345"):
        Restorer(store, version_id="12345").restore(kept)


def test_names_that_only_begin_alike(store: MemoryStore) -> None:
    for key in ("a", "a-b", "a/b", "ab"):
        store.put(name(key), b"1", STORED)
    assert [one.row.key for one in kept_object(store, name("a")).versions] == ["a"]
    assert [one.name.key for one in kept_below(store, name("a"))] == ["a/b"]
    assert kept_object(store, name("none")).versions == ()


def test_segments_in_the_container_are_no_files(store: MemoryStore) -> None:
    store.put(name(".swiftfs-segments/a/1"), b"1", STORED)
    store.put(name(".trash/2026-11-29/a@101010.000000"), b"1", STORED)
    store.put(name("a"), b"1", STORED)
    assert [one.name.key for one in kept_below(store, name(""))] == ["a"]


def test_a_failure_of_one_file_ends_no_other(store: MemoryStore) -> None:
    for key in ("a", "b", "c"):
        store.put(name(key), b"then", STORED)
    moment = now(store)
    for key in ("a", "b", "c"):
        store.delete(name(key))

    def refuse(method: str, subject: str) -> None:
        if (method, subject.partition("'")[0]) == ("copy", "box/b"):
            raise Unavailable("503")

    store.hook = refuse
    expected = {"a": Outcome.RESTORED, "b": Outcome.FAILED, "c": Outcome.RESTORED}
    assert restored(store, "", moment) == expected


@pytest.mark.parametrize(
    ("history", "words"),
    [(History.NONE, "X-Versions-Enabled"), (History.ELSEWHERE, "X-Versions-Location")],
)
def test_a_container_without_versions_is_refused(store: MemoryStore, history: History, words: str) -> None:
    store.set_history("box", history)
    with pytest.raises(ConfigurationError, match=words):
        check_history(store, "box")
    with pytest.raises(ConfigurationError, match="no container 'none'"):
        check_history(store, "none")


def test_the_time_of_a_version(store: MemoryStore) -> None:
    store.put(name("file"), b"1", STORED)
    (version,) = store.list_versions("box").rows
    assert stored_at_ns(version) == store.head(OlderName("box", "file", version.version_id)).last_modified_ns
    store.set_history("box", History.KEPT, enabled=False)
    store.put(name("file"), b"2", STORED)
    current = store.list_versions("box").rows[0]
    assert current.version_id == "null"
    assert stored_at_ns(current) == store.head(name("file")).last_modified_ns
