"""Metrics for Prometheus, over HTTP or from a file, while the mount runs."""

import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.deadlines import within
from support.jobs import wait_until
from support.mount_states import STATE
from support.mounts import Mount, run
from swiftfs.config.prices import Cost
from swiftfs.control import metrics
from swiftfs.control.client import read_state
from swiftfs.demo.server import Fault, SwiftServer

Samples = dict[tuple[str, str], float]


def parse(text: str) -> Samples:
    """Return each sample by its name and the value of its label, as Prometheus reads it."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.type in {"counter", "gauge"}, family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            key = (
                (sample.name, next(iter(sample.labels.values()), ""))
                if len(sample.labels) < 2
                else (sample.name, "")
            )
            assert key not in found
            found[key] = sample.value
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def scrape(port: int, host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=within(10)) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        text: str = answer.read().decode()
        return text


def mount_of(swift: SwiftServer, container: str, folder: Path, where: object) -> Mount:
    return Mount(swift, container, folder, f"metrics={where},settle=1000")


def test_prometheus_reads_metrics_over_http(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    port = free_port()
    with mount_of(swift, container, tmp_path, port) as mount:
        mount.expected.append("is parked, because it cannot be stored")
        swift.inject(Fault("PUT", f"/{container}/no", status=403))
        (mount.path / "no").write_bytes(bytes(1000))
        assert swiftfs("flush", mount.path).returncode == 1
        (mount.path / "later").write_bytes(bytes(500))
        found = parse(scrape(port))
        assert found["swiftfs_requests_total", "put"] == 1
        assert found["swiftfs_request_failures_total", "put"] == 1
        assert found["swiftfs_sent_bytes_total", "put"] == 1000
        assert found["swiftfs_received_bytes_total", "list_page"] > 0
        assert 0 < found["swiftfs_request_seconds_total", "put"] < 60
        assert found["swiftfs_changes", "parked"] == found["swiftfs_changes", "waiting"] == 1
        assert found["swiftfs_changes", "running"] == found["swiftfs_server_away", ""] == 0
        assert found["swiftfs_waiting_bytes", ""] == 1500
        assert 0 < found["swiftfs_oldest_change_seconds", ""] < 60
        assert found["swiftfs_cache_bytes", "limit"] > found["swiftfs_cache_bytes", "used"]
        assert found["swiftfs_cache_bytes", "used"] >= found["swiftfs_cache_bytes", "dirty"] >= 1500
        assert found["swiftfs_info", ""] == 1
        assert time.time() - 60 < found["swiftfs_start_time_seconds", ""] < time.time()
        assert found["process_open_fds", ""] > 3
        swift.clear_faults()
        assert swiftfs("flush", mount.path).returncode == 0
        found = parse(scrape(port))
        assert found["swiftfs_requests_total", "put"] == 3
        assert found["swiftfs_waiting_bytes", ""] == found["swiftfs_oldest_change_seconds", ""] == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5).close()


def test_only_this_machine_may_read_metrics_unless_an_address_is_given(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    port = free_port()
    with mount_of(swift, container, tmp_path, port) as mount:
        listening = Path("/proc/net/tcp").read_text()
        assert f"0100007F:{port:04X} 00000000:0000 0A" in listening
        assert f"00000000:{port:04X} " not in listening
        mount.stop()
        mount.options = f"metrics=localhost:{port},settle=1000"
        mount.start()
        assert parse(scrape(port, "localhost"))


def test_a_port_in_use_is_reported_before_the_mount(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    (tmp_path / "mnt").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        words = ("mount", container, tmp_path / "mnt", "--cache-dir", tmp_path / "cache", "--metrics", where)
        line = one_line(swiftfs(*words, environment=swift.environment()))
    assert line == f"swiftfs: option metrics={where}: Address already in use\n"
    assert not (tmp_path / "cache").exists()
    assert swift.requests() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "expected a port, ADDRESS:PORT, or the path of a .prom file or a .sock"),
        ("host", "expected a port, ADDRESS:PORT, or the path of a .prom file or a .sock"),
        ("1.2.3.4:99999", "expected a port, ADDRESS:PORT, or the path of a .prom file or a .sock"),
        (
            "/tmp/metrics",
            "expected a path that ends in .prom, as node_exporter reads no other files, or in .sock",
        ),
        ("/nowhere/x.prom", "there is no such folder"),
        ("nowhere.txt", "expected a port, ADDRESS:PORT, or the path of a .prom file or a .sock"),
        ("/proc/self/mem/x.prom", "there is no such folder"),
        ("192.0.2.1:9177", "Cannot assign requested address"),
    ],
)
def test_impossible_addresses_and_files_are_refused_in_one_line(
    tmp_path: Path, value: str, expected: str
) -> None:
    (tmp_path / "mnt").mkdir()
    line = one_line(swiftfs("mount", "box", tmp_path / "mnt", "-o", f"metrics={value}"))
    assert line.startswith(f"swiftfs: option metrics={value}")
    assert line.endswith(f": {expected}\n")


def test_node_exporter_reads_metrics_from_a_file(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    file = tmp_path / "textfile" / "swiftfs.prom"
    file.parent.mkdir()
    with mount_of(swift, container, tmp_path, file) as mount:
        wait_until(file.exists)
        assert parse(file.read_text())["swiftfs_changes", "waiting"] == 0
        (mount.path / "file").write_bytes(bytes(100))
    last = parse(file.read_text())
    assert last["swiftfs_sent_bytes_total", "put"] == 100
    assert last["swiftfs_changes", "waiting"] == 0
    assert [path.name for path in file.parent.iterdir()] == ["swiftfs.prom"]


def test_the_file_of_metrics_is_rewritten_regularly(
    monkeypatch: pytest.MonkeyPatch,
    swift: SwiftServer,
    connection: Connection,
    container: str,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(metrics, "WRITE_SECONDS", 0.01)
    file = tmp_path / "swiftfs.prom"
    exporter = metrics.open_exporter(str(file))
    with Mount(swift, container, tmp_path, "settle=1000") as mount:
        exporter.start(lambda: read_state(mount.path))
        wait_until(file.exists)
        inode = file.stat().st_ino
        wait_until(lambda: file.stat().st_ino != inode)
        exporter.close()
    assert parse(file.read_text())


def test_the_mount_goes_on_when_the_folder_of_metrics_is_deleted(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    file = tmp_path / "textfile" / "swiftfs.prom"
    file.parent.mkdir()
    with mount_of(swift, container, tmp_path, file) as mount:
        mount.expected.append("cannot write metrics to")
        wait_until(file.exists)
        file.unlink()
        file.parent.rmdir()
        (mount.path / "file").write_text("x")
    assert f"cannot write metrics to {file}: No such file or directory" in mount.log.read_text()


def test_a_silent_client_of_metrics_does_not_delay_an_unmount(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    port = free_port()
    with (
        mount_of(swift, container, tmp_path, port) as mount,
        socket.create_connection(("127.0.0.1", port), 10) as silent,
    ):
        silent.sendall(b"GET /metr")
        assert parse(scrape(port))
        begun = time.monotonic()
        mount.stop()
        assert time.monotonic() - begun < within(metrics.CLIENT_SECONDS)


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_a_closed_metrics_server_leaves_no_thread_and_no_port(address: str) -> None:
    try:
        socket.create_server(
            (address.strip("[]"), 0), family=socket.AF_INET6 if ":" in address else 2
        ).close()
    except OSError:
        pytest.skip("no such address here")
    threads, port = threading.active_count(), free_port()
    for _ in range(2):  # the second time the port must be free again
        exporter = metrics.open_exporter(f"{address}:{port}")
        exporter.start(lambda: STATE)
        assert parse(scrape(port, address))["swiftfs_requests_total", "get"] == 2000
        exporter.close()
        wait_until(lambda: threading.active_count() == threads)
    exporter = metrics.open_exporter(f"{address}:{port}")
    exporter.close()
    assert threading.active_count() == threads


def test_costs_are_metrics() -> None:
    state = replace(STATE, cost=Cost("EUR", 1.0, 2.0))
    assert parse(metrics.text_of(lambda: state).decode())["swiftfs_estimated_cost_total", "EUR"] == 3


def test_prometheus_client_is_loaded_only_with_the_option() -> None:
    modules = "swiftfs.cli.mount, swiftfs.control.control_dir, swiftfs.service.monitoring"
    code = f"import sys, {modules}; print('prometheus_client' in sys.modules)"
    assert run(sys.executable, "-c", code) == "False\n"
