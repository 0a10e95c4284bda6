"""Credentials in files, login methods of Keystone, read-only users, and that no secret is shown."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.hostile_server import HostileServer, Response, hostile_server
from support.other_users import NOBODY, as_root
from support.proxies import Proxy, write_certificate
from support.secret_files import secret_file
from swiftfs.config.credentials import NAVER_AUTH_URL, forget_secrets, login_environment, read_credentials
from swiftfs.errors import ConfigurationError
from swiftfs.store.auth import open_account
from swiftfs.store.error_map import reason

SECRET = "s3cret-key-nobody-sees"
NAVER = f"access_key = AK\nsecret_key = {SECRET}\nproject_id = 0123\ndomain_id = abcd\n"


def test_keys_of_naver_log_in(tmp_path: Path) -> None:
    found = read_credentials(secret_file(tmp_path, NAVER))
    assert found == {
        "OS_AUTH_URL": NAVER_AUTH_URL,
        "OS_USERNAME": "AK",
        "OS_PASSWORD": SECRET,
        "OS_PROJECT_ID": "0123",
        "OS_USER_DOMAIN_ID": "abcd",
    }
    account = open_account(found)
    assert account.label == f"{NAVER_AUTH_URL} (user AK)"
    account.close()
    other = read_credentials(secret_file(tmp_path, f"{NAVER}auth_url=https://other.example:5000/v3"))
    assert other["OS_AUTH_URL"] == "https://other.example:5000/v3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NAVER.replace("project_id", "#"), "project_id is missing"),
        (f"{NAVER}OS_USERNAME=x", "access_key and OS_USERNAME exclude each other"),
        (f"secret={SECRET}", "line 1: expected OS_NAME=value"),
        (f"OS_PASSWORD {SECRET}", "line 1: expected OS_NAME=value"),
    ],
)
def test_a_wrong_file_is_reported_without_its_secret(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_credentials(secret_file(tmp_path, text))
    assert expected in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_credential_of_systemd_may_have_any_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = secret_file(tmp_path, NAVER, 0o440)
    with pytest.raises(ConfigurationError, match="can be read by other users"):
        read_credentials(file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert login_environment(str(file), {"OS_TOKEN": "of the environment"})["OS_PASSWORD"] == SECRET
    assert "OS_TOKEN" not in login_environment(str(file), {"OS_TOKEN": "of the environment"})


def test_secrets_are_forgotten() -> None:
    secrets = ("OS_PASSWORD", "ST_KEY", "OS_TOKEN", "OS_APPLICATION_CREDENTIAL_SECRET", "OS_PASSCODE")
    others = {"OS_AUTH_URL": "u", "ST_USER": "u", "PATH": "/bin", "SSH_KEY": "not ours"}
    environment = {**dict.fromkeys(secrets, SECRET), **others}
    forget_secrets(environment)
    assert environment == others


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_can_read_or_change(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match=r"can be (read|changed) by other users: chmod 600 it"):
        read_credentials(secret_file(tmp_path, NAVER, mode))


@as_root
def test_a_file_of_another_user(tmp_path: Path) -> None:
    file = secret_file(tmp_path, NAVER)
    os.chown(file, NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match="belongs to another user: chown it, or make a copy"):
        read_credentials(file)


CLOUDS = """
clouds:
  demo:
    auth_type: v1password
    auth: {auth_url: "http://127.0.0.1:9/auth/v1.0", username: u, password: p}
