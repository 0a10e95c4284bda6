"""Credentials in files, login methods of Keystone, read-only users, and that no secret is shown."""

import os
from pathlib import Path

import pytest

from support.other_users import NOBODY, as_root
from support.secret_files import secret_file
from swiftfs.config.credentials import NAVER_AUTH_URL, forget_secrets, login_environment, read_credentials
from swiftfs.errors import ConfigurationError
from swiftfs.store.auth import open_account

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


def test_a_cloud_that_others_can_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = secret_file(tmp_path, CLOUDS)
    environment = {"OS_CLIENT_CONFIG_FILE": str(file), "OS_CLOUD": "demo"}
    open_account(environment).close()
    assert not caplog.records
    file.chmod(0o644)
    open_account(environment).close()
    assert caplog.messages == [f"{file} can be read by other users: chmod 600 it"]
    caplog.clear()


def test_a_cloud_that_others_can_change(tmp_path: Path) -> None:
    file = secret_file(tmp_path, CLOUDS, 0o662)
    with pytest.raises(ConfigurationError, match=f"{file} can be changed by other users: chmod 600 it"):
        open_account({"OS_CLIENT_CONFIG_FILE": str(file), "OS_CLOUD": "demo"})


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
def test_missing_variables_of_a_login_method_are_named(environment: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_account({"OS_AUTH_URL": "https://auth.example:5000", **environment})
    assert expected in str(caught.value)
