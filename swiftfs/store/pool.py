"""A pool of swiftclient connections. One thread at a time uses each, because it keeps a request's state."""

import os
import re
import select
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests
import swiftclient
from requests.exceptions import InvalidHeader
from urllib3.util import parse_url

from swiftfs import __version__
from swiftfs.concurrency import Rank, new_lock
from swiftfs.store.auth import Account
from swiftfs.store.request import Request
from swiftfs.store.sockets import LimitedAdapter, Limits, Response, limited

CONNECT_SECONDS = 5.0
"""Longest wait for a connection."""

USER_AGENT = f"swiftfs/{__version__}"


class Connection:
    """One swiftclient connection, kept alive between requests; used by one thread at a time."""

    def __init__(self, account: Account) -> None:
        session = account.session
        self._connection = swiftclient.Connection(
            session=session,
            # `retry.py` repeats requests: swiftclient would sleep within the call, for up to 31 s, and
            # ignore Retry-After.
            retries=0,
            cacert=session.verify if isinstance(session.verify, str) else None,
            insecure=session.verify is False,
            cert=session.cert[0] if isinstance(session.cert, tuple) else session.cert,
            cert_key=session.cert[1] if isinstance(session.cert, tuple) else None,
        )
        self._base = urlsplit(account.endpoint()).path
        self._http = self._connection.http_connection(account.endpoint())[1]
        self._adapter: Any = _ExactAdapter()
        for scheme in ("http://", "https://"):
            self._http.request_session.mount(scheme, self._adapter)
        self._read_environment_once(account.endpoint())
        self._sockets: Any = None  # urllib3's types do not know our connections
        self._connected: Any = None
        # What can be read from an idle socket is its end.
        self._incoming = select.poll()
        self._origin, self._fixed = "", b""

    def _read_environment_once(self, url: str) -> None:
        """Read proxies and certificates from the environment now: requests would do so for each request."""
        session = self._http.request_session
        # Otherwise requests would also send the password that ~/.netrc has for the host.
        session.trust_env = False
        session.proxies = requests.utils.get_environ_proxies(url)
        if self._http.requests_args.get("verify") is True:
            bundles = (os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
            self._http.requests_args["verify"] = next(filter(None, bundles), True)

    def send(
        self, request: Request, token: str, timeout: float, limits: Limits, count: Callable[[int], None]
    ) -> Response:
        """Send `request` and return the answer with its body unread; raise the errors of the network.

        `timeout`, in seconds, limits the wait for a connection, and `limits` the rest, the reading of the
        body included. `count` is called with the size of each slice of the body that was sent. Call `release`
        when the answer was read.

        swiftclient's own functions are not used: they unquote every header they read, so that `%41` in an
        object's metadata comes back as `A`. Nor are the session of requests and urllib3's pool: they prepare
        and check each request anew, which takes several times as long as to send it. A redirect is not
        followed: it would carry the token elsewhere.
        """
        connected = self._connect(min(CONNECT_SECONDS, timeout), limits)
        head, body = self._head(request, token), memoryview(request.body or b"").cast("B")
        try:
            answer: Response = connected.exchange(request.method, head, body, limits, count)
        except BaseException:
            connected.close()
            raise
        return answer

    def release(self, answer: Response) -> None:
        """End an answer; the socket stays open for the next request if all of it was read."""
        may_go_on = answer.may_go_on
        answer.close()
        if not may_go_on:
            self._connected.close()

    def _connect(self, timeout: float, limits: Limits) -> Any:
        """Return the connection of urllib3, with a socket that the server has not closed."""
        sockets = self._sockets or self._open_sockets()
        connected = self._connected
        if connected.sock is not None:
            if not self._incoming.poll(0):
                return connected
            connected.close()
        connected.timeout = timeout
        try:
            with limited(limits):
                if sockets.proxy is not None and sockets.scheme == "https":
                    sockets._prepare_proxy(connected)  # the tunnel
                else:
                    connected.connect()
        except BaseException:
            connected.close()
            raise
        self._incoming = select.poll()
        self._incoming.register(connected.sock, select.POLLIN)
        return connected

    def _head(self, request: Request, token: str) -> bytes:
        """Return the request line and the headers; raise `InvalidHeader` for what no header can carry."""
        lines = [f"{request.method} {self._origin}{request.path(self._base)} HTTP/1.1".encode(), self._fixed]
        if not request.info:
            lines.append(b"X-Auth-Token: " + token.encode())
        if request.method not in ("GET", "HEAD"):
            size = len(memoryview(request.body).cast("B")) if request.body else 0
            lines.append(b"Content-Length: %d" % size)
        # Under its own name, in UTF-8, which other libraries refuse or change.
        lines += [f"{name}: {value}".encode() for name, value in request.headers.items()]
        for line in lines[2:]:
            if not _HEADER.fullmatch(line):
                raise InvalidHeader(f"{line[:80]!r} is no header")
        return b"\r\n".join([*lines, b"", b""])

    def _open_sockets(self) -> Any:
        """Return the sockets that requests would use, with its certificates and its proxy."""
        session, arguments = self._http.request_session, self._http.requests_args
        url = requests.PreparedRequest()
        url.prepare_url(self._http.url, None)
        verify, cert = arguments.get("verify", True), arguments.get("cert")
        sockets = self._adapter.get_connection_with_tls_context(
            url, verify, proxies=session.proxies, cert=cert
        )
        self._adapter.cert_verify(sockets, self._http.url, verify, cert)
        target = parse_url(self._http.url)
        host = f"{target.host}:{target.port}" if target.port else f"{target.host}"
        fixed = {"Host": host, "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        # A proxy without a tunnel gets whole URLs.
        if not self._adapter.request_url(url, session.proxies).startswith("/"):
            self._origin = "{0.scheme}://{0.netloc}".format(urlsplit(self._http.url))
            fixed |= sockets.proxy_headers
        self._fixed = "\r\n".join(f"{name}: {value}" for name, value in fixed.items()).encode()
        self._sockets, self._connected = sockets, sockets._new_conn()
        return sockets

    def close(self) -> None:
        """Close the socket."""
        if self._connected is not None:
            self._connected.close()
        self._http.close()


class ConnectionPool:
    """Leases connections, the last used first, so that few are kept alive."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = new_lock(Rank.CONNECTIONS)
        self._idle: list[Connection] = []
        self._closed = False

    def lease(self) -> Connection:
        """Lease a connection to the calling thread until it is returned with `give_back`."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        return connection or Connection(self._account)

    def give_back(self, connection: Connection) -> None:
        """End the lease of a connection."""
        with self._lock:
            kept = not self._closed
            if kept:
                self._idle.append(connection)
        if not kept:
            connection.close()

    def close(self) -> None:
        """Close the idle connections now, and the leased ones when they are returned."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


_HEADER = re.compile(rb"[^:\s\0][^:\r\n\0]*: (?:\S[^\r\n]*)?")


class _ExactAdapter(LimitedAdapter):
    """Makes the sockets, one at a time."""

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)

    def close(self) -> None:
        """Close the sockets now.

        urllib3 leaves that to the garbage collector, and an error that is kept somewhere would keep them open
        by its traceback.
        """
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in set(manager.pools.keys()):
                manager.pools[key].close()
        super().close()
