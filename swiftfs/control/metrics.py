"""A mount's status as metrics for Prometheus: served over HTTP, or written to a file for node_exporter.

Names and units follow Prometheus' conventions (prometheus.io/docs/practices/naming).
"""

import contextlib
import logging
import os
import socket
import socketserver
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import write_to_textfile
from prometheus_client.registry import Collector

from swiftfs.concurrency import Thread, monotonic, new_event, new_thread
from swiftfs.config.prices import MonthCost
from swiftfs.control.snapshot import MountStatus
from swiftfs.errors import ConfigurationError

log = logging.getLogger(__name__)

WRITE_SECONDS = 15.0
"""The interval between two versions of the file: how often Prometheus usually asks."""

CLIENTS = 8
"""How many clients are served at once; each holds a descriptor, which the mount needs for its files."""

CLIENT_SECONDS = 10.0
"""How long a client may take to send its request and to read the answer."""

POLL_SECONDS = 0.1
"""How soon the server notices that it should end, or that a client has taken too long."""

SOCKET_MODE = 0o660
"""Lets the mount's user and group read the metrics at a Unix socket."""

Watch = Callable[[], MountStatus]


class StateCollector(Collector):
    """Reads the mount's status only when the metrics are requested."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def describe(self) -> list[Metric]:
        """Describe nothing, so that nothing is read when it is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        state = self._watch()
        yield InfoMetricFamily(
            "swiftfs",
            "Source, mount point and version.",
            value={"version": state.version, "source": state.source, "mountpoint": state.mountpoint},
        )
        yield GaugeMetricFamily("swiftfs_start_time_seconds", "When it was mounted.", value=state.since)
        yield from _requests(state)
        yield from _limits(state)
        yield from _changes(state)
        yield GaugeMetricFamily(
            "swiftfs_offline", "1 while it is offline (option offline), else 0.", value=float(state.offline)
        )
        used, kinds = state.cache, ("used", "dirty", "limit", "pinned")
        cache = GaugeMetricFamily(
            "swiftfs_cache_bytes",
            "Disk space of the cache folder; dirty is not in Swift yet, pinned stays.",
            labels=["kind"],
        )
        for kind, size in zip(kinds, (used.used, used.dirty, used.limit, used.pinned), strict=True):
            cache.add_metric([kind], size)
        yield cache


def _requests(state: MountStatus) -> Iterator[Metric]:
    families = (
        ("swiftfs_requests", "Requests to Swift.", "requests"),
        (
            "swiftfs_request_failures",
            "Requests without an answer, or with one outside 2xx; not HEAD or DELETE with 404.",
            "failures",
        ),
        ("swiftfs_request_seconds", "Total time until the ends of the answers.", "seconds"),
        ("swiftfs_sent_bytes", "Bytes of bodies sent to Swift.", "bytes_sent"),
        ("swiftfs_received_bytes", "Bytes of bodies received from Swift.", "bytes_received"),
    )
    for name, text, field in families:
        family = CounterMetricFamily(name, text, labels=["class"])
        for kind, count in state.requests.items():
            family.add_metric([kind], getattr(count, field))
        yield family
    if state.cost is not None:
        cost = CounterMetricFamily(
            "swiftfs_estimated_cost", "Requests and traffic at the prices given.", labels=["currency"]
        )
        cost.add_metric([state.cost.currency], state.cost.total)
        yield cost


def _limits(state: MountStatus) -> Iterator[Metric]:
    limits = state.throttling
    rates = GaugeMetricFamily(
        "swiftfs_limit_bytes_per_second", "The rate of `bwlimit` now; none without one.", labels=["direction"]
    )
    for direction, rate in (("sent", limits.sent), ("received", limits.received)):
        if rate is not None:
            rates.add_metric([direction], rate)
    yield rates
    requests = GaugeMetricFamily("swiftfs_limit_requests_per_second", "`tpslimit`; none without one.")
    if limits.requests:
        requests.add_metric([], limits.requests)
    yield requests
    waits = CounterMetricFamily(
        "swiftfs_throttled_seconds",
        "How long requests have waited for these limits, all of them together.",
        labels=["kind"],
    )
    for kind in ("sent", "received", "requests"):
        waits.add_metric([kind], getattr(limits, f"{kind}_waited"))
    yield waits
    if state.month is not None:
        yield from _month(state.month)


def _month(month: MonthCost) -> Iterator[Metric]:
    amounts = [("swiftfs_month_cost", "Requests and traffic of this month at the prices given.", month.cost)]
    if month.budget is not None:
        amounts.append(("swiftfs_month_budget", "What they may cost in a month.", month.budget))
    for name, text, amount in amounts:
        family = GaugeMetricFamily(name, text, labels=["currency"])
        family.add_metric([month.currency], amount)
        yield family


