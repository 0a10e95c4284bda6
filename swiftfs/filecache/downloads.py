"""The downloads of one cached file that have not ended."""

from collections.abc import Callable, Collection, Iterator

from swiftfs.filecache.block_map import StoredSegment
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.read_ahead import Stream


class GivenUp(Exception):
    """Nobody wants the bytes of a download any more."""


class Download:
    """A download of the blocks from `first` to one before `last`; `error` is raised in all who wait for them.

    A `queued` download has not begun and may be cancelled. One that runs `ahead` of a stream may be stopped
    while nobody is `waiting` for one of its blocks; it is `unwanted` then. `execute` carries it out. All
    blocks come from one `source`: a segment of the file's own, or the base version if it is None.
    """

    def __init__(
        self,
        first: int,
        last: int,
        execute: "Callable[[Download], None]",
        source: StoredSegment | None = None,
        *,
        queued: bool = False,
        ahead: Stream | None = None,
    ) -> None:
        self.first = first
        self.last = last
        self.execute = execute
        self.source = source
        self.queued = queued
        self.ahead = ahead
        self.waiting: list[int] = []
        self.unwanted = False
        self.error: BaseException | None = None

    def is_awaited(self, first: int, last: int) -> bool:
        """Return whether anybody waits for a block of the range."""
        return any(first <= block < last for block in self.waiting)

    def refuse_unwanted(self) -> None:
        """Raise `GivenUp` if nobody wants the bytes any more."""
        if self.unwanted:
            raise GivenUp


class Downloads:
    """The downloads of one file that have not ended. Guarded by the file's lock."""

    def __init__(self) -> None:
        self._under_way: list[Download] = []

    def add(self, fetch: Download) -> Download:
        """Record a new download and return it."""
        self._under_way.append(fetch)
        return fetch

    def begin(self, fetch: Download) -> bool:
        """Record that a queued download begins; return False if it was cancelled, or has begun."""
        # Neither can take it out of the pool, where it waits for a thread.
        is_wanted = fetch.queued and fetch in self._under_way
        fetch.queued = False
        return is_wanted

    def end(self, fetch: Download) -> None:
        """Record that a download has ended."""
        self._under_way.remove(fetch)

    def cancel(self, streams: Collection[Stream] | None = None) -> None:
        """Cancel the downloads that have not begun, and stop those that run ahead and nobody waits for.

        With `streams` only those that run ahead of them.
        """
        left = [
            fetch
            for fetch in self._under_way
            if streams is None or any(fetch.ahead is stream for stream in streams)
        ]
        self._under_way = [fetch for fetch in self._under_way if not (fetch.queued and fetch in left)]
        for fetch in left:
            fetch.unwanted = fetch.unwanted or (fetch.ahead is not None and not fetch.waiting)

    def free(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that nobody downloads."""
        taken = Blocks()
        for fetch in self.touching(first, last):
            taken.add(fetch.first, fetch.last)
        return taken.missing(first, last)

    def covers(self, first: int, last: int) -> bool:
        """Return whether every block of the range is being downloaded."""
        return not any(True for _ in self.free(first, last))

    def touching(self, first: int, last: int) -> list[Download]:
        """Return the downloads that have a block of the range."""
        return [
            fetch
            for fetch in self._under_way
            # An unwanted one still runs, but gives up at its next bytes: whoever needs them begins another.
            if fetch.first < last and first < fetch.last and not fetch.unwanted
        ]

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of blocks that are being downloaded."""
        return [(fetch.first, fetch.last) for fetch in self._under_way]

    def __bool__(self) -> bool:
        return bool(self._under_way)
