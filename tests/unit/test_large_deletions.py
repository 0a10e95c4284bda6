"""Large files are deleted first, and their segments when Swift has answered that they are gone."""

from collections import Counter
from pathlib import Path

import pytest

from support.fresh_folders import Images
from support.harness import harness, names, read, write
from support.memory_store import MemoryStore
from support.noise import LARGE
from support.refusing_store import RefusingStore
from support.stored_objects import NEVER, keys, named_segments, segments, ten_minutes_later
from swiftfs.errors import AccessDenied, StoreError, Unavailable
from swiftfs.objects import Limits

OPTIONS = f"{NEVER},segment_size=1M"
BULK, NONE = 10_000, 0


def fill(store: MemoryStore, cache: Path, *paths: str) -> None:
    with harness(store, cache, OPTIONS) as filesystem:
        for path in paths:
            write(filesystem, path, LARGE)


def refusing(bulk: int) -> RefusingStore:
    return RefusingStore("box", "box_segments", limits=Limits(bulk_delete=bulk))


@pytest.mark.parametrize("bulk", [BULK, NONE])
@pytest.mark.parametrize("error", [AccessDenied, Unavailable])
@pytest.mark.parametrize("others", [(), ("/gone", "/gone too")])
def test_a_file_that_swift_does_not_delete_keeps_its_segments(
    tmp_path: Path, error: type[StoreError], others: tuple[str, ...], bulk: int
) -> None:
    store = refusing(bulk)
    fill(store, tmp_path, "/stays", *others)
    needed = named_segments(store, "stays")
    store.refused, store.where = error, "box/stays"
    with harness(store, tmp_path, f"{OPTIONS},drain=1", close_error="change") as filesystem:
        for path in ("/stays", *others):
            filesystem.unlink(path)
    assert keys(store) == ["stays"]
    assert segments(store) == needed
    store.refused = None
    with harness(store, tmp_path, OPTIONS) as filesystem:
        left = names(filesystem, "/")
        assert left == ([] if error is Unavailable else ["stays"])
        assert all(read(filesystem, f"/{name}") == LARGE for name in left)


def test_many_large_files_share_two_requests(tmp_path: Path) -> None:
    store = MemoryStore("box", "box_segments")
    paths = [f"/file{number}" for number in range(8)]
    fill(store, tmp_path, *paths)
    assert removed(store, tmp_path, paths) == {"manifest": 8, "delete_many": 2}
    assert segments(store) == set()


def test_one_large_file_takes_three_requests(tmp_path: Path) -> None:
    """Its manifest tells the segments; another mount may have renamed the one that this mount knows."""
    store = MemoryStore("box", "box_segments")
    fill(store, tmp_path, "/file")
    assert removed(store, tmp_path, ["/file"]) == {"manifest": 1, "delete": 1, "delete_many": 1}
    assert segments(store) == set()


def removed(store: MemoryStore, cache: Path, paths: list[str]) -> Counter[str]:
    """Delete files, and return the requests."""
    with harness(store, cache, OPTIONS) as filesystem:
        names(filesystem, "/")
        store.requests.clear()
        for path in paths:
            filesystem.unlink(path)
    return Counter(method for method, _ in store.requests)


@pytest.mark.parametrize("files", [1, 3])
def test_a_mount_that_dies_between_the_two_requests_leaves_no_segments(tmp_path: Path, files: int) -> None:
    (cache := tmp_path / "cache").mkdir()
    store = MemoryStore("box", "box_segments")
    paths = [f"/file{number}" for number in range(files)]
    fill(store, cache, *paths)
    images = Images(store, cache, tmp_path, "delete_many")
    with harness(store, cache, OPTIONS) as filesystem:
        for path in paths:
            filesystem.unlink(path)
    what, twin, image = images.taken[-1]
    assert what.startswith("delete_many box_segments/")
    assert keys(twin) == []
    assert len(segments(twin)) == 4 * files
    with harness(twin, image, OPTIONS):
        pass
    ten_minutes_later(twin, image)
    assert segments(twin) == set()
