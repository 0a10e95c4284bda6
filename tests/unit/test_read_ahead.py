"""What is downloaded ahead of readers, in virtual time, over links with a latency and a rate."""

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Iterator

import pytest

from support.manual_clock import ManualClock
from swiftfs.filecache import read_ahead
from swiftfs.filecache.block_map import BLOCK, block_range
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.read_ahead import STREAMS, Stream, Streams

MIB = 1024**2
SIZE = 100 * MIB
LIMIT = 64 * MIB
CONNECTIONS = 8


class Connection:
    """Answers requests one after the other, each after a latency and then at a rate."""

    def __init__(self, latency: float, rate: float) -> None:
        self.free = 0.0
        self._latency = latency
        self._rate = rate

    def request(self, now: float, blocks: int) -> Iterator[float]:
        """Yield when the answer to a request begins, and when each of its blocks comes."""
        begun = max(now, self.free)
        yield begun + self._latency
        for number in range(1, blocks + 1):
            self.free = begun + self._latency + number * BLOCK / self._rate
            yield self.free


FIRST_FLIGHT, WINDOW = 10 * 1460, 3 * MIB
STEPS = 100
"""Of a round trip."""


class LongConnection:
    """A connection as TCP's over a long way: it carries twice as much in each round trip, up to a window."""

    def __init__(self, round_trip: float) -> None:
        self.free = 0.0
        self._round_trip = round_trip
        self._window = float(FIRST_FLIGHT)
        self._handshake = round_trip

    def request(self, now: float, blocks: int) -> Iterator[float]:
        """Yield when the answer to a request begins, and when each of its blocks comes."""
        came = float(FIRST_FLIGHT) if self._handshake else 0.0
        self.free = max(now, self.free) + self._round_trip + self._handshake
        self._handshake = 0.0
        yield self.free
        for number in range(1, blocks + 1):
            while came < number * BLOCK:
                came += self._window / STEPS
                self.free += self._round_trip / STEPS
                self._window = min(self._window * 2 ** (1 / STEPS), WINDOW)
            yield self.free


class Link:
    """A file that is read over a link, as `Downloader` does it; `requests` are the downloads.

    With a `rate` each connection has this rate, without one it begins slowly.
    """

    def __init__(
        self,
        clock: ManualClock,
        latency: float,
        rate: float | None = None,
        measured: read_ahead.Link | None = None,
    ) -> None:
        self.requests: list[tuple[int, int]] = []
        self._clock = clock
        self._streams = Streams(LIMIT, measured)
        self._asked = Blocks()
        self._arrivals: dict[int, float] = {}
        self._connections = [
            LongConnection(latency) if rate is None else Connection(latency, rate) for _ in range(CONNECTIONS)
        ]
        self._events: list[tuple[float, int, Callable[[float], None], float]] = []
        self._order = itertools.count()

    @property
    def bytes(self) -> int:
        """How many bytes were requested."""
        return sum(stop - start for start, stop in self.requests)

    def read(self, offset: int, size: int = BLOCK) -> None:
        """Read a range, and wait for it."""
        stream, came = self._begin(offset, size)
        self._clock.now = came
        if stream is not None:
            self._streams.ended(stream)

    def read_in_threads(self, chunk: int, delays: Iterable[float]) -> None:
        """Read all in threads, each of which takes the next chunk; they begin after these delays."""
        chunks, order = iter(range(0, SIZE, chunk)), itertools.count()
        due: list[tuple[float, int, int | None, Stream | None]] = [
            (self._clock.now + delay, next(order), next(chunks), None) for delay in delays
        ]
        heapq.heapify(due)
        while due:
            self._clock.now, _, offset, stream = heapq.heappop(due)
            if stream is not None:
                self._streams.ended(stream)
            if offset is not None:
                stream, came = self._begin(offset, BLOCK)
                after = offset + BLOCK
                following = after if after % chunk else next(chunks, None)
                heapq.heappush(due, (came, next(order), following, stream))

    def _begin(self, offset: int, size: int) -> tuple[Stream | None, float]:
        """Begin to read a range; return its stream, and when the bytes are here."""
        while self._events and self._events[0][0] <= self._clock.now:
            *_, record, seconds = heapq.heappop(self._events)
            record(seconds)
        blocks = block_range(offset, offset + size)
        stream, left = self._streams.join(offset, is_coming=self._asked.covers(*blocks))
        assert left == []
        if stream is not None:
            for start, stop in self._streams.plan(stream, offset, offset + size, SIZE):
                self._download(*block_range(start, stop))
        self._download(*blocks)
        return stream, max(self._clock.now, *(self._arrivals[block] for block in range(*blocks)))

    def read_all(self, offsets: Iterable[int], pause: float) -> float:
        """Read blocks with a pause after each; return the seconds."""
        begun = self._clock.now
        for offset in offsets:
            self.read(offset)
            self._clock.now += pause
        return self._clock.now - begun

    def _download(self, first: int, last: int) -> None:
        for start, stop in list(self._asked.missing(first, last)):
            connection = min(self._connections, key=lambda one: one.free)
            begun = max(self._clock.now, connection.free)
            answered, *arrivals = connection.request(begun, stop - start)
            self._arrivals |= zip(range(start, stop), arrivals, strict=True)
            measured = self._streams.link
            for at, record in ((answered, measured.answered), (connection.free, measured.came)):
                heapq.heappush(self._events, (at, next(self._order), record, at - begun))
            self._asked.add(start, stop)
            self.requests.append((start * BLOCK, min(stop * BLOCK, SIZE)))


