"""SIGUSR1: the stacks of all threads and the queue are logged, and the mount continues.

These run in a real mount.
"""

import os
import signal
from functools import partial

import pytest

from support.jobs import wait_until
from support.mounts import Mount


def logged_more(mount: Mount, text: str, times: int) -> bool:
    return mount.log.read_text().count(text) > times


@pytest.mark.mount_options("settle=1000")
def test_a_signal_logs_stacks_and_queue_and_the_mount_goes_on(mounted: Mount) -> None:
    (mounted.path / "file").write_text("waits")
    for before in (0, 1):
        os.kill(mounted.pid, signal.SIGUSR1)
        wait_until(partial(logged_more, mounted, "waiting PutFile /file", before))
    lines = mounted.log.read_text().splitlines()
    assert sum("Current thread" in line for line in lines) == 2
    assert sum("Thread 0x" in line for line in lines) > 10
    for function in ("log_state", "_sync"):
        assert sum(line.endswith(f" in {function}") for line in lines) == 2, function
    assert sum("changes: 1 waiting, 0 running, 0 parked" in line for line in lines) == 2
    assert (mounted.path / "file").read_text() == "waits"
