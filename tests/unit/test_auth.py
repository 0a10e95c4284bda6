"""Credentials: where they come from, the messages when they are wrong, and that they are never shown."""

import json
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from support.deadlines import within
from support.keystone_accounts import KEYSTONE, SECRET, keystone_account
from swiftfs.errors import ConfigurationError, LoginRefused, Unavailable
from swiftfs.store import login
from swiftfs.store.account_settings import StorageChoice
from swiftfs.store.auth import open_account
from swiftfs.store.connect import connect


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "ST_AUTH"),
        ({}, "OS_AUTH_URL"),
        ({}, "OS_CLOUD"),
        ({"ST_AUTH": "http://x/auth/v1.0"}, "ST_USER, ST_KEY"),
        ({"ST_USER": "a:b", "ST_KEY": SECRET}, "ST_AUTH"),
        ({**KEYSTONE, "OS_PASSWORD": ""}, "OS_PASSWORD"),
        ({**KEYSTONE, "OS_USERNAME": ""}, "OS_USERNAME or OS_USER_ID"),
        ({**KEYSTONE, "OS_PROJECT_ID": ""}, "OS_PROJECT_ID or OS_PROJECT_NAME"),
        ({**KEYSTONE, "OS_AUTH_URL": "auth.example"}, "not an http or https URL"),
        ({**KEYSTONE, "OS_AUTH_URL": f"https://u:{SECRET}@auth.example"}, "must not contain"),
        ({**KEYSTONE, "OS_AUTH_URL": "https://auth.example/v2.0"}, "only v3"),
        ({"OS_STORAGE_URL": "https://x/v1/AUTH_a"}, "set OS_AUTH_TOKEN"),
        ({"OS_AUTH_TOKEN": SECRET}, "set OS_STORAGE_URL"),
        ({"OS_STORAGE_URL": f"https://u:{SECRET}@x/v1/a", "OS_AUTH_TOKEN": "t"}, "must not contain"),
        ({"OS_STORAGE_URL": "x/v1/AUTH_a", "OS_AUTH_TOKEN": SECRET}, "not an http or https URL"),
        ({"OS_STORAGE_URL": "https://x", "OS_AUTH_TOKEN": SECRET}, "like https://x/v1/AUTH_photos"),
        ({"OS_STORAGE_URL": "https://x:y/v1/a", "OS_AUTH_TOKEN": SECRET}, "no valid URL"),
        ({"OS_STORAGE_URL": "https://x/v1/a", "OS_AUTH_TOKEN": f"{SECRET}\r\nX-Y: z"}, "is no token"),
        ({**KEYSTONE, "OS_STORAGE_URL": "ftp://x/v1/a"}, "not an http or https URL"),
    ],
)
def test_missing_variables_are_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        open_account(environment)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


