"""Files and pipes that a user names: none of them keeps a mount waiting for ever."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.deadlines import within
from swiftfs.config.credentials import read_credentials
from swiftfs.config.prices import Prices
from swiftfs.config.sources import from_file
from swiftfs.errors import ConfigurationError
from swiftfs.store.private_files import MOST_BYTES, read_own_file

READERS: dict[str, Callable[[Path], object]] = {
    "credentials": read_credentials,
    "options": from_file,
    "prices": Prices.read,
}

LINE = "ST_USER=somebody\n"


def refusal(path: Path, kind: str = "credentials") -> str:
    with pytest.raises(ConfigurationError) as caught:
        READERS[kind](path)
    return str(caught.value)


@contextmanager
def writing(*texts: str, fifo: Path | None = None) -> Iterator[Path]:
    """Provide a pipe into which a thread writes the texts one after the other, and then closes it."""

    def write() -> None:
        with os.fdopen(os.open(fifo, os.O_WRONLY) if fifo else end, "w") as writer:
            for text in texts:
                writer.write(text)
                writer.flush()

    start, end = os.pipe()
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield fifo or Path(f"/dev/fd/{start}")
    finally:
        os.close(start)
        thread.join()
        if fifo:
            os.close(end)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", READERS)
def test_a_fifo_to_which_nobody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("swiftfs.store.private_files.PIPE_SECONDS", 0.3)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    begun = time.monotonic()
    assert "its end did not come within 0 seconds" in refusal(fifo, kind)
    assert time.monotonic() - begun < within(3)


def test_the_pipe_of_a_command() -> None:
    with writing(LINE, "ST_KEY=k\n") as pipe:
        assert read_credentials(pipe) == {"ST_USER": "somebody", "ST_KEY": "k"}


def test_a_fifo_with_a_writer(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with writing(LINE, fifo=fifo) as path:
        assert read_credentials(path) == {"ST_USER": "somebody"}


def test_a_fifo_that_others_can_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    fifo.chmod(0o644)
    assert "can be read by other users" in refusal(fifo)


@pytest.mark.timeout(60)
def test_a_pipe_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftfs.store.private_files.PIPE_SECONDS", 0.3)
    start, end = os.pipe()
    os.write(end, LINE.encode())
    assert "did not come" in refusal(Path(f"/dev/fd/{start}"))
    os.close(start)
    os.close(end)


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    assert "Is a directory" in refusal(tmp_path, kind)
    assert "neither a file nor a pipe" in refusal(Path("/dev/zero"), kind)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        assert "No such device or address" in refusal(tmp_path / "socket", kind)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, MOST_BYTES + 1)
    file.chmod(0o600)
    assert f"it is longer than {MOST_BYTES} bytes" in refusal(file)


def test_nothing_is_an_empty_file() -> None:
    assert read_own_file(Path("/dev/null"), lambda _: None) == ""
    assert from_file(Path("/dev/null")) == []
