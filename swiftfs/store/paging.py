"""Listings of any length: the server answers with pages, which continue after a marker."""

from collections.abc import Callable, Iterator

from swiftfs.errors import Corrupt, NotFound
from swiftfs.objects import ObjectName, Page, Row, VersionRow
from swiftfs.store.protocol import ObjectStore


def iter_pages(
    store: ObjectStore, container: str, prefix: str = "", *, delimiter: str = "", marker: str = ""
) -> Iterator[Page]:
    """Yield the pages of a listing after `marker`, each when it is wanted. Errors are those of `list_page`.

    After an error the next page is the one that failed.
    """
    return _Pages(
        lambda after: store.list_page(container, prefix=prefix, delimiter=delimiter, marker=after), marker
    )


def iter_rows(store: ObjectStore, container: str, prefix: str = "") -> Iterator[Row]:
    """Yield the objects whose keys begin with `prefix`, in bytewise order."""
    for page in iter_pages(store, container, prefix):
        yield from readable_rows(page, container)


def readable_rows(page: Page, container: str) -> tuple[Row, ...]:
    """Return the rows of a page for a decision about their objects; raise `Corrupt` if one is unreadable."""
    if page.unreadable:
        raise Corrupt(f"the listing of {container} has an unreadable row of {page.unreadable[0]!r}")
    return page.rows


def iter_versions(store: ObjectStore, container: str, prefix: str = "") -> Iterator[VersionRow]:
    """Yield all versions of the objects whose keys begin with `prefix`, of each object the newest first."""
    marker, version_marker, last = "", "", False
    while not last:
        page = store.list_versions(container, prefix=prefix, marker=marker, version_marker=version_marker)
        yield from page.rows
        marker, version_marker, last = page.marker, page.version_marker, page.last


def iter_dlo_segments(store: ObjectStore, dlo_prefix: ObjectName) -> Iterator[Row]:
    """Yield the segments of a DLO: the objects whose names begin with its prefix."""
    return iter_rows(store, dlo_prefix.container, dlo_prefix.key)


def dlo_segments(store: ObjectStore, dlo_prefix: ObjectName) -> set[ObjectName]:
    """Return the names of a DLO's segments; none if their container does not exist."""
    try:
        return {ObjectName(dlo_prefix.container, row.key) for row in iter_dlo_segments(store, dlo_prefix)}
    except NotFound:
        return set()


def iter_containers(store: ObjectStore) -> Iterator[str]:
    """Yield the names of the account's containers."""
    for page in iter_container_pages(store):
        yield from page.subdirs


def iter_container_pages(store: ObjectStore) -> Iterator[Page]:
    """Yield the pages of the account's listing: containers are `subdirs`."""
    return _Pages(lambda marker: store.list_containers(marker=marker))


class _Pages(Iterator[Page]):
    """The pages that `request` returns, each after a marker, the first after `start`.

    One that failed is requested again by `next`.
    """

    def __init__(self, request: Callable[[str], Page], start: str = "") -> None:
        self._request = request
        self._start = start
        self._page: Page | None = None

    def __next__(self) -> Page:
        if self._page is not None and self._page.last:
            raise StopIteration
        page = self._page = self._request(self._start if self._page is None else self._page.marker)
        return page
