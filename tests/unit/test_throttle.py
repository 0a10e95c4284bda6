"""The limits of bytes and requests a second, in virtual time."""

import math
from collections.abc import Iterator
from functools import partial

import pytest

from simulation.runtime import SimRuntime
from simulation.scheduler import Scheduler, SwitchRates, scheduling
from swiftfs import concurrency
from swiftfs.config.options import parse_size
from swiftfs.store.retry import deadline, remaining
from swiftfs.store.sockets import Limits
from swiftfs.store.throttle import (
    NO_LIMIT,
    SLACK_SECONDS,
    Lane,
    Throttle,
    Timetable,
    busy_time,
    parse_bandwidth,
    waited,
)

KIB, MIB = 1024, 1024**2


def rates(text: str) -> Timetable:
    return parse_bandwidth(text, parse_size)


@pytest.fixture
def time() -> Iterator[Scheduler]:
    with scheduling(7, SwitchRates(switches=300, stalls=0)) as scheduler:
        before = concurrency.use(SimRuntime(scheduler))
        yield scheduler
        concurrency.use(before)


class Senders:
    """Threads that send without an end; `passed` is how much each has sent."""

    def __init__(self, time: Scheduler, throttle: Throttle, count: int = 8) -> None:
        self.passed = [0] * count
        self.failures: list[BaseException] = []
        self.bursts: list[tuple[float, int]] = []
        self._time, self._throttle = time, throttle
        for number in range(count):
            time.spawn(partial(self._send, number), f"sender {number}")

    def _send(self, number: int) -> None:
        limiter = self._throttle.sending
        try:
            while True:
                size = limiter.quantum(128 * KIB)
                limiter.take(size, Lane.CHANGES)
                self.passed[number] += size
                self.bursts.append((self._time.now, size))
        except TimeoutError as error:
            self.failures.append(error)

    def run(self, seconds: float) -> int:
        """Let time pass; return how many bytes have passed meanwhile."""
        before, end = sum(self.passed), self._time.now + seconds
        self._time.at(seconds, lambda: None)
        self._time.run(lambda: self._time.now >= end)
        return sum(self.passed) - before


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("rate", [32 * KIB, MIB, 50 * MIB])
def test_as_many_bytes_pass_as_the_rate_allows(time: Scheduler, rate: int, count: int) -> None:
    throttle = Throttle(rates(str(rate)))
    senders = Senders(time, throttle, count)
    quantum = throttle.sending.quantum(128 * KIB)
    assert abs(senders.run(10) - 10 * rate) <= quantum + rate * SLACK_SECONDS + count


def test_the_flow_is_smooth(time: Scheduler) -> None:
    senders = Senders(time, Throttle(rates("1M")))
    senders.run(20)
    for second in range(19):
        sent = sum(size for when, size in senders.bursts if second <= when < second + 0.5)
        assert abs(sent - MIB / 2) < 0.25 * MIB


def test_all_senders_get_the_same(time: Scheduler) -> None:
    senders = Senders(time, Throttle(rates("1M")))
    senders.run(20)
    assert max(senders.passed) - min(senders.passed) < 200 * KIB


def test_the_directions_have_a_rate_each(time: Scheduler) -> None:
    throttle = Throttle(rates("1M:off"))
    senders = Senders(time, throttle, 1)
    throttle.receiving.take(10**12)
    assert senders.run(10) == pytest.approx(10 * MIB, rel=0.05)


def test_a_new_rate_counts_at_once_for_those_that_wait(time: Scheduler) -> None:
    throttle = Throttle(rates("32K"))
    senders = Senders(time, throttle, 64)
    senders.run(10)
    throttle.set_bandwidth(rates("10M"))
    assert senders.run(10) == pytest.approx(100 * MIB, rel=0.05)
    throttle.set_bandwidth(rates("1M"))
    assert senders.run(10) == pytest.approx(10 * MIB, rel=0.1)


def test_without_a_limit_nobody_waits(time: Scheduler) -> None:
    throttle = Throttle(rates("32K"), requests=0.001)
    done: list[float] = []

    def send() -> None:
        for limiter in (throttle.sending, throttle.requests):
            limiter.take(MIB)
            limiter.take(MIB)
        done.append(time.now)

    time.spawn(send, "sender")
    time.at(5, lambda: None)
    time.run(lambda: time.now >= 5)
    assert not done
    throttle.set_bandwidth(NO_LIMIT)
    throttle.set_requests(0)
    time.run(lambda: bool(done))
    assert done[0] < 5.1


