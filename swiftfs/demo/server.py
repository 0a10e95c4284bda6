"""Starts and stops a real Swift in a child process, records its requests and makes them fail."""

import contextlib
import http.client
import importlib.util
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from swiftfs.concurrency import Rank, new_lock
from swiftfs.errors import ConfigurationError

TOKEN_LIFE = 86_400
"""How long a token is valid, in seconds; tempauth's own default."""


@dataclass(frozen=True)
class User:
    """A user of tempauth; with the group `.admin` it owns its account, with `.reseller_admin` all."""

    name: str
    key: str
    rights: tuple[str, ...] = ()


OWNER = User("test:tester", "testing", (".admin",))
READER = User("test:reader", "reading")
"""Belongs to the owner's account, but has only the rights of a container's ACL there."""
STRANGER = User("other:tester", "testing", (".admin",))
"""Owns another account."""
OPERATOR = User("admin:admin", "admin", (".admin", ".reseller_admin"))
"""May set an account's quota."""
USERS = (OWNER, READER, STRANGER, OPERATOR)


@dataclass(frozen=True)
class Keystone:
    """Keystone v3 instead of tempauth: its URL with `/v3`, and a user there who may validate tokens.

    The user and its project belong to the domain with the id `default`. Needs PyPI `keystonemiddleware`.
    """

    auth_url: str
    user: str
    password: str = field(repr=False)
    project: str


@dataclass(frozen=True)
class ServerSettings:
    """How the server differs from an ordinary one.

    `without` names filters of the pipeline to leave out (`bulk`, `slo`, `symlink`, …); `delay` is added to
    each request, in seconds; `constraints` are further options of `[swift-constraints]` in `swift.conf`;
    `token_life` is in seconds. With `keystone` tokens come from there, and tempauth and its users are gone.
    With `object_versioning` a container may keep older versions (`X-Versions-Enabled`).
    """

    listing_limit: int = 10_000
    without: frozenset[str] = frozenset()
    delay: float = 0.0
    constraints: Mapping[str, str] = field(default_factory=dict)
    token_life: int = TOKEN_LIFE
    keystone: Keystone | None = None
    object_versioning: bool = False


@dataclass(frozen=True)
class RecordedRequest:
    """A client's request as the server saw it.

    `path` and `query` are unquoted; `status` is 0 while there is no answer, and stays 0 if the connection
    was broken first. Bytes are those of the bodies. `headers` have capitalized names and no secrets.
    """

    method: str
    path: str
    query: str = ""
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)


class Fault(Struct, frozen=True):
    """A failure of the requests with `method` ("" is any) whose unquoted `path?query` matches `path`.

    `path` is a regular expression that is searched; requests for a token never match unless it contains
    `/auth`. The fault applies to the next `times` such requests, -1 is all. It waits `delay` seconds, then

    - breaks the connection (`reset`) without executing the request, after `accept_body` bytes of its body, or
    - answers `status` with `headers` and `body`, without executing the request, and with a request id as
      Swift does, unless the answer `is_foreign`, or
    - lets Swift answer, with `headers` instead of its own, without those whose text is empty; with the whole
      body, or with one byte changed (`flip_byte`), or with a pause of `stall` seconds before its last byte,
      or truncated after `truncate_body` bytes and the connection closed, or broken with `reset`.

    With `after` Swift executes the request before the delay, and its answer is lost. With `late` Swift
    executes it this many seconds after its arrival, as a server behind a slow proxy may do.
    """

    method: str = ""
    path: str = ""
    status: int = 0
    headers: Mapping[str, str] = MappingProxyType({})
    times: int = -1
    delay: float = 0.0
    truncate_body: int = -1
    flip_byte: bool = False
    after: bool = False
    reset: bool = False
    stall: float = 0.0
    accept_body: int = 0
    body: str = ""
    late: float = 0.0
    is_foreign: bool = False

    def __post_init__(self) -> None:
        if (self.after or self.late) and not (self.status or self.reset):
            raise ValueError("a fault after the request needs a status or a reset to replace the answer")


__all__ = ["Fault", "RecordedRequest", "ServerSettings", "SwiftServer"]

HOST = "127.0.0.1"
START_TIMEOUT = 60.0
"""Seconds after which a start has failed; it takes about one, and more on a busy machine."""
CONTROL_TIMEOUT = 30.0
SHARED_MEMORY = Path("/dev/shm")
EMPTY_ETAG = "d41d8cd98f00b204e9800998ecf8427e"


