"""Our own changes in a folder that is larger than a page of its listing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import methods, wait_until
from support.mounts import Mount
from swiftfs.control.client import flush
from swiftfs.demo.server import ServerSettings, SwiftServer

PAGE = 50
FILES = 5 * PAGE


@pytest.fixture
def paged_server() -> Iterator[SwiftServer]:
    """A server whose listings are short, with the empty container `box`."""
    with SwiftServer(settings=ServerSettings(listing_limit=PAGE)) as running:
        client = Connection(running.auth_url, running.user, running.key, retries=0)
        client.put_container("box")
        yield running
        client.close()


def name(number: int) -> str:
    return f"name{number:04}"


@pytest.fixture
def filled(paged_server: SwiftServer, tmp_path: Path) -> Iterator[Mount]:
    """A mount of `box` with files of several pages, which Swift has."""
    with Mount(paged_server, "box", tmp_path, "settle=0.1,ttl=1000") as mount:
        for number in range(FILES):
            (mount.path / name(number)).write_bytes(b"x")
        assert flush(mount.path, lambda _report: None).total == 0
        yield mount


def test_a_page_of_a_listing_says_nothing_about_names_outside_it(
    paged_server: SwiftServer, filled: Mount
) -> None:
    """Otherwise each of our files behind the first page would cost a HEAD."""
    forget(filled)
    paged_server.reset_requests()
    wait_until((filled.path / name(1)).exists)
    assert (filled.path / name(FILES - 1)).stat().st_size == 1
    assert methods(paged_server.requests())["HEAD"] <= 2, methods(paged_server.requests())
    assert len(list(filled.path.iterdir())) == FILES


def test_a_deletion_by_another_client_is_seen_on_every_page(paged_server: SwiftServer, filled: Mount) -> None:
    client = Connection(paged_server.auth_url, paged_server.user, paged_server.key, retries=0)
    for number in (1, PAGE + 1, FILES - 1):
        client.delete_object("box", name(number))
    client.close()
    forget(filled)
    assert len(list(filled.path.iterdir())) == FILES - 3


def forget(mount: Mount) -> None:
    """Let the mount list all folders again."""
    os.setxattr(mount.path, "swift.refresh", b"1")
