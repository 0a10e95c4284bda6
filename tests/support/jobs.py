"""Helpers of tests that count requests: what the server recorded, and waiting for a condition."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from support.deadlines import within
from support.mounts import Mount
from swiftfs.demo.server import RecordedRequest, SwiftServer

WAIT_SECONDS = 60


class Job:
    """Prints the cost of each step of a test: seconds, requests, and the mount's peak memory."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._begin()

    def step(self, name: str) -> list[RecordedRequest]:
        """End a step and begin the next; return the step's requests."""
        seconds = time.monotonic() - self._started
        requests = self._mount.swift.requests()
        peak = self._mount.rss_peak() / 2**20
        counted = dict(methods(requests))
        print(f"{name}: {seconds:.1f} s, {len(requests)} requests {counted}, {peak:.0f} MiB")
        self._begin()
        return requests

    def _begin(self) -> None:
        self._mount.swift.reset_requests()
        self._started = time.monotonic()


def methods(requests: list[RecordedRequest]) -> Counter[str]:
    """Return how many requests there are of each method."""
    return Counter(request.method for request in requests)


def counted(swift: SwiftServer) -> list[RecordedRequest]:
    """Return the requests that count for a budget: all but those for a token and for `/info`."""
    return [one for one in swift.requests() if "/auth" not in one.path and one.path != "/info"]


def wait_until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds; fail after a minute, or later on a busy machine.

    If it raises an `AssertionError` it does not hold yet; the last one is raised in the end, and says why.
    """
    began = time.monotonic()
    pause = 0.001  # most conditions hold within milliseconds
    while True:
        is_late = time.monotonic() - began >= within(WAIT_SECONDS)
        try:
            if condition():
                return
            assert not is_late, "the condition never held"
        except AssertionError:
            if is_late:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def path_of(swift: SwiftServer, container: str, key: str = "") -> str:
    """Return the path of the requests for an object; without a key, its beginning for all of a container."""
    return f"/v1/{swift.storage_url.rpartition('/')[2]}/{container}/{key}"


def header(headers: Mapping[str, str], name: str) -> str:
    """Return the value of a header, whatever the case of its name, or ""."""
    return next((value for key, value in headers.items() if key.lower() == name.lower()), "")
