"""Large files of a folder that moves in the background: a listing shows another hash than their ETag."""

from pathlib import Path

import pytest

from support.harness import ME, copy_live, harness, names, read, sync_all, write
from support.jobs import wait_until
from support.lagging_store import LaggingStore
from support.memory_store import MemoryStore
from support.noise import NEW
from support.stored_objects import as_of_now, keys, named_segments, segments

MIB = 1024 * 1024
OPTIONS = "segment_size=1M,settle=0.05,background_rename=2"

pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


@pytest.mark.parametrize("lags", [True, False])
def test_the_next_mount_deletes_the_old_object_of_a_large_file_that_was_copied(
    store: MemoryStore, cache: Path, *, lags: bool
) -> None:
    """With listings that lag it sees the old object in a listing, and the copy by a HEAD."""
    image = cache.with_name("image")
    twins: list[MemoryStore] = []

    def kill_at_first_deletion(method: str, _subject: str) -> None:
        if method.startswith("delete") and not twins:
            copy_live(cache, image)
            twins.append(as_of_now(store))

    with harness(store, cache, OPTIONS) as filesystem:
        filesystem.mkdir("/d", 0o755, ME)
        for number in range(5):
            write(filesystem, f"/d/{number}", NEW)
        sync_all(filesystem)
        store.hook = kill_at_first_deletion
        filesystem.rename("/d", "/e")
    store.hook = None
    (died,) = twins
    twin = LaggingStore(*died._containers)
    for name, container in died._containers.items():
        twin._containers[name].objects.update(container.objects)
    if lags:
        objects = died._containers["box"].objects
        twin.shown = {key: found for key, found in objects.items() if key.startswith("d")}
    with harness(twin, image, OPTIONS) as filesystem:
        assert names(filesystem, "/") == ["e"]
        assert read(filesystem, "/e/3") == NEW
        wait_until(lambda: not filesystem.waiting())
    twin.go_on()
    assert keys(twin) == ["e", *(f"e/{number}" for number in range(5))]
    assert set().union(*(named_segments(twin, f"e/{number}") for number in range(5))) == segments(twin)
