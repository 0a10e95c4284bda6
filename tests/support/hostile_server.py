"""A server on loopback that lets everybody in and then answers as a test says, however absurd."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = b" " * 2**20
TRICKLE_PAUSE = 0.02


@dataclass
class Said:
    """An answer; `padding` MiB of blanks follow the body, and headers go out as they are.

    One that `trickles` sends its body again and again, with pauses, until the client goes. Before the body go
    `blanks`, each after a pause; after it come seconds of `silence`.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    padding: int = 0
    trickles: bool = False
    blanks: int = 0
    silence: float = 0.0


@dataclass
class HostileServer:
    """What the server answers next, and the requests it got besides logins.

    Where there is an `answer` it is asked with each request's body, in place of `said`.
    """

    url: str
    said: Said = field(default_factory=Said)
    answer: Callable[[bytes], Said] | None = None
    paths: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Credentials that the server accepts."""
        return {"ST_AUTH": f"{self.url}/auth", "ST_USER": "u", "ST_KEY": "k"}


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """Serve until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as listener:
        listener.daemon_threads = False  # so that its end waits for theirs
        hostile = HostileServer(f"http://127.0.0.1:{listener.server_address[1]}")
        listener.RequestHandlerClass = _handler(hostile)
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hostile
        finally:
            listener.shutdown()
            thread.join()


def _handler(hostile: HostileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if self.path == "/auth":
                headers = {"X-Storage-Url": f"{hostile.url}/v1/a", "X-Auth-Token": "token"}
                return self.say(Said(headers=headers))
            hostile.paths.append(self.path)
            hostile.tokens.append(self.headers["X-Auth-Token"])
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            return self.say(hostile.answer(body) if hostile.answer else hostile.said)

        def say(self, said: Said) -> None:
            self.close_connection = True
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for _ in range(said.blanks):
                    self.wfile.write(b" ")
                    time.sleep(TRICKLE_PAUSE)
                while said.trickles:
                    self.wfile.write(said.body)
                    time.sleep(TRICKLE_PAUSE)
                self.wfile.write(said.body)
                time.sleep(said.silence)
                for _ in range(said.padding):
                    self.wfile.write(BLOCK)
            except ConnectionError:  # the client has read enough
                pass

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_COPY = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
