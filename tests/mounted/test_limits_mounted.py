"""`bwlimit`, `tpslimit`, `budget` and `swiftfs set` on real mounts.

These run in a real mount. Times have a lower bound, which no load changes, and a generous upper one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.deadlines import within
from support.found_objects import body
from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from support.other_users import as_root, refused_to_nobody
from support.troubleshooting import quoted
from swiftfs.config.sources import Setting
from swiftfs.control import client
from swiftfs.control.client import read_state
from swiftfs.control.snapshot import Throttling
from swiftfs.demo.server import SwiftServer

KIB, MIB = 1024, 1024**2

PRICES = 'currency = "EUR"\n[requests]\nput = 1000\n'
"""A PUT costs 1 EUR."""


def throttling(mount: Mount) -> Throttling:
    return read_state(mount.path).throttling


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def set_options(mount: Mount, *words: str) -> dict[str, str]:
    result = swiftfs("set", mount.path, *words, "--json")
    assert result.returncode == 0, result
    options: dict[str, str] = json.loads(result.stdout)
    return options


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep both cores busy with two processes of low priority."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.mount_options("settle=0.1,bwlimit=1M:off")
def test_an_upload_keeps_the_rate(mounted: Mount, connection: Connection, container: str) -> None:
    data = noise(3 * MIB)
    (mounted.path / "file").write_bytes(data)
    took = seconds(lambda: swiftfs("flush", mounted.path))
    assert 2.5 <= took <= within(10)
    assert body(connection, container, "file") == data
    found = throttling(mounted)
    assert found.sent_waited >= 2.5
    assert (found.sent, found.received, found.received_waited) == (MIB, None, 0)


@pytest.mark.mount_options("bwlimit=off:1M")
def test_a_download_keeps_the_rate(mounted: Mount, connection: Connection, container: str) -> None:
    data = noise(3 * MIB)
    connection.put_object(container, "file", data)
    took = seconds((mounted.path / "file").read_bytes)
    assert 2.5 <= took <= within(10)
    assert (mounted.path / "file").read_bytes() == data
    assert throttling(mounted).received_waited >= 2.5


@pytest.mark.mount_options("settle=0.1,segment_size=1M,bwlimit=1M")
def test_all_connections_share_the_rate_on_a_busy_machine(
    mounted: Mount, connection: Connection, container: str
) -> None:
    data = noise(4 * MIB)
    with busy_machine():
        (mounted.path / "large").write_bytes(data)
        for number in range(4):
            (mounted.path / f"small{number}").write_bytes(data[: 128 * KIB])
        took = seconds(lambda: swiftfs("flush", mounted.path))
    assert 3.5 <= took <= within(15)
    assert body(connection, container, "large") == data


@pytest.mark.mount_options("settle=0.1,bwlimit=64K")
def test_a_change_counts_in_the_middle_of_an_upload(
    mounted: Mount, connection: Connection, container: str
) -> None:
    data = noise(8 * MIB)
    (mounted.path / "file").write_bytes(data)
    wait_until(lambda: throttling(mounted).sent_waited > 0.5)
    assert set_options(mounted, "bwlimit=off")["bwlimit"] == "off"
    assert seconds(lambda: swiftfs("flush", mounted.path)) < within(20)
    assert body(connection, container, "file") == data
    assert throttling(mounted).sent_waited < 60


@pytest.mark.mount_options("settle=0.1,bwlimit=32K:off,drain=1")
def test_an_unmount_does_not_wait_for_a_sender(
    mounted: Mount, connection: Connection, container: str
) -> None:
    data = noise(8 * MIB)
    (mounted.path / "file").write_bytes(data)
    wait_until(lambda: throttling(mounted).sent_waited > 0.5)
    mounted.exit_code = 1
    mounted.expected += ["the mount ends", "stays in", "1 change", "swiftfs: "]
    assert seconds(mounted.stop) < within(15)
    mounted.exit_code, mounted.options = 0, "settle=0.1"
    mounted.start()
    assert swiftfs("flush", mounted.path).returncode == 0
    assert body(connection, container, "file") == data


@pytest.mark.mount_options("settle=0.1,bwlimit=1M:off,drain=60")
def test_the_drain_keeps_the_rate(mounted: Mount, connection: Connection, container: str) -> None:
    data = noise(3 * MIB)
    (mounted.path / "file").write_bytes(data)
    assert 2 <= seconds(mounted.stop) <= within(15)
    assert body(connection, container, "file") == data
    mounted.start()


@pytest.mark.mount_options("bwlimit=off:32K")
def test_sigterm_does_not_wait_for_a_reader(mounted: Mount, connection: Connection, container: str) -> None:
    connection.put_object(container, "file", noise(8 * MIB))
    errors: list[OSError] = []

    def read() -> None:
        try:
            (mounted.path / "file").read_bytes()
        except OSError as error:
            errors.append(error)

    reader = Thread(target=read)
    reader.start()
    wait_until(lambda: throttling(mounted).received_waited > 0.5)
    mounted.expected += ["the mount ends", "ETIMEDOUT"]
    process = mounted.take_process()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(within(10)) == 0
    reader.join(within(10))
    assert errors
    mounted.start()


@pytest.mark.mount_options("settle=0.1,tpslimit=4")
def test_requests_keep_their_rate_and_reads_go_between(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    connection.put_object(container, "folder/there", b"there")
    swift.reset_requests()
    began = time.monotonic()
    for number in range(20):
        (mounted.path / f"file{number}").write_text("text")
    wait_until(lambda: throttling(mounted).requests_waited > 0.5)
    assert seconds((mounted.path / "folder" / "there").read_bytes) < within(4)
    assert swiftfs("flush", mounted.path).returncode == 0
    took = time.monotonic() - began
    assert 20 <= len(swift.requests()) <= 4 * took + 2
    assert took >= 4.5


def test_the_budget_of_a_month(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    connection.put_object(container, "large", noise(8 * MIB))
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    mounted.options = f"settle=0.1,prices={prices},budget=3"
    mounted.expected += ["% of the budget", "is spent, 3.00 so far", "is spent, 4.00 so far"]
    mounted.remount()
    for number in range(3):
        (mounted.path / f"file{number}").write_text("text")
        assert swiftfs("flush", mounted.path).returncode == 0
    wait_until(lambda: "nothing is downloaded in advance any more" in mounted.log.read_text())
    mounted.remount(empty_cache=False)
    state = read_state(mounted.path)
    assert state.month is not None
    assert (state.month.cost, state.month.budget, state.month.currency) == (3, 3, "EUR")
    assert json.loads((mounted.path / ".swiftfs/status.json").read_text())["month"]["is_spent"]
    text = swiftfs("status", mounted.path).stdout
    assert "of a budget of 3.00 EUR; it is spent: nothing is downloaded in advance" in text
    (mounted.path / "file3").write_text("text")  # uploads go on
    assert swiftfs("flush", mounted.path).returncode == 0
    with (mounted.path / "large").open("rb") as file:
        assert file.read(128 * KIB) == noise(8 * MIB)[: 128 * KIB]
    assert (
        read_state(mounted.path).requests["get"].bytes_received <= MIB // 2
    )  # what the kernel has asked for
    metrics = (mounted.path / ".swiftfs" / "metrics.prom").read_text()
    assert 'swiftfs_month_cost{currency="EUR"} 4.0' in metrics
    assert 'swiftfs_month_budget{currency="EUR"} 3.0' in metrics
    assert set_options(mounted, "budget=100")["budget"] == "100"
    assert "of a budget of 100.00 EUR\n" in swiftfs("status", mounted.path).stdout


@pytest.mark.mount_options("settle=5,bwlimit=00:00,2M:off 12:00,2M:off,uploads=8")
def test_set_shows_and_changes_what_is_in_force(mounted: Mount) -> None:
    lines = swiftfs("set", mounted.path).stdout.splitlines()
    assert lines[0] == "bwlimit=00:00,2M:off 12:00,2M:off"
    assert "uploads=8" in lines
    assert "  throttle  2M a second sent (bwlimit 00:00,2M:off 12:00,2M:off)\n" in (
        swiftfs("status", mounted.path).stdout
    )
    options = set_options(mounted, "bwlimit=off:3M", "tpslimit=20", "uploads=2", "settle=1")
    assert [options[name] for name in ("bwlimit", "tpslimit", "uploads", "settle")] == [
        *("off:3M", "20", "2", "1")
    ]
    text = swiftfs("status", mounted.path).stdout
    assert "  throttle  3M a second received, 20 requests a second\n" in text
    assert "2 uploads and 8 downloads at once" in text
    metrics = (mounted.path / ".swiftfs" / "metrics.prom").read_text()
    assert 'swiftfs_limit_bytes_per_second{direction="received"} 3.145728e+06' in metrics
    assert "swiftfs_limit_requests_per_second 20.0" in metrics
    assert 'swiftfs_throttled_seconds_total{kind="sent"} 0.0' in metrics
    assert "option bwlimit=off:3M is in force" in mounted.log.read_text()
    mounted.remount()
    assert "uploads=8" in swiftfs("set", mounted.path).stdout  # not kept


def test_set_refuses_in_one_line(mounted: Mount, tmp_path: Path) -> None:
    for words, expected in (
        (["ttl=5"], "option ttl needs a new mount"),
        (["settle=3"], "option settle needs a new mount"),
        (["budget=3"], "needs the prices of requests and traffic"),
        (["bwlimit=1K"], "option bwlimit=1K (swiftfs set): expected off, a rate such as"),
        (["uplods=3"], "did you mean 'uploads'?"),
        (["bwlimit"], "'bwlimit': write OPTION=VALUE, such as bwlimit=2M"),
        (["bwlimit=" + " ".join(f"{hour:02}:00,2M:off" for hour in range(24))], "too long together"),
    ):
        line = one_line(swiftfs("set", mounted.path, *words))
        assert expected in line
        assert quoted(line) != "swiftfs: FOLDER: REASON"
    assert "is not a swiftfs mount" in quoted(one_line(swiftfs("set", tmp_path)))


@pytest.mark.mount_options("ro")
def test_set_works_on_a_read_only_mount(mounted: Mount) -> None:
    assert set_options(mounted, "bwlimit=2M")["bwlimit"] == "2M"


@as_root
@pytest.mark.mount_options("allow_other")
def test_others_may_not_set(mounted: Mount) -> None:
    settings = [Setting("bwlimit", "2M", "test")]
    told = refused_to_nobody(lambda: client.set_options(mounted.path, settings))
    assert "only the user who mounted it may do this" in told
    assert throttling(mounted).bwlimit == "off"
