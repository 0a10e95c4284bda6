"""Which bytes the readers of a file will want next."""

from collections.abc import Iterable, Iterator

from swiftfs.concurrency import monotonic
from swiftfs.filecache.block_map import BLOCK

FIRST_PIECE = 1024 * 1024
"""Small, so that the first byte comes soon; a file below it costs one request."""

LAST_PIECE = 16 * 1024 * 1024
"""Large enough that the requests of a big file do not count, small enough for several at once."""

NEARBY = 1024 * 1024
"""The kernel's own read-ahead sends requests side by side: this much out of order is still sequential."""

REORDERED = 4 * 1024 * 1024
"""Programs that read with several threads are so far out of order, in what they are reading already."""

_NOWHERE = -NEARBY - 1
"""Where a stream is that nobody has read: its first read plans nothing, for it may be the only one."""

STREAMS = 8
"""Places of one file that are read in sequence at the same time; the least recently used one is dropped."""

IDLE_SECONDS = 2.0
"""After so long without a read, what runs ahead of a stream makes way for the other streams."""


class ReadAhead:
    """Detects sequential reading and plans downloads in a growing window. Not locked.

    `limit` is how far, in bytes, the plan may run ahead of the reader, whose last read ended at `position`;
    with 0 there is none. Pieces begin and end with whole blocks, but for the last one of a file.

    A stream `lasts` once it was continued after a read elsewhere: such a read is another reader's then.
    `used` is when it was last read, `readers` how many reads of it are answered at this moment.
    """

    def __init__(self, limit: int, position: int = 0) -> None:
        self._limit = limit
        self.position = position
        self.lasts = False
        self.used = 0.0
        self.readers = 0
        self._begin = 0
        self._planned = 0
        self._read = 0
        self._stopped = False

    def leaves(self, offset: int) -> bool:
        """Return whether a read at `offset` is elsewhere than where the reader was."""
        if abs(offset - self.position) <= NEARBY:
            return False
        return not max(self._begin, self.position - REORDERED) <= offset <= self._planned

    def is_idle(self, now: float) -> bool:
        """Return whether nobody has read it for a while."""
        return not self.readers and self.used + IDLE_SECONDS < now

    @property
    def runs_ahead(self) -> bool:
        """Return whether anything was planned beyond the reader."""
        return self._planned > self.position

    def stop(self) -> None:
        """Begin anew at the next read: what was planned is given up."""
        self.lasts, self._stopped = False, True
        self._planned = self.position

    def replan(self) -> None:
        """Plan again what lies before the reader: some of it was given up."""
        self._planned = min(self._planned, self.position - self.position % BLOCK)

    def plan(self, offset: int, end: int, size: int, streams: int = 1) -> Iterator[tuple[int, int]]:
        """Yield the ranges to begin to download now, given a read of `offset` to `end` in `size` bytes.

        The limit is shared by so many `streams`.
        """
        seeks = self._stopped or self.leaves(offset)
        self.position, self._stopped = end, False
        if not self._limit:
            return
        if seeks:
            self._begin = self._planned = offset - offset % BLOCK
            self._read = end - offset
            return
        self._read += end - offset
        window = min(max(FIRST_PIECE, 4 * (self._read - BLOCK)), self._limit // streams)
        half = window // 2
        piece = min(max(FIRST_PIECE, half - half % BLOCK), LAST_PIECE)
        # Whole pieces: whoever asks as soon as a block is read asks for far too little, far too often.
        while self._planned < size and min(self._planned + min(piece, half), size) <= offset + window:
            stop = min(self._planned + piece, size)
            yield self._planned, stop
            self._planned = stop


class Streams:
    """The places at which one file is read in sequence, the most recently used one last. Not locked.

    A read joins the stream that it continues, whatever handle or thread it comes by.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._streams = [ReadAhead(limit)]

    def join(self, offset: int) -> tuple[ReadAhead, list[ReadAhead]]:
        """Return the stream of a read at `offset`, and those whose downloads nobody wants any more.

        The read lasts until `ended` is told of it.
        """
        now = monotonic()
        near = [stream for stream in self._streams if not stream.leaves(offset)]
        if near:
            stream = min(near, key=lambda one: abs(offset - one.position))
            stream.lasts = stream.lasts or stream is not self._streams[-1]
            self._streams.remove(stream)
            left = [one for one in self._streams if one.is_idle(now)]
        else:
            stream = ReadAhead(self._limit, _NOWHERE)
            left = [one for one in self._streams if not one.lasts or one.is_idle(now)]
            left.extend(one for one in self._streams[: -STREAMS + 1] if one not in left)
            self._streams = self._streams[-STREAMS + 1 :]
        stream.readers += 1
        self._streams.append(stream)
        left = [one for one in left if one.runs_ahead]
        for one in left:
            one.stop()
        if left:
            self._replan()
        return stream, left

    def ended(self, stream: ReadAhead) -> None:
        """Record that a read is answered."""
        stream.readers -= 1
        stream.used = monotonic()

    def plan(self, stream: ReadAhead, offset: int, end: int, size: int) -> Iterable[tuple[int, int]]:
        """Return what to begin to download now; see `ReadAhead.plan`."""
        others = sum(one.runs_ahead for one in self._streams if one is not stream)
        return stream.plan(offset, end, size, 1 + others)

    def forget(self) -> None:
        """Begin anew: blocks that had come were wrong."""
        self._streams = [ReadAhead(self._limit)]

    @property
    def position(self) -> int:
        """Where the last read ended."""
        return self._streams[-1].position

    def needed(self) -> Iterator[tuple[int, int]]:
        """Yield the bytes before each reader that the limit lets it have in advance."""
        last = self._streams[-1]
        streams = [stream for stream in self._streams if stream is last or stream.runs_ahead]
        for stream in streams:
            yield stream.position, stream.position + self._limit // len(streams)

    def _replan(self) -> None:
        """Let each stream plan again what lies before it: a stream that was stopped may have had it."""
        for stream in self._streams:
            stream.replan()