def test_the_end_ends_all_waits_and_leaves_what_needs_none(time: Scheduler) -> None:
    throttle = Throttle(rates("32K:off"))
    senders = Senders(time, throttle, 64)
    senders.run(10)
    throttle.end()
    time.run(lambda: len(senders.failures) == 64)
    assert time.now < 10.1
    throttle.receiving.take(MIB)


def test_a_wait_is_given_up_with_the_answer(time: Scheduler) -> None:
    throttle, ended, failed = Throttle(rates("32K")), False, []

    def receive() -> None:
        throttle.receiving.take(MIB)
        with pytest.raises(TimeoutError, match="the mount ends"):
            throttle.receiving.take(MIB, is_given_up=lambda: ended)
        failed.append(time.now)

    time.spawn(receive, "receiver")
    time.at(5, lambda: None)
    time.run(lambda: time.now >= 5)
    ended = True
    time.run(lambda: bool(failed))
    assert failed[0] <= 5.6


def test_a_timetable_changes_the_rate(time: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """EPOCH is a Friday, 09:00 in Berlin."""
    local(monkeypatch, "Europe/Berlin")
    senders = Senders(time, Throttle(rates("08:00,1M:off 09:01,4M:off")), 4)
    assert senders.run(60) == pytest.approx(60 * MIB, rel=0.02)
    assert senders.run(60) == pytest.approx(240 * MIB, rel=0.02)


def test_waiting_does_not_count_as_time_of_the_server(time: Scheduler) -> None:
    throttle, clocks = Throttle(rates("1M")), []

    def send() -> None:
        began, before = busy_time(), waited()
        for _ in range(21):
            throttle.sending.take(MIB)
        clocks.append((busy_time() - began, waited() - before))

    time.spawn(send, "sender")
    time.run(lambda: bool(clocks))
    ((busy, idle),) = clocks
    assert busy == pytest.approx(0.0, abs=0.01)
    assert idle == pytest.approx(20, abs=0.2) == time.now == throttle.sending.seconds


def test_no_time_limit_of_a_request_counts_the_waits(time: Scheduler) -> None:
    """4 MiB each way at 32 KiB a second take longer than any call may take."""
    throttle, left = Throttle(rates("32K")), []

    def transfer() -> None:
        with deadline(25):
            limits = Limits(20, body=20, total=remaining(), throttle=throttle)
            sent = 0
            while sent < 4 * MIB:
                size = limits.turn(4 * MIB - sent)
                assert limits.send_seconds() > 0
                limits.sent(size)
                sent += size
            limits.begin_headers()
            limits.begin_body()
            while limits.delivered < 4 * MIB:
                assert limits.read_seconds() > 19
                size = limits.read_bytes(256 * KIB)
                limits.received(size)
                limits.delivered += size
            left.append(remaining())

    time.spawn(transfer, "transfer")
    time.run(lambda: bool(left))
    assert left == [pytest.approx(25, abs=0.1)]
    assert time.now == pytest.approx(256, rel=0.02)


def test_a_server_that_stalls_is_given_up_under_a_limit(time: Scheduler) -> None:
    failures: list[str] = []

    def transfer() -> None:
        limits = Limits(20, body=20, paced=True, throttle=Throttle(rates("32K")))
        limits.begin_body()
        try:
            while True:
                time.sleep(5)
                limits.read_seconds()
        except TimeoutError as error:
            failures.append(str(error))

    time.spawn(transfer, "transfer")
    time.run(lambda: bool(failures))
    assert "bytes a second are passing" in failures[0]
    assert time.now <= 30


class Requests:
    """Threads of both kinds that send requests; `sent` has the moment and the lane of each."""

    def __init__(self, time: Scheduler, throttle: Throttle, changes: int) -> None:
        self.sent: list[tuple[float, Lane]] = []
        self._time, self._throttle = time, throttle
        for _ in range(changes):
            time.spawn(lambda: self._send(Lane.CHANGES), "change")

    def _send(self, lane: Lane) -> None:
        while True:
            self._throttle.requests.take(1, lane)
            self.sent.append((self._time.now, lane))

    def read(self) -> float:
        """Send one read; return how long it has waited."""
        began, ends = self._time.now, list[float]()

        def send() -> None:
            self._throttle.requests.take(1)
            ends.append(self._time.now)

        self._time.spawn(send, "read")
        self._time.run(lambda: bool(ends))
        return ends[0] - began


@pytest.mark.parametrize("rate", [0.5, 3, 20])
def test_so_many_requests_pass(time: Scheduler, rate: float) -> None:
    requests = Requests(time, Throttle(requests=rate), 16)
    time.at(100, lambda: None)
    time.run(lambda: time.now >= 100)
    assert abs(len(requests.sent) - 100 * rate) <= 1 + rate * SLACK_SECONDS


def test_a_read_does_not_wait_for_all_uploads(time: Scheduler) -> None:
    requests = Requests(time, Throttle(requests=2), 64)
    time.at(10, lambda: None)
    time.run(lambda: time.now >= 10)
    assert requests.read() <= 1.1
    assert requests.read() <= 1.1


def local(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Use a time zone until the end of the test."""
    import time as clock  # noqa: PLC0415

    monkeypatch.setenv("TZ", zone)
    clock.tzset()


@pytest.fixture(autouse=True)
def own_zone() -> Iterator[None]:
    import time as clock  # noqa: PLC0415

    yield
    clock.tzset()


BERLIN = {
    # 2027-03-28: the clock goes from 02:00 to 03:00. 2027-10-31: from 03:00 back to 02:00.
    "spring 01:59": 1_806_195_540,
    "spring 03:00": 1_806_195_600,
    "autumn 02:29": 1_824_942_540,
    "autumn 02:31": 1_824_942_660,
    "autumn 02:01 again": 1_824_944_460,
    "autumn 02:31 again": 1_824_946_260,
}


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("spring 01:59", 1),
        ("spring 03:00", 2),
        ("autumn 02:29", 1),
        ("autumn 02:31", 2),
        ("autumn 02:01 again", 1),
        ("autumn 02:31 again", 2),
    ],
)
def test_the_clock_on_the_wall_decides_in_summer_time(
    monkeypatch: pytest.MonkeyPatch, moment: str, expected: int
) -> None:
    local(monkeypatch, "Europe/Berlin")
    assert rates("01:00,1M 02:30,2M").at(BERLIN[moment]).sent == expected * MIB


@pytest.mark.parametrize(
    ("text", "hour", "expected"),
    [  # hours since Monday 00:00
        ("08:00,2M 19:00,off", 0, math.inf),
        ("08:00,2M 19:00,off", 7.99, math.inf),
        ("08:00,2M 19:00,off", 8, 2),
        ("08:00,2M 19:00,off", 23.99, math.inf),
        ("08:00,2M 22:00,5M", 24, 5),
        ("Mon-08:00,1M Fri-19:00,off", 7, math.inf),
        ("Mon-08:00,1M Fri-19:00,off", 8, 1),
        ("mon-08:00,1M FRI-19:00,off", 4 * 24 + 19, math.inf),
        ("Mon-08:00,1M 12:00,3M", 6 * 24 + 23, 3),
        ("12:00,3M", 0, 3),
    ],
)
def test_times_of_a_week(monkeypatch: pytest.MonkeyPatch, text: str, hour: float, expected: float) -> None:
    local(monkeypatch, "UTC")
    monday = 1_800_230_400
    assert rates(text).at(monday + hour * 3600).sent == expected * MIB


@pytest.mark.parametrize(
    ("text", "sent", "received"),
    [
        ("2M", 2 * MIB, 2 * MIB),
        ("2M:10M", 2 * MIB, 10 * MIB),
        ("off:64K", math.inf, 64 * KIB),
        ("OFF", math.inf, math.inf),
        ("off:off", math.inf, math.inf),
        (' "2M:off" ', 2 * MIB, math.inf),
    ],
)
def test_rates(text: str, sent: float, received: float) -> None:
    found = rates(text).at(0)
    assert (found.sent, found.received) == (sent, received)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "off, a rate such as"),
        ("fast", "off, a rate such as"),
        ("2M:3M:4M", "off, a rate such as"),
        ("10K", "'10K' is too slow"),
        ("0", "'0' is too slow"),
        ("25:00,2M", "'25:00' is no time"),
        ("08:60,2M", "'08:60' is no time"),
        ("8,2M", "'8' is no time"),
        ("08:00", "off, a rate such as"),
        ("08:00,", "off, a rate such as"),
        ("08:00,2M 08:00,3M", "'08:00' has two"),
        ("Mon-08:00,2M 08:00,3M", "'08:00' has two"),
        ("Die-08:00,2M", "not 'Die'"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        rates(text)
    assert expected in str(caught.value)
