"""Whether the marker of a removed folder is a file by now, which another client has stored at its name."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import islice, takewhile

from swiftfs.concurrency import Executor
from swiftfs.errors import NotFound, StoreError
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectStore, iter_pages

FEWEST = 4
"""For fewer markers of a container HEADs are sent, in parallel."""

PER_PAGE = 64
"""How many markers are worth a page of a listing: a page of 10,000 names takes a second."""


def made_files(
    store: ObjectStore, pool: Executor, names: Iterable[ObjectName]
) -> Mapping[ObjectName, bool | StoreError]:
    """Return of the markers of folders whether each is a file now, or the error if nobody knows.

    One that is gone is none. Listings of this moment show most markers, as all of a tree is deleted together;
    a HEAD decides about the others.
    """
    # The object `d/` with bytes is in the folder, which was not empty then.
    plain = [name for name in names if not name.key.endswith("/")]
    containers: dict[str, set[str]] = defaultdict(set)
    for name in plain:
        containers[name.container].add(name.key)
    listed = {
        ObjectName(container, key)
        for container, keys in containers.items()
        if len(keys) >= FEWEST
        for key in _listed(store, container, keys)
    }
    asked = [name for name in plain if name not in listed]
    return dict(zip(asked, pool.map(lambda name: is_file(store, name), asked), strict=True))


def is_file(store: ObjectStore, name: ObjectName) -> bool | StoreError:
    """Return whether an object exists and is no folder's marker, by a HEAD; its error if it fails."""
    try:
        return not is_marker(store.head(name)) and not name.key.endswith("/")
    except NotFound:
        return False
    except StoreError as error:
        return error


def _listed(store: ObjectStore, container: str, keys: Collection[str]) -> set[str]:
    """Return which of the keys a listing shows as markers."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(min(keys), max(keys), strict=False))
    pages = iter_pages(store, container, "".join(one for one, _ in pairs))
    found: set[str] = set()
    try:
        for page in islice(pages, 1 + len(keys) // PER_PAGE):
            found |= {row.key for row in page.rows if row.key in keys and is_marker(row)}
            if page.last:
                break
    except StoreError:  # HEADs tell more
        return set()
    return found
