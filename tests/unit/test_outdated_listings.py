"""A listing that is requested before its folder is invalidated, and answered after it, is not used."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.deadlines import within
from support.harness import harness
from support.memory_store import MemoryStore
from swiftfs.namespace.entry import Defaults
from swiftfs.namespace.listing import Listing
from swiftfs.objects import ObjectName, Page
from swiftfs.paths import Folder
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.protocol import Headers

OWN_TYPE = "text/plain;mtime=1700000000.000000001;mode=0100640;uid=0;gid=0"


def store_file(store: MemoryStore, data: bytes) -> None:
    store.put(ObjectName("box", "file"), data, Headers(OWN_TYPE))


class StoreWithOutdatedAnswer(MemoryStore):
    """A store in which a file is replaced, and `filesystem` invalidated, between a listing and its answer."""

    filesystem: FileSystem | None = None
    refreshed = "/"

    def list_page(self, container: str, **how: Any) -> Page:
        page = super().list_page(container, **how)
        if (filesystem := self.filesystem) is not None:
            self.filesystem = None
            store_file(self, b"newer")
            filesystem.setxattr(self.refreshed, "swift.refresh", b"1", 0)
        return page


@pytest.mark.parametrize("refreshed", ["/", "/file"])
def test_the_next_lookup_lists_again(tmp_path: Path, refreshed: str) -> None:
    store = StoreWithOutdatedAnswer("box")
    store_file(store, b"old")
    with harness(store, tmp_path) as filesystem:
        store.filesystem, store.refreshed = filesystem, refreshed
        filesystem.getattr("/file")
        assert filesystem.getattr("/file").size == 5


def test_a_lookup_does_not_join_a_listing_that_is_older_than_a_change(tmp_path: Path) -> None:
    is_watched, is_listed, goes_on = threading.Event(), threading.Event(), threading.Event()

    class PausedStore(MemoryStore):
        def list_page(self, container: str, **how: Any) -> Page:
            page = super().list_page(container, **how)
            if is_watched.is_set() and not is_listed.is_set():
                is_listed.set()
                assert goes_on.wait(within(20))
            return page

    store = PausedStore("box")
    store_file(store, b"old")
    with ThreadPoolExecutor(1) as pool, harness(store, tmp_path) as filesystem:
        is_watched.set()
        early = pool.submit(filesystem.getattr, "/file")
        assert is_listed.wait(within(20))
        store_file(store, b"newer")
        filesystem.setxattr("/", "swift.refresh", b"1", 0)
        assert filesystem.getattr("/file").size == 5
        goes_on.set()
        assert early.result(within(20)).size == 3
        assert filesystem.getattr("/file").size == 5
        assert sum(method == "list_page" for method, _ in store.requests) == 2


def test_a_listing_took_as_long_as_its_answers() -> None:
    listing = Listing(Folder("box", ""), Defaults(0, 0))
    listing.add_page(Page((), (), "a", last=False, seconds=1.5))
    listing.add_page(Page((), (), "", last=True, seconds=0.5))
    assert listing.seconds == 2.0
