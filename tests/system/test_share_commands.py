"""`swiftfs share` on a real Swift: its URLs work without a login, and only for what they are made."""

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.deadlines import within
from support.large_files import MIB
from support.mounts import Mount, swift_cli
from swiftfs.demo.server import READER, ServerSettings, SwiftServer

NO_KEYS = {f"X-Account-Meta-Temp-URL-Key{end}": "" for end in ("", "-2")}


@pytest.fixture(autouse=True)
def no_account_keys(connection: Connection) -> Iterator[None]:
    connection.post_account(NO_KEYS)
    yield
    connection.post_account(NO_KEYS)


@pytest.fixture
def keyed(connection: Connection, container: str) -> str:
    """The container, with a key."""
    connection.post_container(container, {"X-Container-Meta-Temp-URL-Key": "of the container"})
    return container


def share(swift: SwiftServer, *words: object) -> str:
    """Run `share`; return what it prints. It must succeed."""
    result = swiftfs("share", *words, environment=swift.environment())
    assert result.returncode == 0, result
    return result.stdout.strip()


def refused(swift: SwiftServer, *words: object) -> str:
    """Run `share`, which must fail with one line; return that."""
    return one_line(swiftfs("share", *words, environment=swift.environment()))


def fetch(url: str, method: str = "GET", data: bytes | None = None) -> bytes:
    """Ask for a URL without a login."""
    with urlopen(Request(url, data, method=method), timeout=within(20)) as answer:
        body: bytes = answer.read()
        return body


def status_of(url: str, method: str = "GET", data: bytes | None = None) -> int:
    try:
        fetch(url, method, data)
    except HTTPError as error:
        with error:
            return error.code
    return 200


def test_a_url_gives_the_file_without_a_login_until_its_end(
    swift: SwiftServer, connection: Connection, keyed: str
) -> None:
    connection.put_object(keyed, "d/ü name?.txt", b"text")
    connection.put_object(keyed, "d/other", b"secret")
    url = share(swift, f"{keyed}/d/ü name?.txt", "--for", "7d")
    assert fetch(url) == b"text"
    assert status_of(url, "PUT", b"x") == 401
    assert status_of(url.replace("%C3%BC%20name%3F.txt", "other")) == 401
    assert "of the container" not in url
    report = json.loads(share(swift, f"{keyed}/d/other", "--for", "2w", "--json", "--filename", "a b.txt"))
    assert sorted(report) == ["expires", "key", "method", "prefix", "url"]
    assert (report["method"], report["key"]) == ("GET", "container")
    end = datetime.fromisoformat(report["expires"].replace("Z", "+00:00")).timestamp()
    assert abs(end - time.time() - 14 * 86_400) < within(60)
    with urlopen(report["url"], timeout=within(20)) as answer:
        assert 'filename="a b.txt"' in answer.headers["Content-Disposition"]


def test_a_url_for_an_upload(swift: SwiftServer, connection: Connection, keyed: str) -> None:
    url = share(swift, f"{keyed}/inbox/new", "--for", "1h", "--method", "PUT")
    fetch(url, "PUT", b"uploaded")
    assert connection.get_object(keyed, "inbox/new")[1] == b"uploaded"


def test_a_prefix_is_for_all_below_it(swift: SwiftServer, connection: Connection, keyed: str) -> None:
    connection.put_object(keyed, "d/one", b"1")
    connection.put_object(keyed, "d/sub/two", b"2")
    connection.put_object(keyed, "e", b"3")
    url = share(swift, f"{keyed}/d", "--prefix", "--for", "1h")
    assert fetch(url.replace("?", "one?", 1)) == b"1"
    assert fetch(url.replace("?", "sub/two?", 1)) == b"2"
    assert status_of(url.replace("/d/?", "/e?", 1)) == 401
    assert fetch(share(swift, keyed, "--prefix", "--for", "1h").replace("?", "e?", 1)) == b"3"
    assert {row["name"] for row in connection.get_container(keyed)[1]} == {"d/one", "d/sub/two", "e"}


def test_a_url_for_an_address(swift: SwiftServer, connection: Connection, keyed: str) -> None:
    connection.put_object(keyed, "a", b"text")
    assert fetch(share(swift, f"{keyed}/a", "--for", "1h", "--ip", "127.0.0.0/8")) == b"text"
    assert status_of(share(swift, f"{keyed}/a", "--for", "1h", "--ip", "10.0.0.1")) == 401


