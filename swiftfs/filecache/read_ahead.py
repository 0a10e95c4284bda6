"""Predicts which bytes the readers of a file will read next."""

from collections.abc import Iterable, Iterator

from swiftfs.concurrency import monotonic
from swiftfs.filecache.block_map import BLOCK

FIRST_PIECE = 1024 * 1024
"""Bytes. Small, so that the first byte comes soon; a smaller file costs one request."""

LAST_PIECE = 16 * 1024 * 1024
"""Bytes. Large enough that the number of requests does not matter, small enough for several at once."""

NEARBY = 1024 * 1024
"""Bytes. The kernel reads ahead with several requests at once: reads so far out of order are sequential."""

REORDERED = 4 * 1024 * 1024
"""Bytes. Programs that read with several threads go back so far within what they read already."""

_NOWHERE = -NEARBY - 1
"""The position of a stream before its first read, which plans nothing: it may be the only one."""

STREAMS = 8
"""Sequential streams of one file at a time; the least recently used one is dropped."""

IDLE_SECONDS = 2.0
"""Seconds without a read after which a stream's downloads are cancelled for the other streams."""


class ReadAhead:
    """Detects sequential reading and plans downloads in a growing window. Not locked.

    `limit` is how many bytes the plan may run ahead of the reader, whose last read ended at `position`; 0
    turns it off. Pieces consist of whole blocks, except at the end of the file.

    A stream `lasts` once it was continued after a read elsewhere: that read was another reader's. `used` is
    the time of its last read, `readers` the number of reads that are being answered.
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
        """Return whether a read at `offset` does not continue the stream."""
        if abs(offset - self.position) <= NEARBY:
            return False
        # Up to where it was planned: a reader with several threads may be ahead of the last answer.
        return not max(self._begin, self.position - REORDERED) <= offset <= self._planned

    def is_idle(self, now: float) -> bool:
        """Return whether nobody has read the stream for a while."""
        return not self.readers and self.used + IDLE_SECONDS < now

    @property
    def runs_ahead(self) -> bool:
        """Whether anything ahead of the reader was planned."""
        return self._planned > self.position

    def stop(self) -> None:
        """Drop the plan; the next read begins a new one."""
        self.lasts, self._stopped = False, True
        self._planned = self.position

    def replan(self) -> None:
        """Plan again what lies ahead of the reader, because some of it was cancelled."""
        self._planned = min(self._planned, self.position - self.position % BLOCK)

    def plan(self, offset: int, end: int, size: int, streams: int = 1) -> Iterator[tuple[int, int]]:
        """Yield the ranges to download now, after a read from `offset` to `end` of a file of `size` bytes.

        The limit is shared by so many `streams`.
        """
        seeks = self._stopped or self.leaves(offset)
        self.position, self._stopped = end, False
        if not self._limit:
            return
        # The first read of a stream plans nothing: it may be a random one.
        if seeks:
            self._begin = self._planned = offset - offset % BLOCK
            self._read = end - offset
            return
        self._read += end - offset
        # It grows with what the stream has read, so that a short read costs little.
        window = min(max(FIRST_PIECE, 4 * (self._read - BLOCK)), self._limit // streams)
        half = window // 2
        piece = min(max(FIRST_PIECE, half - half % BLOCK), LAST_PIECE)
        # Whole pieces: one request for each block that was read would be far too many.
        while self._planned < size and min(self._planned + min(piece, half), size) <= offset + window:
            stop = min(self._planned + piece, size)
            yield self._planned, stop
            self._planned = stop


class Streams:
    """The sequential streams of one file, the most recently used one last. Not locked.

    A read joins the stream that it continues, from whatever handle or thread it comes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._streams = [ReadAhead(limit)]

    def join(self, offset: int) -> tuple[ReadAhead, list[ReadAhead]]:
        """Return the stream of a read at `offset`, and the streams whose downloads are to be cancelled.

        Call `ended` when the read is answered.
        """
        now = monotonic()
        near = [stream for stream in self._streams if not stream.leaves(offset)]
        if near:
            stream = min(near, key=lambda one: abs(offset - one.position))
            # Another stream was read in between, and this one continues: so there are two readers, not one
            # that jumps.
            stream.lasts = stream.lasts or stream is not self._streams[-1]
            self._streams.remove(stream)
            left = [one for one in self._streams if one.is_idle(now)]
        else:
            stream = ReadAhead(self._limit, _NOWHERE)
            # A jump: the reader of a stream that was never continued is probably the one that has jumped.
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
        """Return the ranges to download now; see `ReadAhead.plan`."""
        others = sum(one.runs_ahead for one in self._streams if one is not stream)
        return stream.plan(offset, end, size, 1 + others)

    def forget(self) -> None:
        """Drop all streams, because downloaded blocks were wrong."""
        self._streams = [ReadAhead(self._limit)]

    @property
    def position(self) -> int:
        """Where the last read ended."""
        return self._streams[-1].position

    def needed(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges ahead of the readers that the limit allows."""
        last = self._streams[-1]
        streams = [stream for stream in self._streams if stream is last or stream.runs_ahead]
        for stream in streams:
            yield stream.position, stream.position + self._limit // len(streams)

    def _replan(self) -> None:
        """Let each stream plan again what lies ahead of it: a stopped stream may have downloaded that."""
        for stream in self._streams:
            stream.replan()
