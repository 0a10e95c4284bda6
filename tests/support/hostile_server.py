"""A server on loopback that accepts every login and then answers as a test says, also nonsense."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK_BYTES = 2**20
TRICKLE_PAUSE = 0.02


@dataclass
class Response:
    """What the server sends: `headers` unchanged, then the body, then `padding` MiB of spaces.

    `trickles`: the body again and again, with pauses, until the client disconnects. `blanks`: so many spaces
    before the body, each with a pause. `silence`: seconds of silence after the body. `endless`: after `raw`,
    which replaces status, headers and body, these bytes again and again, with `pause` seconds between them.
    `stays`: the connection stays open for more requests.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    padding: int = 0
    trickles: bool = False
    blanks: int = 0
    silence: float = 0.0
    raw: bytes = b""
    endless: bytes = b""
    pause: float = TRICKLE_PAUSE
    stays: bool = False


COUNTS = {"X-Account-Container-Count": "1", "X-Container-Object-Count": "1"}
"""Without these, an answer to a request for a listing is not Swift's."""


@dataclass
class HostileServer:
    """What the server answers next, and the requests that it got besides logins.

    `respond`, if set, is called with each request's body and returns the response, instead of `response`.
    `info`, if set, is the answer to `/info`. `logins_left` and then `login`, if set, are the answers to
    logins. `logins` are the headers and the body of each. `connections` counts those of all requests.
    """

    url: str
    response: Response = field(default_factory=Response)
    respond: Callable[[bytes], Response] | None = None
    info: Response | None = None
    login: Response | None = None
    logins_left: list[Response] = field(default_factory=list)
    logins: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    connections: Counter[int] = field(default_factory=Counter)

    @property
    def environment(self) -> dict[str, str]:
        """Credentials that the server accepts."""
        return {"ST_AUTH": f"{self.url}/auth", "ST_USER": "u", "ST_KEY": "k"}

    @property
    def keystone_environment(self) -> dict[str, str]:
        """Credentials for a login at its `/v3`, which the test must answer."""
        return {
            "OS_AUTH_URL": f"{self.url}/v3",
            "OS_USERNAME": "u",
            "OS_PASSWORD": "secret-password",
            "OS_PROJECT_ID": "p",
        }


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """Serve on a free port until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as listener:
        listener.daemon_threads = False  # so that closing the server waits for them
        hostile = HostileServer(f"http://127.0.0.1:{listener.server_address[1]}")
        listener.RequestHandlerClass = type("Handler", (_Handler,), {"hostile": hostile})
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hostile
        finally:
            listener.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests to `hostile`, which each server's own class has."""

    hostile: HostileServer

    def handle_request(self) -> None:
        hostile = self.hostile
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path.startswith(("/auth", "/v3")):
            hostile.logins.append((dict(self.headers), body))
            headers = {"X-Storage-Url": f"{hostile.url}/v1/a", "X-Auth-Token": "token"}
            if hostile.logins_left:
                return self.send(hostile.logins_left.pop(0))
            return self.send(hostile.login or Response(headers=headers))
        if self.path == "/info" and hostile.info:
            return self.send(hostile.info)
        hostile.paths.append(self.path)
        hostile.connections[self.client_address[1]] += 1
        hostile.tokens.append(self.headers["X-Auth-Token"])
        return self.send(hostile.respond(body) if hostile.respond else hostile.response)

    def send(self, response: Response) -> None:
        self.close_connection = not response.stays
        if response.raw or response.endless:
            return self.send_raw(response)
        self.send_response(response.status)
        for name, value in {**COUNTS, **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for _ in range(response.blanks):
                self.wfile.write(b" ")
                time.sleep(TRICKLE_PAUSE)
            while response.trickles:
                self.wfile.write(response.body)
                time.sleep(TRICKLE_PAUSE)
            self.wfile.write(response.body)
            time.sleep(response.silence)
            for _ in range(response.padding):
                self.wfile.write(b" " * BLOCK_BYTES)
        except ConnectionError:  # the client has read enough
            pass

    def send_raw(self, response: Response) -> None:
        try:
            self.wfile.write(response.raw)
            while response.endless:
                self.wfile.write(response.endless)
                time.sleep(response.pause)
        except ConnectionError:  # the client has read enough
            pass

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_COPY = handle_request  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Log nothing."""
