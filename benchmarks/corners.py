"""The corners at which transfers are compared: near, far, idle, busy, capped connections, and a long link."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from capped_proxy import capped_proxy

from swiftfs.demo.server import SwiftServer

SPIN = "while True: pass"


@dataclass(frozen=True, slots=True)
class Corner:
    """What is measured: the delay of a request in ms, and what else slows it down."""

    delay: float
    is_busy: bool = False
    is_capped: bool = False
    is_long: bool = False
    """Whether connections begin as slowly as TCP's; then the server is the stub, which takes no time."""

    def __str__(self) -> str:
        words = {
            "both cores busy": self.is_busy,
            "10 MB/s a connection": self.is_capped,
            "connections that begin slowly, stub": self.is_long,
        }
        return ", ".join([f"{self.delay:g} ms", *(word for word, is_so in words.items() if is_so)])


@dataclass(frozen=True, slots=True)
class Login:
    """The user of a Swift that is reached at another address."""

    auth_url: str
    user: str
    key: str


def corners(delays: Sequence[float]) -> list[Corner]:
    """Return the corners of these delays, in ms."""
    return [
        corner
        for delay in delays
        for corner in (Corner(delay), Corner(delay, is_busy=True), Corner(delay, is_capped=True))
    ]


@contextlib.contextmanager
def spinning(count: int) -> Iterator[None]:
    """Keep `count` cores busy."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", SPIN]))
            stack.callback(process.kill)
        yield


@contextlib.contextmanager
def reached(swift: SwiftServer, corner: Corner) -> Iterator[Login]:
    """Provide the login of a corner."""
    if not corner.is_capped:
        yield Login(swift.auth_url, swift.user, swift.key)
        return
    with capped_proxy(swift.port) as port:
        yield Login(swift.auth_url.replace(f":{swift.port}/", f":{port}/"), swift.user, swift.key)
