"""What killed mounts of release 0.1.0 left in their cache folders is shown and stored by a present one."""

import hashlib
import json
import sqlite3
import stat
import tarfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.harness import harness, names, read
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import keys, named_segments, segments, ten_minutes_later
from swiftfs.filecache import version_index
from swiftfs.journal import database
from swiftfs.journal.schema import SCHEMA
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

ARCHIVES = Path(__file__).parent / "journals_0_1"
SCENARIOS = sorted(path.name.partition(".")[0] for path in ARCHIVES.glob("*.tar.bz2"))
BOOT = "the boot of the first release"
OPTIONS = "segment_size=1M,settle=0.01"

Tree = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Killed:
    """What a killed mount left: its cache folder, Swift, and what it had shown."""

    cache: Path
    store: MemoryStore
    tree: Tree


def killed(scenario: str, folder: Path) -> Killed:
    """Unpack what a mount of the first release left."""
    with tarfile.open(ARCHIVES / f"{scenario}.tar.bz2") as archive:
        archive.extractall(folder, filter="data")
    store = MemoryStore("box", "other", "box_segments")
    for one in json.loads((folder / "store.json").read_text()):
        _store(store, folder, one)
    store.requests.clear()
    return Killed(folder / "cache", store, json.loads((folder / "tree.json").read_text()))


def _store(store: MemoryStore, folder: Path, one: Mapping[str, list[object]]) -> None:
    name = ObjectName(*map(str, one["name"]))
    content_type, metadata, preserved = one["headers"]
    assert isinstance(content_type, str)
    assert isinstance(metadata, dict)
    assert isinstance(preserved, dict)
    headers = Headers(content_type, metadata, preserved)
    if "segments" not in one:
        store.put(name, (folder / str(one["body"])).read_bytes(), headers)
        return
    parts = [Segment(ObjectName(*part[0]), *part[1:]) for part in one["segments"] if isinstance(part, list)]
    store.put_manifest(name, Manifest(tuple(parts)), headers)


def look(filesystem: FileSystem, folder: str = "/") -> Tree:
    """Return what a mount shows, in the form of `tree.json`."""
    found: Tree = {}
    for name in names(filesystem, folder):
        path = f"{folder.rstrip('/')}/{name}"
        seen = filesystem.getattr(path)
        one: dict[str, object] = {"mode": seen.mode}
        if stat.S_ISLNK(seen.mode):
            one["target"] = filesystem.readlink(path)
        if stat.S_ISREG(seen.mode):
            content = read(filesystem, path)
            assert seen.size == len(content)
            one |= {"size": seen.size, "md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}
        if not stat.S_ISDIR(seen.mode):
            one["mtime_ns"] = seen.mtime_ns
            attributes = [key for key in filesystem.listxattr(path) if key.startswith("user.")]
            one["xattrs"] = {key: filesystem.getxattr(path, key).decode() for key in attributes}
        found[path] = one
        if stat.S_ISDIR(seen.mode):
            found |= look(filesystem, path)
    return found


@pytest.fixture(params=["kill", "power cut"])
def failure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill the machine is still up; after a power cut it has booted anew."""
    if request.param == "kill":
        monkeypatch.setattr(database, "boot_id", lambda: BOOT)
        monkeypatch.setattr(version_index, "boot_id", lambda: BOOT)


@pytest.mark.matrix(10)
@pytest.mark.usefixtures("failure")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_that_a_mount_of_the_first_release_left_is_shown_and_stored(
    scenario: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = killed(scenario, tmp_path)
    with harness(left.store, left.cache, OPTIONS) as filesystem:
        assert look(filesystem) == left.tree
        filesystem.services.journal.flush_all()
        wait_until(lambda: not filesystem.waiting())
        assert look(filesystem) == left.tree
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert not (left.cache / "lost").exists()
    assert not list(left.cache.glob("journal.damaged-*"))
    with closing(sqlite3.connect(left.cache / "journal.sqlite")) as journal:
        assert journal.execute("PRAGMA user_version").fetchone() == (SCHEMA.format,)
        assert journal.execute("SELECT count(*) FROM intents").fetchone() == (0,)
    (tmp_path / "another").mkdir()
    with harness(left.store, tmp_path / "another", OPTIONS) as filesystem:
        assert look(filesystem) == left.tree
    ten_minutes_later(left.store, left.cache)
    large = [key for key in keys(left.store) if left.store.head(ObjectName("box", key)).is_slo]
    assert segments(left.store) == {name for key in large for name in named_segments(left.store, key)}
