"""Folders without an end, names of a KiB, and names of hundreds of folders: bounded memory, and an end."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha512
from itertools import islice
from pathlib import Path

import pytest

from support.memory_store import MemoryStore
from swiftfs.errors import FolderTooLarge, TimedOut
from swiftfs.namespace.entry import Defaults, ForeignTimes
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.listing import Listing, Unlisted, listings_of, parts_of
from swiftfs.namespace.listing_fetcher import LimitedPages, Listings
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import ObjectName, Page, Row
from swiftfs.paths import Folder, Source
from swiftfs.store.protocol import Headers

DEFAULTS = Defaults(0, 0, times=ForeignTimes.LISTING)
TOP = Folder("box", "")
ROWS = 100
SUBDIR = "x" * 300

Make = Callable[[int], str]


def row(key: str, content_type: str = "text/plain;mode=0100644") -> Row:
    return Row(key, 1, "0" * 32, content_type, "2026-01-01T00:00:00.000000")


def page_of(number: int, make: Make, rows: int = ROWS, *, last: bool = False) -> Page:
    """Return the page `number` of a folder whose names `make` makes."""
    listed = tuple(row(make(number * rows + place)) for place in range(rows))
    return Page(listed, (), listed[-1].key, last)


def long_name(number: int) -> str:
    """Return a name of about a KiB that cannot be packed well."""
    return f"{number:08d}" + "".join(sha512(b"%d-%d" % (number, part)).hexdigest() for part in range(7))


class EndlessStore(MemoryStore):
    """A store whose listings have no end."""

    pages = 0

    def list_page(self, _container: str, *, prefix: str = "", **_: object) -> Page:  # type: ignore[override]
        self.pages += 1
        return page_of(self.pages, lambda number: f"{prefix}{number:08d}")

    def list_containers(self, **_: object) -> Page:
        self.pages += 1
        names = tuple(f"{self.pages:08d}-{place:04d}" for place in range(ROWS))
        return Page((), names, names[-1], last=False)


@contextmanager
def namespace_of(store: MemoryStore, source: str = "box") -> Iterator[Namespace]:
    with tempfile.TemporaryDirectory() as cache:
        heads = HeadFetcher(store, HeadCache(Path(cache) / "heads.sqlite"))
        namespace = Namespace(store, heads, Source(source), DEFAULTS, ttl=60, max_entries=10_000)
        try:
            yield namespace
        finally:
            namespace.close()


@pytest.mark.parametrize("source", ["box", "box/prefix", ""])
def test_a_folder_without_an_end(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr("swiftfs.namespace.listing_fetcher.FOLDER_BYTES", 20 * ROWS * (24 + 8))
    monkeypatch.setattr("swiftfs.namespace.folder_lister.ACCOUNT_BYTES", 20 * ROWS * (500 + 8))
    store = EndlessStore("box")
    with namespace_of(store, source) as namespace:
        with pytest.raises(FolderTooLarge):
            list(namespace.children("/"))
        assert store.pages <= 23


def test_a_folder_of_the_largest_size_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefix that all names have does not count, and letters of more bytes count as these."""
    store = MemoryStore("box")
    names = [f"name-{number}-{'한' * 100}" for number in range(8)]
    for name in names:
        store.put(ObjectName("box", f"{SUBDIR}/{name}"), b"", Headers("text/plain"))
    taken = sum(24 + len(name.encode()) for name in names)
    for limit, fits in ((taken, True), (taken - 1, False)):
        monkeypatch.setattr("swiftfs.namespace.listing_fetcher.FOLDER_BYTES", limit)
        pages = [store.list_page("box", prefix=f"{SUBDIR}/", delimiter="/")]
        limited = LimitedPages(Folder("box", f"{SUBDIR}/"), iter(pages))
        if fits:
            assert list(limited) == pages
        else:
            with pytest.raises(FolderTooLarge):
                list(limited)


@dataclass
class SlowPages(Iterator[Page]):
    """Pages of an endless folder that take `seconds` each."""

    clock: list[float]
    seconds: float
    rows: int
    pages: int = 0

    def __next__(self) -> Page:
        self.clock[0] += self.seconds
        self.pages += 1
        return page_of(self.pages, "{:08d}".format, self.rows)


@pytest.mark.usual
@pytest.mark.parametrize(
    ("seconds", "rows", "is_listed"), [(24.0, 1, False), (24.0, 100, False), (24.0, 400, True)]
)
def test_a_folder_whose_pages_come_slowly(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rows: int, is_listed: bool
) -> None:
    """Over a slow line a large folder is listed; a server that sends a name now and then is given up."""
    clock = [0.0]
    monkeypatch.setattr("swiftfs.namespace.listing_fetcher.monotonic", lambda: clock[0])
    slow = SlowPages(clock, seconds, rows)
    pages = LimitedPages(TOP, slow)
    if is_listed:
        assert len(list(islice(pages, 1000))) == 1000
        return
    for _ in range(2):
        with pytest.raises(TimedOut, match="too slow"):
            list(pages)
        asked = slow.pages
    assert slow.pages == asked
    assert clock[0] < 1100


