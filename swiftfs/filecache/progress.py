"""How far contents are, for those who watch: nothing here changes anything."""

from collections.abc import Callable

from swiftfs.filecache.block_map import BLOCK, block_range
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.objects import ObjectName

UnderWay = Callable[[str], int]
"""Tells how many bytes of unanswered PUTs are sent to an object, or below a name that ends in a slash."""


def sent_bytes(name: ObjectName, content: CachedFile, under_way: UnderWay) -> int:
    """Return how many bytes of a file on its way to `name` need not be sent any more.

    They are on the network, in segments of the file's own, or in the old object where a large one is changed.
    """
    uploads = content.uploads
    if uploads is None or not uploads.has_begun:
        return under_way(str(name))
    missing = content.changes()
    for placed in (*content.evicted(), *uploads.stored(promised=False)):
        missing.discard(*block_range(placed.start, placed.end))
    size = content.size
    end = block_range(0, size)[1]
    missing.cut(end)
    behind = -size % BLOCK  # bytes of the last block that are not in the file
    there = size - len(missing) * BLOCK + (behind if missing.touches(end - 1, end) else 0)
    return min(size, there + under_way(f"{uploads.prefix}"))
