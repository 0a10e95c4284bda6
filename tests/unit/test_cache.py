"""The cache folder: what survives a restart, and what does not."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.cache_house import House, noise, read, write
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.sparse_file import SparseFile
from swiftfs.objects import ObjectName, ObjectVersion

pytest_plugins = ["support.cache_fixtures"]

Damage = Callable[[Path], None]


def test_a_version_is_given_back_once_with_what_it_had(house: House) -> None:
    origin = house.put("file", noise(5 * BLOCK))
    assert house.read(origin, BLOCK, 2 * BLOCK) == noise(5 * BLOCK)[BLOCK : 3 * BLOCK]
    version = ObjectVersion(origin.name, origin.etag)
    assert version in house.cache
    assert house.cache.acquire_version(ObjectVersion(origin.name, "another")) is None
    content = house.open(origin)
    assert version not in house.cache
    assert house.cache.acquire_version(version) is None
    assert house.gets() == 1
    read(content, BLOCK, 2 * BLOCK)
    assert house.gets() == 0
    house.keep(content)


def test_a_closed_file_holds_no_descriptor(house: House) -> None:
    for number in range(400):
        house.read(house.put(f"file{number}", b"x"))
    assert len(house.kept()) == 400
    folder = f"{house.files}/"
    targets = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [target for target in targets if target.startswith(folder)]


def test_the_blocks_of_a_version_survive_a_restart(house: House) -> None:
    body = noise(9 * BLOCK + 5)
    origin = house.put("file", body)
    house.read(origin, 0, 1)
    house.read(origin, 8 * BLOCK, 2 * BLOCK)
    assert house.gets() == 2
    house.restart()
    assert house.read(origin, 0, BLOCK) + house.read(origin, 8 * BLOCK) == body[:BLOCK] + body[8 * BLOCK :]
    assert house.gets() == 0
    assert house.read(origin) == body
    assert house.gets() == 1


def test_own_changes_are_kept_as_the_version_they_became(house: House) -> None:
    content = house.cache.new(ObjectName("box", "file"), None)
    write(content, 0, noise(3 * BLOCK))
    content.truncate(2 * BLOCK)
    origin = house.put("file", noise(3 * BLOCK)[: 2 * BLOCK])
    content.adopt(house.store.head(origin.name))
    house.cache.keep(content)
    house.restart()
    assert house.read(origin) == noise(3 * BLOCK)[: 2 * BLOCK]
    assert house.gets() == 0


def test_what_is_not_the_version_is_not_kept(house: House) -> None:
    origin = house.put("file", noise(BLOCK))
    content = house.cache.new(origin.name, origin)
    write(content, 0, b"changed")
    house.cache.keep(content)
    assert house.kept() == []
    untouched = house.cache.new(origin.name, origin)
    house.cache.keep(untouched)
    assert house.kept() == []


def test_the_cache_is_its_owners_alone(house: House) -> None:
    house.read(house.put("file", b"secret"))
    paths = [house.files, *house.kept(), *house.folder.glob("content.sqlite*")]
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
def test_a_damaged_file_is_a_miss(house: House, damage: Damage, restart: bool) -> None:
    origins = [house.put(key, noise(3 * BLOCK, seed)) for seed, key in enumerate("ab")]
    for origin in origins:
        house.read(origin)
    if restart:
        house.cache.close()
    damage(house.kept()[0])
    if restart:
        house.enter()
    house.gets()
    assert [house.read(origin) for origin in origins] == [noise(3 * BLOCK, seed) for seed in range(2)]
    assert house.gets() in (1, 2)


@pytest.mark.parametrize("place", ["start", "middle", "cut", "garbage", "empty"])
def test_a_damaged_index_is_a_miss(house: House, place: str, caplog: pytest.LogCaptureFixture) -> None:
    origins = [house.put(f"file{number}", noise(BLOCK, number)) for number in range(100)]
    for origin in origins:
        house.read(origin)
    house.cache.close()
    index = house.folder / "content.sqlite"
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
    house.enter()
    assert [house.read(origin) for origin in origins] == [noise(BLOCK, number) for number in range(100)]
    house.restart()
    house.gets()
    assert [house.read(origin) for origin in origins] == [noise(BLOCK, number) for number in range(100)]
    assert house.gets() <= 100
    assert place == "empty" or "downloaded again" in caplog.text or "index" in caplog.text


def test_a_wrong_bit_in_a_row_is_a_miss(house: House) -> None:
    """The row of a partly present file claims every block."""
    body = noise(8 * BLOCK)
    origin = house.put("file", body)
    house.read(origin, 0, 3 * BLOCK)
    house.cache.close()
    index = house.folder / "content.sqlite"
    stored = index.read_bytes()
    name = house.kept()[0].name.encode()
    place = stored.index(name) + len(name)
    assert stored[place] == 0b111
    index.write_bytes(stored[:place] + b"\xff" + stored[place + 1 :])
    house.enter()
    assert house.read(origin) == body


@pytest.mark.parametrize(("boot", "served"), [("the same", True), ("another", False)])
def test_what_was_not_synchronized_is_good_until_the_next_boot(
    house: House, boot: str, served: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(5, "the disk fails")

    marker = tmp_path / "boot"
    marker.write_text("the same")
    monkeypatch.setattr("swiftfs.sqlite._BOOT_ID", marker)
    house.restart()
    monkeypatch.setattr("swiftfs.filecache.version_cache.synchronize", fail)
    origin = house.put("file", noise(BLOCK))
    house.read(origin)
    house.cache.close()
    marker.write_text(boot)
    house.enter()
    house.gets()
    assert house.read(origin) == noise(BLOCK)
    assert house.gets() == (0 if served else 1)


def test_the_folder_can_be_wiped_while_it_is_used(house: House) -> None:
    body = noise(4 * BLOCK)
    closed, used = house.put("closed", body), house.put("used", body)
    house.read(closed)
    content = house.open(used)
    read(content, 0, 1)
    for path in house.kept():
        path.unlink()
    house.files.rmdir()
    assert read(content) == body
    house.keep(content)
    assert house.read(closed) == body
    house.gets()
    assert house.read(closed) == body
    assert house.gets() == 0
    assert house.read(used) == body


def test_leftovers_and_strangers_are_swept(house: House) -> None:
    origin = house.put("file", b"mine")
    house.read(origin)
    house.cache.close()
    (house.files / "open-123").write_bytes(b"of a process that died")
    (house.files / "stranger").write_bytes(b"x")
    house.enter()
    assert len(house.kept()) == 1
    house.gets()
    assert house.read(origin) == b"mine"
    assert house.gets() == 0


def test_a_local_file_has_a_new_name_each_time(tmp_path: Path) -> None:
    files = [SparseFile.create(tmp_path / "new") for _ in range(3)]
    assert len({file.path for file in files}) == 3
    for file, other in itertools.pairwise(files):
        assert file.mark() != other.mark()
    before = files[0].mark()
    files[0].move(tmp_path / "moved")
    assert files[0].mark().inode == before.inode
    for file in files:
        file.remove()
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
