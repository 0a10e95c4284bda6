"""Credentials: where they come from, the messages when they are wrong, and that they are never shown.

These run on a real Swift.
"""

import logging
import time
from pathlib import Path

import pytest

from support.deadlines import within
from support.keystone_accounts import SECRET, keystone_account
from support.proxies import write_certificate
from support.secret_files import secret_file
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.errors import AccessDenied, ConfigurationError, NotSwift, Unavailable
from swiftfs.store.account_settings import AccountSettings
from swiftfs.store.auth import open_account
from swiftfs.store.connect import connect


def test_login_with_auth_v1(swift: SwiftServer) -> None:
    account = open_account(swift.environment())
    try:
        assert account.endpoint() == swift.storage_url
        token = account.token()
        assert account.token() == token
    finally:
        account.close()


def test_a_certificate_file_is_used(tmp_path: Path) -> None:
    bundle = str(write_certificate(tmp_path / "certificate.pem"))
    assert keystone_account(OS_CACERT=bundle).session.verify == bundle
    assert keystone_account().session.verify is True


def test_clouds_yaml(swift: SwiftServer, tmp_path: Path) -> None:
    file = secret_file(
        tmp_path,
        "clouds:\n"
        "  demo:\n"
        "    auth_type: v1password\n"
        "    auth:\n"
        f"      auth_url: {swift.auth_url}\n"
        "      username: test:tester\n"
        "      password: testing\n",
    )
    environment = {"OS_CLIENT_CONFIG_FILE": str(file)}
    connected = connect(environment, AccountSettings("demo"))
    try:
        assert swift.auth_url in connected.label
        assert "test:tester" in connected.label
        assert connected.store.account_usage().objects >= 0
    finally:
        connected.close()
    with pytest.raises(ConfigurationError, match="nowhere"):
        open_account({**environment, "OS_CLOUD": "nowhere"})


def test_a_wrong_key_is_reported_at_once(swift: SwiftServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    environment = {**swift.environment(), "ST_KEY": SECRET}
    begun = time.monotonic()
    with pytest.raises(AccessDenied) as caught:
        connect(environment)
    assert time.monotonic() - begun < within(3.0)
    text = str(caught.value)
    assert swift.auth_url in text
    assert "test:tester" in text
    assert "\n" not in text
    assert SECRET not in text + caplog.text + repr(caught.value)


def test_an_address_that_is_no_authentication_server_is_reported(swift: SwiftServer) -> None:
    for path, kind in (("/healthcheck", NotSwift), ("/auth/nothing", ConfigurationError)):
        environment = {**swift.environment(), "ST_AUTH": swift.auth_url.replace("/auth/v1.0", path)}
        with pytest.raises(kind, match="test:tester") as caught:
            connect(environment)
        assert "\n" not in str(caught.value)


def test_a_failing_authentication_server_is_unavailable(swift: SwiftServer) -> None:
    swift.inject(Fault("GET", "/auth", status=503))
    try:
        with pytest.raises(Unavailable, match="503"):
            connect(swift.environment())
    finally:
        swift.clear_faults()


def test_no_secret_is_shown(swift: SwiftServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    connected = connect(swift.environment())
    try:
        connected.store.account_usage()
        account = open_account(swift.environment())
        shown = repr(account) + repr(connected) + repr(vars(account)) + caplog.text
        assert swift.key not in shown.replace("test:tester", "")
        assert "AUTH_tk" not in shown
        account.close()
    finally:
        connected.close()
