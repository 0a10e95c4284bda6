"""The cache folder: what survives a restart, and what does not."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.cache_rig import CacheRig, read, write
from support.noise import noise
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.sparse_file import SparseFile
from swiftfs.filecache.version_index import TOGETHER
from swiftfs.objects import ObjectName, ObjectVersion

pytest_plugins = ["support.cache_fixtures"]

Damage = Callable[[Path], None]


def test_a_cached_version_is_used_once_with_its_blocks(rig: CacheRig) -> None:
    base = rig.put("file", noise(5 * BLOCK))
    assert rig.read(base, BLOCK, 2 * BLOCK) == noise(5 * BLOCK)[BLOCK : 3 * BLOCK]
    version = ObjectVersion(base.name, base.etag)
    assert version in rig.cache
    assert rig.cache.acquire_version(ObjectVersion(base.name, "another")) is None
    cached_file = rig.open(base)
    assert version not in rig.cache
    assert rig.cache.acquire_version(version) is None
    assert rig.gets() == 1
    read(cached_file, BLOCK, 2 * BLOCK)
    assert rig.gets() == 0
    rig.keep(cached_file)


@pytest.mark.usual
def test_a_closed_file_holds_no_descriptor(rig: CacheRig) -> None:
    for number in range(400):
        rig.read(rig.put(f"file{number}", b"x"))
    assert len(rig.kept()) == 400
    folder = f"{rig.files}/"
    targets = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [target for target in targets if target.startswith(folder)]


def test_the_blocks_of_a_version_survive_a_restart(rig: CacheRig) -> None:
    body = noise(9 * BLOCK + 5)
    base = rig.put("file", body)
    rig.read(base, 0, 1)
    rig.read(base, 8 * BLOCK, 2 * BLOCK)
    assert rig.gets() == 2
    rig.restart()
    assert rig.read(base, 0, BLOCK) + rig.read(base, 8 * BLOCK) == body[:BLOCK] + body[8 * BLOCK :]
    assert rig.gets() == 0
    assert rig.read(base) == body
    assert rig.gets() == 1


def rows(rig: CacheRig) -> int:
    """Return how many rows the database of the index has."""
    index = rig.cache._versions._index._database
    return int(index.execute("SELECT count(*) FROM files").fetchone()[0])


def test_the_rows_of_many_files_are_written_together(rig: CacheRig) -> None:
    for number in range(TOGETHER + 1):
        rig.read(rig.put(f"file{number}", b"x"))
    assert rows(rig) == TOGETHER
    rig.cache.save_index()
    assert rows(rig) == TOGETHER + 1


def test_a_file_whose_row_is_not_written_yet_is_used_again(rig: CacheRig) -> None:
    base = rig.put("file", b"bytes")
    assert rig.read(base) == rig.read(base) == b"bytes"
    assert (rig.gets(), rows(rig)) == (1, 0)
    rig.cache.save_index()
    assert rows(rig) == 1
    assert rig.read(base) == b"bytes"
    assert (rig.gets(), rows(rig)) == (0, 0)


def test_files_whose_rows_are_refused_are_removed(rig: CacheRig) -> None:
    rig.read(rig.put("file", b"bytes"))
    assert len(rig.kept()) == 1
    index = rig.cache._versions._index._database
    index.execute("PRAGMA query_only = ON")
    rig.cache.save_index()
    index.execute("PRAGMA query_only = OFF")
    assert (rig.kept(), rig.cache._versions.bytes) == ([], 0)


def test_own_changes_are_kept_as_the_version_they_became(rig: CacheRig) -> None:
    cached_file = rig.cache.new(ObjectName("box", "file"), None)
    write(cached_file, 0, noise(3 * BLOCK))
    cached_file.truncate(2 * BLOCK)
    base = rig.put("file", noise(3 * BLOCK)[: 2 * BLOCK])
    cached_file.adopt(rig.store.head(base.name))
    rig.cache.keep(cached_file)
    rig.restart()
    assert rig.read(base) == noise(3 * BLOCK)[: 2 * BLOCK]
    assert rig.gets() == 0


def test_a_file_that_is_no_stored_version_is_not_kept(rig: CacheRig) -> None:
    base = rig.put("file", noise(BLOCK))
    cached_file = rig.cache.new(base.name, base)
    write(cached_file, 0, b"changed")
    rig.cache.keep(cached_file)
    assert rig.kept() == []
    untouched = rig.cache.new(base.name, base)
    rig.cache.keep(untouched)
    assert rig.kept() == []


def test_only_the_owner_can_read_the_cache(rig: CacheRig) -> None:
    rig.read(rig.put("file", b"secret"))
    paths = [rig.files, *rig.kept(), *rig.folder.glob("content.sqlite*")]
    modes = {path.name: path.stat().st_mode & 0o777 for path in paths}
    assert modes.pop("content") == 0o700
    assert set(modes.values()) == {0o600}


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(BLOCK)
        byte = file.read(1)
        file.seek(BLOCK)
        file.write(bytes([byte[0] ^ 1]))


def flip_secretly(path: Path) -> None:
    stat = path.stat()
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace_by_copy(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[0] ^= 1
    path.unlink()
    path.write_bytes(body)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def swap(path: Path) -> None:
    one, other = sorted(path.parent.iterdir())
    one.rename(path.parent / "aside")
    other.rename(one)
    (path.parent / "aside").rename(other)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.matrix(6)
@pytest.mark.parametrize(
    "damage",
    [
        flip,
        flip_secretly,
        replace_by_copy,
        grow,
        swap,
        make_folder,
        make_link,
        Path.unlink,
        lambda path: os.truncate(path, BLOCK),
        lambda path: os.truncate(path, 0),
    ],
)
@pytest.mark.parametrize("restart", [True, False])
def test_a_damaged_file_is_a_miss(rig: CacheRig, damage: Damage, restart: bool) -> None:
    bases = [rig.put(key, noise(3 * BLOCK, seed)) for seed, key in enumerate("ab")]
    for base in bases:
        rig.read(base)
    if restart:
        rig.cache.close()
    damage(rig.kept()[0])
    if restart:
        rig.enter()
    rig.gets()
    assert [rig.read(base) for base in bases] == [noise(3 * BLOCK, seed) for seed in range(2)]
    assert rig.gets() in (1, 2)


@pytest.mark.usual
@pytest.mark.parametrize("place", ["start", "middle", "cut", "garbage", "empty"])
def test_a_damaged_index_is_a_miss(rig: CacheRig, place: str, caplog: pytest.LogCaptureFixture) -> None:
    bases = [rig.put(f"file{number}", noise(BLOCK, number)) for number in range(100)]
    for base in bases:
        rig.read(base)
    rig.cache.close()
    index = rig.folder / "content.sqlite"
    body = index.read_bytes()
    match place:
        case "start":
            index.write_bytes(bytes(4096) + body[4096:])
        case "middle":
            index.write_bytes(body[:8192] + noise(len(body) - 8192))
        case "cut":
            index.write_bytes(body[: len(body) // 2])
        case "garbage":
            index.write_bytes(b"not a database" * 1000)
        case "empty":
            index.write_bytes(b"")
    rig.enter()
    assert [rig.read(base) for base in bases] == [noise(BLOCK, number) for number in range(100)]
    rig.restart()
    rig.gets()
    assert [rig.read(base) for base in bases] == [noise(BLOCK, number) for number in range(100)]
    assert rig.gets() <= 100
    assert place == "empty" or "downloaded again" in caplog.text or "index" in caplog.text


def test_a_wrong_bit_in_a_row_is_a_miss(rig: CacheRig) -> None:
    """The row of a partly present file claims every block."""
    body = noise(8 * BLOCK)
    base = rig.put("file", body)
    rig.read(base, 0, 3 * BLOCK)
    rig.cache.close()
    index = rig.folder / "content.sqlite"
    stored = index.read_bytes()
    name = rig.kept()[0].name.encode()
    place = stored.index(name) + len(name)
    assert stored[place] == 0b111
    index.write_bytes(stored[:place] + b"\xff" + stored[place + 1 :])
    rig.enter()
    assert rig.read(base) == body


@pytest.mark.parametrize(("boot", "served"), [("the same", True), ("another", False)])
def test_files_that_are_not_synced_are_used_until_the_next_boot(
    rig: CacheRig, boot: str, served: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(5, "the disk fails")

    marker = tmp_path / "boot"
    marker.write_text("the same")
    monkeypatch.setattr("swiftfs.sqlite._BOOT_ID", marker)
    rig.restart()
    monkeypatch.setattr("swiftfs.filecache.version_cache.synchronize", fail)
    base = rig.put("file", noise(BLOCK))
    rig.read(base)
    rig.cache.close()
    marker.write_text(boot)
    rig.enter()
    rig.gets()
    assert rig.read(base) == noise(BLOCK)
    assert rig.gets() == (0 if served else 1)


def test_the_folder_can_be_wiped_while_it_is_used(rig: CacheRig) -> None:
    body = noise(4 * BLOCK)
    closed, used = rig.put("closed", body), rig.put("used", body)
    rig.read(closed)
    cached_file = rig.open(used)
    read(cached_file, 0, 1)
    for path in rig.kept():
        path.unlink()
    rig.files.rmdir()
    assert read(cached_file) == body
    rig.keep(cached_file)
    assert rig.read(closed) == body
    rig.gets()
    assert rig.read(closed) == body
    assert rig.gets() == 0
    assert rig.read(used) == body


def test_leftovers_and_unknown_files_are_deleted(rig: CacheRig) -> None:
    base = rig.put("file", b"mine")
    rig.read(base)
    rig.cache.close()
    (rig.files / "open-123").write_bytes(b"of a process that died")
    (rig.files / "unknown").write_bytes(b"x")
    rig.enter()
    assert len(rig.kept()) == 1
    rig.gets()
    assert rig.read(base) == b"mine"
    assert rig.gets() == 0


def test_a_local_file_has_a_new_name_each_time(tmp_path: Path) -> None:
    files = [SparseFile.create(tmp_path / "new") for _ in range(3)]
    assert len({file.path for file in files}) == 3
    for file, other in itertools.pairwise(files):
        assert file.mark() != other.mark()
    before = files[0].mark()
    files[0].move("moved")
    assert files[0].mark().inode == before.inode
    for file in files:
        file.remove()
    assert not list((tmp_path / "new").iterdir())
