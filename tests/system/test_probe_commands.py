"""`swiftfs probe`: its findings and advice, and that it leaves nothing.

These run on a real Swift.
"""

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.memory_store import MemoryStore
from support.probes import probe_of
from swiftfs.demo.server import Fault, ServerSettings, SwiftServer
from swiftfs.errors import ConfigurationError
from swiftfs.store.auth import open_account
from swiftfs.store.swift_store import SwiftStore


def test_the_findings_of_a_real_swift(swift: SwiftServer, connection: Connection, container: str) -> None:
    connection.put_object(container, "file", b"text")
    before = connection.get_account()[1]
    result = swiftfs("probe", container, "--size", "1M", environment=swift.environment())
    assert result.returncode == 0, result
    assert result.stderr == ""
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert lines["account"] == f"{swift.auth_url} (user {swift.user})"
    assert lines["server"] == "Swift"
    assert lines["limits"] == "10000 names a listing, 5G an object, 1000 segments, names of 1024 bytes"
    assert lines["bulk delete"] == "10000 names a request"
    assert lines["clock"] == "server and this machine agree"
    assert lines["attributes in Content-Type"] == "kept"
    assert lines["listing"].endswith("s, attributes are shown")
    assert lines["If-None-Match"] == "honoured"
    assert lines["large objects"] == "SLO with ranges; COPY copies manifests"
    assert lines["segments"] == f"{container}_segments can be created"
    assert lines["upload"].partition(" ")[0].isdigit()
    assert lines["cost"].partition(" ")[0].isdigit()
    assert int(lines["cost"].split()[0]) < 60
    assert [row["name"] for row in connection.get_container(container)[1]] == ["file"]
    assert [row["name"] for row in connection.get_account()[1]] == [row["name"] for row in before]


def test_below_a_prefix_and_without_bulk_delete() -> None:
    with SwiftServer(settings=ServerSettings(without=frozenset({"bulk"}), delay=0.06)) as slow:
        store = SwiftStore(open_account(slow.environment()))
        try:
            store.create_container("box")
            findings = probe_of(store, "box/deep/er")
            assert store.list_page("box").rows == ()
        finally:
            store.close()
    assert findings["bulk delete"].text == "no: one DELETE an object"
    assert findings["latency"].options == "connections=16"


def test_the_findings_of_an_account(swift: SwiftServer) -> None:
    result = swiftfs("probe", "/", environment=swift.environment())
    assert result.returncode == 0
    assert "objects: not tested: give a container" in result.stdout


def test_objects_that_could_not_be_deleted_are_reported(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    swift.inject(Fault(method="POST", path="bulk-delete", status=403))
    swift.inject(Fault(method="DELETE", path=rf"/{container}.*/.", status=403))
    result = swiftfs("probe", container, "--size", "1M", environment=swift.environment())
    assert result.returncode == 1
    assert "could not be deleted, such as" in result.stderr


def test_wrong_arguments_are_refused(swift: SwiftServer) -> None:
    assert "expected a size, 1M to 1G" in swiftfs("probe", "box", "--size", "2T").stderr
    assert "no credentials" in one_line(swiftfs("probe", "box"))
    with pytest.raises(ConfigurationError, match="swiftfs mount --create box FOLDER"):
        probe_of(MemoryStore())
