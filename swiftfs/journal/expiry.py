"""When Swift deletes objects: their X-Delete-At, which segments get too.

Swift deletes only the manifest at that time, or only the segments.
"""

import logging
from collections.abc import Collection
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from swiftfs.concurrency import new_pool, unix_time
from swiftfs.errors import NotFound, StoreError
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import Manifest, ObjectName
from swiftfs.store.object_meta import DELETE_AT, ObjectMeta, with_delete_at
from swiftfs.store.protocol import Headers, ObjectStore

log = logging.getLogger(__name__)

PARALLEL = 8
"""Parallel requests about segments."""

NEVER = 2**63
"""Later than every X-Delete-At."""


class SegmentExpiry:
    """Changes when Swift deletes segments.

    INVARIANT: an object never outlives its segments, so `lengthen` comes before the request that changes the
    object, and `follow` after it.
    """

    def __init__(self, store: ObjectStore, removal: SegmentRemoval) -> None:
        self._store = store
        self._removal = removal

    def lengthen(self, segments: Collection[ObjectName], moment: str) -> None:
        """Keep the segments until `moment` at least, for ever if it is empty; raise `StoreError`."""
        with new_pool("expiry", PARALLEL) as pool:
            list(pool.map(partial(self._lengthen, moment), sorted(segments)))

    def _lengthen(self, moment: str, name: ObjectName) -> None:
        with suppress(NotFound):  # whoever stores or reads the object is told
            headers = Headers.of(self._store.head(name))
            if _seconds(headers.preserved_headers.get(DELETE_AT, "")) < _seconds(moment):
                self._post(name, headers, moment)

    def follow(self, name: ObjectName, manifest: Manifest, moment: str) -> None:
        """Let Swift delete the segments of the object at `moment`, too; do nothing if it is empty.

        Their storage would be billed for ever. Segments that other objects may name stay as they are. A
        failure is logged: the object is stored, and `gc` finds what stays. Where a container keeps older
        versions, these do not expire, and have no other segments.
        """
        if not moment:
            return
        try:
            if self._removal.kept.stays({name}, ()):
                return
        except StoreError as error:
            log.warning("%s: its segments stay when Swift deletes it at its X-Delete-At: %s", name, error)
            return
        named = manifest.names
        own = self._removal.owners.owned(name, manifest.etag, named) - self._removal.shared(named)
        with new_pool("expiry", PARALLEL) as pool:
            failed = [one for one in pool.map(partial(self._follow, moment), sorted(own)) if one is not None]
        if failed:
            text = "%s: %d segments stay when Swift deletes it at its X-Delete-At: %s"
            log.warning(text, name, len(failed), failed[0])

    def _follow(self, moment: str, name: ObjectName) -> StoreError | None:
        try:
            headers = Headers.of(self._store.head(name))
            if headers.preserved_headers.get(DELETE_AT) != moment:
                self._post(name, headers, moment)
        except StoreError as error:
            return error
        return None

    def _post(self, name: ObjectName, headers: Headers, moment: str) -> None:
        kept = with_delete_at(headers.preserved_headers, moment)
        self._store.post(name, replace(headers, preserved_headers=kept))


def _seconds(moment: str) -> int:
    """Return an X-Delete-At as a number, `NEVER` for one that is empty or wrong."""
    return int(moment) if moment.isdecimal() else NEVER


def without_past(name: ObjectName, meta: ObjectMeta) -> ObjectMeta:
    """Return the meta without an X-Delete-At that has passed: Swift would refuse to store the file."""
    if _seconds(meta.delete_at) > unix_time():
        return meta
    log.warning("%s: its X-Delete-At passed before it could be stored: it is stored without one", name)
    return meta.with_delete_at("")


def with_rule(meta: ObjectMeta, moment: str) -> ObjectMeta:
    """Return the meta with `moment`, the X-Delete-At of a rule, unless the object has one."""
    return meta if meta.delete_at else meta.with_delete_at(moment)
