"""How many bytes sequential readers download: one or several, in any order, from a slow server."""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.cache_rig import MIB, CacheRig, CorruptingStore, read, settle
from support.noise import repeated_noise
from swiftfs.config.options import parse_size
from swiftfs.filecache.block_map import BLOCK
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.protocol import Sink
from swiftfs.store.throttle import Throttle, parse_bandwidth

pytest_plugins = ["support.cache_fixtures"]

LATENCY = 0.05
NEEDLESS = 1.1
"""Limit of downloaded bytes, as a multiple of the bytes of the file."""


class SlowCountingStore(CorruptingStore):
    """A store with a delay, which counts the bytes that are requested."""

    asked = 0

    def get(self, name: ObjectName, sink: Sink, *, length: int | None = None, **how: Any) -> ObjectInfo:
        time.sleep(LATENCY)
        info = super().get(name, sink, length=length, **how)
        self.asked += info.size if length is None else length
        return info


@pytest.fixture
def build_slow(build: Callable[..., CacheRig], monkeypatch: pytest.MonkeyPatch) -> Callable[[int], CacheRig]:
    monkeypatch.setattr("support.cache_rig.CorruptingStore", SlowCountingStore)
    return lambda read_ahead: build(limit=4096 * MIB, read_ahead=read_ahead, threads=8)


def asked(rig: CacheRig) -> int:
    assert isinstance(rig.store, SlowCountingStore)
    return rig.store.asked


def read_part(content: CachedFile, body: bytes, offsets: Sequence[int]) -> None:
    for offset in offsets:
        assert read(content, offset, BLOCK) == body[offset : offset + BLOCK]


@pytest.mark.usual
@pytest.mark.matrix(3)
@pytest.mark.parametrize("size", [18 * MIB, 32 * MIB + BLOCK // 2, 50 * MIB + 5])
@pytest.mark.parametrize("read_ahead", [32 * MIB, 8 * MIB, 4 * MIB + 12345])
def test_every_byte_is_downloaded_once(
    build_slow: Callable[[int], CacheRig], size: int, read_ahead: int
) -> None:
    rig = build_slow(read_ahead)
    body = repeated_noise(size)
    content = rig.open(rig.put("file", body))
    rig.gets()
    read_part(content, body, range(0, size, BLOCK))
    settle(content)
    assert asked(rig) == size
    assert rig.gets() <= 10 + size // (read_ahead // 2 - BLOCK)


@pytest.mark.usual
def test_four_readers_of_a_quarter_each_download_every_byte_once(
    build_slow: Callable[[int], CacheRig],
) -> None:
    rig = build_slow(32 * MIB)
    body = repeated_noise(48 * MIB)
    content = rig.open(rig.put("file", body))
    rig.gets()
    with ThreadPoolExecutor(4) as readers:
        parts = [range(first * 12 * MIB, (first + 1) * 12 * MIB, BLOCK) for first in range(4)]
        for done in [readers.submit(read_part, content, body, part) for part in parts]:
            done.result()
    settle(content)
    assert rig.gets() <= 34
    assert asked(rig) <= NEEDLESS * len(body)


@pytest.mark.usual
@pytest.mark.matrix(2)
@pytest.mark.parametrize("disorder", [4, 16, 32])
def test_reads_out_of_order_download_every_byte_once(
    build_slow: Callable[[int], CacheRig], disorder: int
) -> None:
    """The kernel sends reads from several threads, and so do programs with several threads."""
    rig = build_slow(32 * MIB)
    body = repeated_noise(48 * MIB)
    content = rig.open(rig.put("file", body))
    rig.gets()
    dice, offsets = random.Random(disorder), list(range(0, len(body), BLOCK))
    for first in range(0, len(offsets), disorder):
        some = offsets[first : first + disorder]
        read_part(content, body, dice.sample(some, len(some)))
    settle(content)
    assert rig.gets() <= 35
    assert asked(rig) <= NEEDLESS * len(body)


@pytest.mark.usual
def test_a_reader_of_all_while_another_reads_here_and_there(build_slow: Callable[[int], CacheRig]) -> None:
    rig = build_slow(32 * MIB)
    body = repeated_noise(48 * MIB)
    content = rig.open(rig.put("file", body))
    rig.gets()
    dice = random.Random(7)
    elsewhere = 0
    for number, offset in enumerate(range(0, len(body), BLOCK)):
        read_part(content, body, [offset])
        if number % 10 == 3:
            before = asked(rig)
            read_part(content, body, [dice.randrange(0, len(body) - BLOCK, BLOCK)])
            elsewhere += asked(rig) != before
    settle(content)
    assert rig.gets() <= 30 + elsewhere
    assert asked(rig) <= NEEDLESS * len(body)


@pytest.mark.usual
def test_a_reader_that_reads_again_a_file_larger_than_the_cache(build: Callable[..., CacheRig]) -> None:
    rig = build(limit=16 * MIB, read_ahead=4 * MIB)
    body = repeated_noise(40 * MIB)
    content = rig.open(rig.put("file", body))
    for _ in range(2):
        rig.gets()
        read_part(content, body, range(0, len(body), BLOCK))
        settle(content)
        assert rig.gets() <= 40


@pytest.mark.usual
def test_readers_that_have_closed_keep_nothing_in_the_cache(build: Callable[..., CacheRig]) -> None:
    rig = build(limit=16 * MIB, read_ahead=4 * MIB)
    body = repeated_noise(48 * MIB)
    content = rig.open(rig.put("file", body))
    for start in range(0, len(body), 8 * MIB):
        read_part(content, body, range(start, start + 4 * MIB, BLOCK))
    settle(content)
    assert content.allocated() <= 20 * MIB


def test_a_limited_rate_lets_nobody_read_further_ahead(
    build_slow: Callable[[int], CacheRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read ahead would take the line from others, and comes no sooner."""
    rig, body = build_slow(64 * MIB), repeated_noise(32 * MIB)
    throttle = Throttle(parse_bandwidth("10M", parse_size))
    monkeypatch.setattr(rig.cache.factory._link, "rate", lambda: throttle.rates().received)
    content = rig.open(rig.put("file", body))
    rig.store.hook = lambda method, _subject: throttle.receiving.take(MIB) if method == "get" else None
    read_part(content, body, range(0, 5 * MIB, BLOCK))
    rig.store.hook = None
    settle(content)
    assert throttle.receiving.seconds > 0.0
    assert rig.cache.factory._link.piece_seconds < 0.1
    assert asked(rig) <= 8 * MIB
