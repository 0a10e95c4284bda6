"""The progress of uploads, for status and metrics. It only reads."""

from collections.abc import Callable

from swiftfs.filecache.block_map import BLOCK, block_range
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.objects import ObjectName

UnderWay = Callable[[str], int]
"""Returns how many bytes of PUTs without an answer are sent to an object, or below a name that ends in a
slash."""


def sent_bytes(name: ObjectName, cached_file: CachedFile, under_way: UnderWay) -> int:
    """Return how many bytes of a file that is uploaded as `name` need not be sent any more.

    They are on the network, in segments of the file's own, or in the old object that a patch keeps.
    """
    uploads = cached_file.uploads
    if not uploads.record.has_begun:
        return under_way(str(name))
    missing = cached_file.changes()
    for stored in (*cached_file.evicted(), *uploads.stored(protected=False)):
        missing.discard(*block_range(stored.start, stored.end))
    size = cached_file.size
    end = block_range(0, size)[1]
    missing.cut(end)
    behind = -size % BLOCK  # bytes of the last block behind the file's end
    there = size - len(missing) * BLOCK + (behind if missing.touches(end - 1, end) else 0)
    return min(size, there + under_way(f"{uploads.record.prefix}"))
