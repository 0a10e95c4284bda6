"""What the tests call a leak of a test."""

import os
import threading
from pathlib import Path

import pytest

from support import leaks
from support.leaks import Belongings


def test_open_files_and_threads_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE_SECONDS", 0.1)
    before, end = Belongings(tmp_path), threading.Event()
    thread = threading.Thread(target=end.wait, name="waits")
    thread.start()
    with (tmp_path / "file").open("w") as file:
        assert before.left() == ["thread waits", f"descriptor {file.fileno()}: {tmp_path}/file"]
    end.set()
    thread.join()
    assert before.left() == []


def test_a_mount_is_named_whatever_bytes_the_names_of_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, mounted = tmp_path / "mountinfo", f"22 1 0:20 / {tmp_path}/ours rw - tmpfs tmpfs rw\n"
    monkeypatch.setattr(leaks, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(leaks, "MOUNTS", table)
    table.write_bytes(b"21 1 0:19 / /srv/\xff rw - tmpfs tmpfs rw\n")
    before = Belongings(tmp_path)
    assert before.left() == []
    with table.open("a") as file:
        file.write(mounted)
    assert before.left() == [f"mount {tmp_path}/ours"]


def test_a_file_in_a_cycle_is_no_leak(tmp_path: Path) -> None:
    class Opened:
        def __init__(self) -> None:
            self.descriptor = os.open(tmp_path, os.O_RDONLY)
            self.me = self

        def __del__(self) -> None:
            os.close(self.descriptor)

    before = Belongings(tmp_path)
    Opened()
    assert before.left() == []