def _changes(state: MountStatus) -> Iterator[Metric]:
    report = state.report
    changes = GaugeMetricFamily("swiftfs_changes", "Changes that are not in Swift yet.", labels=["state"])
    for kind in ("waiting", "running", "parked"):
        changes.add_metric([kind], getattr(report, kind))
    yield changes
    yield GaugeMetricFamily(
        "swiftfs_waiting_bytes", "Bytes of the files of these changes.", value=report.bytes
    )
    yield GaugeMetricFamily(
        "swiftfs_objects_to_move",
        "Objects of renamed folders that are to be moved yet.",
        value=sum(one.left for one in report.renames),
    )
    yield GaugeMetricFamily(
        "swiftfs_oldest_change_seconds", "Age of the oldest of these changes.", value=report.oldest
    )
    yield GaugeMetricFamily(
        "swiftfs_server_away", "1 while the server does not answer, else 0.", value=float(report.away)
    )


def registry_of(watch: Watch) -> CollectorRegistry:
    """Return a registry of the mount's status and of its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StateCollector(watch))
    ProcessCollector(registry=registry)
    return registry


def text_of(watch: Watch) -> bytes:
    """Return the current metrics in Prometheus' text format."""
    return generate_latest(registry_of(watch))


class Exporter(Protocol):
    """Publishes metrics from `start` until `close`, in its own thread."""

    def start(self, watch: Watch) -> None:
        """Begin; after a fork, if there is one."""

    def close(self) -> None:
        """End the thread, if it was started."""


def open_exporter(where: str) -> Exporter:
    """Return the exporter for the option `metrics`, ready to begin; raise `ConfigurationError`."""
    return FileExporter(Path(where)) if where.endswith(".prom") else HttpExporter(where)


class HttpExporter:
    """Answers GET at `ADDRESS:PORT`, or at a Unix socket, with the metrics, whatever the path."""

    def __init__(self, where: str) -> None:
        self._socket = Path(where) if "/" in where else None
        try:
            self._server = _Server(*_address(where))
            if self._socket is not None:
                self._socket.chmod(SOCKET_MODE)
        except OSError as error:
            raise ConfigurationError(f"option metrics={where}: {error.strerror or error}") from None
        self._thread = new_thread(self._server.serve_forever, "metrics", (POLL_SECONDS,))

    def start(self, watch: Watch) -> None:
        """Begin to answer; earlier clients have to wait until now."""
        self._server.RequestHandlerClass = _Handler.factory(registry_of(watch))
        self._thread.start()

    def close(self) -> None:
        """Release the port or the socket, even if a client is being answered."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)


def _address(where: str) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the address to bind; a socket that nobody listens to any more is removed."""
    if "/" not in where:
        host, _, port = where.rpartition(":")
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        return family, address
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(where)
        except ConnectionRefusedError:
            if Path(where).is_socket():  # a file refuses, too
                Path(where).unlink()
    return socket.AF_UNIX, where


class _Handler(MetricsHandler):
    timeout = CLIENT_SECONDS


class _Server(socketserver.ThreadingTCPServer):
    """Serves each client in a thread, `CLIENTS` of them at once; further ones are sent away."""

    allow_reuse_address = True
    request_queue_size = 2 * CLIENTS
    daemon_threads = True  # a client that reads slowly must not delay an unmount

    def __init__(self, family: int, address: Any) -> None:
        self.address_family = family
        # By connection; monotonic seconds. The server's thread adds them, and the client's removes its own.
        self._deadlines: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def verify_request(self, request: Any, _client: object) -> bool:
        """Return whether a new client is served."""
        if len(self._deadlines) >= CLIENTS:
            return False
        self._deadlines[request] = monotonic() + CLIENT_SECONDS
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client, and close its connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._deadlines.pop(request, None)

    def service_actions(self) -> None:
        """Break off connections that take too long: `timeout` is only that of one read or write."""
        now = monotonic()
        for request, deadline in list(self._deadlines.items()):
            if deadline < now:
                self._deadlines.pop(request, None)
                with contextlib.suppress(OSError):  # it has just ended
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, _request: object, client: object) -> None:
        log.info("cannot send metrics to %s", client, exc_info=log.isEnabledFor(logging.DEBUG))


class FileExporter:
    """Writes the metrics to a file every 15 s and at the end, atomically: to another file first."""

    def __init__(self, path: Path) -> None:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            try:
                why = "no permission to write there" if path.parent.is_dir() else "there is no such folder"
            except OSError as error:  # it is below a dead mount
                why = str(error.strerror)
            raise ConfigurationError(f"option metrics={path}: {why}")
        self._path = path
        self._ended = new_event()
        self._thread: Thread | None = None

    def start(self, watch: Watch) -> None:
        """Write the first version, soon."""
        registry = registry_of(watch)
        self._thread = new_thread(self._run, "metrics", (registry,))
        self._thread.start()

    def close(self) -> None:
        """Write the last version."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, registry: CollectorRegistry) -> None:
        ended = False
        while not ended:
            self._write(registry)
            ended = self._ended.wait(WRITE_SECONDS)
        self._write(registry)

    def _write(self, registry: CollectorRegistry) -> None:
        try:
            write_to_textfile(str(self._path), registry)
        except OSError as error:
            log.warning("cannot write metrics to %s: %s", self._path, error.strerror)
