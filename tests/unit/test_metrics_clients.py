"""Clients of the metrics that are too many or too slow, and the Unix socket."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.deadlines import within
from support.jobs import wait_until
from support.mount_states import STATE
from swiftfs.control import metrics
from swiftfs.errors import ConfigurationError


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The Unix socket at which metrics are served."""
    exporter = metrics.open_exporter(str(tmp_path / "m.sock"))
    exporter.start(lambda: STATE)
    yield tmp_path / "m.sock"
    exporter.close()


def client(place: Path) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(str(place))
    connected.settimeout(within(30))
    return connected


def answer(place: Path) -> bytes:
    """Return what a client gets that asks for the metrics; nothing if it is sent away."""
    with client(place) as asking, contextlib.suppress(ConnectionError):
        asking.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with asking.makefile("rb") as body:
            return body.read()
    return b""


def test_metrics_at_a_unix_socket(place: Path) -> None:
    assert answer(place).startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"\nswiftfs_info{" in answer(place)
    assert place.stat().st_mode & 0o777 == metrics.SOCKET_MODE


def test_the_ninth_client_is_sent_away(place: Path) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(client(place)) for _ in range(metrics.CLIENTS)]
        assert answer(place) == b""
        idle[0].close()
        wait_until(lambda: answer(place) != b"")


def test_a_client_that_trickles_is_broken_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(metrics, "CLIENT_SECONDS", 1.0)
    place = tmp_path / "m.sock"
    exporter = metrics.open_exporter(str(place))
    exporter.start(lambda: STATE)
    with client(place) as trickling:

        def is_broken_off() -> bool:
            # Each byte comes in time, the request never ends.
            try:
                trickling.sendall(b"G")
            except ConnectionError:
                return True
            return False

        wait_until(is_broken_off)
    assert answer(place) != b""
    exporter.close()


def test_a_socket_that_nobody_listens_to_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place))
    exporter = metrics.open_exporter(str(place))
    with pytest.raises(ConfigurationError, match=r"m\.sock: Address already in use"):
        metrics.open_exporter(str(place))
    exporter.start(lambda: STATE)
    assert answer(place) != b""
    exporter.close()
    assert not place.exists()


def test_a_file_is_not_replaced_by_a_socket(tmp_path: Path) -> None:
    place = tmp_path / "m.sock"
    place.write_text("precious")
    with pytest.raises(ConfigurationError, match="Address already in use"):
        metrics.open_exporter(str(place))
    assert place.read_text() == "precious"


def test_a_folder_for_the_socket_that_is_missing_or_too_deep(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        metrics.open_exporter(str(tmp_path / "missing" / "m.sock"))
    with pytest.raises(ConfigurationError, match="path too long"):
        metrics.open_exporter(f"/{'d' * 200}/m.sock")
