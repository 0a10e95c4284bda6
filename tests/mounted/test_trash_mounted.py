"""The trash of a mount: what it costs, what is in it, and `swiftfs trash`, with a real Swift."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.jobs import counted, methods, wait_until
from support.large_files import segment_names
from support.mounts import Mount, run
from swiftfs.control.client import read_state
from swiftfs.demo.server import Fault

MIB = 1024**2
FILES = 80


def keys(connection: Connection, container: str) -> list[str]:
    return [row["name"] for row in connection.get_container(container, full_listing=True)[1]]


def copy_manifest(connection: Connection, source: str, target: str) -> None:
    """Copy an object in its container, of a large one the manifest, as swiftclient cannot."""
    url, token = connection.get_auth()
    answer = requests.request(
        "COPY",
        f"{url}/{quote(source)}",
        params={"multipart-manifest": "get"},
        headers={"X-Auth-Token": token, "Destination": quote(f"{source.partition('/')[0]}/{target}")},
        timeout=60,
    )
    answer.raise_for_status()


def trash(mount: Mount, *words: object) -> subprocess.CompletedProcess[str]:
    return swiftfs("trash", *words, environment=mount.swift.environment())


def listed(mount: Mount, *words: object) -> list[dict[str, str]]:
    result = trash(mount, "list", mount.source, *words, "--json")
    assert result.returncode == 0, result
    found: list[dict[str, str]] = json.loads(result.stdout)
    return found


def put_into_trash(mounted: Mount, path: Path) -> None:
    """Store a file with the text `old` and delete it."""
    for change in (lambda: path.write_text("old"), path.unlink):
        change()
        assert swiftfs("flush", mounted.path, environment=mounted.swift.environment()).returncode == 0


@pytest.mark.usual
@pytest.mark.mount_options("settle=2,trash=30")
def test_removing_a_tree_costs_a_copy_a_file(mounted: Mount, connection: Connection, container: str) -> None:
    for number in range(FILES):
        folder = mounted.path / f"tree/{number % 40}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_text(f"file {number}")
    mounted.stop()
    mounted.start()
    mounted.swift.reset_requests()
    run("rm", "-rf", mounted.path / "tree")
    mounted.stop()
    # Without the HEADs of the folders' markers and of statfs(2), which are the same without a trash.
    cost: Counter[str] = methods([one for one in counted(mounted.swift) if one.method != "HEAD"])
    print(dict(cost))
    assert cost["COPY"] == FILES
    assert cost.total() <= FILES + 5, cost
    heads = [one.path for one in counted(mounted.swift) if one.method == "HEAD"]
    assert all(path.count("/") <= 5 and ".trash" not in path for path in heads), heads  # of no file
    assert len(keys(connection, container)) == FILES
    mounted.start()


@pytest.mark.mount_options("trash=30,segment_size=1M")
def test_files_come_back_as_they_were(mounted: Mount, connection: Connection, container: str) -> None:
    small, large = mounted.path / "d/small", mounted.path / "d/large"
    small.parent.mkdir()
    content = {small: b"data", large: os.urandom(3 * MIB)}
    for path, data in content.items():
        path.write_bytes(data)
        os.setxattr(path, "user.note", b"keep")
        path.chmod(0o640)
        os.utime(path, ns=(10**18, 1_234_567_890_123_456_789))
    before = {path: path.stat() for path in content}
    run("rm", small, large)
    assert list(small.parent.iterdir()) == []
    assert sorted(one["path"] for one in listed(mounted)) == ["d/large", "d/small"]
    assert read_state(mounted.path).trashed == 2
    result = trash(mounted, "restore", mounted.path, "d")
    assert (result.returncode, result.stdout) == (0, "restored 2 files\n"), result
    assert sorted(path.name for path in small.parent.iterdir()) == ["large", "small"]  # at once
    assert listed(mounted) == []
    mounted.remount()
    for path, data in content.items():
        stat = path.stat()
        assert path.read_bytes() == data
        assert os.getxattr(path, "user.note") == b"keep"
        assert (stat.st_mode, stat.st_mtime_ns) == (before[path].st_mode, before[path].st_mtime_ns)
        assert "x-delete-at" not in connection.head_object(container, f"d/{path.name}")
    # The segments are the restored file's own again, and so in the trash once more.
    large.unlink()
    assert segment_names(connection, container)
    result = trash(mounted, "empty", mounted.source)
    assert (result.returncode, result.stdout) == (0, "deleted 1 file\n"), result
    assert segment_names(connection, container) == set()


@pytest.mark.mount_options("trash=30,segment_size=1M")
def test_gc_does_not_take_the_segments(mounted: Mount, connection: Connection, container: str) -> None:
    (mounted.path / "film").write_bytes(os.urandom(3 * MIB))
    (mounted.path / "film").write_bytes(os.urandom(2 * MIB))
    assert len(segment_names(connection, container)) == 5
    environment = mounted.swift.environment()
    found = swiftfs("gc", container, "--older-than", "0s", "--unfinished-uploads", environment=environment)
    assert "0 uploads" in found.stdout, found
    (version,) = (one["version"] for one in listed(mounted))
    assert trash(mounted, "empty", container, version).returncode == 0
    assert len(segment_names(connection, container)) == 2


@pytest.mark.mount_options("trash=30,segment_size=1M")
def test_a_mount_empties_what_is_over(mounted: Mount, connection: Connection, container: str) -> None:
    (mounted.path / "film").write_bytes(os.urandom(3 * MIB))
    (mounted.path / "small").write_bytes(b"data")
    run("rm", mounted.path / "film", mounted.path / "small")
    mounted.stop()
    old = f"{datetime.now(timezone.utc) - timedelta(days=31):%Y-%m-%d}"
    for key in keys(connection, container):
        copy_manifest(connection, f"{container}/{key}", key.replace(key.split("/")[1], old, 1))
        connection.delete_object(container, key)
    mounted.start()
    wait_until(lambda: not keys(connection, container))
    wait_until(lambda: not segment_names(connection, container))


@pytest.mark.mount_options("trash=30")
def test_restoring_refuses_to_replace(mounted: Mount, connection: Connection, container: str) -> None:
    path = mounted.path / "a"
    for text in ("one", "two"):
        path.write_text(text)
        path.unlink()
    path.write_text("three")
    refused = trash(mounted, "restore", container, "a", "nothing")
    assert (refused.returncode, refused.stdout) == (1, "restored 0 files\n")
    assert refused.stderr.splitlines() == [
        "swiftfs: a: there is a file; --force moves that into the trash",
        "swiftfs: nothing: nothing of that name is in the trash",
    ]
    first = min(one["version"] for one in listed(mounted))
    assert trash(mounted, "restore", container, first, "--force").returncode == 0
    assert connection.get_object(container, "a")[1] == b"one"
    assert len(listed(mounted)) == 2  # the other version, and what was replaced
    one_line(trash(mounted, "restore", container), 2)
    assert "no container 'no-such-container'" in one_line(trash(mounted, "list", "no-such-container"))


@pytest.mark.mount_options("trash=30")
def test_a_mount_point_may_be_named_without_a_slash(mounted: Mount) -> None:
    (mounted.path / "a").write_text("one")
    (mounted.path / "a").unlink()
    words = [sys.executable, "-m", "swiftfs", "trash", "restore", mounted.path.name, "a"]
    environment = {**os.environ, **mounted.swift.environment()}
    done = subprocess.run(words, cwd=mounted.path.parent, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"restored 1 file\n"), done.stderr
    assert (mounted.path / "a").read_text() == "one"


@pytest.mark.mount_options("trash=30,settle=2")
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["plain", "force"])
def test_restoring_spares_what_the_mount_cannot_store(
    mounted: Mount, connection: Connection, container: str, force: tuple[str, ...]
) -> None:
    path = mounted.path / "a"
    environment = mounted.swift.environment()
    put_into_trash(mounted, path)
    mounted.expected = ["/a is parked, because it cannot be stored", "EDQUOT"]
    mounted.swift.inject(Fault("PUT", f"/{container}/a", status=413))
    path.write_text("new")
    assert swiftfs("flush", mounted.path, environment=environment).returncode == 1
    for source in (mounted.path, container):
        refused = trash(mounted, "restore", source, "a", *force)
        assert (refused.returncode, refused.stdout) == (1, "restored 0 files\n"), refused
        assert f"swiftfs: a: a change of it is not in Swift yet, but in the mount at {mounted.path}" in (
            refused.stderr
        )
    mounted.swift.clear_faults()
    assert swiftfs("retry", mounted.path, environment=environment).returncode == 0
    assert swiftfs("flush", mounted.path, environment=environment).returncode == 0
    assert connection.get_object(container, "a")[1] == b"new"
    (key,) = (key for key in keys(connection, container) if key != "a")
    assert connection.get_object(container, key)[1] == b"old"


@pytest.mark.mount_options("trash=30,settle=600")
def test_restoring_by_the_container_sees_what_a_mount_here_has(
    mounted: Mount, connection: Connection, container: str
) -> None:
    path = mounted.path / "a"
    put_into_trash(mounted, path)
    with path.open("w") as file:
        file.write("new")
        file.flush()
        refused = trash(mounted, "restore", container, "a", "--force")
        assert refused.stderr == f"swiftfs: a: it is open and being written in the mount at {mounted.path}\n"
    refused = trash(mounted, "restore", container, "a", "--force")
    assert (refused.returncode, refused.stdout) == (1, "restored 0 files\n"), refused
    assert f"not in Swift yet, but in the mount at {mounted.path}" in refused.stderr
    assert keys(connection, container) != []
    forced = trash(mounted, "restore", mounted.path, "a", "--force")  # stores it first
    assert (forced.returncode, path.read_text()) == (0, "old"), forced
    (key,) = (key for key in keys(connection, container) if key != "a")
    assert connection.get_object(container, key)[1] == b"new"


@pytest.mark.mount_options("trash=30,settle=2")
def test_a_refused_copy_is_told(mounted: Mount, connection: Connection, container: str) -> None:
    mounted.expected = ["/a: could not be deleted: the trash cannot take the stored version"]
    path = mounted.path / "a"
    path.write_text("data")
    environment = mounted.swift.environment()
    assert swiftfs("flush", mounted.path, environment=environment).returncode == 0
    mounted.swift.inject(Fault("COPY", f"{container}/a", status=413))
    try:
        path.unlink()
        result = swiftfs("flush", mounted.path, environment=environment)
        assert result.returncode == 1
        assert "the trash cannot take the stored version" in result.stderr
        assert path.read_text() == "data"
    finally:
        mounted.swift.clear_faults()
    assert keys(connection, container) == ["a"]


@pytest.mark.mount_options("trash=30,settle=2")
def test_a_killed_mount_deletes_what_it_has_copied(
    mounted: Mount, connection: Connection, container: str
) -> None:
    paths: list[Path] = [mounted.path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    environment = mounted.swift.environment()
    assert swiftfs("flush", mounted.path, environment=environment).returncode == 0
    for method in ("DELETE", "POST"):  # a bulk deletion is a POST
        mounted.swift.inject(Fault(method, "", status=503))
    for path in paths:
        path.unlink()
    wait_until(lambda: len(keys(connection, container)) == 6)  # the copies are made
    mounted.kill()
    mounted.swift.clear_faults()
    mounted.start()
    wait_until(lambda: len(keys(connection, container)) == 3)
    assert sorted(one["path"] for one in listed(mounted)) == ["a", "b", "c"]
    assert all(key.startswith(".trash/") for key in keys(connection, container))


@pytest.mark.mount_options("trash=1,show_trash")
def test_it_can_be_looked_at(mounted: Mount, connection: Connection, container: str) -> None:
    (mounted.path / "a").write_text("data")
    (mounted.path / "a").unlink()
    mounted.remount()
    (found,) = (path for path in mounted.path.rglob("*") if path.is_file())
    assert found.read_text() == "data"
    with pytest.raises(PermissionError):
        found.unlink()
    with pytest.raises(PermissionError):
        (mounted.path / ".trash/new").write_text("new")
    (key,) = keys(connection, container)
    left = int(connection.head_object(container, key)["x-delete-at"]) - time.time()
    assert 86_000 < left <= 86_400
