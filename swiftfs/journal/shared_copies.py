"""Copies of large objects whose source another client changed or deleted before the move had ended.

Both name the same segments, and that client deletes those that it has replaced, now or in a moment.
"""

import errno
import logging
from collections.abc import Iterable

from swiftfs.attributes import decode_type
from swiftfs.errors import NotFound, StoreError
from swiftfs.journal.manifest_copy import ManifestCopier, SegmentChanged
from swiftfs.journal.move_items import MoveItem, NotDeleted
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import ObjectName
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)


class CopyLost(StoreError):
    """A large object was not moved: another client deleted or replaced it first, with its segments.

    There is no copy of it. ESTALE lets the kernel begin the rename again, with the newer version.
    """

    def __init__(self, source: ObjectName, *, is_absent: bool) -> None:
        what = "deleted" if is_absent else "replaced"
        super().__init__(f"{source}: another client {what} it before it was moved")
        self.errno = errno.ENOENT if is_absent else errno.ESTALE


class SharedCopies:
    """Gives such a copy segments of its own, or removes it if it cannot be read any more."""

    def __init__(
        self,
        store: ObjectStore,
        copier: ManifestCopier,
        removal: SegmentRemoval,
        ambiguous: AmbiguousRequests,
    ) -> None:
        self._store = store
        self._copier = copier
        self._removal = removal
        self._ambiguous = ambiguous

    def settle(self, items: Iterable[MoveItem]) -> None:
        """Record whose the segments of moved SLOs are.

        Sources that Swift did not delete, or that a lost PUT may store again, name them too. Copies of
        sources that another client has changed or deleted are separated.
        """
        for item in items:
            if not item.may_share:
                continue
            if item.not_deleted in (NotDeleted.CHANGED, NotDeleted.ABSENT):
                self.separate(item)
            else:
                stays = item.not_deleted is not None or self._ambiguous.may_store(item.source)
                self._removal.record_move(item.source, item.target, item.copied or "", stays=stays)

    def separate(self, item: MoveItem) -> None:
        """Separate the copy of `item` from its source, which another client has changed or deleted.

        If segments of the copy are gone, it is deleted, and `item.error` is what the move fails with. After
        another failure the copy goes on naming the segments of its source, and does not own them. It cannot
        be read any more when the other client has deleted them; a later attempt would mostly be too late, for
        clients do that at once.
        """
        try:
            info = self._store.head(item.target)
            if not info.is_slo or info.version.etag != item.copied:
                return  # it shares nothing, or another client has replaced it
            self._copier.separate(info)
        except (NotFound, SegmentChanged):
            self._delete(item.target, item.copied or "")
            is_absent = item.not_deleted is NotDeleted.ABSENT
            item.error, item.copied = CopyLost(item.source, is_absent=is_absent), None
            log.warning("%s; its copy %s had lost its segments", item.error, item.target)
        except StoreError as error:
            log.warning(
                "%s cannot be separated from %s, which another client may delete with its segments: %s",
                item.target,
                item.source,
                error,
            )
            # Without claims: another mount may have renamed the source, and needs the segments.
            self._removal.share(item.source, item.target)
        else:
            log.info("%s has segments of its own, for another client changed %s", item.target, item.source)
            self._removal.owners.forget(item.target)
            self._removal.owners.record_version(item.source, "")

    def share_copy(self, item: MoveItem) -> None:
        """Keep the segments for a copy that failed or was undone: it may exist, now or later.

        The last answer does not prove that there is none: the answer to an earlier attempt may have been
        lost.
        """
        stored = decode_type(item.row.content_type)[1] if item.row is not None else None
        is_small = stored is not None and stored.mode is not None and stored.slo is None
        if item.is_slo is not False and not is_small:
            self._removal.share(item.source, item.target)

    def share_gone(self, source: ObjectName, target: ObjectName) -> None:
        """Keep the segments of a copy whose source is gone: they are not the copy's own.

        That the process which died has deleted the source is likely, but not proven: another mount may have
        renamed it since, and needs the segments.
        """
        log.info("%s was gone when its interrupted move was taken up: %s owns no segments", source, target)
        self._removal.share(source, target)

    def _delete(self, name: ObjectName, etag: str) -> None:
        """Delete the copy, unless another client has replaced it."""
        try:
            if self._store.head(name).version.etag == etag:
                self._store.delete(name)
        except NotFound:
            pass
        except StoreError as error:
            log.warning("%s cannot be read, and stays: %s", name, error)
        self._removal.owners.forget(name)
