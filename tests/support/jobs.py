"""What the tests of whole jobs share: their figures, what the server recorded, and waiting."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from support.deadlines import within
from support.mounts import Mount
from swiftfs.demo.server import RecordedRequest, SwiftServer

WAIT_SECONDS = 60


class Job:
    """Prints what each step of a test took: seconds, requests, and the peak of the process's memory."""

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
    """Return the requests that a budget counts: all but those for a token and for what the server can do."""
    return [one for one in swift.requests() if "/auth" not in one.path and one.path != "/info"]


def wait_until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds; fail after a minute, or more on a busy machine."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within(WAIT_SECONDS), "it never came to be"
        time.sleep(0.02)


def path_of(swift: SwiftServer, container: str, key: str = "") -> str:
    """Return the path at which the server records requests for an object, or begins to for a container."""
    return f"/v1/{swift.storage_url.rpartition('/')[2]}/{container}/{key}"


def header(headers: Mapping[str, str], name: str) -> str:
    """Return a header's value whatever the case of its name, or ""."""
    return next((value for key, value in headers.items() if key.lower() == name.lower()), "")