@pytest.mark.usual
def test_huge_listings_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are kept give way to one that is read; two that are read share the memory."""
    listings = Listings(60, 1_000_000)

    def read(folder: str, pages: int) -> Listing:
        listing = Listing(Folder("box", folder), DEFAULTS)
        for number in range(pages):
            page = page_of(number, (folder + "{:08d}").format, last=number == pages - 1)
            listing.add_page(page, is_kept=listings.has_space(listing))
        return listing

    size = read("a/", 20).packed
    for module in ("listing", "listing_fetcher"):
        monkeypatch.setattr(f"swiftfs.namespace.{module}.PACKED_BYTES", 3 * size // 2)
    listings.add(read("a/", 20))
    second = read("b/", 20)
    assert second.complete
    assert listings.get(Folder("box", "a/")) is None
    third = read("c/", 20)
    assert not third.complete
    assert third.packed < size
    del second, third
    assert read("d/", 20).complete


def test_what_is_not_kept_of_a_folder_is_unlisted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftfs.namespace.listing.PACKED_BYTES", 10_000)
    listing, count, shown = Listing(TOP, DEFAULTS), 50, 0
    for number in range(count):
        shown += len(listing.add_page(page_of(number, "{:08d}".format, last=number == count - 1)))
    assert shown == count * ROWS
    assert not listing.complete
    assert listing.get(f"{0:08d}") is not None
    assert listing.get("00000000-none") is None
    for name in (f"{count * ROWS - 1:08d}", "1"):
        with pytest.raises(Unlisted):
            listing.get(name)
    kept = sum(len(chunk) for chunk in listing.chunks())
    assert ROWS < kept < count * ROWS / 2
    assert listing.weight < 10 + kept / 16 + 10_000 / 700


@pytest.mark.parametrize("huge", [False, True])
def test_long_texts_weigh_more(huge: bool) -> None:
    plain, long = Listing(TOP, DEFAULTS), Listing(TOP, DEFAULTS)
    plain.add_page(page_of(0, "a usual name of a file {:08d}".format, 1000, last=not huge))
    assert plain.weight == (1 + 999 // 16 if huge else 1001)
    long.add_page(page_of(0, long_name, 1000, last=not huge))
    assert long.weight > 3 * plain.weight
    types = Listing(TOP, DEFAULTS)
    types.add_page(
        Page(tuple(row(f"{number:04d}", "a/b;x=" + "y" * 8000) for number in range(ROWS)), (), "", True)
    )
    assert types.weight > 10 * ROWS


def test_the_cache_of_listings_is_bounded_in_bytes() -> None:
    listings = Listings(60, 1000)
    for number in range(50):
        listing = Listing(Folder("box", f"{number}/"), DEFAULTS)
        names = f"{number}/{{:08d}}{'é' * 500}"
        listing.add_page(page_of(0, names.format, 50, last=True))
        listings.add(listing)
    kept = [number for number in range(50) if listings.get(Folder("box", f"{number}/"))]
    assert 1 <= len(kept) <= 10
    assert kept[-1] == 49


def test_few_blocks_of_long_names_stay_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftfs.namespace.listing.EXPANDED_BYTES", 200_000)
    listing = Listing(TOP, DEFAULTS)
    for number in range(20):
        listing.add_page(page_of(number, lambda at: f"{at:08d}" + "x" * 900, last=number == 19))
    assert sum(len(chunk) for chunk in listing.chunks()) == 20 * ROWS
    assert 1 <= sum(block.entries is not None for block in listing._blocks) <= 4
    monkeypatch.setattr("swiftfs.namespace.listing.EXPANDED_BYTES", 1)
    assert listing.get(f"{7:08d}" + "x" * 900) is not None
    assert not any(block.entries is not None for block in listing._blocks)


def test_a_page_of_names_of_hundreds_of_folders() -> None:
    deep = page_of(0, lambda at: f"{at:04d}/" + "q/" * 400 + "file", last=True)
    assert listings_of(parts_of(deep, TOP, TOP, ""), DEFAULTS) == {}
    few = page_of(0, lambda at: f"{at:04d}/" + "q/" * 10 + "file", last=True)
    assert len(listings_of(parts_of(few, TOP, TOP, ""), DEFAULTS)) == ROWS * 11
