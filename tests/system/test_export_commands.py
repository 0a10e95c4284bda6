"""`swiftfs export` and `recover` of cache folders that a test has made or damaged."""

import os
from pathlib import Path

import pytest

from support.commands import swiftfs
from support.damaged_cache import OWNER, CacheFolder
from support.harness import harness
from support.memory_store import MemoryStore
from support.refused_changes import leave_refused_files
from swiftfs.cli.export import NAMELESS, damaged_journals
from swiftfs.journal.database import JournalDB
from swiftfs.journal.salvage import salvage


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path)


def damage(journal: Path, how: str) -> None:
    data = journal.read_bytes()
    page = 4096
    journal.write_bytes(
        {
            "header": b"\0" * 100 + data[100:],
            "tail": data[: len(data) * 2 // 3],
            "middle": data[: 8 * page] + os.urandom(page) + data[9 * page :],
            "text": b"no",
        }[how]
    )


@pytest.mark.matrix(3)
@pytest.mark.parametrize("when", ["before a mount saw it", "after it was set aside"])
@pytest.mark.parametrize("how", ["header", "tail", "middle", "text"])
def test_recover_restores_files_of_a_damaged_journal(tmp_path: Path, how: str, when: str) -> None:
    store, target, count = MemoryStore("box"), tmp_path / "out", 120
    files = {f"/file{number}ä": f"data {number}".encode() for number in range(count)}
    cache = leave_refused_files(store, tmp_path / "cache", files)
    damage(cache / "journal.sqlite", how)
    if when == "after it was set aside":
        with harness(store, cache) as filesystem:
            assert filesystem.services.cache_dir == cache
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    listed = swiftfs("recover", cache)
    assert listed.returncode == 0, listed
    assert "is damaged" in listed.stderr
    result = swiftfs("recover", cache, target)
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before
    named = {path.name: path.read_bytes() for path in target.glob("file*")}
    assert all(data == f"data {name[4:-1]}".encode() for name, data in named.items())
    lost = {path.read_bytes() for path in target.glob(f"{NAMELESS}/*")}
    if when == "after it was set aside":
        assert lost | set(named.values()) == set(files.values())
        assert not lost & set(named.values())
    assert len(named) >= {"header": count, "tail": count // 5, "middle": count - 12, "text": 0}[how]
    for name in named:
        assert f"/{name}\tfile" in listed.stdout
    assert result.returncode == 1
    assert "is damaged" in result.stderr


def test_recover_of_a_row_that_was_set_aside(cache: CacheFolder) -> None:
    cache.add_file("/f", b"data", "open-1")
    cache.close()
    log = JournalDB(cache.folder, OWNER)
    log._database.execute("UPDATE intents SET checksum = 0")
    log._database.commit()
    log.close()
    (found,) = salvage(cache.journal).found
    assert found.doubt == "its checksum is wrong"
    with harness(MemoryStore("box"), cache.folder):
        pass
    assert not (cache.folder / "content" / "open-1").exists()
    result = swiftfs("recover", cache.folder, cache.target)
    assert result.returncode == 1
    assert (cache.target / "f").read_bytes() == b"data"
    assert result.stderr == f"swiftfs: /f: set aside as intent-1.json: check {cache.target / 'f'}\n"
    assert [path.name for path in (cache.target / NAMELESS).iterdir()] == ["intent-1.json"]


def test_recover_without_a_damaged_journal(cache: CacheFolder) -> None:
    cache.add_file("/f", b"data", "open-1")
    cache.close()
    assert damaged_journals(cache.folder) == []
    result = swiftfs("recover", cache.folder, cache.target)
    assert result.returncode == 0
    assert result.stdout == f"{cache.folder} holds no damaged journal\n"
    assert not cache.target.exists()