def test_a_new_key_tells_which_urls_end(swift: SwiftServer, connection: Connection, container: str) -> None:
    connection.put_object(container, "a", b"text")
    assert "no key for TempURLs" in refused(swift, f"{container}/a", "--for", "1h")
    urls = []
    for number in range(3):
        words = ("share", f"{container}/a", "--for", "1h", "--new-key")
        result = swiftfs(*words, environment=swift.environment())
        assert result.returncode == 0, result
        urls.append(result.stdout.strip())
        ends = (
            f"URLs that were signed with the second key of {container} are not valid any more"
            in result.stderr
        )
        assert ends == (number == 2), result.stderr
    assert [status_of(url) for url in urls] == [401, 200, 200]
    assert fetch(share(swift, f"{container}/a", "--for", "1h")) == b"text"


def test_a_large_file_needs_a_key_of_the_account(
    swift: SwiftServer, connection: Connection, keyed: str, tmp_path: Path
) -> None:
    file = tmp_path / "film"
    file.write_bytes(os.urandom(3 * MIB))
    swift_cli(swift, "upload", keyed, file.name, "-S", MIB, "--use-slo", cwd=tmp_path)
    line = refused(swift, f"{keyed}/film", "--for", "1h")
    assert "a large object with segments in another container" in line
    connection.post_account({"X-Account-Meta-Temp-URL-Key": "of the account"})
    report = json.loads(share(swift, f"{keyed}/film", "--for", "1h", "--json"))
    assert report["key"] == "account"
    assert fetch(report["url"]) == file.read_bytes()


@pytest.mark.mount_options("settle=600")
def test_what_waits_in_a_mount_is_stored_first(
    swift: SwiftServer, connection: Connection, container: str, mounted: Mount
) -> None:
    connection.post_container(container, {"X-Container-Meta-Temp-URL-Key": "key"})
    (mounted.path / "new").write_bytes(b"text")
    assert fetch(share(swift, mounted.path / "new", "--for", "30m")) == b"text"


def test_mistakes_are_told_in_one_line(
    swift: SwiftServer, connection: Connection, keyed: str, tmp_path: Path
) -> None:
    connection.put_object(keyed, "d/a", b"x")
    assert "is a folder: --prefix shares" in refused(swift, f"{keyed}/d", "--for", "1h")
    assert "is a folder: --prefix shares" in refused(swift, keyed, "--for", "1h")
    connection.put_object(keyed, "empty", b"", content_type="application/directory")
    assert "is a folder: --prefix shares" in refused(swift, f"{keyed}/empty", "--for", "1h")
    link = "text/plain;mode=120777;swiftfs-link=d%2Fa"
    connection.put_object(keyed, "link", b"d/a", content_type=link)
    assert "link is a symbolic link: share what" in refused(swift, f"{keyed}/link", "--for", "1h")
    assert "no such object" in refused(swift, f"{keyed}/none", "--for", "1h")
    assert "is not in a swiftfs mount" in refused(swift, tmp_path / "x", "--for", "1h")
    assert "no container 'nowhere'" in refused(swift, "nowhere/a", "--for", "1h")
    for address in ("x", "999.1.1.1"):
        line = one_line(swiftfs("share", f"{keyed}/d/a", "--for", "1h", "--ip", address), 2)
        assert "expected an address or a network" in line
    for end in ("soon", "7", "2001-01-01", "7y", "0s"):
        line = one_line(swiftfs("share", f"{keyed}/d/a", "--for", end), 2)
        assert "expected a time such as 30m, 12h or 7d" in line
    words = ("share", f"{keyed}/d", "--prefix", "--filename", "x", "--for", "1h")
    assert "--filename is for one file" in one_line(swiftfs(*words), 2)


def test_a_user_who_may_only_read_gets_no_key(swift: SwiftServer, connection: Connection, keyed: str) -> None:
    connection.put_object(keyed, "a", b"x")
    connection.post_container(keyed, {"X-Container-Read": READER.name})
    reader = {**swift.environment(), "ST_USER": READER.name, "ST_KEY": READER.key}
    words = ("share", f"{keyed}/a", "--for", "1h")
    assert "no key for TempURLs: neither the account nor" in one_line(swiftfs(*words, environment=reader))
    result = swiftfs(*words, "--new-key", environment=reader)
    assert result.returncode == 1
    assert f"you may not set a key on {keyed}" in result.stderr


def test_a_server_without_tempurls_is_told() -> None:
    with SwiftServer(settings=ServerSettings(without=frozenset({"tempurl"}))) as server:
        assert "its /info does not name tempurl" in refused(server, "box/a", "--for", "1h")
