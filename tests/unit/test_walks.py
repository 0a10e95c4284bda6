"""Walks and listings in pages: with any size of pages, folders are as in one listing without pages."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from support.manual_clock import ManualClock
from support.memory_store import MemoryStore
from swiftfs.namespace.entry import Defaults, Entry, ForeignTimes, entries_of
from swiftfs.namespace.folder_lister import BEFORE_SLASH, FIRST_ROWS, WINDOW, WalkDetector
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.listing import Listing, Unlisted, listings_of, parts_of
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import Limits, ObjectName, Page
from swiftfs.paths import Folder, Source, join
from swiftfs.store.protocol import Headers

TTL = 60.0
DEFAULTS = Defaults(0, 0, times=ForeignTimes.LISTING)
FILE, MARKER = "text/plain;mode=0100644", "application/directory"

components = st.text("ab-.0\U0010ffff", max_size=2)
keys = st.lists(components, min_size=1, max_size=4).map("/".join).filter(bool)
objects = st.dictionaries(keys, st.sampled_from([(FILE, b"x"), (FILE, b""), (MARKER, b""), (MARKER, b"x")]))


def store_of(held: dict[str, tuple[str, bytes]], *, page: int = 10_000, is_swift: bool = True) -> MemoryStore:
    """Return a store of these objects whose listings have `page` rows."""
    store = MemoryStore("box", limits=Limits(listing=page, is_swift=is_swift))
    for key, (content_type, body) in held.items():
        store.put(ObjectName("box", key), body, Headers(content_type))
    return store


def folders_of(held: dict[str, tuple[str, bytes]]) -> list[Folder]:
    """Return the root and every folder that the keys imply."""
    prefixes = {key[: end + 1] for key in held for end in range(len(key)) if key[end] == "/"}
    return [Folder("box", prefix) for prefix in ["", *sorted(prefixes)]]


def model(held: dict[str, tuple[str, bytes]], folder: Folder) -> dict[str, Entry]:
    """Return the folder's entries by a listing of one page, but without times of writing."""
    page = store_of(held).list_page("box", prefix=folder.prefix, delimiter="/")
    return timeless(entries_of(folder, page.rows, page.subdirs, DEFAULTS))


def timeless(entries: Iterator[Entry]) -> dict[str, Entry]:
    """Return the entries by name, without what the time of writing decides; assert that no name is twice."""
    found = {}
    for entry in entries:
        assert entry.name not in found
        attributes = replace(entry.attributes, mtime_ns=0)
        found[entry.name] = replace(entry, attributes=attributes, last_modified="")
    return found


@given(objects, st.integers(1, 6), st.booleans())
def test_a_listing_in_pages_is_the_listing(
    held: dict[str, tuple[str, bytes]], page: int, is_swift: bool
) -> None:
    store = store_of(held, page=page, is_swift=is_swift)
    for folder in folders_of(held):
        wanted = model(held, folder)
        listing = Listing(folder, DEFAULTS)
        shown: list[Entry] = []
        while not listing.complete:
            shown += listing.add_page(
                store.list_page("box", prefix=folder.prefix, delimiter="/", marker=listing.end)
            )
            check_names(listing, wanted)
        assert timeless(iter(shown)) == wanted
        assert timeless(listing.entries()) == wanted
        assert listing.marked == (held.get(folder.prefix, ("", b"x"))[1] == b"" and is_folder(held, folder))


def is_folder(held: dict[str, tuple[str, bytes]], folder: Folder) -> bool:
    return held[folder.prefix][0] == MARKER


def check_names(listing: Listing, wanted: dict[str, Entry]) -> None:
    """Assert that all the listing knows of names is true, and if it is complete, that it knows each."""
    for name in [*wanted, "nobody", "", "zzz"]:
        try:
            found = listing.get(name)
        except Unlisted:
            assert not listing.complete
        else:
            assert (found is None) == (name not in wanted)
            assert found is None or timeless(iter([found])) == {name: wanted[name]}


