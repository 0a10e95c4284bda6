"""Finds out by a few listings which of many objects have segments: a HEAD each would cost more."""

from collections import defaultdict
from collections.abc import Collection
from itertools import islice, takewhile

from swiftfs.errors import NotFound, StoreError
from swiftfs.filecache.segment_container import LONGEST_KEY, SegmentContainer, is_segment_of, places_of
from swiftfs.objects import ObjectName, Page
from swiftfs.paths import SEGMENTS_FOLDER, SEGMENTS_SUFFIX
from swiftfs.store.protocol import ObjectStore, iter_pages, readable_rows

FEWEST = 17
"""For fewer objects of a container HEADs are sent, in parallel: listings of its places come one by one."""

PER_PAGE = 64
"""How many objects are worth a page of a listing: a page of 10,000 names takes a second."""


def without_segments(store: ObjectStore, names: Collection[ObjectName], choice: str) -> set[ObjectName]:
    """Return those objects of which no segment exists in the places where other clients and mounts put them.

    `choice` is as in `SegmentContainerChooser`. An object that is not returned may have none either. Segments
    that no listing shows yet are not found.
    """
    found: set[ObjectName] = set()
    containers: dict[str, set[str]] = defaultdict(set)
    for name in names:
        containers[name.container].add(name.key)
    for container, keys in containers.items():
        if len(keys) < FEWEST:
            continue
        left = keys
        for place in places_of(container, choice):
            left = left and left & _plain(store, container, keys, place, choice)
        found |= {ObjectName(container, key) for key in left}
    return found


def _plain(
    store: ObjectStore, container: str, keys: Collection[str], place: SegmentContainer, choice: str
) -> set[str]:
    """Return the keys of those objects that certainly have no segment in a place."""
    pages = iter_pages(store, place.container, place.prefix + _common_prefix(keys))
    plain = set(keys)
    try:
        for page in islice(pages, 1 + len(keys) // PER_PAGE):
            plain -= _owners(page, container, keys, place, choice)
            if page.last:
                return plain
    except NotFound:
        return plain
    except StoreError:
        return set()
    # Beyond the last page nothing is known.
    return {key for key in plain if f"{place.prefix}{key}0" <= page.marker}


def _common_prefix(keys: Collection[str]) -> str:
    pairs = zip(min(keys), max(keys), strict=False)
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _owners(
    page: Page, container: str, keys: Collection[str], place: SegmentContainer, choice: str
) -> set[str]:
    """Return the keys of those objects for which a segment on the page was uploaded."""
    found = set()
    for row in readable_rows(page, place.container):
        segment = ObjectName(place.container, row.key)
        key = row.key[len(place.prefix) :]
        while key := key.rpartition("/")[0]:
            if key in keys and is_segment_of(segment, ObjectName(container, key), choice):
                found.add(key)
    return found


def objects_of(prefix: ObjectName) -> set[ObjectName]:
    """Return the objects to which a prefix of release 0.1, which recorded no objects, may belong."""
    key = prefix.key.rstrip("/").rpartition("/")[0]
    found: set[ObjectName] = set()
    if len(key.encode()) >= LONGEST_KEY - 4:
        return found  # it may be a part of the key only
    if prefix.container.endswith(SEGMENTS_SUFFIX):
        found.add(ObjectName(prefix.container.removesuffix(SEGMENTS_SUFFIX), key))
    if key.startswith(SEGMENTS_FOLDER + "/"):
        found.add(ObjectName(prefix.container, key.removeprefix(SEGMENTS_FOLDER + "/")))
    container, _, rest = key.partition("/")
    if rest:
        found.add(ObjectName(container, rest))
    return found
