"""The disk of the cache folder is full while a file is uploaded."""

import errno
import os
from pathlib import Path

import pytest

from support.harness import harness, write
from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.stored_objects import body
from swiftfs.journal import outcomes


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_an_upload_that_a_full_disk_stopped_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nobody needs to run `swiftfs retry` when there is space again."""
    monkeypatch.setattr(outcomes, "FIRST_PAUSE", 0.05)
    store, failures = MemoryStore("box"), [number, number]

    def hook(method: str, _subject: str) -> None:
        if method == "put" and failures:
            code = failures.pop()
            raise OSError(code, os.strerror(code))

    store.hook = hook
    with harness(store, tmp_path, "settle=0.01") as filesystem:
        write(filesystem, "/file", b"data")
        wait_until(lambda: not filesystem.waiting())
    assert body(store, "file") == b"data"
    assert not failures
