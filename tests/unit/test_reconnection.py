"""An offline mount looks for its server, checks what it finds, and keeps everything if that is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.jobs import wait_until
from support.memory_store import MemoryStore
from support.options import parse_options
from support.stored_objects import refuse
from swiftfs.errors import AccessDenied, Offline, Unavailable
from swiftfs.objects import Usage
from swiftfs.paths import Source
from swiftfs.service import first_requests
from swiftfs.service.first_requests import FoundSource, Reconnection, SourceMemory
from swiftfs.service.mountpoint import MountRequest
from swiftfs.store.connect import ConnectedAccount

PLACE = "/v1/AUTH_a"

REQUEST = MountRequest(Source.parse("box"), Path("/nowhere"), parse_options(["offline=yes"]))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE", "REFUSED_PAUSE"):
        monkeypatch.setattr(first_requests, name, 0.01)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("box")


class Watched:
    """A reconnection that runs; `back` has the places that it has reported."""

    def __init__(self, store: MemoryStore, place: str, waiting: int) -> None:
        connected = ConnectedAccount(store, "memory", place=place)
        self.account = replace(connected, reconnect=lambda: connected)
        self.presence = self.account.state.presence
        self.back: list[str] = []
        memory = SourceMemory("box of memory", PLACE, refused=False, usage=Usage(0, 0))
        source = FoundSource(REQUEST, None, memory)
        self.reconnection = Reconnection(
            source, self.account, lambda: waiting, lambda _usage, where: self.back.append(where)
        )


@contextmanager
def watching(
    store: MemoryStore, *, place: str = PLACE, waiting: int = 1, is_away: bool = True
) -> Iterator[Watched]:
    watched = Watched(store, place, waiting)
    if is_away:
        watched.presence.leave("no answer")
    watched.reconnection.start()
    yield watched
    watched.reconnection.stop()


def reason(watched: Watched) -> str:
    return watched.presence.away.reason if watched.presence.away is not None else ""


def test_the_server_comes_back(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    refuse(store, "", Unavailable("not yet"))
    with watching(store) as watched:
        wait_until(lambda: reason(watched) == "not yet")
        with pytest.raises(Offline, match=r"^the server is away: not yet$"):
            watched.presence.check()
        store.hook = None
        wait_until(lambda: watched.back == [PLACE])
        assert watched.presence.away is None
    assert caplog.text.count("offline, the server is away") == 1
    assert caplog.text.count("the server is back") == 1


def test_a_request_that_fails_lets_it_look(store: MemoryStore) -> None:
    with watching(store, is_away=False) as watched:
        watched.presence.suspect(Unavailable("one object"))
        wait_until(lambda: len(store.requests) > 0)
        assert watched.presence.away is None
        refuse(store, "", Unavailable("gone"))
        watched.presence.suspect(Unavailable("another"))
        wait_until(lambda: reason(watched) == "gone")


def test_another_account_is_refused(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    with watching(store, place="/v1/AUTH_b") as watched:
        wait_until(lambda: "leads to account /v1/AUTH_b now" in reason(watched))
        with pytest.raises(Offline, match=r"^the mount is offline: .* leads to account"):
            watched.presence.check()
        wait_until(lambda: len(store.requests) > 3)
        assert watched.back == []
    assert caplog.text.count("still offline, and every change is kept") == 1


def test_a_container_that_is_gone_is_not_made_again(store: MemoryStore) -> None:
    store.delete_container("box")
    with watching(store) as watched:
        wait_until(lambda: "no container" in reason(watched))
        assert watched.back == []


@pytest.mark.parametrize("waiting", [0, 1])
def test_lost_rights_to_write_matter_to_changes_that_wait(store: MemoryStore, waiting: int) -> None:
    refuse(store, "delete", AccessDenied("403"))
    with watching(store, waiting=waiting) as watched:
        if waiting:
            wait_until(lambda: "may not write" in reason(watched))
            assert watched.back == []
        else:
            wait_until(lambda: watched.back == [PLACE])


def test_an_unexpected_error_does_not_end_it(store: MemoryStore) -> None:
    refuse(store, "", RuntimeError("bug"))
    with watching(store) as watched:
        wait_until(lambda: "bug" in reason(watched))
        store.hook = None
        wait_until(lambda: watched.back == [PLACE])