@given(objects, st.integers(1, 6), st.data())
def test_our_changes_lie_over_a_listing_in_pages(
    held: dict[str, tuple[str, bytes]], page: int, data: st.DataObject
) -> None:
    store, folder = store_of(held, page=page), Folder("box", "")
    listing = Listing(folder, DEFAULTS)
    while not listing.complete:
        listing.add_page(store.list_page("box", delimiter="/", marker=listing.end))
    wanted = model(held, folder)
    names = st.sampled_from([*wanted, "new"])
    for name, exists in data.draw(st.lists(st.tuples(names, st.booleans()), max_size=5)):
        entry = Entry(name, ObjectName("box", name), DEFAULTS.file(1, 0, 2)) if exists else None
        listing.update(name, entry)
        wanted.pop(name, None)
        if entry is not None:
            wanted[name] = timeless(iter([entry]))[name]
    assert timeless(listing.entries()) == wanted
    check_names(listing, wanted)


@given(objects, st.integers(1, 8), st.data())
def test_a_flat_page_shows_whole_folders(
    held: dict[str, tuple[str, bytes]], rows: int, data: st.DataObject
) -> None:
    folders = folders_of(held)
    root = data.draw(st.sampled_from(folders))
    below = [folder for folder in folders if folder != root and folder.is_below(root)]
    if not below:
        return
    folder = data.draw(st.sampled_from(below))
    marker = folder.prefix[:-1] + BEFORE_SLASH
    page = store_of(held).list_page("box", prefix=root.prefix, marker=marker, limit=rows)
    listings = listings_of(parts_of(page, folder, root, marker), DEFAULTS)
    for shown, listing in listings.items():
        assert shown.is_below(root)
        assert timeless(listing.entries()) == model(held, shown)
        alone = Listing(shown, DEFAULTS)
        alone.add_page(store_of(held).list_page("box", prefix=shown.prefix, delimiter="/"))
        assert listing.marked == alone.marked
    assert folder in listings or not page.last


@contextmanager
def namespace_of(store: MemoryStore) -> Iterator[Namespace]:
    with tempfile.TemporaryDirectory() as cache:
        details = HeadFetcher(store, HeadCache(Path(cache) / "heads.sqlite"))
        namespace = Namespace(store, details, Source("box"), DEFAULTS, ttl=TTL, max_entries=10_000)
        try:
            yield namespace
        finally:
            namespace.close()


@given(objects, st.integers(2, 8), st.booleans(), st.booleans())
def test_a_walk_shows_every_folder_completely(
    held: dict[str, tuple[str, bytes]], page: int, is_swift: bool, depth_first: bool
) -> None:
    """`find` reads a folder's names before those of its subfolders, others the other way."""
    with namespace_of(store_of(held, page=page, is_swift=is_swift)) as namespace:
        paths, seen = ["/"], 0
        while paths:
            path = paths.pop(-1 if depth_first else 0)
            children = list(namespace.children(path))
            assert timeless(iter(children)) == model(held, Source("box").folder(path))
            paths += [join(path, child.name) for child in children if child.is_directory]
            seen += 1
        assert seen >= len(folders_of(held))


@given(objects, st.integers(1, 5))
def test_lookups_without_a_listing_are_right(held: dict[str, tuple[str, bytes]], page: int) -> None:
    """A folder that is larger than a page is asked name by name."""
    with namespace_of(store_of(held, page=page)) as namespace:
        for folder in ("/", "/a"):
            wanted = model(held, Source("box").folder(folder))
            for name in [*wanted, "nobody"]:
                found = namespace.find(join(folder, name))
                assert (found is None) == (name not in wanted)
                assert found is None or found.attributes.mode == wanted[name].attributes.mode


def folders(*prefixes: str) -> Sequence[Folder]:
    return [Folder("box", prefix) for prefix in prefixes]


def test_two_folders_and_their_parent_are_a_walk() -> None:
    walks = WalkDetector()
    top, first, second = folders("", "a/", "b/")
    assert walks.notice(top) is None
    assert walks.notice(first) is None
    assert walks.notice(second) == (top, FIRST_ROWS)


