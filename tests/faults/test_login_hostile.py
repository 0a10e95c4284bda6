"""A login whose answer leads elsewhere, or has no end: the key stays at home, and memory stays small."""

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.deadlines import within
from support.hostile_server import HostileServer, Response, hostile_server
from support.secret_files import secret_file
from swiftfs.errors import AccessDenied, ConfigurationError, NotSwift, StoreError, Unavailable
from swiftfs.store.auth import open_account
from swiftfs.store.connect import connect

pytest_plugins = ["support.hostile_fixtures"]

REDIRECTS = [300, 301, 302, 303, 305, 307, 308]
KINDS = ["environment", "keystone_environment"]


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


def cloud_at(server: HostileServer, folder: Path) -> dict[str, str]:
    """Return the environment of a cloud, whose login first asks for the versions of Keystone."""
    auth = {"auth_url": f"{server.url}/v3", "username": "u", "password": "secret-password", "project_id": "p"}
    text = json.dumps({"clouds": {"demo": {"auth": {**auth, "user_domain_id": "default"}}}})
    file = secret_file(folder, text)
    return {"OS_CLIENT_CONFIG_FILE": str(file.rename(folder / "clouds.json")), "OS_CLOUD": "demo"}


@pytest.mark.timeout(60)
def test_a_401_to_the_question_for_versions(hostile: HostileServer, tmp_path: Path) -> None:
    """keystoneauth would log in to ask again, while it logs in: it waited for its own lock for ever."""
    hostile.login = Response(status=401)
    with pytest.raises(AccessDenied, match="wrong user or key"):
        connect(cloud_at(hostile, tmp_path))
    assert [b"secret-password" in body for _, body in hostile.logins] == [False, True]


def test_credentials_follow_no_version_document_to_another_server(
    hostile: HostileServer, elsewhere: HostileServer, tmp_path: Path
) -> None:
    links = [{"rel": "self", "href": f"{elsewhere.url}/v3"}]
    version = {"version": {"id": "v3.14", "status": "stable", "links": links}}
    hostile.login = Response(json.dumps(version).encode())
    with pytest.raises(NotSwift, match="cannot authenticate there"):
        connect(cloud_at(hostile, tmp_path))
    assert [b"secret-password" in body for _, body in hostile.logins] == [False, True]
    assert elsewhere.logins == []


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_leads_a_login_to_another_server(
    hostile: HostileServer, elsewhere: HostileServer, kind: str
) -> None:
    """The last guard is where requests are sent, whether or not an answer before them was a redirect."""
    account = open_account(getattr(hostile, kind))
    plugin: Any = account.session.auth
    plugin.auth_url = f"{elsewhere.url}/v3"
    with pytest.raises(Unavailable, match=r"leads to http://.*set the auth URL to it"):
        account.endpoint()
    account.close()
    assert elsewhere.logins == [] == hostile.logins


BAD_URLS = [
    "http://[::1",
    "http://127.0.0.1:99999/v1/a",
    "http://127.0.0.1:port/v1/a",
    "http://a\x1b[2J/v1/a",
    "http://a\uff0fb/v1/a",
    "http:///v1/a",
]


def refusal(environment: dict[str, str]) -> str:
    """Return why nobody can log in, in one line."""
    with pytest.raises((ConfigurationError, NotSwift)) as caught:
        connect(environment)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_storage_url_that_is_none(hostile: HostileServer, url: str) -> None:
    named = url.encode().decode("latin-1")
    hostile.login = Response(headers={"X-Storage-Url": named, "X-Auth-Token": "token"})
    text = refusal(hostile.environment)
    assert re.search("the storage URL .* is no valid URL|ValueError, .*URL", text)


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_in_the_catalog_that_is_none(hostile: HostileServer, url: str) -> None:
    catalog = [{"type": "object-store", "endpoints": [{"interface": "public", "url": url}]}]
    hostile.login = keystone_answer(catalog=catalog)
    assert "URL" in refusal(hostile.keystone_environment)


@pytest.mark.parametrize("url", BAD_URLS)
@pytest.mark.parametrize("kind", [*KINDS, "cloud"])
def test_an_auth_url_that_is_none(hostile: HostileServer, tmp_path: Path, url: str, kind: str) -> None:
    hostile.url = url
    environment = cloud_at(hostile, tmp_path) if kind == "cloud" else getattr(hostile, kind)
    assert "the auth URL" in refusal(environment)


