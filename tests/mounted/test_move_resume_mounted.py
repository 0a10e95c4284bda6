"""Renames that a crash has interrupted: finished or given up, but never over newer versions.

These run in a real mount.
"""

from concurrent.futures import ThreadPoolExecutor

from swiftclient import Connection

from support.commands import swiftfs
from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.demo.server import Fault, SwiftServer


def status(mounted: Mount) -> str:
    return swiftfs("status", mounted.path).stdout


def test_a_move_that_no_mount_could_finish_overwrites_nothing(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    for name in ("a", "b"):
        connection.put_object(container, f"d/{name}", b"old", content_type="text/plain")
    swift.inject(Fault("COPY", "/d/b", delay=60, status=503))
    with ThreadPoolExecutor(1) as threads:
        renamed = threads.submit((mounted.path / "d").rename, mounted.path / "e")
        wait_until(lambda: any(row["name"] == "e/a" for row in connection.get_container(container)[1]))
        mounted.kill()
        assert isinstance(renamed.exception(60), OSError)
    swift.clear_faults()
    swift.inject(Fault("COPY", "/d/", status=413))
    mounted.expected.append("is given up")
    mounted.start()
    swift.clear_faults()
    assert "1 change refused and given up since the last flush; the first is /d: " in status(mounted)
    flushed = swiftfs("flush", mounted.path)
    assert flushed.returncode == 1
    assert "/d: could not be moved and was given up: " in flushed.stderr
    assert (mounted.path / "d" / "b").read_bytes() == b"old"
    (mounted.path / "e").mkdir(exist_ok=True)
    (mounted.path / "e" / "a").write_bytes(b"newer")
    (mounted.path / "e" / "b").write_bytes(b"gone")
    (mounted.path / "e" / "b").unlink()
    mounted.remount(empty_cache=False)
    assert (mounted.path / "e" / "a").read_bytes() == b"newer"
    assert not (mounted.path / "e" / "b").exists()
    assert (mounted.path / "d" / "a").read_bytes() == b"old"


def test_a_kill_leaves_the_open_file_that_a_rename_is_about_to_replace(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    """Its bytes are downloaded first, as a program reads it, which takes as long as it is large."""
    for name in ("a", "b"):
        connection.put_object(container, name, name.encode())
    mounted.remount()
    with ThreadPoolExecutor(1) as threads, (mounted.path / "b").open("rb"):
        swift.inject(Fault("GET", f"/{container}/b", delay=60))
        renamed = threads.submit((mounted.path / "a").rename, mounted.path / "b")
        wait_until(lambda: any(one.method == "GET" and one.path.endswith("/b") for one in swift.requests()))
        mounted.kill()
        assert isinstance(renamed.exception(60), OSError)
    swift.clear_faults()
    mounted.start()
    assert [(mounted.path / name).read_bytes() for name in ("a", "b")] == [b"a", b"b"]
    mounted.remount(empty_cache=False)
    assert [connection.get_object(container, name)[1] for name in ("a", "b")] == [b"a", b"b"]
