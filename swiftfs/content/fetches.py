"""The downloads of one content that have not ended."""

from swiftfs.content.saved import Placed


class Fetch:
    """A download; whoever waits for its blocks, `first` to one before `last`, learns its failure.

    A `queued` one has not begun: nobody waits for it in particular, and it may be cancelled. All blocks come
    from one `source`: a segment of the file's own, or with None the origin.
    """

    def __init__(self, first: int, last: int, source: Placed | None, *, queued: bool) -> None:
        self.first = first
        self.last = last
        self.source = source
        self.queued = queued
        self.error: BaseException | None = None


class Fetches:
    """A content's downloads, guarded by the content's lock."""

    def __init__(self) -> None:
        self._under_way: list[Fetch] = []

    def add(self, first: int, last: int, source: Placed | None = None, *, queued: bool = False) -> Fetch:
        """Return a new download of a range of blocks."""
        fetch = Fetch(first, last, source, queued=queued)
        self._under_way.append(fetch)
        return fetch

    def begin(self, fetch: Fetch) -> bool:
        """Take note that a queued download begins; say whether it is still wanted."""
        fetch.queued = False
        return fetch in self._under_way

    def end(self, fetch: Fetch) -> None:
        """Take note that a download has ended."""
        self._under_way.remove(fetch)

    def cancel_queued(self) -> None:
        """Forget the downloads that have not begun."""
        self._under_way = [fetch for fetch in self._under_way if not fetch.queued]

    def touching(self, first: int, last: int) -> list[Fetch]:
        """Return those that bring a block of the range."""
        return [fetch for fetch in self._under_way if fetch.first < last and first < fetch.last]

    def ranges(self) -> list[tuple[int, int]]:
        """Return the blocks that are under way."""
        return [(fetch.first, fetch.last) for fetch in self._under_way]

    def __bool__(self) -> bool:
        return bool(self._under_way)
