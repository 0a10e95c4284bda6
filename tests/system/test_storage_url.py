"""A storage URL that the user names, and a token without a login, on a real Swift."""

import errno
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.commands import one_line, swiftfs
from support.mounts import Mount, swift_cli
from support.secret_files import secret_file
from support.troubleshooting import quoted
from swiftfs.demo.server import OPERATOR, Fault, SwiftServer
from swiftfs.errors import LoginRefused
from swiftfs.store.account_settings import AccountSettings, StorageChoice
from swiftfs.store.auth import open_account
from swiftfs.store.connect import connect


@pytest.fixture(scope="module", autouse=True)
def box(swift_server: SwiftServer) -> None:
    swift_cli(swift_server, "post", "box")


class _Holder:
    """The same Swift for a mount, with a token only."""

    def __init__(self, swift: SwiftServer) -> None:
        self.swift = swift
        account = open_account(swift.environment())
        self._environment = {"OS_STORAGE_URL": swift.storage_url, "OS_AUTH_TOKEN": account.token()}
        account.close()

    def environment(self) -> Mapping[str, str]:
        return self._environment


def _mount(swift: SwiftServer, folder: Path, options: str = "") -> Mount:
    holder: Any = _Holder(swift)
    return Mount(holder, "box", folder, options)


def test_a_token_alone_is_enough(swift: SwiftServer, tmp_path: Path) -> None:
    swift.reset_requests()
    with _mount(swift, tmp_path) as mount:
        (mount.path / "file").write_text("text")
        mount.remount()
        assert (mount.path / "file").read_text() == "text"
    assert swift_cli(swift, "download", "box", "file", "-o", "-") == "text"


def test_a_file_of_swift_auth_is_enough(swift: SwiftServer, tmp_path: Path) -> None:
    file = secret_file(tmp_path, swift_cli(swift, "auth"))
    result = swiftfs("probe", "box", "--size", "1M", "--credentials", file)
    assert result.returncode == 0, result.stderr
    assert f"account: {swift.storage_url} (token)" in result.stdout


def test_a_refused_token_is_told_in_one_line(swift: SwiftServer, tmp_path: Path) -> None:
    environment = {"OS_STORAGE_URL": swift.storage_url, "OS_AUTH_TOKEN": "AUTH_tk-of-yesterday"}
    folder = tmp_path / "mnt"
    folder.mkdir()
    line = one_line(swiftfs("mount", "box", folder, environment=environment))
    assert "AUTH_tk-of-yesterday" not in line
    assert "mount again with a new token" in quoted(line)
    with closing(connect(environment)) as connected, pytest.raises(LoginRefused):
        connected.store.account_usage()


def test_what_a_token_s_end_has_stopped_is_stored_with_the_next_one(
    swift: SwiftServer, tmp_path: Path
) -> None:
    for name in ("changed", "deleted", "touched"):
        (tmp_path / name).write_text("old")
        swift_cli(swift, "upload", "box", name, cwd=tmp_path)
    mount = _mount(swift, tmp_path, "settle=0.1,drain=1")
    mount.expected = ["the token is refused"]
    with mount:
        assert (mount.path / "deleted").read_text() == "old"
        swift.inject(Fault(path="/v1/", status=401))
        (mount.path / "changed").write_text("new")
        (mount.path / "deleted").unlink()
        (mount.path / "touched").chmod(0o600)
        result = swiftfs("flush", mount.path)
        assert result.returncode == 1
        assert result.stderr.count("the token is refused") == 3
        with pytest.raises(PermissionError) as caught:
            (mount.path / "touched").read_text()
        assert caught.value.errno == errno.EACCES
        mount.exit_code = 1
        mount.stop()
        swift.clear_faults()
        mount.exit_code = 0
        mount.swift = _Holder(swift)  # type: ignore[assignment]
        mount.start()
        assert swiftfs("flush", mount.path).returncode == 0
        assert (mount.path / "touched").stat().st_mode & 0o777 == 0o600
    assert swift_cli(swift, "download", "box", "changed", "-o", "-") == "new"
    assert "deleted" not in swift_cli(swift, "list", "box").split()


def test_a_storage_url_reaches_another_account(swift: SwiftServer) -> None:
    """An operator's own account is not that of the tester."""
    environment = {**swift.environment(), "ST_USER": OPERATOR.name, "ST_KEY": OPERATOR.key}
    connected = connect(environment, AccountSettings(storage=StorageChoice(swift.storage_url)))
    try:
        assert "box" in connected.store.list_containers().subdirs
        assert connected.label == f"{swift.auth_url} (user {OPERATOR.name}) at {swift.storage_url}"
    finally:
        connected.close()
    own = connect(environment)
    try:
        assert "box" not in own.store.list_containers().subdirs
    finally:
        own.close()


def test_clouds_yaml_names_a_storage_url(swift: SwiftServer, tmp_path: Path) -> None:
    file = secret_file(
        tmp_path,
        "clouds:\n"
        "  demo:\n"
        "    auth_type: v1password\n"
        f"    object_store_endpoint_override: {swift.storage_url}\n"
        "    auth:\n"
        f"      auth_url: {swift.auth_url}\n"
        f"      username: {OPERATOR.name}\n"
        f"      password: {OPERATOR.key}\n",
    )
    connected = connect({"OS_CLIENT_CONFIG_FILE": str(file)}, AccountSettings("demo"))
    try:
        assert "box" in connected.store.list_containers().subdirs
    finally:
        connected.close()
