"""The way to Swift: certificates, wrong schemes and proxies; each mistake is one clear line."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from swiftclient import Connection

from support import mount_with_time_limits
from support.commands import one_line, swiftfs
from support.deadlines import within
from support.mounts import clean_environment
from support.proxies import Proxy, write_certificate
from swiftfs.demo.server import SwiftServer

NOWHERE = "http://127.0.0.1:9"
"""The discard port, on which no server listens."""

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_certificate(tmp_path / "certificate.pem")


@pytest.fixture
def proxy(swift: SwiftServer, connection: Connection, certificate: Path) -> Iterator[Proxy]:
    """Swift behind TLS."""
    with Proxy(swift.port, certificate) as proxy:
        yield proxy


@pytest.fixture
def refused(swift: SwiftServer, container: str, tmp_path: Path) -> Refused:
    """Return a function that mounts `container` with an auth URL and variables; it returns the error line."""
    folder = tmp_path / "mnt"
    folder.mkdir()

    def refused(url: str = "", **variables: str) -> str:
        environment = {**swift.environment(), **variables}
        if url:
            environment["ST_AUTH"] = f"{url}/auth/v1.0"
        words = ("mount", container, folder, "--cache-dir", tmp_path / "cache")
        return one_line(swiftfs(*words, environment=environment))

    return refused


def assert_works(swift: SwiftServer, container: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Mount, write a file, unmount."""
    (folder / "mnt").mkdir()
    words = ("mount", container, folder / "mnt", "--cache-dir", folder / "cache")
    mounted = swiftfs(*words, environment={**swift.environment(), **variables})
    assert mounted.returncode == 0, mounted.stderr
    (folder / "mnt" / "file").write_text("text")
    assert swiftfs("umount", folder / "mnt").returncode == 0


@pytest.mark.matrix(1)
@pytest.mark.parametrize("variable", ["OS_CACERT", "REQUESTS_CA_BUNDLE"])
def test_a_certificate_that_is_named_is_trusted(
    swift: SwiftServer,
    connection: Connection,
    container: str,
    proxy: Proxy,
    certificate: Path,
    tmp_path: Path,
    variable: str,
) -> None:
    assert_works(
        swift, container, tmp_path, {"ST_AUTH": f"{proxy.url}/auth/v1.0", variable: str(certificate)}
    )
    assert connection.get_object(container, "file")[1] == b"text"
    assert proxy.connections


def test_an_unknown_certificate_is_refused(proxy: Proxy, refused: Refused) -> None:
    line = refused(proxy.url)
    assert "certificate is not trusted, certificate verify failed: self-signed certificate;" in line
    assert line.endswith("; set OS_CACERT=FILE to the issuer's certificate\n")


@pytest.mark.matrix(2)
@pytest.mark.parametrize(
    ("days", "name", "reason"),
    [
        (-1, "127.0.0.1", "certificate has expired"),
        (10, "127.0.0.1", "certificate is not yet valid"),
        (1, "swift.example.org", "certificate is not valid for '127.0.0.1'"),
    ],
)
def test_a_bad_certificate_is_refused_whoever_signed_it(
    swift: SwiftServer, refused: Refused, tmp_path: Path, days: int, name: str, reason: str
) -> None:
    certificate = write_certificate(tmp_path / "bad.pem", days=days, name=name)
    with Proxy(swift.port, certificate) as proxy:
        line = refused(proxy.url, OS_CACERT=str(certificate))
    assert reason in line
    assert "OS_CACERT" not in line


def test_a_file_that_is_no_bundle_is_reported_with_its_variable(
    proxy: Proxy, refused: Refused, tmp_path: Path
) -> None:
    missing, other = tmp_path / "missing", tmp_path / "other"
    other.write_text("no certificate")
    assert (
        refused(proxy.url, OS_CACERT=str(missing))
        == f"swiftfs: OS_CACERT={missing}: No such file or directory\n"
    )
    assert f"OS_CACERT={other}: no certificate or crl found" in refused(proxy.url, OS_CACERT=str(other))


def test_https_at_a_port_with_http_is_reported(swift: SwiftServer, refused: Refused) -> None:
    assert "check https in the URL, and the port" in refused(f"https://127.0.0.1:{swift.port}")


def test_http_at_a_port_with_https_is_reported(proxy: Proxy, refused: Refused) -> None:
    assert "no answer from the authentication server" in refused(proxy.url.replace("https", "http"))


def test_requests_go_through_the_proxy(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with Proxy(swift.port) as proxy:
        assert_works(swift, container, tmp_path, {"http_proxy": proxy.url})
        assert proxy.connections
    assert connection.get_object(container, "file")[1] == b"text"


def test_no_proxy_is_obeyed(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    assert_works(swift, container, tmp_path, {"http_proxy": NOWHERE, "no_proxy": "127.0.0.1"})
    assert connection.get_object(container, "file")[1] == b"text"


def test_a_proxy_that_does_not_answer_is_named_without_its_password(refused: Refused) -> None:
    line = refused(http_proxy="http://user:secret@127.0.0.1:9")
    assert "no answer from the authentication server through the proxy 127.0.0.1:9" in line
    assert "secret" not in line


def test_a_storage_url_without_tls_is_refused_unless_allowed(
    swift: SwiftServer, proxy: Proxy, container: str, certificate: Path, tmp_path: Path
) -> None:
    """Some servers behind a TLS proxy name an http address; the token would be sent there."""
    proxy.says_https = False
    (tmp_path / "mnt").mkdir()
    environment = {**swift.environment(), "ST_AUTH": f"{proxy.url}/auth/v1.0", "OS_CACERT": str(certificate)}
    result = swiftfs("mount", container, tmp_path / "mnt", environment=environment)
    line = one_line(result)
    assert "has no TLS: others on the network can read the data and the token; ask for https there" in line
    assert line.endswith("or allow it with insecure_storage=yes\n")
    # Twice 25 seconds pass otherwise until the mount gives up.
    program = (sys.executable, mount_with_time_limits.__file__, "1", "1")
    result = subprocess.run(
        [*program, "mount", container, tmp_path / "mnt", "-o", "insecure_storage=yes"],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=within(60),
    )
    assert result.returncode == 1
    assert "others on the network can read the data" in result.stderr