def test_folders_far_from_each_other_are_no_walk() -> None:
    walks = WalkDetector()
    for folder in folders("a/b/", "c/d/", "e/f/", "g/"):
        assert walks.notice(folder) is None


def test_listings_of_long_ago_are_no_walk(clock: ManualClock) -> None:
    walks = WalkDetector()
    for folder in folders("", "a/", "b/"):
        assert walks.notice(folder) is None
        clock.now += WINDOW + 1


def test_a_walk_ends_when_its_listings_are_not_used() -> None:
    walks = WalkDetector()
    top, *others = folders("", "a/", "b/", "x/", "y/", "z/")
    brought = folders(*[f"c{number}/" for number in range(8)])
    walks.notice(top)
    walks.notice(others[0])
    assert walks.notice(others[1]) == (top, FIRST_ROWS)
    walks.record_page(set(brought), None)
    assert walks.notice(others[2]) is None
    assert walks.notice(others[3]) == (top, FIRST_ROWS)
    walks.record_page(set(brought), None)
    for folder in brought[:2]:
        walks.record_use(folder)
    assert walks.notice(others[4]) == (top, 0)


def test_the_next_page_of_a_walk_is_requested_when_a_quarter_of_the_last_one_is_used() -> None:
    walks = WalkDetector()
    first, second = folders("a/", "b/", "c/", "d/"), folders("p/", "q/")
    x, y, other = folders("x/", "y/", "z/")
    for folder in folders("", "1/", "2/"):
        walks.notice(folder)
    walks.record_page(set(first), x)
    assert [walks.record_use(folder) for folder in (other, *first)] == [None, x, None, None, None]
    walks.record_page(set(second), y)
    # The program still reads the page before.
    assert [walks.record_use(folder) for folder in first] == [None] * 4
    assert walks.notice(other) == (folders("")[0], 0)
    assert walks.record_use(second[0]) == y


def test_a_walk_lists_each_page_once_and_the_next_one_ahead() -> None:
    held = {f"top/{part:03d}/{file}": (FILE, b"x") for part in range(300) for file in range(10)}
    store = store_of(held, page=1000)
    before = len(store.requests)
    with namespace_of(store) as namespace:
        assert len(list(namespace.children("/"))) == 1
        assert len(list(namespace.children("/top"))) == 300
        for part in range(300):
            assert len(list(namespace.children(f"/top/{part:03d}"))) == 10
        asked = store.requests[before:]
    assert len(asked) <= 2 + 1 + 4, asked


class SlowStore(MemoryStore):
    """A store whose listings take five seconds each; `folders` are those that were listed alone."""

    clock: ManualClock

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.folders: list[str] = []

    def list_page(self, container: str, *, prefix: str = "", delimiter: str = "", **options: Any) -> Page:
        self.clock.now += 5
        if delimiter:
            self.folders.append(prefix)
        return super().list_page(container, prefix=prefix, delimiter=delimiter, **options)


def walk(namespace: Namespace) -> set[str]:
    """Do what `find` does in a tree of two floors; return the folders."""
    names = {child.name for child in namespace.children("/top")}
    for name in sorted(names):
        assert namespace.find(f"/top/{name}") is not None
        assert len(list(namespace.children(f"/top/{name}"))) == 10
    return names


def test_a_walk_that_takes_longer_than_ttl_lists_each_folder_once(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlowStore, "clock", clock, raising=False)
    store = SlowStore("box", limits=Limits(listing=100))
    for part, file in product(range(300), range(10)):
        store.put(ObjectName("box", f"top/{part:03d}/{file}"), b"x", Headers(FILE))
    with namespace_of(store) as namespace:
        before = len(store.requests)
        assert len(walk(namespace)) == 300
        assert clock.now > 1000 + 2 * TTL
        assert Counter(store.folders) == {"top/": 4, "top/000/": 1}
        assert len(store.requests) - before <= 5 + 34
        # Others' changes are seen by a walk that begins a `ttl` later, however long the last one took.
        for file in range(10):
            store.put(ObjectName("box", f"top/new/{file}"), b"x", Headers(FILE))
        walk(namespace)
        assert "new" in walk(namespace)