def keystone_answer(**token: object) -> Response:
    """Return Keystone's answer to a login, with these values in its token."""
    token = {"expires_at": "2100-01-01T00:00:00Z", "methods": ["password"], **token}
    return Response(json.dumps({"token": token}).encode(), 201, {"X-Subject-Token": "t"})


NONSENSE: dict[str, Response] = {
    "no JSON": Response(b"<html>", 201, {"X-Subject-Token": "t"}),
    "a list": Response(b"[]", 201, {"X-Subject-Token": "t"}),
    "a number": Response(b"7", 201, {"X-Subject-Token": "t"}),
    "no token": Response(b"{}", 201, {"X-Subject-Token": "t"}),
    "a token that is none": Response(b'{"token": 5}', 201, {"X-Subject-Token": "t"}),
    "an empty token": keystone_answer(),
    "a catalog that is none": keystone_answer(catalog=5),
    "a catalog of numbers": keystone_answer(catalog=[5]),
    "endpoints that are none": keystone_answer(catalog=[{"type": "object-store", "endpoints": 5}]),
    "endpoints of numbers": keystone_answer(catalog=[{"type": "object-store", "endpoints": [5]}]),
    "a URL that is a number": keystone_answer(
        catalog=[{"type": "object-store", "endpoints": [{"interface": "public", "url": 5}]}]
    ),
    "a date that is none": keystone_answer(expires_at="soon"),
    "a date that is a number": keystone_answer(expires_at=5),
    "404 with JSON": Response(b'{"error": 5}', 404, {"Content-Type": "application/json"}),
    "300 with a list": Response(b"[]", 300, {"Content-Type": "application/json"}),
    "400 with a list": Response(b"[5]", 400, {"Content-Type": "application/json"}),
    "400 with errors": Response(b'{"errors": 5}', 400, {"Content-Type": "application/json"}),
    "400 with an error": Response(b'{"error": {"message": 5}}', 400, {"Content-Type": "application/json"}),
}


@pytest.mark.parametrize("kind", [*KINDS, "cloud"])
@pytest.mark.parametrize("what", NONSENSE)
def test_an_answer_that_makes_no_sense(hostile: HostileServer, tmp_path: Path, what: str, kind: str) -> None:
    hostile.login = NONSENSE[what]
    refusal(cloud_at(hostile, tmp_path) if kind == "cloud" else getattr(hostile, kind))


def test_a_federated_login_asks_the_identity_provider(
    hostile: HostileServer, elsewhere: HostileServer
) -> None:
    """Its document names the server that takes the password: such a login needs more than one server."""
    hostile.login = Response(json.dumps({"token_endpoint": f"{elsewhere.url}/auth"}).encode())
    environment = {
        **hostile.keystone_environment,
        "OS_AUTH_TYPE": "v3oidcpassword",
        "OS_IDENTITY_PROVIDER": "company",
        "OS_PROTOCOL": "openid",
        "OS_CLIENT_ID": "swiftfs",
        "OS_DISCOVERY_ENDPOINT": f"{hostile.url}/auth/openid",
    }
    with pytest.raises((StoreError, ConfigurationError)):
        connect(environment)
    assert [b"secret-password" in body for _, body in elsewhere.logins] == [True]
    assert not any(b"secret-password" in body for _, body in hostile.logins)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
def test_redirects_without_an_end(hostile: HostileServer, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Each answer may take its time, and keystoneauth follows 30 redirects."""
    monkeypatch.setattr("swiftfs.store.connect.LOGIN_SECONDS", 1.0)
    hostile.login = Response(status=302, headers={"Location": "/auth"}, blanks=15)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="no answer from the authentication server"):
        connect(getattr(hostile, kind))
    assert time.monotonic() - begun < within(4.0)


@pytest.mark.timeout(60)
def test_a_login_that_hangs_within_a_library(hostile: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, ended = threading.Event(), threading.Event()

    def hang(*_arguments: object, **_options: object) -> None:
        let_go.wait(within(50))
        ended.set()

    monkeypatch.setattr("swiftfs.store.connect.HANG_SECONDS", 0.5)
    monkeypatch.setattr("keystoneauth1.session.Session.get_endpoint", hang)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="no login within 0 seconds: check the network"):
        connect(hostile.environment)
    assert time.monotonic() - begun < within(4.0)
    let_go.set()
    assert ended.wait(within(5))
