"""Options that are changed while a mount runs: what each one carries out, and what is refused."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import get, harness
from support.memory_store import MemoryStore
from support.noise import noise
from support.stored_objects import foreign
from swiftfs.config.options import OPTIONS
from swiftfs.config.prices import Prices
from swiftfs.control.live_options import LIVE, LiveOptions, live_options
from swiftfs.filecache.block_map import BLOCK
from swiftfs.posix.filesystem import FileSystem
from swiftfs.store.connect import ConnectedAccount

MIB = 1024**2


class Live:
    """A mount without a kernel, and its options."""

    def __init__(self, filesystem: FileSystem, store: MemoryStore, prices: Prices | None = None) -> None:
        self.filesystem = filesystem
        self.account = ConnectedAccount(store, "memory")
        self.options, self.budget = live_options(filesystem, self.account, prices)

    def set(self, *words: str) -> dict[str, str]:
        answer = json.loads(self.options.answer("".join(f"\n{word}" for word in words)))
        assert "error" not in answer, answer
        options: dict[str, str] = answer["options"]
        return options

    def refusal(self, *words: str) -> str:
        before = self.options.shown()
        answer = json.loads(self.options.answer("".join(f"\n{word}" for word in words)))
        assert self.options.shown() == before
        return str(answer["error"])


@contextmanager
def live(folder: Path, options: str = "settle=5", prices: Prices | None = None) -> Iterator[Live]:
    store = MemoryStore("box")
    foreign(store, "file", noise(16 * MIB))
    with harness(store, folder, options) as filesystem:
        yield Live(filesystem, store, prices)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path) as mount:
        yield mount


def test_all_that_can_be_set_are_shown(mount: Live) -> None:
    assert mount.set() == {
        "bwlimit": "off",
        "tpslimit": "0",
        "budget": "off",
        "read_ahead": "64M",
        "prefetch": "yes",
        "cache_size": "auto",
        "uploads": "64",
        "settle": "5",
        "drain": "300",
    }
    assert set(LIVE) <= set(OPTIONS)


def test_each_is_carried_out(mount: Live) -> None:
    services, throttle = mount.filesystem.services, mount.account.state.throttle
    shown = mount.set(
        *("bwlimit=2M:off", "tpslimit=7.5", "read_ahead=8M", "prefetch=no", "cache_size=80M"),
        *("uploads=3", "settle=9", "drain=4"),
    )
    assert (throttle.rates().sent, throttle.request_rate) == (2 * MIB, 7.5)
    cache = services.file_cache
    assert (cache.space.limit, cache.factory.read_ahead) == (80 * MIB, 8 * MIB)
    assert (cache.factory._uploads.most, cache.factory.settle_seconds) == (3, 9)
    assert services.journal._writer._settle_seconds == 9
    assert services.journal._backlog.parallel == 12
    assert mount.filesystem.drain_seconds == 4
    assert not mount.filesystem._files._prefetch._is_on
    assert (shown["bwlimit"], shown["prefetch"], shown["settle"]) == ("2M:off", "no", "9")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ttl=5"], "option ttl needs a new mount: unmount, then mount with it; these can be set: bwlimit, "),
        (["tls=5"], "unknown option 'tls' (swiftfs set)"),
        (["bwlimit=fast"], "option bwlimit=fast (swiftfs set): expected off, a rate such as"),
        (["settle=0"], "option settle needs a new mount where close() waits, or is to wait"),
        (["cache_size=2M"], "option cache_size=2M (swiftfs set): expected a size, 64M to 1P"),
        (["budget=5"], "option budget=5 (swiftfs set) needs the prices of requests and traffic"),
        (["tpslimit=5", "uploads=99"], "option uploads=99 (swiftfs set): expected a number, 1 to 64"),
    ],
)
def test_what_is_refused_changes_nothing(mount: Live, words: list[str], expected: str) -> None:
    assert mount.refusal(*words).startswith(expected)
    assert mount.account.state.throttle.request_rate == 0


def test_settle_stays_where_close_waits(tmp_path: Path) -> None:
    with live(tmp_path, "sync") as mount:
        assert (
            mount.refusal("settle=3") == "option settle needs a new mount where close() waits, or is to wait"
        )


def test_a_segment_must_fit_into_the_cache(tmp_path: Path) -> None:
    with live(tmp_path, "settle=5,segment_size=100M,cache_size=1G") as mount:
        assert mount.refusal("cache_size=80M") == (
            "option segment_size=100M (as mounted) does not fit into cache_size=80M (swiftfs set)"
        )


@pytest.mark.usual
def test_a_spent_budget_ends_what_is_downloaded_in_advance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an open file, too; the bytes that are read come as before."""
    prices = Prices("EUR", received=1.0)
    with live(tmp_path, "settle=5,prices=/p", prices) as mount:
        handle = mount.filesystem.open("/file", os.O_RDONLY)
        assert get(mount.filesystem, handle, 0, BLOCK) == noise(16 * MIB)[:BLOCK]
        mount.set("budget=0")
        assert mount.budget is not None
        assert mount.budget.state().is_spent
        asked: list[str] = []
        mount.account.store.hook = lambda method, _subject: asked.append(method)  # type: ignore[attr-defined]
        for offset in range(8 * MIB, 8 * MIB + 10 * BLOCK, BLOCK):
            assert get(mount.filesystem, handle, offset, BLOCK) == noise(16 * MIB)[offset : offset + BLOCK]
        assert asked == ["get"] * 10
        mount.set("budget=off")
        assert mount.filesystem.services.file_cache.factory.read_ahead > 0
        mount.filesystem.release(handle)
    caplog.clear()


def test_options_are_what_they_were_when_one_is_changed_twice(mount: Live) -> None:
    options: LiveOptions = mount.options
    mount.set("tpslimit=5")
    mount.set("tpslimit=6", "tpslimit=7")
    assert (options.options.tpslimit, options.options.settle) == (7, 5)
