"""copy_file_range beside other features: the trash, X-Delete-At, a full quota, a server that is away."""

import errno
import time
from pathlib import Path

import pytest

from support.harness import ANY_END, harness, listed, read, sync_all, write
from support.memory_store import MemoryStore
from support.noise import NEW
from support.range_copies import BIG, append, cp, left, opened
from support.stored_objects import body, keys, refuse, segments, ten_minutes_later
from support.trash import kept, only
from swiftfs.errors import QuotaExceeded, errno_of
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import Headers
from swiftfs.store.server_state import Presence

MIB = 1024 * 1024
DAY = 86_400
LARGE, SMALL = "segment_size=1M,settle=3600", "segment_size=6M,settle=3600"
BOTH = pytest.mark.parametrize("options", [LARGE, SMALL])

pytestmark = pytest.mark.store(MemoryStore, "box", "box_segments")


def their(store: MemoryStore, **headers: str) -> None:
    store.put(ObjectName("box", "their"), BIG, Headers("text/plain", {}, headers))


def days(store: MemoryStore, key: str, container: str = "box") -> int | None:
    """Return in how many days Swift deletes an object."""
    moment = store.head(ObjectName(container, key)).preserved_headers.get("X-Delete-At")
    return None if moment is None else round((int(moment) - time.time()) / DAY)


def days_of_segments(store: MemoryStore, key: str) -> set[int | None]:
    names = [one.name for one in store.manifest(ObjectName("box", key)).segments]
    return {days(store, name.key, name.container) for name in names}


@BOTH
def test_what_a_copy_replaces_is_in_the_trash(store: MemoryStore, cache: Path, options: str) -> None:
    their(store)
    with harness(store, cache, f"trash=30,{options}") as filesystem:
        write(filesystem, "/copy", NEW)
        sync_all(filesystem)
        assert cp(filesystem, "/their", "/copy") == len(BIG)
        sync_all(filesystem)
    assert body(store, only(store, "copy")) == NEW
    assert body(store, "copy") == BIG
    ten_minutes_later(store, cache)
    assert left(store, "copy", only(store, "copy")) == set()


@BOTH
def test_a_copy_goes_to_the_trash_whole(store: MemoryStore, cache: Path, options: str) -> None:
    """Also before it is stored: then its bytes are only in segments of its own."""
    their(store)
    with harness(store, cache, f"trash=30,{options}") as filesystem:
        cp(filesystem, "/their", "/stored")
        sync_all(filesystem)
        filesystem.unlink("/stored")
        cp(filesystem, "/their", "/replaced")
        sync_all(filesystem)
        cp(filesystem, "/their", "/new")
        filesystem.rename("/new", "/replaced")
        sync_all(filesystem)
    found = kept(store)
    assert sorted(found) == ["replaced", "stored"]
    assert [body(store, key) for (key,) in found.values()] == [BIG, BIG]
    assert body(store, "replaced") == BIG


@BOTH
@pytest.mark.parametrize("how", ["rule", "xattr", "xattr of an open file", "after it was stored"])
def test_a_copy_expires_with_its_segments(store: MemoryStore, cache: Path, how: str, options: str) -> None:
    their(store, **{"X-Delete-At": str(int(time.time()) + 9 * DAY)})
    rule = ",expire=/=30d" if how == "rule" else ""
    with harness(store, cache, options + rule) as filesystem:
        with opened(filesystem, "/their", "/copy") as (source, target):
            assert append(filesystem, source, target) == len(BIG)
            if how == "xattr of an open file":
                filesystem.setxattr("/copy", "swift.delete_at", b"+30d", 0)
        if how == "after it was stored":
            sync_all(filesystem)
            assert days(store, "copy") is None
        if how in ("xattr", "after it was stored"):
            filesystem.setxattr("/copy", "swift.delete_at", b"+30d", 0)
        sync_all(filesystem)
        assert days(store, "copy") == 30
        if options == LARGE:
            assert days_of_segments(store, "copy") == {30}
        filesystem.removexattr("/copy", "swift.delete_at")
        sync_all(filesystem)
        assert days(store, "copy") is None
        if options == LARGE:
            assert days_of_segments(store, "copy") == {None}
    assert days(store, "their") == 9
    assert body(store, "copy") == BIG


def fill_quota(store: MemoryStore) -> None:
    refuse(store, "put copy put_manifest", QuotaExceeded)


@BOTH
@pytest.mark.parametrize("since", ["before the copy", "before the close"])
def test_a_full_quota(store: MemoryStore, cache: Path, options: str, since: str) -> None:
    """The bytes stay here, as those of a file that was written, and are stored when there is space."""
    their(store)
    with harness(store, cache, options, close_error=ANY_END) as filesystem:
        if since == "before the copy":
            fill_quota(store)
        assert cp(filesystem, "/their", "/copy") == (0 if since == "before the copy" else len(BIG))
        fill_quota(store)
        with pytest.raises(QuotaExceeded) as refused:
            sync_all(filesystem)
        assert errno_of(refused.value) == errno.EDQUOT
        assert [one.state for one in filesystem.waiting()] == ["parked"]
        assert read(filesystem, "/copy") == BIG
    with harness(store, cache, options) as filesystem:
        assert read(filesystem, "/copy") == BIG
        store.hook = None
        filesystem.retry()
        sync_all(filesystem)
    assert body(store, "copy") == BIG
    ten_minutes_later(store, cache)
    assert left(store, "copy") == set()


@BOTH
def test_a_copy_that_a_full_quota_refuses_can_be_deleted(
    store: MemoryStore, cache: Path, options: str
) -> None:
    their(store)
    with harness(store, cache, options, close_error=ANY_END) as filesystem:
        cp(filesystem, "/their", "/copy")
        fill_quota(store)
        with pytest.raises(QuotaExceeded):
            sync_all(filesystem)
        filesystem.unlink("/copy")
        sync_all(filesystem)
        assert filesystem.waiting() == []
    store.hook = None
    ten_minutes_later(store, cache)
    assert keys(store) == ["their"]
    assert segments(store) == set()


OFFLINE = "offline=yes,mtime=listing"


@BOTH
@pytest.mark.parametrize("is_cached", [True, False])
def test_a_copy_while_the_server_is_away(
    store: MemoryStore, cache: Path, options: str, is_cached: bool
) -> None:
    """Cached bytes are copied here; of others the copy fails, as a read does. No request is sent."""
    their(store)
    with harness(store, cache, f"{OFFLINE},{options}") as filesystem:
        listed(filesystem, "/")
        if is_cached:
            read(filesystem, "/their")
    presence = Presence()
    presence.leave("no answer")
    sent = len(store.requests)
    with harness(store, cache, f"{OFFLINE},{options}", presence=presence, close_error=ANY_END) as filesystem:
        if is_cached:
            assert cp(filesystem, "/their", "/copy") == 0
            assert read(filesystem, "/copy") == BIG
        else:
            with pytest.raises(Exception, match="no answer") as failed:
                cp(filesystem, "/their", "/copy")
            assert errno_of(failed.value) == errno.EIO
        assert store.requests[sent:] == []
    with harness(store, cache, f"{OFFLINE},{options}") as filesystem:
        sync_all(filesystem)
    if is_cached:
        assert body(store, "copy") == BIG
    assert body(store, "their") == BIG
