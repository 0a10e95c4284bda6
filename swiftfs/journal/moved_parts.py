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
        if not item.may_share:
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


def _may_be_dlo(item: MoveItem) -> bool:
    """Return whether only a HEAD can tell that an object is no DLO; as `file_entry` decides."""
    row = item.row
    if row is None or row.size or item.marker or is_marker(row):
        return False
    return _is_foreign(item) or decode_type(row.content_type)[1].slo is not None
