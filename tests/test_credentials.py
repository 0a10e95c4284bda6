"""Credentials in files, the ways of Keystone to log in, readers, and that no secret is told anywhere."""

import os
from pathlib import Path

import pytest
from commands import one_line, swiftfs
from mounts import Mount
from swiftclient import Connection

from swiftfs.config.credentials import NAVER_AUTH_URL, login_environment, read_credentials
from swiftfs.demo.server import SwiftServer
from swiftfs.demo.values import READER
from swiftfs.errors import ConfigurationError
from swiftfs.store import open_account

SECRET = "s3cret-key-nobody-sees"
NAVER = f"access_key = AK\nsecret_key = {SECRET}\nproject_id = 0123\ndomain_id = abcd\n"


def secret_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "credentials"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_naver_s_keys(tmp_path: Path) -> None:
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
    ("text", "told"),
    [
        (NAVER.replace("project_id", "#"), "project_id is missing"),
        (f"{NAVER}OS_USERNAME=x", "access_key and OS_USERNAME exclude each other"),
        (f"secret={SECRET}", "line 1: expected OS_NAME=value"),
        (f"OS_PASSWORD {SECRET}", "line 1: expected OS_NAME=value"),
    ],
)
def test_a_wrong_file_is_told_without_its_secret(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_credentials(secret_file(tmp_path, text))
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


def test_what_systemd_lends_has_the_mode_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = secret_file(tmp_path, NAVER, 0o440)
    with pytest.raises(ConfigurationError, match="can be read by other users"):
        read_credentials(file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert login_environment(str(file), {"OS_TOKEN": "of the environment"})["OS_PASSWORD"] == SECRET
    assert "OS_TOKEN" not in login_environment(str(file), {"OS_TOKEN": "of the environment"})


LACKS = "by v3applicationcredential: You must provide an auth secret"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"OS_AUTH_TYPE": "magic"}, "OS_AUTH_TYPE=magic: keystoneauth knows no such login method"),
        ({"OS_APPLICATION_CREDENTIAL_ID": "x"}, LACKS),
        ({"OS_AUTH_TYPE": "v3applicationcredential"}, "You must provide either an application credential ID"),
        ({"OS_AUTH_TYPE": "token"}, "to log in by v3token, set OS_TOKEN too"),
        ({"OS_AUTH_TYPE": "password", "OS_AUTH_URL": ""}, "set OS_AUTH_URL"),
        ({"OS_AUTH_TYPE": "v3token", "OS_AUTH_URL": "", "OS_TOKEN": "x"}, "set OS_AUTH_URL too"),
    ],
)
def test_what_a_way_to_log_in_lacks_is_named(environment: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_account({"OS_AUTH_URL": "https://auth.example:5000", **environment})
    assert told in str(caught.value)


@pytest.fixture
def reader(swift: SwiftServer, connection: Connection, container: str) -> dict[str, str]:
    """Who may read and list the container, and nothing else."""
    connection.put_object(container, "file", b"text")
    connection.post_container(container, {"X-Container-Read": f"{READER.name},.rlistings"})
    return {
        "ST_AUTH": swift.auth_url,
        "ST_USER": READER.name,
        "ST_KEY": READER.key,
    }


def test_a_reader_s_mount_is_read_only(
    swift: SwiftServer, container: str, reader: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "mnt"
    folder.mkdir()
    words = ("mount", container, folder, "--cache-dir", tmp_path / "cache")
    assert swiftfs(*words, environment=reader).returncode == 0
    try:
        assert (folder / "file").read_text() == "text"
        for attempt in ((folder / "new").touch, (folder / "file").unlink, (folder / "new").mkdir):
            with pytest.raises(OSError, match="Read-only file system"):
                attempt()
    finally:
        assert swiftfs("umount", folder).returncode == 0


def test_no_secret_is_seen(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    """Not in argv, the environment that others of the same user read, the log, or the cache folder."""
    lines = "".join(f"{name}={value}\n" for name, value in swift.environment().items())
    file = secret_file(tmp_path, lines)
    folder = tmp_path / "mnt"
    folder.mkdir()
    cache = tmp_path / "cache"
    words = ("mount", container, folder, "--cache-dir", cache, "-o", f"credentials={file},debug")
    assert swiftfs(*words).returncode == 0
    try:
        (folder / "file").write_text("text")
        pid = int(os.getxattr(folder, "swiftfs.pid"))
        for name in ("cmdline", "environ"):
            assert swift.key.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    finally:
        assert swiftfs("umount", folder).returncode == 0
    token = connection.get_auth()[1]
    for path in cache.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert f"ST_KEY={swift.key}".encode() not in text
            assert token.encode() not in text
    file.write_text(lines.replace(f"ST_KEY={swift.key}", f"ST_KEY={SECRET}"))
    assert SECRET not in one_line(swiftfs(*words[:-1], f"credentials={file}"))


@pytest.mark.mount_options("ro")
def test_a_mount_that_is_read_only_anyway_asks_nothing(mounted: Mount, swift: SwiftServer) -> None:
    swift.reset_requests()
    mounted.remount()
    assert not [request for request in swift.requests() if request.method == "DELETE"]
