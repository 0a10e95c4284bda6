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
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from msgspec.structs import asdict

from swiftfs.concurrency import Rank, new_lock
from swiftfs.demo.values import OWNER, Fault, RecordedRequest, ServerSettings
from swiftfs.errors import ConfigurationError

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
