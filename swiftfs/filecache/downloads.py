"""The downloads of one content that have not ended."""

from collections.abc import Callable, Collection, Iterator

from swiftfs.filecache.block_map import Blocks, StoredSegment
from swiftfs.filecache.read_ahead import ReadAhead


class GivenUp(Exception):
    """Nobody wants the bytes of a download any more."""


class Download:
    """A download; whoever waits for its blocks, `first` to one before `last`, learns its failure.

    A `queued` one has not begun, and may be cancelled. One that runs `ahead` of a stream may be given up
    while it has no `waiters`: `unwanted` says so. `bring` carries it out. All blocks come from one
    `source`: a segment of the file's own, or with None the origin.
    """

    def __init__(
        self,
        first: int,
        last: int,
        bring: "Callable[[Download], None]",
        source: StoredSegment | None = None,
        *,
        queued: bool = False,
        ahead: ReadAhead | None = None,
    ) -> None:
        self.first = first
        self.last = last
        self.bring = bring
        self.source = source
        self.queued = queued
        self.ahead = ahead
        self.waiters = 0
        self.unwanted = False
        self.error: BaseException | None = None

    def refuse_unwanted(self) -> None:
        """Raise `GivenUp` when nobody wants the bytes any more."""
        if self.unwanted:
            raise GivenUp


class Downloads:
    """A content's downloads, guarded by the content's lock."""

    def __init__(self) -> None:
        self._under_way: list[Download] = []

    def add(self, fetch: Download) -> Download:
        """Record a new download and return it."""
        self._under_way.append(fetch)
        return fetch

    def begin(self, fetch: Download) -> bool:
        """Record that a queued download begins; return whether it is still wanted."""
        fetch.queued = False
        return fetch in self._under_way

    def end(self, fetch: Download) -> None:
        """Record that a download has ended."""
        self._under_way.remove(fetch)

    def cancel(self, streams: Collection[ReadAhead] | None = None) -> None:
        """Forget the downloads that have not begun, and give up those that run ahead and nobody waits for.

        With `streams` only what runs ahead of those.
        """
        left = [
            fetch
            for fetch in self._under_way
            if streams is None or any(fetch.ahead is stream for stream in streams)
        ]
        self._under_way = [fetch for fetch in self._under_way if not (fetch.queued and fetch in left)]
        for fetch in left:
            fetch.unwanted = fetch.unwanted or (fetch.ahead is not None and not fetch.waiters)

    def free(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of the range that no download brings."""
        taken = Blocks()
        for fetch in self.touching(first, last):
            taken.add(fetch.first, fetch.last)
        return taken.missing(first, last)

    def touching(self, first: int, last: int) -> list[Download]:
        """Return those that bring a block of the range."""
        return [
            fetch
            for fetch in self._under_way
            if fetch.first < last and first < fetch.last and not fetch.unwanted
        ]

    def ranges(self) -> list[tuple[int, int]]:
        """Return the blocks that are under way."""
        return [(fetch.first, fetch.last) for fetch in self._under_way]

    def __bool__(self) -> bool:
        return bool(self._under_way)
