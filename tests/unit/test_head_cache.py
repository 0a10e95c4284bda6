"""Answers to HEADs are kept on disk, and damage of that file does no harm."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.memory_store import MemoryStore
from swiftfs.namespace.entry import Defaults, Entry, entries_of
from swiftfs.namespace.head_cache import HeadCache, ObjectState
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion
from swiftfs.paths import Folder
from swiftfs.store.protocol import Headers

pytestmark = pytest.mark.store(MemoryStore, "box", "parts")

MANY = 10_000


def state(number: int, hash_: str = "h", container: str = "box") -> ObjectState:
    return ObjectState(container, f"folder/ключ {number}", hash_, f"2026-01-01T00:00:00.{number:06d}")


def info(what: ObjectState, **changes: object) -> ObjectInfo:
    version = ObjectVersion(ObjectName(what.container, what.key), what.hash)
    fields: dict[str, object] = {
        "size": 7,
        "content_type": "text/plain",
        "last_modified_ns": 1,
        "metadata": {"mtime": "1.5", "colour": "größe"},
        "preserved_headers": {"Cache-Control": "no-cache"},
        **changes,
    }
    return ObjectInfo(version, **fields)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "heads.sqlite"


def remember(path: Path, states: list[ObjectState], capacity: int = 1_000_000) -> None:
    memory = HeadCache(path, capacity)
    for one in states:
        memory.remember(one, info(one))
    memory.close()


def recall(path: Path, states: list[ObjectState]) -> dict[ObjectState, ObjectInfo]:
    memory = HeadCache(path)
    try:
        return memory.recall_many(states)
    finally:
        memory.close()


def test_answers_survive_a_restart(path: Path) -> None:
    states = [state(number) for number in range(600)] + [state(1, container="other")]
    remember(path, states)
    assert recall(path, states) == {one: info(one) for one in states}


def test_an_answer_is_found_before_it_is_written(path: Path) -> None:
    memory = HeadCache(path)
    memory.remember(state(1), info(state(1)))
    assert memory.recall_many([state(1), state(2)]) == {state(1): info(state(1))}
    memory.close()


def test_an_answer_about_another_state_is_not_used_and_is_replaced(path: Path) -> None:
    newer = ObjectState("box", state(1).key, "h2", "2026-02-02T00:00:00.000000")
    remember(path, [state(1)])
    assert recall(path, [newer]) == {}
    remember(path, [newer])
    assert recall(path, [state(1), newer]) == {newer: info(newer)}
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM heads").fetchone() == (1,)
    database.close()


@pytest.mark.usual
def test_a_whole_folder_is_read_by_one_query(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [state(number) for number in range(MANY)]
    remember(path, states)
    memory = HeadCache(path)
    queries: list[str] = []
    memory._database.set_trace_callback(queries.append)
    assert len(memory.recall_many(states)) == MANY
    assert len(queries) == 1
    memory.close()


@pytest.mark.usual
def test_answers_are_written_in_groups(path: Path) -> None:
    memory = HeadCache(path)
    commits: list[str] = []
    memory._database.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    for number in range(MANY):
        memory.remember(state(number), info(state(number)))
    memory.close()
    assert 1 <= len(commits) <= MANY // 100
    assert len(recall(path, [state(number) for number in range(MANY)])) == MANY


def test_the_least_recently_used_answer_is_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000_000_000.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    first, second = [state(number) for number in range(500)], [state(number) for number in range(500, 1000)]
    remember(path, first)
    clock[0] += 200_000
    remember(path, second)
    clock[0] += 200_000
    assert len(recall(path, first)) == 500
    clock[0] += 1
    remember(path, [state(number) for number in range(1000, 1300)], capacity=1000)
    assert len(recall(path, first)) == 500
    assert len(recall(path, second)) < 300


@pytest.mark.parametrize("harm", ["garbage", "foreign", "torn", "other format"])
def test_a_file_that_cannot_be_used_is_set_aside(
    path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    states = [state(number) for number in range(2000)]
    if harm == "garbage":
        path.write_bytes(b"not a database " * 1000)
    elif harm == "foreign":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE heads (mine TEXT)")
        database.close()
    else:
        remember(path, states)
        if harm == "torn":
            with path.open("r+b") as file:
                file.seek(8192)
                file.write(b"\xff" * 200_000)
        else:
            with sqlite3.connect(path) as database:
                database.execute("PRAGMA user_version = 99")
            database.close()
    memory = HeadCache(path)
    known = memory.recall_many(states)
    assert all(found == info(one) for one, found in known.items())
    memory.remember(state(1), info(state(1)))
    memory.close()
    assert recall(path, [state(1)]) == {state(1): info(state(1))}
    damaged = harm in ("garbage", "torn")
    assert path.with_name("heads.sqlite.damaged" if damaged else "heads.sqlite.other").exists()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] or not damaged
    said = (
        "set aside"
        if damaged
        else "has format 99"
        if harm == "other format"
        else "is not this database of swiftfs"
    )
    assert len([record.message for record in caplog.records if said in record.message]) == 1


def test_a_row_that_was_changed_on_disk_is_not_used(path: Path) -> None:
    remember(path, [state(1), state(2)])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE heads SET info = replace(info, '7', '8') WHERE key = ?", (state(1).key,))
    database.close()
    assert recall(path, [state(1), state(2)]) == {state(2): info(state(2))}


def test_a_row_that_is_no_text_counts_as_damage(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remember(path, [state(1), state(2)])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE heads SET info = CAST(X'ff' AS TEXT) WHERE key = ?", (state(1).key,))
        database.execute("UPDATE heads SET info = 7, checksum = 7 WHERE key = ?", (state(2).key,))
    database.close()
    assert recall(path, [state(2)]) == {}
    assert recall(path, [state(1), state(2)]) == {}
    assert len([record for record in caplog.records if "set aside" in record.message]) == 1


def test_a_disk_error_at_a_write_is_survived(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = HeadCache(path)
    memory._database.execute("PRAGMA max_page_count = 10")
    states = [state(number) for number in range(2000)]
    for one in states:
        memory.remember(one, info(one))
    assert memory.recall_many(states[-1:]) == {states[-1]: info(states[-1])}
    memory.close()
    assert [record.message for record in caplog.records] == [
        "answers to HEAD requests are kept in memory only: database or disk is full"
    ]


def test_without_a_folder_answers_are_kept_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = HeadCache(tmp_path / "missing" / "heads.sqlite")
    for number in range(300):
        memory.remember(state(number), info(state(number)))
    assert len(memory.recall_many([state(number) for number in range(300)])) == 300
    memory.close()
    assert len(caplog.records) == 1


def test_an_answer_that_has_expired_is_requested_again(path: Path) -> None:
    memory = HeadCache(path)
    memory.remember(state(1), info(state(1), preserved_headers={"X-Delete-At": "1000000000"}))
    memory.remember(state(2), info(state(2), preserved_headers={"X-Delete-At": "4000000000"}))
    assert list(memory.recall_many([state(1), state(2)])) == [state(2)]
    memory.close()


@pytest.mark.usual
def test_many_threads_write_and_read(path: Path) -> None:
    memory = HeadCache(path)
    missed: list[ObjectState] = []

    def work(first: int) -> None:
        for number in range(first, first + 1000):
            memory.remember(state(number), info(state(number)))
            if state(number) not in memory.recall_many([state(number)]):
                missed.append(state(number))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 8000, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memory.close()
    assert missed == []
    assert len(recall(path, [state(number) for number in range(8000)])) == 8000


@pytest.fixture
def details(store: MemoryStore, path: Path) -> Iterator[HeadFetcher]:
    details = HeadFetcher(store, HeadCache(path))
    yield details
    details.close()


def listed(store: MemoryStore) -> dict[str, Entry]:
    page = store.list_page("box")
    entries = entries_of(Folder("box", ""), page.rows, page.subdirs, Defaults(0, 0))
    return {entry.name: entry for entry in entries}


def test_a_head_is_sent_once(store: MemoryStore, path: Path) -> None:
    store.put(ObjectName("box", "a"), b"text", Headers("text/plain; charset=UTF-8", {"mtime": "1.5"}))
    entry = listed(store)["a"]
    for _ in range(2):
        details = HeadFetcher(store, HeadCache(path))
        answer = details.recall(entry) or details.ask(entry).result()
        assert answer.metadata["mtime"] == "1.5"
        details.close()
    assert [method for method, _ in store.requests].count("head") == 1


def test_an_answer_about_a_newer_state_than_listed_is_not_kept(
    store: MemoryStore, details: HeadFetcher
) -> None:
    store.put(ObjectName("box", "a"), b"old", Headers("text/plain"))
    entry = listed(store)["a"]
    store.put(ObjectName("box", "a"), b"newer", Headers("text/plain"))
    assert details.ask(entry).result().size == 5
    assert details.recall(entry) is None


def test_a_dlo_is_requested_again_because_it_may_grow_unseen(
    store: MemoryStore, details: HeadFetcher
) -> None:
    store.put(
        ObjectName("box", "dlo"),
        b"",
        Headers("text/plain", preserved_headers={"X-Object-Manifest": "parts/dlo/"}),
    )
    entry = listed(store)["dlo"]
    assert details.ask(entry).result().size == 0
    store.put(ObjectName("parts", "dlo/1"), b"grown", Headers("text/plain"))
    assert details.recall(entry) is None
    assert details.ask(entry).result().size == 5
