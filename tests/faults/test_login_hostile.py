"""A login whose answer leads elsewhere, or has no end: the key stays at home, and memory stays small."""

import gzip
import json
from collections.abc import Iterator

import pytest

from support.hostile_server import HostileServer, Response, hostile_server
from swiftfs.errors import ConfigurationError, StoreError, Unavailable
from swiftfs.store import connect, open_account

REDIRECTS = [300, 301, 302, 303, 305, 307, 308]
KINDS = ["environment", "keystone_environment"]


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_credentials_follow_no_redirect_to_another_server(
    hostile: HostileServer, elsewhere: HostileServer, status: int, kind: str
) -> None:
    hostile.login = Response(status=status, headers={"Location": f"{elsewhere.url}/auth?k=1"})
    with pytest.raises(Unavailable, match=r"redirects to .*set the auth URL") as caught:
        connect(getattr(hostile, kind))
    assert str(caught.value).isprintable()
    assert elsewhere.url in str(caught.value)
    assert elsewhere.logins == []
    assert len(hostile.logins) == 1


@pytest.mark.parametrize(
    "target",
    ["https://127.0.0.1/auth", "//other.example/auth", "ftp://127.0.0.1/", "http://127.0.0.1:bad/", "x:"],
)
def test_other_schemes_hosts_and_ports_are_other_servers(hostile: HostileServer, target: str) -> None:
    hostile.login = Response(status=302, headers={"Location": target})
    with pytest.raises(Unavailable, match="redirects to"):
        connect(hostile.environment)


DISGUISES = {
    "a backslash": "http://{evil}\\@{own}/auth",
    "a path's backslash": "/\\{evil}/auth",
    "a network path of backslashes": "\\\\{evil}/auth",
    "a tabulator": "http://{evil}\t@{own}/auth",
    "a fragment": "http://{evil}#@{own}/auth",
    "a query": "http://{evil}?@{own}/auth",
    "a user": "http://{own}@{evil}/auth",
    "brackets": "http://[{evil}]@{own}/auth",
    "brackets without an end": "http://[::1",
    "a slash of Unicode": "http://{evil}\uff0f@{own}/auth",
    "an encoded slash": "http://{evil}%2f@{own}/auth",
    "capitals": "HTTP://{evil}/auth",
    "blanks": "  http://{evil}/auth",
    "a terminal's escape": "http://evil\x1b[2J/auth",
    "a port that is none": "http://127.0.0.1:99999/auth",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", DISGUISES)
def test_no_disguise_of_a_redirect_gets_the_credentials(
    hostile: HostileServer, elsewhere: HostileServer, how: str, kind: str
) -> None:
    """Every parser of URLs must see the server that is connected to; what none understands is an error."""
    evil, own = (server.url.removeprefix("http://") for server in (elsewhere, hostile))
    target = DISGUISES[how].format(evil=evil, own=own)
    # As on the wire: a header is read as Latin-1.
    location = target.encode().decode("latin-1")
    hostile.login = Response(status=302, headers={"Location": location})
    with pytest.raises((StoreError, ConfigurationError)) as caught:
        connect(getattr(hostile, kind))
    assert str(caught.value).isprintable()
    assert elsewhere.logins == [] == elsewhere.paths


def test_a_redirect_at_the_same_server_is_followed(hostile: HostileServer) -> None:
    hostile.logins_left = [Response(status=301, headers={"Location": "/auth/v1.0"})]
    account = open_account(hostile.environment)
    assert account.endpoint() == f"{hostile.url}/v1/a"
    account.close()
    assert len(hostile.logins) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [200, 201, 401, 503])
def test_a_login_without_an_end(hostile: HostileServer, kind: str, status: int) -> None:
    raw = b"HTTP/1.1 %d X\r\nX-Storage-Url: http://x/v1/a\r\n\r\n" % status
    hostile.login = Response(raw=raw, endless=b" " * 2**20, pause=0.0)
    with pytest.raises((StoreError, ConfigurationError)) as caught:
        connect(getattr(hostile, kind))
    assert str(caught.value).isprintable()


def test_a_login_in_gzip_is_not_unpacked(hostile: HostileServer) -> None:
    bomb = gzip.compress(json.dumps({"token": {}, "x": "x" * 10_000_000}).encode())
    headers = {"Content-Encoding": "gzip", "Content-Length": str(len(bomb)), "X-Subject-Token": "t"}
    hostile.login = Response(bomb, 201, headers)
    with pytest.raises((StoreError, ConfigurationError)):
        connect(hostile.keystone_environment)
    assert hostile.logins[0][0]["Accept-Encoding"] == "identity"