FAST = 0.0003
"""Seconds in which `cp` handles a block."""


@pytest.mark.parametrize("latency", [0.001, 0.02, 0.1])
@pytest.mark.parametrize("rate", [10e6, 100e6, 1000e6])
def test_a_fast_reader_soon_uses_the_link(clock: ManualClock, latency: float, rate: float) -> None:
    link = Link(clock, latency, rate)
    seconds = link.read_all(range(0, SIZE, BLOCK), FAST)
    assert link.bytes == SIZE
    assert len(link.requests) <= 20
    least = max(SIZE / rate / CONNECTIONS, FAST * SIZE / BLOCK)
    assert seconds < 3.5 * latency + 1.6 * least + 2 * MIB / rate


def test_connections_with_a_limited_rate_are_used_together(clock: ManualClock) -> None:
    one_connection = 0.02 + SIZE / 10e6
    assert Link(clock, 0.02, 10e6).read_all(range(0, SIZE, BLOCK), FAST) < one_connection / 4


@pytest.mark.parametrize(("latency", "faster"), [(0.02, 1.4), (0.1, 1.9)])
def test_connections_that_begin_slowly_are_used_together_soon(
    clock: ManualClock, latency: float, faster: float
) -> None:
    """Without the kernel, which has two reads under way."""
    *_, one_connection = LongConnection(latency).request(0, SIZE // BLOCK)
    link = Link(clock, latency)
    assert link.read_all(range(0, SIZE, BLOCK), FAST) < one_connection / faster
    assert link.bytes == SIZE
    assert len(link.requests) <= 20


@pytest.mark.parametrize("seconds", [0.21, 0.47])
def test_two_reads_of_the_kernel_show_that_a_connection_begins_slowly(
    clock: ManualClock, seconds: float
) -> None:
    streams = Streams(LIMIT)
    planned: list[tuple[int, int]] = []
    for number in range(3):
        stream, _ = streams.join(number * BLOCK, is_coming=number > 0)
        assert stream is not None
        planned += streams.plan(stream, number * BLOCK, (number + 1) * BLOCK, SIZE)
        if number == 1:  # the first read is answered, the second is not yet
            streams.link.answered(0.2)
            clock.now += seconds
            streams.ended(stream)
    assert (len(planned) > 1) == (seconds > 0.4)


@pytest.mark.parametrize("latency", [0.001, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("step", [BLOCK // 2, BLOCK])
def test_a_reader_of_a_header_costs_one_request(clock: ManualClock, latency: float, step: int) -> None:
    link = Link(clock, latency, 100e6)
    for offset in range(0, 4 * BLOCK, step):
        link.read(offset, step)
    assert link.requests == [(0, MIB)]


def test_a_second_file_begins_with_what_was_measured_of_the_first(clock: ManualClock) -> None:
    measured = read_ahead.Link()
    Link(clock, 0.1, 10e6, measured).read_all(range(0, SIZE, BLOCK), FAST)
    assert measured.piece_seconds > 0.5
    fresh, second = Link(clock, 0.1, 10e6), Link(clock, 0.1, 10e6, measured)
    for link in (fresh, second):
        link.read_all(range(0, 6 * BLOCK, BLOCK), 0.01)
    assert second.bytes > 2 * fresh.bytes


def test_a_reader_of_many_files_waits_for_the_latency_once_a_file(clock: ManualClock) -> None:
    measured = read_ahead.Link()
    blocks = range(0, 6 * MIB, BLOCK)
    seconds = [Link(clock, 0.1, 1000e6, measured).read_all(blocks, FAST) for _ in range(4)]
    assert seconds[0] > 0.2
    assert max(seconds[1:]) < 0.1 + len(blocks) * 0.001
    # A reader of headers in between wastes one window.
    for most in (8 * MIB, MIB, MIB):
        headers = Link(clock, 0.1, 1000e6, measured)
        headers.read_all(range(0, 4 * BLOCK, BLOCK), FAST)
        assert headers.bytes <= most


@pytest.mark.parametrize("latency", [0.02, 0.1])
@pytest.mark.parametrize("begin", [0, 40 * MIB])
def test_little_is_downloaded_ahead_of_a_player(clock: ManualClock, latency: float, begin: int) -> None:
    link = Link(clock, latency, 100e6)
    played, pause = 24 * MIB, 0.02
    seconds = link.read_all(range(begin, begin + played, BLOCK), pause)
    assert link.bytes <= 1.1 * played
    assert len(link.requests) <= 30
    waits = seconds - pause * played / BLOCK
    assert waits < 4 * latency


def test_a_reader_that_pauses_is_fast_again(clock: ManualClock) -> None:
    link = Link(clock, 0.1, 100e6)
    link.read_all(range(0, 20 * MIB, BLOCK), FAST)
    clock.now += 3600
    assert link.read_all(range(20 * MIB, SIZE, BLOCK), FAST) < 2.5


def test_a_reader_of_the_first_byte_and_one_of_the_tail_cost_one_request_each(clock: ManualClock) -> None:
    link = Link(clock, 0.02, 100e6)
    link.read(0)
    link.read_all(range(SIZE - MIB, SIZE, BLOCK), 0)
    assert link.requests == [(0, MIB), (SIZE - MIB, SIZE)]


@pytest.mark.parametrize("step", [BLOCK, 256 * 1024, MIB, 2 * MIB])
def test_a_reader_that_goes_backwards_in_steps(clock: ManualClock, step: int) -> None:
    link = Link(clock, 0.02, 100e6)
    offsets = [at for start in range(SIZE - step, -1, -step) for at in range(start, start + step, BLOCK)]
    seconds = link.read_all(offsets, FAST)
    assert link.bytes == SIZE
    assert len(link.requests) <= 30
    assert seconds < 2


PLACES = range(2 * MIB, SIZE - 2 * MIB, 4 * MIB)


@pytest.mark.parametrize("seed", range(8))
def test_a_reader_that_jumps_downloads_nothing_else(clock: ManualClock, seed: int) -> None:
    dice = random.Random(seed)
    link = Link(clock, 0.02, 100e6)
    for place in dice.sample(PLACES, len(PLACES)):
        link.read(place + dice.randrange(8) * BLOCK)
    assert len(link.requests) == len(PLACES)
    assert link.bytes == len(PLACES) * BLOCK


@pytest.mark.parametrize("seed", range(8))
def test_places_of_a_grid_are_downloaded_together(clock: ManualClock, seed: int) -> None:
    link = Link(clock, 0.1, 100e6)
    places = random.Random(seed).sample(PLACES, len(PLACES))
    assert link.read_all(places, FAST) < 0.12 * 14
    assert link.bytes == len(link.requests) * BLOCK
    assert len(link.requests) == len(places)


@pytest.mark.parametrize("places", [PLACES, PLACES[::-1]])
def test_places_of_a_grid_in_order_are_downloaded_ahead(clock: ManualClock, places: range) -> None:
    link = Link(clock, 0.1, 100e6)
    assert link.read_all(places, FAST) < 0.11 * 6
    assert link.bytes == len(places) * BLOCK
    assert len(link.requests) == len(places)


def test_a_place_of_a_grid_begins_a_stream(clock: ManualClock) -> None:
    link = Link(clock, 0.1, 100e6)
    seconds = sum(link.read_all(range(place, place + 2 * MIB, BLOCK), FAST) for place in PLACES[:7])
    # The first read of each is predicted after three, and each has a stream, so few requests.
    assert seconds < 0.11 * (3 * 3 + 4 * 2)
    assert len(link.requests) <= 16 + 7 * 4


def test_a_grid_that_is_not_read_on_costs_2_mib(clock: ManualClock) -> None:
    link = Link(clock, 0.02, 100e6)
    link.read_all(PLACES[:3], FAST)
    assert len(link.requests) == 3 + 16
    elsewhere = [33 * MIB, 40 * MIB + BLOCK, 27 * MIB + 3 * BLOCK, 59 * MIB + 7 * BLOCK, 63 * MIB]
    link.read_all(elsewhere, FAST)
    assert len(link.requests) == 3 + 16 + len(elsewhere)


def test_readers_by_turns_have_a_stream_each(clock: ManualClock) -> None:
    link = Link(clock, 0.02, 100e6)
    share = SIZE // STREAMS // BLOCK * BLOCK
    for offset in range(0, share, BLOCK):
        for number in range(STREAMS):
            link.read(number * share + offset)
    assert link.bytes <= 1.05 * SIZE
    assert len(link.requests) <= 12 * STREAMS


def test_a_program_with_eight_threads_is_one_reader(clock: ManualClock) -> None:
    link = Link(clock, 0.02, 100e6)
    for start in range(0, SIZE, 16 * MIB):
        chunks = range(start, min(start + 16 * MIB, SIZE), 2 * MIB)
        link.read_all((chunk + at for at in range(0, 2 * MIB, BLOCK) for chunk in chunks), FAST)
    assert link.bytes == SIZE
    assert len(link.requests) <= 30


@pytest.mark.parametrize("late", [0.0, 0.02, 0.1, 0.5])
def test_threads_that_read_one_range_become_one_stream(clock: ManualClock, late: float) -> None:
    """The first of them comes so many seconds late: what the others have read and planned stays."""
    link = Link(clock, 0.02, 100e6)
    link.read_in_threads(2 * MIB, [late, *itertools.repeat(0.0, 7)])
    assert link.bytes == SIZE
    assert len(link.requests) <= 38


@pytest.mark.usefixtures("clock")
def test_threads_that_read_a_part_each_are_on_no_grid() -> None:
    streams = Streams(LIMIT)
    for offset in range(4 * MIB, SIZE - MIB, 4 * MIB):  # none of these reads is answered
        stream, _ = streams.join(offset, is_coming=False)
        assert stream is not None
        assert list(streams.plan(stream, offset, offset + BLOCK, SIZE)) == []


def test_a_read_whose_bytes_are_here_begins_no_stream() -> None:
    streams = Streams(LIMIT)
    assert streams.join(50 * MIB, is_coming=True) == (None, [])
    assert streams.position == 0


def begin(streams: Streams, offsets: Iterable[int]) -> tuple[Stream, list[Stream]]:
    """Read blocks; return the stream of the last one, and all that were left."""
    all_left: list[Stream] = []
    last: Stream | None = None
    for offset in offsets:
        stream, left = streams.join(offset, is_coming=False)
        assert stream is not None
        last = stream
        all_left += left
        list(streams.plan(stream, offset, offset + BLOCK, SIZE))
        streams.ended(stream)
    assert last is not None
    return last, all_left


@pytest.mark.usefixtures("clock")
def test_a_stream_is_left_when_its_reader_has_jumped() -> None:
    streams = Streams(LIMIT)
    first, _ = begin(streams, range(0, 4 * MIB, BLOCK))
    second, left = begin(streams, range(80 * MIB, 81 * MIB - BLOCK, BLOCK))
    assert first.runs_ahead
    assert left == []
    assert begin(streams, [81 * MIB - BLOCK, 81 * MIB]) == (second, [first])
    assert not first.runs_ahead


def test_a_stream_that_is_continued_is_not_left(clock: ManualClock) -> None:
    streams = Streams(LIMIT)
    for number in range(0, 4 * MIB, BLOCK):
        first, left = begin(streams, [number])
        assert left == []
        assert begin(streams, [80 * MIB + number])[1] == []
    assert begin(streams, range(84 * MIB, 90 * MIB, BLOCK))[1] == []
    clock.now += 60
    assert begin(streams, [90 * MIB])[1] == [first]


def test_without_a_limit_nothing_is_planned() -> None:
    streams = Streams(0)
    stream, _ = streams.join(0, is_coming=False)
    assert stream is not None
    assert [list(streams.plan(stream, at, at + BLOCK, SIZE)) for at in range(0, MIB, BLOCK)] == [[]] * 8