class SwiftServer:
    """A Swift with one account and its data in the folder `data`; every method may be called from any thread.

    Without `data` the folder is a private one, in memory if the system has space for that, and is deleted
    when the server stops. The port stays the same from the first start to `stop`; 0 lets the system choose.
    """

    def __init__(
        self, data: Path | None = None, settings: ServerSettings | None = None, port: int = 0
    ) -> None:
        self.settings = settings or ServerSettings()
        self.user = OWNER.name
        self.key = OWNER.key
        self._data = data
        self._wanted_port = port
        self._lock = new_lock(Rank.DEMO, reentrant=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._reservation: socket.socket | None = None
        self._private: tempfile.TemporaryDirectory[str] | None = None
        self._port = port

    def __enter__(self) -> "SwiftServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port on loopback; known once the server was started."""
        return self._port

    @property
    def auth_url(self) -> str:
        """The URL for v1 authentication."""
        return f"http://{HOST}:{self._port}/auth/v1.0"

    @property
    def storage_url(self) -> str:
        """The account of `user`."""
        return f"http://{HOST}:{self._port}/v1/AUTH_{self.user.partition(':')[0]}"

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        with self._lock:
            return self._process.pid if self._process else None

    @property
    def data(self) -> Path | None:
        """The folder of the data and of `swift.log`; a private one exists from start to stop."""
        with self._lock:
            return Path(self._private.name) if self._private else self._data

    def environment(self) -> dict[str, str]:
        """Return the environment variables by which Swift clients find this server."""
        return {"ST_AUTH": self.auth_url, "ST_USER": self.user, "ST_KEY": self.key}

    def start(self) -> None:
        """Start the child and wait until it answers; do nothing while it runs.

        Raise `ConfigurationError` if Swift is not installed, the port is in use, or the child fails.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self.kill()
            if importlib.util.find_spec("swift") is None:
                raise ConfigurationError("the demo server needs OpenStack Swift: pip install 'swiftfs[demo]'")
            try:
                self._reserve_port()
                self._launch(self._prepare_folder())
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End the child, release the port and delete the private folder; do nothing if that is done."""
        with self._lock:
            self.kill()
            if self._reservation is not None:
                self._reservation.close()
                self._reservation = None
            if self._private is not None:
                self._private.cleanup()
                self._private = None

    def kill(self) -> None:
        """Kill the child as a crash would; its data stays for the next start, but not requests and faults."""
        with self._lock:
            if self._process is None:
                return
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def requests(self) -> list[RecordedRequest]:
        """Return the clients' requests since the last reset, in the order in which they came.

        This and the methods below raise `OSError` while the server is down.
        """
        return [RecordedRequest(**fields) for fields in self._control("GET", "requests")]

    def reset_requests(self) -> None:
        """Forget the recorded requests."""
        self._control("DELETE", "requests")

    def inject(self, fault: Fault) -> None:
        """Apply the fault from now on; if several match a request, the first one applies."""
        self._control("POST", "faults", {**asdict(fault), "headers": dict(fault.headers)})

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._control("DELETE", "faults")

    def end_delays(self) -> None:
        """Let the requests go on that a fault delays now."""
        self._control("DELETE", "delays")

    def add_rows(
        self,
        container: str,
        names: Iterable[str],
        *,
        size: int = 0,
        etag: str = EMPTY_ETAG,
        content_type: str = "application/octet-stream",
    ) -> None:
        """Add listing rows of objects of `size` bytes that do not exist: 100,000 of them in seconds."""
        row = {"size": size, "content_type": content_type, "etag": etag}
        rows = [{"name": name, **row} for name in names]
        account = self.storage_url.rpartition("/")[2]
        self._control("POST", "rows", {"account": account, "container": container, "rows": rows})

    def _control(self, method: str, subject: str, value: object = None) -> Any:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=CONTROL_TIMEOUT)
        with contextlib.closing(connection):
            connection.request(method, f"/_control/{subject}", body=json.dumps(value))
            answer = connection.getresponse()
            body = answer.read()
        if answer.status != http.client.OK:
            raise ValueError(f"the demo server refused {method} {subject}: {body.decode()}")
        return json.loads(body)

    def _reserve_port(self) -> None:
        """Keep the port, bound but not listening, so that no other process gets it while the child is down.

        Linux lets another socket with SO_REUSEADDR listen there, and refuses connections until one does.
        """
        if self._reservation is not None:
            return
        reservation = socket.socket()
        try:
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reservation.bind((HOST, self._wanted_port))
        except OSError as error:
            reservation.close()
            raise ConfigurationError(f"port {self._wanted_port} cannot be used: {error.strerror}") from error
        self._reservation = reservation
        self._port = reservation.getsockname()[1]

    def _prepare_folder(self) -> Path:
        if self._data is not None:
            self._data.mkdir(parents=True, exist_ok=True)
            return self._data.resolve()
        if self._private is None:
            self._private = tempfile.TemporaryDirectory(
                prefix="swiftfs-demo-", dir=_folder_in_memory(), ignore_cleanup_errors=True
            )
        return Path(self._private.name)

    def _launch(self, data: Path) -> None:
        log = data / "swift.log"
        with log.open("ab") as stderr:
            logged = stderr.tell()
            # In its own session the child does not get Ctrl-C: the parent may have uploads to finish.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "swiftfs.demo.swift_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "TZ": "UTC+0"},
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(self._orders(data)).encode() + b"\n")
            self._process.stdin.flush()
        if not self._is_ready():
            self.kill()
            raise ConfigurationError(f"the demo server does not start: {_last_line(log, logged)}")

    def _orders(self, data: Path) -> dict[str, Any]:
        settings = {
            **vars(self.settings),
            "without": sorted(self.settings.without),
            "constraints": dict(self.settings.constraints),
            "keystone": self.settings.keystone and vars(self.settings.keystone),
        }
        return {
            "data": str(data),
            "private": self._private is not None,
            "port": self._port,
            "settings": settings,
        }

    def _is_ready(self) -> bool:
        """Wait for the child's one line on stdout, its end, or the timeout."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT)
        return bool(ready and self._process.stdout.readline())


def _folder_in_memory() -> str | None:
    """Return a folder on tmpfs that keeps Swift's extended attributes (Linux 6.6), or None."""
    try:
        with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY) as probe:
            os.setxattr(probe.name, "user.swift.metadata", b"x" * 8192)
    except OSError:
        return None
    return str(SHARED_MEMORY)


def _last_line(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), f"no message in {log}")
