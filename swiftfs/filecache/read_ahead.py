"""Predicts which bytes the readers of a file will read next."""

import math
from collections.abc import Callable, Iterator

from swiftfs.concurrency import monotonic
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.grid import Grid

FIRST_PIECE = 1024 * 1024
"""Bytes. Small, so that the first byte comes soon; a smaller file costs one request."""

LAST_PIECE = 8 * 1024 * 1024
"""Bytes. Large enough that the number of requests does not matter. Small enough that a window has a piece for
each connection: many servers limit the rate of a connection."""

MARGIN = 1.5
"""A piece is requested so many times earlier than it takes to come: pieces come irregularly."""

LEAST_SECONDS = 0.02
"""Pieces are as large as if each took so long at least: requests cost money, also where they are fast."""

SHARE = 16
"""The smallest pieces are this part of what was read: so few requests come far, at any pace."""

GROWTH = 4
"""How many times the bytes that were read are downloaded ahead at most: a reader that stops wastes them."""

GROWTH_FROM_BEGINNING = 64
"""The same for a reader that began at the file's beginning: most of these read all. Over a long way all
connections must be busy soon, because each of them is slow at first (TCP)."""

HEADER = 512 * 1024
"""Bytes at the beginning that do not count in that: many programs look at headers, and the kernel reads 128
KiB further than they do."""

HEADER_ROUND_TRIPS = 3
HEADER_SECONDS = 0.1
"""They do count for a program that would wait longer than both for the rest of them, if it does not read in
small steps: on a connection that begins slowly that wait costs more than what may be wasted."""

READS_ON = 2 * FIRST_PIECE
"""A reader that has come so far is no reader of a header. The next file's is probably none, too."""

REORDERED = 2 * 1024 * 1024
"""Bytes. The kernel, and programs with several threads, read so far out of order."""

STREAMS = 8
"""Sequential streams of one file at a time; the least recently used one is dropped."""

IDLE_SECONDS = 2.0
"""Seconds without a read after which a stream's downloads are cancelled for the other streams."""


class Pace:
    """How fast a reader takes bytes that are here: only the time between its reads counts. Not locked.

    `under_way` is the number of reads that are being answered; the last one has `begun` at that time.
    """

    def __init__(self) -> None:
        self.under_way = 0
        self.seconds = 0.0
        self._bytes = 0
        self._since: float | None = None
        self.begun = 0.0

    def begin_read(self, now: float) -> None:
        """Record that a read begins."""
        if not self.under_way and self._since is not None:
            self.seconds += now - self._since
        self.under_way += 1
        self.begun = now

    def end_read(self, now: float) -> float:
        """Record that a read is answered; return how long the last one has taken."""
        self.under_way -= 1
        self._since = now
        return now - self.begun

    def is_idle(self, now: float) -> bool:
        """Return whether nobody has read for a while."""
        return not self.under_way and self._since is not None and self._since + IDLE_SECONDS < now

    def advance(self, size: int) -> None:
        """Record that the reader has got so many bytes further."""
        self._bytes += size

    def bytes_in(self, seconds: float) -> float:
        """Return how much the reader takes in so many seconds, infinity if it does nothing but read."""
        return seconds * self._bytes / self.seconds if self.seconds else math.inf

    def begin_as(self, other: "Pace") -> None:
        """Begin with what was measured of another reader."""
        self.seconds, self._bytes = other.seconds, other._bytes

    def age(self) -> None:
        """Let what comes count more than what was: a reader may pause."""
        self._bytes //= 2
        self.seconds /= 2