"""


@pytest.mark.usual
def test_a_cloud_that_others_can_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = secret_file(tmp_path, CLOUDS)
    environment = {"OS_CLIENT_CONFIG_FILE": str(file), "OS_CLOUD": "demo"}
    open_account(environment).close()
    assert not caplog.records
    file.chmod(0o644)
    open_account(environment).close()
    assert caplog.messages == [f"{file} can be read by other users: chmod 600 it"]
    caplog.clear()


@pytest.mark.parametrize("value", ["yes", "0123", "12", "1.5", "[a]"])
def test_a_password_that_yaml_reads_as_something_else(tmp_path: Path, value: str) -> None:
    file = secret_file(tmp_path, CLOUDS.replace("password: p}", f"password: {value}}}"))
    with pytest.raises(ConfigurationError, match="'demo': password is no text: write it in quotes"):
        open_account({"OS_CLIENT_CONFIG_FILE": str(file), "OS_CLOUD": "demo"})


def test_a_key_that_no_header_can_carry() -> None:
    environment = {"ST_AUTH": "http://127.0.0.1:9/auth/v1.0", "ST_USER": "u", "ST_KEY": "test한ing"}
    account = open_account(environment)
    with pytest.raises(ConfigurationError, match="the key has letters outside of Latin-1") as caught:
        account.endpoint()
    assert "한" not in str(caught.value)
    account.close()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'NoneType' object is not iterable", "'NoneType' object is not iterable"),
        ("no attribute 'get'", "no attribute 'get'"),
        ("'latin-1' codec can't encode", "'latin-1' codec can't encode"),
        ("'auth_url'", "auth_url"),
        ("it is 'x' or 'y'", "it is 'x' or 'y'"),
    ],
)
def test_a_reason_keeps_its_quotes(text: str, shown: str) -> None:
    assert reason(ValueError(text)) == shown


def test_a_cloud_that_others_can_change(tmp_path: Path) -> None:
    file = secret_file(tmp_path, CLOUDS, 0o662)
    with pytest.raises(ConfigurationError, match=f"{file} can be changed by other users: chmod 600 it"):
        open_account({"OS_CLIENT_CONFIG_FILE": str(file), "OS_CLOUD": "demo"})


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HostileServer, str]]:
    """Provide a server of profiles, and its URL, to which TLS leads."""
    certificate = write_certificate(tmp_path / "certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with hostile_server() as server, Proxy(urlsplit(server.url).port or 0, certificate) as proxy:
        proxy.says_https = False
        yield server, proxy.url


def open_with_profile(folder: Path, profile: str) -> str:
    """Return the label of the account of a cloud that has this profile."""
    clouds = folder / "clouds.yaml"
    login = "auth_type: v1password, auth: {username: u, password: p}"
    clouds.write_text(f"clouds: {{demo: {{profile: '{profile}', {login}}}}}")
    clouds.chmod(0o600)
    account = open_account({"OS_CLIENT_CONFIG_FILE": str(clouds)}, cloud="demo")
    account.close()
    return account.label


SLOW = "cannot be fetched: .*(took too long|timed out)"
PROFILE = b'{"name": "vendor", "profile": {"auth": {"auth_url": "http://127.0.0.1:9/auth/v1.0"}}}'


def test_a_profile_is_fetched(tmp_path: Path, profiles: tuple[HostileServer, str]) -> None:
    server, url = profiles
    server.response = Response(PROFILE)
    assert "http://127.0.0.1:9/auth/v1.0" in open_with_profile(tmp_path, url)
    assert server.paths == ["/.well-known/openstack/api"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Response(PROFILE, padding=100), "cannot be fetched: .*longer than 65536 bytes"),
        (Response(b" ", trickles=True), SLOW),
        (Response(raw=b"HTTP/1.1 200 OK\r\nX-Endless: ", endless=b"x"), SLOW),
        (Response(b"[" * 60_000), "cannot be fetched"),
        (Response(b"{}"), "is no profile"),
        (Response(b'{"name": {}, "profile": {}}'), "is no profile"),
        (Response(status=404), "could not be fetched: 404"),
        (
            Response(status=302, headers={"Location": "http://127.0.0.1:9/"}),
            "does not begin with https|https://",
        ),
    ],
)
def test_a_profile_that_is_none(
    tmp_path: Path,
    profiles: tuple[HostileServer, str],
    monkeypatch: pytest.MonkeyPatch,
    answer: Response,
    said: str,
) -> None:
    """Its server may send an answer without an end."""
    monkeypatch.setattr("swiftfs.store.clouds.PROFILE_SECONDS", 1.0)
    server, url = profiles
    server.response = answer
    with pytest.raises(ConfigurationError, match=said):
        open_with_profile(tmp_path, url)


def test_a_profile_comes_over_tls_only(tmp_path: Path, profiles: tuple[HostileServer, str]) -> None:
    """It says where the password is sent."""
    server, _ = profiles
    with pytest.raises(ConfigurationError, match=f"{server.url}.* is not at a URL that begins with https://"):
        open_with_profile(tmp_path, server.url)
    assert server.paths == []


def test_a_profile_that_others_can_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloud may take its auth URL from a file of profiles, which openstacksdk looks for here, too."""
    text = "clouds: {demo: {profile: vendor, auth_type: v1password, auth: {username: u, password: p}}}"
    environment = {"OS_CLIENT_CONFIG_FILE": str(secret_file(tmp_path, text)), "OS_CLOUD": "demo"}
    profiles = tmp_path / "clouds-public.yaml"
    profiles.write_text("public-clouds: {vendor: {auth: {auth_url: 'http://127.0.0.1:9/auth/v1.0'}}}")
    monkeypatch.setattr("openstack.config.loader.VENDOR_FILES", [str(tmp_path / "none"), str(profiles)])
    account = open_account(environment)
    assert account.label.startswith("http://127.0.0.1:9/auth/v1.0 ")
    account.close()
    profiles.chmod(0o666)
    with pytest.raises(ConfigurationError, match=f"{profiles} can be changed by other users"):
        open_account(environment)


LACKS = "by v3applicationcredential: You must provide an auth secret"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OS_AUTH_TYPE": "magic"}, "OS_AUTH_TYPE=magic: keystoneauth knows no such login method"),
        ({"OS_APPLICATION_CREDENTIAL_ID": "x"}, LACKS),
        ({"OS_AUTH_TYPE": "v3applicationcredential"}, "You must provide either an application credential ID"),
        ({"OS_AUTH_TYPE": "token"}, "to log in by v3token, set OS_TOKEN too"),
        ({"OS_AUTH_TYPE": "password", "OS_AUTH_URL": ""}, "set OS_AUTH_URL"),
        ({"OS_AUTH_TYPE": "v3token", "OS_AUTH_URL": "", "OS_TOKEN": "x"}, "set OS_AUTH_URL too"),
    ],
)
def test_missing_variables_of_a_login_method_are_named(
    environment: dict[str, str], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_account({"OS_AUTH_URL": "https://auth.example:5000", **environment})
    assert expected in str(caught.value)
    assert not caplog.records
