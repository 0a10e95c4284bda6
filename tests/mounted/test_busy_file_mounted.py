"""A file that is written to all the time is stored from a copy of one moment, in a real mount."""

import os
import threading
import time
from contextlib import closing

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from support.stores import QUICK, TEXT
from support.upload_rig import MIB
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.errors import BodyChanged
from swiftfs.filecache.upload_source import OFTEN
from swiftfs.objects import ObjectName
from swiftfs.store.auth import open_account
from swiftfs.store.retry import RetryingStore
from swiftfs.store.swift_store import SwiftStore

pytest_plugins = ["support.writer_fixtures"]


def test_a_body_that_changes_while_it_is_sent_is_not_sent_again(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    """The same request would fail until the writes end."""
    swift.inject(Fault("PUT", f"/{container}/file", delay=0.3))
    body, stop = bytearray(8 * MIB), threading.Event()

    def change() -> None:
        while not stop.wait(0.001):
            body[-1] = (body[-1] + 1) % 251

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with (
            closing(SwiftStore(open_account(swift.environment()))) as store,
            pytest.raises(BodyChanged, match="422"),
        ):
            RetryingStore(store, QUICK, owns=False).put(ObjectName(container, "file"), memoryview(body), TEXT)
    finally:
        stop.set()
        thread.join()
    assert len([one for one in swift.requests() if one.method == "PUT"]) == 1
    assert connection.get_container(container)[1] == []


@pytest.mark.mount_options("settle=0.5")
def test_a_mounted_file_that_is_written_to_all_the_time_is_stored(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    """Each round writes its number to all pages in order: a copy of one moment has at most two numbers.

    The server waits a second before it reads a body, so that every upload of the file itself is too late.
    No fsync is called, during which the kernel blocks writes.
    """
    pages, page = 512, 16_384
    swift.inject(Fault("PUT", f"/{container}/file", delay=1.0))
    path = mounted.path / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, bytes(pages * page), 0)
    stop = threading.Event()

    def write() -> None:
        number, end = 0, time.monotonic() + 40
        while not stop.is_set() and time.monotonic() < end:
            number += 1
            data = number.to_bytes(4, "little") * (page // 4)
            for index in range(pages):
                os.pwrite(descriptor, data, index * page)
                if stop.wait(0.005):
                    return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        os.close(os.open(path, os.O_RDWR))
        wait_until(lambda: connection.get_container(container)[1])
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join()
    body = connection.get_object(container, "file")[1]
    assert len(body) == pages * page
    numbers = [int.from_bytes(body[index * page :][:4], "little") for index in range(pages)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] - numbers[-1] <= 1
    assert all(body[i * page : (i + 1) * page] == body[i * page :][:4] * (page // 4) for i in range(pages))
    sent = sum(one.bytes_in for one in swift.requests() if one.method == "PUT" and one.path.endswith("/file"))
    assert sent <= (OFTEN + 1) * pages * page
    os.close(descriptor)
