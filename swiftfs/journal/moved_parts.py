"""Large objects whose bytes lie in other objects of a folder that moves: their manifests name the old places.

Other clients store such folders. A manifest moves as it is, so the large object would have lost its bytes.
"""

import errno
import logging
from collections.abc import Iterable
from functools import partial

from swiftfs.attributes import decode_type
from swiftfs.concurrency import Executor
from swiftfs.errors import AccessDenied, BadRequest, NotFound, StoreError, os_error
from swiftfs.journal.moves import MoveItem, Unmoved
from swiftfs.journal.operations import MoveFolder
from swiftfs.namespace.entry import is_marker
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectStore, find_object

log = logging.getLogger(__name__)

MOST_ASKED = 100
"""The most HEADs about objects of other clients before a folder moves in the background. They take about as
long as the COPYs, for which the rename does not wait then."""


class MovedParts:
    """Refuses to move a folder with a large object and its parts; `pool` sends the requests.

    The error is `Unmoved`: EXDEV, with which mv(1) copies the folder, or that of a request.
    """

    def __init__(self, store: ObjectStore, pool: Executor) -> None:
        self._store = store
        self._pool = pool

    def refuse_dlos(self, operation: MoveFolder, items: Iterable[MoveItem]) -> None:
        """Raise `Unmoved` if a DLO moves with its segments.

        A HEAD asks about each object that may be one, before any is copied.
        """
        self._refuse(operation, items, [item for item in items if _may_be_dlo(item)])

    def refuse_slos(
        self, operation: MoveFolder, items: Iterable[MoveItem], *, is_resumed: bool = False
    ) -> None:
        """As `refuse_dlos`, for SLOs: only after its COPY is one of another client known.

        The copies that another process has made tell nothing: with `is_resumed` a HEAD asks about them.
        """
        large = [item for item in items if item.may_share or (is_resumed and _is_foreign(item))]
        self._refuse(operation, items, [item for item in large if item.row is not None and item.row.size])

    def may_move_later(self, operation: MoveFolder, items: Iterable[MoveItem]) -> bool:
        """As `refuse_slos`, before any COPY; return False if too many HEADs would be needed.

        A HEAD asks about each object of another client. One to which a mount gave attributes names its ETag.
        """
        filled = [item for item in items if item.row is not None and item.row.size]
        if sum(map(_is_foreign, filled)) > MOST_ASKED:
            return False
        self._refuse(operation, items, [item for item in filled if _is_foreign(item) or _is_hinted(item)])
        return True

    def _refuse(self, operation: MoveFolder, items: Iterable[MoveItem], large: list[MoveItem]) -> None:
        if not large:
            return
        moving = {item.source for item in items} | {source for source, _ in operation.copies()}
        try:
            found = list(self._pool.map(partial(self._has_parts, moving), large))
        except StoreError as error:
            raise Unmoved(error) from error
        if any(found):
            log.info(
                "%s is not renamed to %s, as %s has bytes in other objects there: only copies can be made",
                operation.source,
                operation.target,
                large[found.index(True)].source,
            )
            raise Unmoved(os_error(errno.EXDEV, operation.target))

    def _has_parts(self, moving: set[ObjectName], item: MoveItem) -> bool:
        """Return whether an object takes bytes from others that are `moving`."""
        name = item.source
        if not item.may_share and (_is_foreign(item) or not _is_hinted(item)):
            info = find_object(self._store, name)
            if info is not None and (prefix := info.dlo_prefix) is not None:
                others = (one for one in moving if one != name and one.container == prefix.container)
                return any(one.key.startswith(prefix.key) for one in others)
            if info is None or not info.is_slo:
                return False
        try:
            return not moving.isdisjoint(self._store.manifest(name).names)
        # Another client has deleted or replaced it, or nobody here may read it.
        except (NotFound, BadRequest, AccessDenied):
            return False


def _is_foreign(item: MoveItem) -> bool:
    """Return whether a listed object may be another client's: it lacks our mode."""
    return item.row is not None and decode_type(item.row.content_type)[1].mode is None


def _is_hinted(item: MoveItem) -> bool:
    """Return whether a listed object has bytes and names the ETag of an SLO: a DLO has none in a listing."""
    row = item.row
    return row is not None and row.size > 0 and decode_type(row.content_type)[1].slo is not None


def _may_be_dlo(item: MoveItem) -> bool:
    """Return whether only a HEAD can tell that an object is no DLO; as `file_entry` decides."""
    row = item.row
    if row is None or row.size or item.marker or is_marker(row):
        return False
    return _is_foreign(item) or decode_type(row.content_type)[1].slo is not None
