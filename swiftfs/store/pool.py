"""A pool of swiftclient connections. One thread at a time uses each, because it keeps a request's state."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
import swiftclient
from requests.utils import check_header_validity
from urllib3 import BaseHTTPResponse
from urllib3.util.retry import Retry
from urllib3.util.timeout import Timeout

from swiftfs import __version__
from swiftfs.concurrency import Rank, new_lock
from swiftfs.store.auth import Account
from swiftfs.store.protocol import Body
from swiftfs.store.request import Request
from swiftfs.store.sockets import LimitedAdapter, Limits, carried, limited

CONNECT_SECONDS = 5.0
"""Longest wait for a connection."""

USER_AGENT = f"swiftfs/{__version__}"

SLICE_BYTES = 1024**2
"""A body is sent, and its progress counted, in slices of this size."""


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
        self._sockets: Any = None  # urllib3's types know neither bodies nor headers as it takes them
        self._origin = ""

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
    ) -> BaseHTTPResponse:
        """Send `request` and return the answer with its body unread; raise what requests and urllib3 raise.

        `timeout`, in seconds, limits the wait for a connection, and `limits` the rest, the reading of the
        body included. `count` is called with the size of each slice of the body that was sent.
        swiftclient's own functions are not used: they unquote every header they read, so that `%41` in an
        object's metadata comes back as `A`. Nor is the session of requests: it prepares and checks each
        request anew, which takes as much time as to send it.
        """
        sockets = self._sockets or self._open_sockets()
        body = _Slices(request.body, count) if request.body else None
        with limited(limits):
            # A redirect is not followed: it would carry the token elsewhere.
            answer: BaseHTTPResponse = sockets.urlopen(
                request.method,
                self._origin + request.path(self._base),
                body,
                self._headers(request, token),
                retries=_NO_RETRY,
                redirect=False,
                assert_same_host=False,
                timeout=Timeout(connect=min(CONNECT_SECONDS, timeout), read=timeout),
                preload_content=False,
                decode_content=False,
            )
        return answer

    def _headers(self, request: Request, token: str) -> dict[str, bytes]:
        headers = {"User-Agent": USER_AGENT, **request.headers}
        if not request.info:
            headers["X-Auth-Token"] = token
        if request.method not in ("GET", "HEAD"):
            headers["Content-Length"] = str(len(memoryview(request.body).cast("B")) if request.body else 0)
        encoded = {carried(name): value.encode() for name, value in headers.items()}
        for name, value in encoded.items():
            check_header_validity((name, value))  # type: ignore[type-var]  # it takes both kinds
        return encoded

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
        # A proxy without a tunnel gets whole URLs.
        if not self._adapter.request_url(url, session.proxies).startswith("/"):
            self._origin = "{0.scheme}://{0.netloc}".format(urlsplit(self._http.url))
        self._sockets = sockets
        return sockets

    def close(self) -> None:
        """Close the socket."""
        self._http.close()


class ConnectionPool:
    """Leases connections, the last used first, so that few are kept alive."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = new_lock(Rank.CONNECTIONS)
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def lease(self) -> Iterator[Connection]:
        """Lease a connection to the calling thread until the block ends."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or Connection(self._account)
        try:
            yield connection
        finally:
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


_NO_RETRY = Retry(0, read=False)


class _ExactAdapter(LimitedAdapter):
    """Makes the sockets, one at a time."""

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=_NO_RETRY)

    def close(self) -> None:
        """Close the sockets now.

        urllib3 leaves that to the garbage collector, and an error that is kept somewhere would keep them open
        by its traceback.
        """
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in set(manager.pools.keys()):
                manager.pools[key].close()
        super().close()


class _Slices:
    """A body of known length, sent in large views without a copy."""

    def __init__(self, body: Body, count: Callable[[int], None]) -> None:
        self._view = memoryview(body).cast("B")
        self._count = count

    def __len__(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._view), SLICE_BYTES):
            piece = self._view[start : start + SLICE_BYTES]
            yield piece
            self._count(len(piece))
