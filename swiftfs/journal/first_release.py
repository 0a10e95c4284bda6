"""What release 0.1 did not record of its uploads: of which file a prefix is, and which manifest it had sent.

The first mount of a later release finds a manifest of an upload whose answer a kill has taken. Without that
the file would have no base version any more: the object is the result of its own upload.
"""

import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import replace

from swiftfs.concurrency import unix_time
from swiftfs.errors import StoreError
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.database import Record
from swiftfs.journal.operations import PutFile
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import Manifest
from swiftfs.paths import SEGMENTS_FOLDER

log = logging.getLogger(__name__)


def completed(
    prefixes: Iterable[UnreferencedPrefix], records: Collection[Record], removal: SegmentRemoval
) -> list[UnreferencedPrefix]:
    """Return the prefixes, with the file and the manifest of an upload of 0.1 that had succeeded."""
    puts = [record.operation for record in records if isinstance(record.operation, PutFile)]
    return [one if one.file else _completed(one, puts, removal) for one in prefixes]


def _completed(
    one: UnreferencedPrefix, puts: Iterable[PutFile], removal: SegmentRemoval
) -> UnreferencedPrefix:
    for put in puts:
        if not _may_own(put, one):
            continue
        try:
            manifest = removal.manifest_of(put.name, is_slo=None)
        except StoreError as error:
            log.info("%s: whether its last upload had succeeded is not known: %s", put.name, error)
            return one
        if manifest is not None and _is_result(manifest, one):
            objects, asked = frozenset({put.name}), frozenset({manifest.etag})
            return replace(one, file=put.file.file, objects=objects, asked=asked, since=unix_time())
    return one


def _may_own(put: PutFile, one: UnreferencedPrefix) -> bool:
    """Return whether the prefix may be that of the operation's file.

    If the upload began after the close, the record has no prefix. Then it begins with the object's key.
    """
    if put.file.prefix is not None:
        return put.file.prefix == one.prefix
    key = one.prefix.key.removeprefix(f"{SEGMENTS_FOLDER}/")
    return re.fullmatch(f"{re.escape(put.name.key)}/swiftfs-[0-9a-f]{{32}}/", key) is not None


def _is_result(manifest: Manifest, one: UnreferencedPrefix) -> bool:
    """Return whether the manifest names a segment below the prefix that none had named before the upload."""
    names = (segment.name for segment in manifest.segments if segment.name.container == one.prefix.container)
    new = (name.key for name in names if name.key not in (one.named or ()))
    return any(key.startswith(one.prefix.key) for key in new)
