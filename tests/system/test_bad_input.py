"""Mistakes of users and administrators: each is one line, which troubleshooting.md quotes."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.mounts import Mount
from support.proxies import Proxy, write_certificate
from support.troubleshooting import quoted
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.fuse.binding import first_reason

NOWHERE = "http://127.0.0.1:9"
"""The discard port, on which no server listens."""

Refused = Callable[..., str]


@pytest.fixture
def refused(swift: SwiftServer, container: str, tmp_path: Path) -> Refused:
    """Return a function that mounts with an error; it returns the quotation of the line that is printed."""
    (tmp_path / "mountpoint").mkdir()

    def refused(
        *words: object,
        source: str = container,
        folder: Path = tmp_path / "mountpoint",
        cache: Path = tmp_path / "cache",
        **variables: str,
    ) -> str:
        environment = {**swift.environment(), **variables}
        command = ("mount", source, folder, "--cache-dir", cache, *words)
        return quoted(one_line(swiftfs(*command, environment=environment)))

    return refused


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ST_AUTH": "", "ST_USER": "", "ST_KEY": ""}, "no credentials: "),
        ({"ST_KEY": ""}, "incomplete credentials: set NAME"),
        ({"ST_KEY": "wrong"}, "wrong user or key"),
        ({"ST_AUTH": "127.0.0.1:8080/auth/v1.0"}, "is not an http or https URL"),
        ({"ST_AUTH": f"{NOWHERE}/auth/v1.0"}, "no answer from the authentication server, REASON"),
        ({"http_proxy": NOWHERE, "no_proxy": ""}, "through the proxy PROXY, REASON"),
        ({"OS_CACERT": "/no/such/file"}, "OS_CACERT=FILE: REASON"),
    ],
)
def test_wrong_credentials_and_addresses(
    connection: Connection, refused: Refused, variables: dict[str, str], expected: str
) -> None:
    assert expected in refused(**variables)


def test_an_address_that_is_no_login(connection: Connection, swift: SwiftServer, refused: Refused) -> None:
    wrong = swift.auth_url.replace("/auth", "/author")
    assert "cannot authenticate there, REASON: check the auth URL" in refused(ST_AUTH=wrong)
    tls = swift.auth_url.replace("http:", "https:")
    assert "TLS fails, REASON: check https in the URL, and the port" in refused(ST_AUTH=tls)


@pytest.mark.parametrize(
    ("days", "expected"),
    [(1, "REASON; set OS_CACERT=FILE to the issuer's certificate"), (-1, "is not trusted, REASON")],
)
def test_bad_certificates(
    connection: Connection, swift: SwiftServer, refused: Refused, tmp_path: Path, days: int, expected: str
) -> None:
    certificate = write_certificate(tmp_path / "certificate", days=days)
    trusted = {"OS_CACERT": str(certificate)} if days < 0 else {}
    with Proxy(swift.port, certificate) as proxy:
        assert refused(ST_AUTH=f"{proxy.url}/auth/v1.0", **trusted).endswith(expected)


@pytest.mark.parametrize(
    ("status", "expected"), [(403, "may not read SOURCE"), (507, "SOURCE cannot be listed: REASON")]
)
def test_a_container_that_cannot_be_read(
    connection: Connection, swift: SwiftServer, refused: Refused, status: int, expected: str
) -> None:
    swift.inject(Fault(method="GET", path="/v1/", status=status))
    swift.inject(Fault(method="HEAD", path="/v1/", status=status))
    assert expected in refused()


def test_a_container_that_does_not_exist(refused: Refused) -> None:
    assert "no container 'NAME'" in refused(source="no-such-container")


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (b"ST_USER=u\n", 0o644, "can be read by other users: chmod 600 it"),
        (b"ST_USER=u\nkey: x\n", 0o600, "line NUMBER: expected"),
        (b"ST_USER=\xe9\n", 0o600, "is not text in UTF-8"),
        ("ST_USER=u\n".encode("utf-16"), 0o600, "is not text in UTF-8"),
        (b"# nothing yet\n", 0o600, "is empty"),
        (b"access_key=a\nsecret_key=b\nproject_id=c\n", 0o600, "NAME is missing"),
        (None, 0, "credentials file FILE: REASON"),
    ],
)
def test_wrong_credentials_files(
    refused: Refused, tmp_path: Path, content: bytes | None, mode: int, expected: str
) -> None:
    file = tmp_path / "credentials"
    if content is not None:
        file.touch(mode)
        file.write_bytes(content)
    assert expected in refused("--credentials", file)


@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
def test_a_credentials_file_of_another_system_is_read(
    swift: SwiftServer, container: str, tmp_path: Path, change: Callable[[str], str]
) -> None:
    """With a byte order mark or other line ends: the login works, and the container is missing."""
    file = tmp_path / "credentials"
    file.touch(0o600)
    lines = "".join(f'{name}="{value}"\n' for name, value in swift.environment().items())
    file.write_bytes(change(lines).encode())
    (tmp_path / "mountpoint").mkdir()
    line = one_line(swiftfs("mount", container, tmp_path / "mountpoint", "--credentials", file))
    assert f"no container '{container}'" in line


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tll=3", "unknown option"),
        ("ttl=soon", "option NAME=VALUE (-o): expected REASON"),
        ("sync,settle=3", "contradict each other"),
        ("remount,ro", "remount is not supported"),
    ],
)
def test_wrong_options(refused: Refused, words: str, expected: str) -> None:
    assert expected in refused("-o", words)


def test_unusable_mount_points(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "full" / "x").mkdir(parents=True)
    (tmp_path / "file").touch()
    assert "is not empty" in refused(folder=tmp_path / "full")
    assert refused(folder=tmp_path / "file").endswith("mount point FOLDER: REASON")
    assert refused(folder=tmp_path / "missing").endswith(": mkdir it, or mount with --create")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("fuse: failed to exec fusermount3: No such file or directory", ": install the package fuse3"),
        ("fusermount: failed to open /dev/fuse: Permission denied", ": its mode should be 666"),
        ("fusermount3: mount failed: Operation not permitted", ": fusermount should belong to root and"),
        (
            "fusermount: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf",
            ", by root",
        ),
        (
            "fusermount3: failed to access mountpoint /srv: Permission denied",
            "that is not in another FUSE mount",
        ),
        ("fusermount: user has no write access to mountpoint /srv", "no write access to mountpoint FOLDER"),
    ],
)
def test_refusals_of_fusermount(output: str, expected: str) -> None:
    assert expected in quoted(f"swiftfs: cannot mount on /srv: {first_reason(output)}")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without space for a journal."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("only root mounts a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_unusable_cache_folders(connection: Connection, refused: Refused, tmp_path: Path) -> None:
    own, file, link = tmp_path / "own", tmp_path / "file", Path("/proc/no-such-folder")
    own.mkdir()
    (own / "diary").write_text("text")
    before = own.stat().st_mode
    file.touch()
    assert "holds other files: choose an empty folder" in refused(cache=own)
    assert (own.stat().st_mode, [path.name for path in own.iterdir()]) == (before, ["diary"])
    assert "is inside the mount point" in refused(cache=tmp_path / "mountpoint" / "cache")
    assert refused(cache=file).endswith("cache folder FOLDER: REASON")
    assert refused(cache=link).endswith("cache folder FOLDER: REASON")


def test_a_cache_folder_on_a_full_disk(connection: Connection, refused: Refused, full_disk: Path) -> None:
    assert refused(cache=full_disk / "cache").endswith("the journal FILE cannot be opened: REASON")


def test_a_second_mount(mounted: Mount, refused: Refused) -> None:
    assert "is in use by another mount" in refused(cache=mounted.cache)


def test_wrong_unmounts(mounted: Mount, tmp_path: Path) -> None:
    assert quoted(one_line(swiftfs("umount", tmp_path))).endswith("is not a swiftfs mount")
    with (mounted.path / "file").open("w"):
        assert "Device or resource busy" in quoted(one_line(swiftfs("umount", mounted.path)))
