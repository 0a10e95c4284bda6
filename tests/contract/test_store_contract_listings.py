"""What every store does with listings and bulk deletions."""

from msgspec.structs import replace

from support.memory_store import MemoryStore
from support.stores import MODE, TEXT, keys_of, md5, new_container, pages_of, put, read
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectStore

pytest_plugins = ["support.store_fixtures"]


def test_delete_many(store: ObjectStore, box: str) -> None:
    other = new_container(store)
    in_memory = isinstance(store, MemoryStore)
    held, missing = (200, 12_000) if in_memory else (20, 100)
    names = [ObjectName(box, f"n/{number}") for number in range(held)] + [ObjectName(other, "o")]
    for name in names:
        store.put(name, b"", TEXT)
    absent = [ObjectName(box, f"absent/{number}") for number in range(missing)]
    gone = [ObjectName("no-such-container", "x")]
    assert store.delete_many([*names[:-1], *absent, *gone, names[-1]]) == {}
    assert store.list_page(box).rows == store.list_page(other).rows == ()
    assert store.delete_many([]) == {}


def test_one_directory_of_a_listing(store: ObjectStore, box: str) -> None:
    keys = ["a", "d", "d/", "d/1", "d/2", "d/sub/3", "d-0", "d.txt", "e//f", "z"]
    for key in keys:
        put(store, box, key)
    page = store.list_page(box, delimiter="/")
    assert (keys_of(page), page.subdirs) == (["a", "d", "d-0", "d.txt", "z"], ("d/", "e/"))
    assert page.last
    page = store.list_page(box, prefix="d/", delimiter="/")
    assert (keys_of(page), page.subdirs) == (["d/", "d/1", "d/2"], ("d/sub/",))
    page = store.list_page(box, prefix="e/", delimiter="/")
    assert (keys_of(page), page.subdirs) == ([], ("e//",))
    assert keys_of(store.list_page(box)) == sorted(keys)
    assert keys_of(store.list_page(box, prefix="d/s")) == ["d/sub/3"]
    assert keys_of(store.list_page(box, marker="d/2")) == ["d/sub/3", "e//f", "z"]
    assert keys_of(store.list_page(box, prefix="absent/")) == []


def test_rows_of_a_listing(store: ObjectStore, box: str) -> None:
    name = ObjectName(box, "o")
    store.put(name, b"hello", replace(TEXT, content_type=MODE))
    (row,) = store.list_page(box).rows
    assert (row.key, row.size, row.hash, row.content_type) == ("o", 5, md5(b"hello"), MODE)
    store.post(name, replace(TEXT, content_type=MODE))
    (again,) = store.list_page(box).rows
    assert again.last_modified > row.last_modified


def test_a_listing_in_pages_of_a_requested_size(store: ObjectStore, box: str) -> None:
    keys = [f"k{number}" for number in range(7)]
    for key in keys:
        put(store, box, key)
    pages = pages_of(lambda marker: store.list_page(box, marker=marker, limit=3))
    assert [keys_of(page) for page in pages] == [keys[:3], keys[3:6], keys[6:]]


def test_the_servers_own_pages(small_store: ObjectStore, small_box: str) -> None:
    keys = [f"{number:02}/{leaf}" for number in range(6) for leaf in "ab"] + ["é\n", "日本"]
    for key in keys:
        put(small_store, small_box, key)
    pages = pages_of(lambda marker: small_store.list_page(small_box, marker=marker))
    assert [key for page in pages for key in keys_of(page)] == keys
    assert [len(page.rows) for page in pages] == [5, 5, 4]
    pages = pages_of(lambda marker: small_store.list_page(small_box, delimiter="/", marker=marker, limit=99))
    assert [subdir for page in pages for subdir in page.subdirs] == [f"{number:02}/" for number in range(6)]
    assert [key for page in pages for key in keys_of(page)] == ["é\n", "日本"]
    assert small_store.limits().listing == 5


def test_full_last_page_is_followed_by_an_empty_one(small_store: ObjectStore, small_box: str) -> None:
    for number in range(5):
        put(small_store, small_box, f"k{number}")
    first = small_store.list_page(small_box)
    assert (len(first.rows), first.last) == (5, False)
    second = small_store.list_page(small_box, marker=first.marker)
    assert (second.rows, second.last) == ((), True)


def test_containers_in_pages(small_store: ObjectStore) -> None:
    made = [f"paged-{number}" for number in range(12)]
    for name in made:
        small_store.create_container(name)
    pages = pages_of(lambda marker: small_store.list_containers(marker=marker))
    listed = [name for page in pages for name in page.subdirs]
    assert set(made) <= set(listed)
    assert listed == sorted(listed)


def test_the_size_of_a_dlo_longer_than_a_page(small_store: ObjectStore, small_box: str) -> None:
    for number in range(12):
        put(small_store, small_box, f"p/{number:02}", b"abc")
    name = ObjectName(small_box, "dlo")
    small_store.put(name, b"", replace(TEXT, preserved_headers={"X-Object-Manifest": f"{small_box}/p/"}))
    assert small_store.head(name).size == 36
    body, info = read(small_store, name)
    assert (body, info.size) == (b"abc" * 12, 36)


def test_deletes_without_bulk(small_store: ObjectStore, small_box: str) -> None:
    names = [put(small_store, small_box, f"n{number}").name for number in range(20)]
    assert small_store.limits().bulk_delete == 0
    assert small_store.delete_many([*names, ObjectName(small_box, "absent")]) == {}
    assert small_store.list_page(small_box).rows == ()