class Stream:
    """One sequential reading of a file, forwards or backwards in steps. Not locked.

    It has read from `begin` up to `position`, backwards from `top` down to `begin`. It requests a piece so
    early that it comes before the reader does, by what was measured of both. `limit`, which may be changed,
    is how many bytes the plan may run ahead of the reader; 0 turns it off. Pieces consist of whole blocks,
    except at the end of the file.

    A stream `lasts` once it was continued after a read elsewhere: that read was another reader's.
    """

    def __init__(self, limit: int, offset: int, before: "Stream | None" = None) -> None:
        self.limit = limit
        self.begin = self.position = offset
        self.lasts = False
        self.pace = Pace()
        self._planned = _whole_blocks(offset)
        self._low = self._planned if before is None else _whole_blocks(before.begin)
        self._top: int = offset if before is None else before._top
        self._steps_back: int = 0 if before is None else before._steps_back + 1
        self._is_first = True
        self._has_large_steps = False
        self._header = HEADER
        self._head_start = 0
        self._reads_on_at = READS_ON
        self._since = monotonic()

    @property
    def is_backward(self) -> bool:
        """Whether it reads backwards: one step back may be a jump."""
        return self._steps_back > 1

    @property
    def extent(self) -> int:
        """How many bytes it has read."""
        return (self._top if self.is_backward else self.position) - self.begin

    @property
    def runs_ahead(self) -> bool:
        """Whether anything ahead of the reader was planned."""
        return self._low < self.begin if self.is_backward else self._planned > self.position

    def distance(self, offset: int) -> int | None:
        """Return how far a read at `offset` is from the next one, None if it does not continue the stream."""
        # The more it has read, the less is a read nearby chance; who begins at the beginning reads on.
        slack = min(2 * BLOCK + self.extent, REORDERED) if self.begin else REORDERED
        if self.is_backward:
            return self.begin - offset if self._low - slack <= offset < self.begin else None
        first = max(self.begin, self.position - slack)
        is_near = first <= offset <= max(self._planned, self.position) + slack
        return abs(offset - self.position) if is_near else None

    def is_jump(self, offset: int, size: int) -> bool:
        """Return whether it begins at `offset`, by no step back, and neither at the beginning nor the end."""
        begins = self._is_first and not self._steps_back
        return begins and FIRST_PIECE <= offset < size - FIRST_PIECE

    def is_step_back(self, offset: int) -> bool:
        """Return whether a read at `offset` may be the next one of a reader that goes backwards."""
        # Who has read further than a step goes forwards: a thread has come late with what lies before.
        return 0 < self.begin - offset <= REORDERED and (self.is_backward or self.extent <= REORDERED)

    def meets(self, other: "Stream") -> bool:
        """Return whether it has come to where another thread of the same program has begun to read."""
        # Of two that were not read at the same time one reads the same bytes again.
        is_beside = self.pace.begun > other._since and other.pace.begun > self._since
        is_forward = not self.is_backward and not other.is_backward
        return is_beside and is_forward and self.begin < other.begin <= self.position

    def absorb(self, other: "Stream") -> None:
        """Go on where both are, having read what both have."""
        self.begin, self.position = min(self.begin, other.begin), max(self.position, other.position)
        self._planned = max(self._planned, other._planned)
        self.lasts = self.lasts or other.lasts

    def is_left_for(self, other: "Stream") -> bool:
        """Return whether the reader has probably jumped, and reads the `other` stream now."""
        return not (self.lasts or self.pace.under_way) and other.extent >= FIRST_PIECE

    def stop(self) -> None:
        """Drop the plan; the next read begins a new one."""
        self.lasts = False
        self.replan()

    def replan(self) -> None:
        """Plan again what lies ahead of the reader, because some of it was cancelled."""
        self._planned = min(self._planned, _whole_blocks(self.position))
        self._low = max(self._low, _whole_blocks(self.begin))

    def ahead(self, size: int) -> tuple[int, int]:
        """Return the range of `size` bytes that is read next."""
        if self.is_backward:
            return max(0, self.begin - size), self.begin
        return self.position, self.position + size

    def plan(
        self, offset: int, end: int, size: int, link: "Link", streams: int = 1
    ) -> Iterator[tuple[int, int]]:
        """Yield the ranges to download now, for a read from `offset` to `end` of a file of `size` bytes.

        The limit is shared by so many `streams`.
        """
        begin, extent, is_first = self.begin, self.extent, self._is_first
        if self._comes_slowly(link):
            self._header = 0
        if is_first:  # of a program that reads less at a time the kernel asks for less
            self._has_large_steps = end - offset >= BLOCK
            if not offset and size > FIRST_PIECE:
                self._follow_last(link, size)
        self.begin, self.position, self._is_first = min(begin, offset), max(self.position, end), False
        if not self.limit:
            # A plan that a later limit allows begins behind what was read.
            self._planned = max(self._planned, _whole_blocks(self.position))
            self._low = min(self._low, _whole_blocks(self.begin))
            return
        self.pace.advance(self.extent - extent)
        limit = self.limit // streams
        lead = self._lead(link)
        largest = min(max(self._smallest, lead), LAST_PIECE, limit // 2)
        if self.is_backward:
            if offset < begin or is_first:
                yield from self._plan_backwards(offset, lead, limit, largest)
        elif is_first:
            yield from self._plan_first(offset, size, self._piece(0, largest))
            if self._head_start:
                yield from self._plan_forwards(offset, size, lead, limit, largest)
        else:
            yield from self._plan_forwards(offset, size, lead, limit, largest)

    @property
    def _smallest(self) -> int:
        return max(FIRST_PIECE, self.extent // SHARE)

    def _follow_last(self, link: "Link", size: int) -> None:
        """Expect this reader to read on if the last one of another file has done so."""
        last, link.last = link.last, self
        self._reads_on_at = min(size, READS_ON)
        # Another kind of program if it reads in other steps.
        is_alike = last is not None and last._has_large_steps == self._has_large_steps
        if last is not None and is_alike and last.extent >= last._reads_on_at:
            self._head_start = LAST_PIECE // 2
            self.pace.begin_as(last.pace)

    def _comes_slowly(self, link: "Link") -> bool:
        """Return whether the reader would have to wait long for the rest of a header."""
        if self.begin or not self._has_large_steps:
            return False
        seconds = monotonic() - self._since - link.latency - self.pace.seconds
        # Without what the kernel has requested, and not got.
        came = self.position - BLOCK * (self.pace.under_way - 1)
        rest = seconds * (HEADER - came) / came if came > 0 else 0.0
        return rest > max(HEADER_ROUND_TRIPS * link.latency, HEADER_SECONDS)

    def _lead(self, link: "Link") -> int:
        """Return how many bytes ahead of the reader the next piece is requested."""
        seconds = max(link.piece_seconds, LEAST_SECONDS)
        # No reader gets further in that time than the rate allows, however fast it is.
        taken = min(self.pace.bytes_in(seconds), link.rate() * seconds)
        return max(self._smallest // 2, int(min(self._most_ahead(), MARGIN * taken)))

    def _most_ahead(self) -> float:
        """Return how many bytes ahead of the reader are justified by what it has read."""
        if self.begin:
            return GROWTH * self.extent if self.extent > FIRST_PIECE else 0
        return max(self._head_start, GROWTH_FROM_BEGINNING * (self.extent - self._header))

    def _plan_first(self, offset: int, size: int, piece: int) -> Iterator[tuple[int, int]]:
        """Yield what the first read needs more: nothing for one in the middle, which may be a random one."""
        if offset < FIRST_PIECE:
            self.begin = 0
            start, stop = 0, min(piece, size)
        elif size - offset <= FIRST_PIECE:  # an index at the end is read to the end
            start, stop = self._planned, size
        else:
            return
        self._planned = stop
        yield start, stop

    def _plan_forwards(
        self, offset: int, size: int, lead: int, limit: int, largest: int
    ) -> Iterator[tuple[int, int]]:
        # Whole pieces: one request for each block that was read would be far too many.
        while self._planned < size and self._planned <= offset + lead:
            stop = min(self._planned + self._piece(self._planned - self.begin, largest), size)
            if stop > offset + limit:
                return
            self.pace.age()
            start, self._planned = self._planned, stop
            yield start, stop

    def _plan_backwards(self, offset: int, lead: int, limit: int, largest: int) -> Iterator[tuple[int, int]]:
        if offset < self._low:
            stop, self._low = self._low, _whole_blocks(offset)
            yield self._low, stop
        while self._low > 0 and self._low >= offset - lead:
            start = max(0, self._low - self._piece(self._top - self._low, largest))
            if start < offset - limit:
                return
            self.pace.age()
            stop, self._low = self._low, start
            yield start, stop

    def _piece(self, planned: int, largest: int) -> int:
        """Return the size of the next piece: as much as was planned before, so that few pieces come far."""
        return max(BLOCK, _whole_blocks(min(max(FIRST_PIECE, planned), largest)))


def _whole_blocks(size: int) -> int:
    return size - size % BLOCK


class Link:
    """What was measured of the way to the server, for all files. Not locked: each call is one step.

    `rate` returns how many bytes a second may come.
    """

    def __init__(self, rate: Callable[[], float] = lambda: math.inf) -> None:
        self.rate = rate
        self.latency = 0.0
        """How long the first bytes of the last downloads took; 0 if unknown."""
        self.piece_seconds = 0.0
        """How long the last downloads ahead took, from the request to the last byte; 0 if unknown."""
        self.last: Stream | None = None
        """The last stream that began at the beginning of a file of more than one piece."""

    def waited(self, seconds: float) -> None:
        """Record how long a read has waited: the first piece takes so long at least."""
        self.piece_seconds = self.piece_seconds or seconds

    def answered(self, seconds: float) -> None:
        """Record how long the first bytes of a download have taken."""
        self.latency = _averaged(self.latency, seconds)

    def came(self, seconds: float) -> None:
        """Record how long a download ahead has taken."""
        self.piece_seconds = _averaged(self.piece_seconds, seconds)


def _averaged(before: float, seconds: float) -> float:
    return (3 * before + seconds) / 4 if before else seconds


class Streams:
    """The sequential streams of one file, the most recently used one last. Not locked.

    A read joins the stream that it continues, from whatever handle or thread it comes. Files of one mount
    share their `link`, so that a new one begins with what the others have measured.
    """

    def __init__(self, limit: int, link: Link | None = None) -> None:
        self._limit = limit
        self.link = link or Link()
        self._streams: list[Stream] = []
        self._grid: Grid | None = None  # until a reader has jumped

    def set_limit(self, limit: int) -> None:
        """Change how many bytes the plans of all streams together may run ahead."""
        self._limit = limit
        for stream in self._streams:
            stream.limit = limit

    def join(self, offset: int, *, is_coming: bool) -> tuple[Stream | None, list[Stream]]:
        """Return the stream of a read at `offset`, and the streams whose downloads are to be cancelled.

        There is none if the read continues no stream, was not predicted, and its bytes are here or coming: it
        needs no plan. Else call `ended` when the read is answered.
        """
        stream = self._continued(offset)
        if stream is not None:
            # Another stream was read in between: so there are two readers, not one that jumps.
            stream.lasts = stream.lasts or stream is not self._streams[-1]
            self._streams.remove(stream)
            stream = self._merged(stream)
        elif is_coming and not (self._grid is not None and self._grid.expects(offset)):
            return None, []
        else:
            stream = self._begun(offset)
        now = monotonic()
        dropped, others = self._streams[: -STREAMS + 1], self._streams[-STREAMS + 1 :]
        gone = [one for one in others if one.pace.is_idle(now) or one.is_left_for(stream)]
        left = [one for one in [*dropped, *gone] if one.runs_ahead]
        self._streams = [*others, stream]
        stream.pace.begin_read(now)
        for one in left:
            one.stop()
        if left:
            self._replan()
        return stream, left

    def _continued(self, offset: int) -> Stream | None:
        """Return the stream that a read at `offset` continues, the nearest one of several."""
        found = [(far, one) for one in self._streams if (far := one.distance(offset)) is not None]
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def _merged(self, stream: Stream) -> Stream:
        """Return the stream of all that a stream and those that it meets have read, and drop the others."""
        met = [one for one in self._streams if one.meets(stream) or stream.meets(one)]
        if not met:
            return stream
        self._streams = [one for one in self._streams if one not in met]
        first, *others = sorted([stream, *met], key=lambda one: one.begin)
        for one in others:
            first.absorb(one)
        return first

    def _begun(self, offset: int) -> Stream:
        """Return a new stream; it replaces the last one if the reader steps back from that."""
        if self._streams and self._streams[-1].is_step_back(offset):
            return Stream(self._limit, offset, self._streams.pop())
        return Stream(self._limit, offset)

    def ended(self, stream: Stream) -> None:
        """Record that a read is answered."""
        self.link.waited(stream.pace.end_read(monotonic()))

    def plan(self, stream: Stream, offset: int, end: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges to download now; see `Stream.plan` and `Grid.plan`."""
        if self._limit and stream.is_jump(offset, size):
            # Several reads at once are of several threads, each of which reads on at its place.
            is_alone = not any(one.pace.under_way for one in self._streams if one is not stream)
            grid = self._grid if is_alone and self._grid is not None and self._grid.has(offset) else None
            self._grid = grid or Grid(offset // BLOCK)
            yield from self._grid.plan(offset, end, size)
        others = sum(one.runs_ahead for one in self._streams if one is not stream)
        yield from stream.plan(offset, end, size, self.link, 1 + others)

    def forget(self) -> None:
        """Drop all streams, because downloaded blocks were wrong."""
        self._streams, self._grid = [], None

    @property
    def position(self) -> int:
        """Where the last read of a stream ended."""
        return self._streams[-1].position if self._streams else 0

    def needed(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges ahead of the readers that the limit allows."""
        last = self._streams[-1:]
        streams = [stream for stream in self._streams if stream in last or stream.runs_ahead]
        for stream in streams:
            yield stream.ahead(self._limit // len(streams))

    def _replan(self) -> None:
        """Let each stream plan again what lies ahead of it: a stopped stream may have downloaded that."""
        for stream in self._streams:
            stream.replan()