class _Keystone(BaseHTTPRequestHandler):
    """Answers every login, and records what was sent."""

    logins: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.logins.append({"path": self.path, **json.loads(body)["auth"]})
        endpoints = [
            {
                "interface": interface,
                "region": region,
                "region_id": region,
                "url": f"http://{interface}.{region}/v1/A",
            }
            for interface in ("public", "internal")
            for region in ("one", "two")
        ]
        token = {
            "methods": ["password"],
            "expires_at": "2100-01-01T00:00:00.000000Z",
            "issued_at": "2020-01-01T00:00:00.000000Z",
            "user": {"id": "u", "name": "n", "domain": {"id": "d", "name": "d"}},
            "project": {"id": "p", "name": "p", "domain": {"id": "d", "name": "d"}},
            "catalog": [{"type": "object-store", "name": "swift", "id": "s", "endpoints": endpoints}],
        }
        answer = json.dumps({"token": token}).encode()
        self.send_response(201)
        self.send_header("X-Subject-Token", f"token-{len(self.logins)}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_arguments: object) -> None:
        pass


class _FailingKeystone(_Keystone):
    """Answers the first login; the next one waits for `let_go` and is refused, like all others."""

    logins: ClassVar[list[dict[str, Any]]] = []
    let_go: ClassVar[threading.Event]

    def do_POST(self) -> None:
        if not self.logins:
            super().do_POST()
            return
        self.rfile.read(int(self.headers["Content-Length"]))
        self.logins.append({})
        self.let_go.wait(within(30))
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def keystone() -> Iterator[str]:
    _Keystone.logins.clear()
    with _serving(_Keystone) as url:
        yield url


@contextmanager
def _serving(handler: type[_Keystone]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/v3"
        listening.shutdown()
        thread.join(within(10))


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    ("changes", "user", "scope"),
    [
        (
            {},
            {"name": "ACCESSKEY", "password": SECRET, "domain": {"id": "default"}},
            {"project": {"id": "0123"}},
        ),
        (
            {"OS_USERNAME": "", "OS_USER_DOMAIN_ID": "", "OS_USER_ID": "u1"},
            {"id": "u1", "password": SECRET},
            {"project": {"id": "0123"}},
        ),
        (
            {
                "OS_PROJECT_ID": "",
                "OS_PROJECT_NAME": "p",
                "OS_USER_DOMAIN_ID": "",
                "OS_USER_DOMAIN_NAME": "Users",
                "OS_PROJECT_DOMAIN_NAME": "Projects",
            },
            {"name": "ACCESSKEY", "password": SECRET, "domain": {"name": "Users"}},
            {"project": {"name": "p", "domain": {"name": "Projects"}}},
        ),
    ],
    ids=["naver", "user id", "names"],
)
def test_keystone_login(
    keystone: str, changes: dict[str, str], user: dict[str, object], scope: dict[str, object]
) -> None:
    account = keystone_account(**changes, OS_AUTH_URL=keystone)
    try:
        assert account.endpoint() == "http://public.one/v1/A"
        assert account.token() == account.token() == "token-1"
        assert account.renew("token-0") == "token-1"
        assert account.renew("token-1") == "token-2"
    finally:
        account.close()
    login = _Keystone.logins[0]
    assert login["path"] == "/v3/auth/tokens"
    assert login["identity"] == {"methods": ["password"], "password": {"user": user}}
    assert login["scope"] == scope
    assert len(_Keystone.logins) == 2


def test_keystone_endpoint_of_a_region_and_an_interface(keystone: str) -> None:
    account = keystone_account(OS_AUTH_URL=keystone, OS_REGION_NAME="two", OS_INTERFACE="internalURL")
    assert account.endpoint() == "http://internal.two/v1/A"
    account.close()
    account = keystone_account(OS_AUTH_URL=keystone, OS_REGION_NAME="three")
    with pytest.raises(ConfigurationError, match="region three"):
        account.endpoint()
    account.close()


def test_options_choose_region_and_interface_before_the_environment(keystone: str) -> None:
    environment = {**KEYSTONE, "OS_AUTH_URL": keystone, "OS_REGION_NAME": "one", "OS_INTERFACE": "public"}
    account = open_account(environment, storage=StorageChoice(interface="internal", region="two"))
    assert account.endpoint() == "http://internal.two/v1/A"
    # It names the cache folder, which must be another one for the same name in another region.
    assert account.label == f"{keystone} (user ACCESSKEY) in region two"
    account.close()


def test_a_storage_url_needs_no_catalog(keystone: str) -> None:
    environment = {**KEYSTONE, "OS_AUTH_URL": keystone, "OS_STORAGE_URL": "http://other.example/v1/B/"}
    account = open_account(environment)
    assert account.endpoint() == "http://other.example/v1/B"
    assert account.label == f"{keystone} (user ACCESSKEY) at http://other.example/v1/B"
    assert not _Keystone.logins
    assert account.token() == "token-1"
    account.close()
    account = open_account(environment, storage=StorageChoice("http://option.example/v1/C"))
    assert account.endpoint() == "http://option.example/v1/C"
    account.close()


def test_a_storage_url_without_tls_is_refused_after_a_login_with_tls() -> None:
    account = open_account(KEYSTONE, storage=StorageChoice("http://storage.example/v1/A"))
    with pytest.raises(ConfigurationError, match="has no TLS"):
        account.check_storage(insecure=False)
    account.close()


def test_a_login_is_preferred_to_a_token_that_cannot_be_renewed(keystone: str) -> None:
    token = {"OS_STORAGE_URL": "http://other.example/v1/B", "OS_AUTH_TOKEN": "old"}
    account = open_account({**KEYSTONE, "OS_AUTH_URL": keystone, **token})
    assert account.token() == "token-1"
    account.close()
    account = open_account({"OS_AUTH_URL": keystone, "OS_USERNAME": "u", **token})
    assert account.token() == "old"
    assert account.label == "http://other.example/v1/B (token)"
    with pytest.raises(LoginRefused, match="mount again with a new token") as caught:
        account.renew("old")
    assert "\n" not in str(caught.value)
    account.close()
    assert len(_Keystone.logins) == 1


@pytest.mark.parametrize("url", ["https://auth.example:5000", "https://auth.example:5000/v3/"])
def test_keystone_url_is_versioned(url: str) -> None:
    account = keystone_account(OS_AUTH_URL=url)
    assert account.label == "https://auth.example:5000/v3 (user ACCESSKEY)"


def test_a_server_that_is_down_is_reported_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/auth/v1.0"
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="refused") as caught:
            connect({"ST_AUTH": url, "ST_USER": "a:b", "ST_KEY": SECRET})
    assert time.monotonic() - begun < within(3.0)
    assert url in str(caught.value)
    assert "user a:b" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_silent_server_is_reported_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert login.LOGIN_SECONDS <= 5
    monkeypatch.setattr(login, "LOGIN_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/auth/v1.0"
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="no answer"):
            connect({"ST_AUTH": url, "ST_USER": "a:b", "ST_KEY": SECRET})
        assert 0.2 < time.monotonic() - begun < within(4.0)


def test_threads_refused_together_share_a_login_that_fails() -> None:
    """Otherwise each thread waits for those before it, five seconds a login if Keystone does not answer."""
    count = 4
    _FailingKeystone.logins.clear()
    _FailingKeystone.let_go = threading.Event()
    with _serving(_FailingKeystone) as url:
        account = keystone_account(OS_AUTH_URL=url)
        refused = account.token()
        with ThreadPoolExecutor(count) as threads:
            renewals = [threads.submit(account.renew, refused) for _ in range(count)]
            while _threads_in("renew") < count:
                time.sleep(0.01)
            _FailingKeystone.let_go.set()
            for renewal in renewals:
                with pytest.raises(Unavailable):
                    renewal.result(within(30))
        account.close()
    assert len(_FailingKeystone.logins) == 2


def _threads_in(function: str) -> int:
    """Return how many threads are in a function, or in one that it calls."""
    stacks = (traceback.walk_stack(frame) for frame in sys._current_frames().values())
    return sum(any(frame.f_code.co_name == function for frame, _ in stack) for stack in stacks)
