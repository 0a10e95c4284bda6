"""Changes of attributes keep other clients' headers; virtual attributes; dropping cached listings."""

import errno
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount, run
from swiftfs.demo.server import SwiftServer
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.store.auth import open_account
from swiftfs.store.protocol import Headers
from swiftfs.store.swift_store import SwiftStore

SOON = str(int(time.time()) + 86_400)
FOREIGN: Mapping[str, str] = {
    "X-Delete-At": SOON,
    "Content-Encoding": "gzip",
    "Cache-Control": "max-age=60",
    "Content-Disposition": 'attachment; filename="a.txt"',
    "X-Object-Meta-Colour": "blue",
    "X-Object-Meta-Owner-Name": "Ötzi",
}

Change = Callable[[Path], None]

CHANGES: Mapping[str, Change] = {
    "chmod": lambda path: path.chmod(0o640),
    "utimens": lambda path: os.utime(path, ns=(10**18 + 7, 10**18 + 7)),
    "setfattr": lambda path: os.setxattr(path, "user.note", b"new"),
}


def kept(connection: Connection, container: str, key: str) -> dict[str, str]:
    headers = connection.head_object(container, key)
    return {name: headers.get(name.lower(), "") for name in FOREIGN}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def change_all(path: Path) -> None:
    path.chmod(0o600)
    os.utime(path, (5, 5))
    os.setxattr(path, "user.n", b"1")


@pytest.fixture
def foreign(connection: Connection, container: str, mounted: Mount) -> Path:
    """A file that another client uploaded, with headers of all kinds."""
    connection.put_object(container, "f", b"hello", content_type="text/plain", headers=dict(FOREIGN))
    return mounted.path / "f"


@pytest.fixture
def dlo(connection: Connection, container: str, mounted: Mount) -> Path:
    """A DLO of 10 bytes that another client uploaded."""
    connection.put_object(container, "parts/1", b"01234")
    connection.put_object(container, "parts/2", b"56789")
    headers = {"X-Object-Manifest": f"{container}/parts/", "X-Object-Meta-Colour": "blue"}
    connection.put_object(container, "dlo", b"", content_type="text/plain", headers=headers)
    return mounted.path / "dlo"


@pytest.mark.matrix(1)
@pytest.mark.parametrize("change", [*CHANGES.values(), change_all])
def test_a_change_of_attributes_keeps_every_header(
    connection: Connection, container: str, mounted: Mount, foreign: Path, change: Change
) -> None:
    change(foreign)
    before = foreign.stat()
    mounted.remount()
    after = foreign.stat()
    assert kept(connection, container, "f") == FOREIGN
    assert connection.head_object(container, "f")["content-type"].startswith("text/plain;")
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, 5)


@pytest.mark.matrix(1)
@pytest.mark.parametrize("change", [*CHANGES.values(), change_all])
def test_a_change_of_attributes_keeps_a_dlo(
    connection: Connection, container: str, mounted: Mount, dlo: Path, change: Change
) -> None:
    change(dlo)
    before = dlo.stat()
    mounted.remount()
    headers = connection.head_object(container, "dlo")
    assert headers["x-object-manifest"] == f"{container}/parts/"
    assert headers["x-object-meta-colour"] == "blue"
    assert headers["content-length"] == "10"
    after = dlo.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, 10)
    assert dlo.read_bytes() == b"0123456789"


def test_a_dlo_that_grows_gets_its_new_size(
    connection: Connection, container: str, mounted: Mount, dlo: Path
) -> None:
    assert dlo.stat().st_size == 10
    connection.put_object(container, "parts/3", b"more")
    mounted.remount(empty_cache=False)
    assert dlo.stat().st_size == 14
    assert dlo.read_bytes() == b"0123456789more"


def test_a_rename_keeps_every_header(
    connection: Connection, container: str, mounted: Mount, foreign: Path, dlo: Path
) -> None:
    foreign.rename(mounted.path / "g")
    dlo.rename(mounted.path / "moved")
    mounted.remount()
    assert kept(connection, container, "g") == FOREIGN
    assert connection.head_object(container, "moved")["x-object-manifest"] == f"{container}/parts/"
    assert (mounted.path / "moved").read_bytes() == b"0123456789"
    assert (mounted.path / "g").read_bytes() == b"hello"


def test_a_rewrite_keeps_every_header(
    connection: Connection, container: str, mounted: Mount, foreign: Path
) -> None:
    foreign.write_bytes(b"other")
    mounted.remount()
    assert connection.get_object(container, "f")[1] == b"other"
    assert kept(connection, container, "f") == FOREIGN


def test_a_patch_keeps_every_header(
    connection: Connection, container: str, mounted: Mount, foreign: Path
) -> None:
    with foreign.open("r+b") as file:
        file.write(b"J")
    mounted.remount()
    assert connection.get_object(container, "f")[1] == b"Jello"
    assert kept(connection, container, "f") == FOREIGN


@pytest.mark.matrix(1)
@pytest.mark.parametrize("mode", ["wb", "r+b", "ab"])
def test_a_dlo_that_is_written_to_becomes_what_was_written(
    connection: Connection, container: str, mounted: Mount, dlo: Path, mode: str
) -> None:
    with dlo.open(mode) as file:
        file.write(b"new")
    mounted.remount()
    expected = {"wb": b"new", "r+b": b"new3456789", "ab": b"0123456789new"}[mode]
    headers, body = connection.get_object(container, "dlo")
    assert body == expected
    assert "x-object-manifest" not in headers
    assert headers["x-object-meta-colour"] == "blue"
    assert dlo.read_bytes() == expected


ODD = {"my note": "x", "größe": "y", "\x01": "\x02", "blank ": "z"}
"""Metadata whose names are no tokens of HTTP; Swift takes them."""


@pytest.fixture
def other_client(swift: SwiftServer) -> Iterator[SwiftStore]:
    store = SwiftStore(open_account(swift.environment()))
    yield store
    store.close()


def upload_odd(store: SwiftStore, container: str, kind: str) -> None:
    """Store the file `o` of 10 bytes, as one object or several, with metadata that has odd names."""
    name, parts = ObjectName(container, "o"), [ObjectName(container, f"parts/{number}") for number in (1, 2)]
    headers = Headers("text/plain", ODD)
    etags = [store.put(part, b"01234", headers).version.etag for part in parts]
    if kind == "plain":
        store.put(name, b"0123401234", headers)
    elif kind == "slo":
        store.put_manifest(
            name, Manifest(tuple(Segment(*both, 5) for both in zip(parts, etags, strict=True))), headers
        )
    else:
        store.put(name, b"", replace(headers, preserved_headers={"X-Object-Manifest": f"{container}/parts/"}))


@pytest.mark.parametrize("kind", ["plain", "slo", "dlo"])
def test_metadata_of_any_name_hides_nothing_and_is_kept(
    other_client: SwiftStore, container: str, mounted: Mount, kind: str
) -> None:
    upload_odd(other_client, container, kind)
    file = mounted.path / "o"
    assert (file.stat().st_size, file.read_bytes()) == (10, b"0123401234")
    assert os.listxattr(file) == []
    change_all(file)
    mounted.remount()
    assert os.listxattr(file) == ["user.n"]
    file = file.rename(mounted.path / "renamed")
    with file.open("ab") as stream:
        stream.write(b"more")
    mounted.remount()
    assert file.read_bytes() == b"0123401234more"
    assert other_client.head(ObjectName(container, "renamed")).metadata.items() >= ODD.items()


def test_metadata_of_any_name_on_a_folder_and_the_container(
    other_client: SwiftStore, container: str, mounted: Mount
) -> None:
    folder, note = ObjectName(container, "d"), {"my note": "x"}
    other_client.put(folder, b"", Headers("application/directory", ODD))
    other_client.post_container(container, note)  # here Swift takes no other letters
    mounted.remount()
    for path in (mounted.path / "d", mounted.path):
        path.chmod(0o700)
    mounted.remount()
    for path in (mounted.path / "d", mounted.path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert other_client.head(folder).metadata.items() >= ODD.items()
    assert other_client.container_usage(container).metadata.items() >= note.items()


@pytest.mark.mount_options("dir_attributes=content-type")
def test_folder_objects_keep_attributes_in_their_content_type_if_listings_show_it(
    swift: SwiftServer, connection: Connection, container: str, mounted: Mount
) -> None:
    folder = mounted.path / "d"
    folder.mkdir(mode=0o750)
    os.utime(folder, ns=(10**18 + 5, 10**18 + 5))
    mounted.remount()
    kind = connection.head_object(container, "d")["content-type"]
    assert kind.startswith("application/directory;mtime=1000000000.000000005;mode=0040750;uid=")
    swift.reset_requests()
    shown = os.lstat(folder)
    assert (stat.S_IMODE(shown.st_mode), shown.st_mtime_ns) == (0o750, 10**18 + 5)
    assert [request.path for request in swift.requests() if request.path.endswith("/d")] == []
    folder.chmod(0o700)
    mounted.remount()
    assert ";mode=0040700;" in connection.head_object(container, "d")["content-type"]


def test_folder_objects_otherwise_keep_the_exact_content_type(
    connection: Connection, container: str, mounted: Mount
) -> None:
    (mounted.path / "d").mkdir()
    (mounted.path / "d").chmod(0o700)
    mounted.remount()
    headers = connection.head_object(container, "d")
    assert headers["content-type"] == "application/directory"
    assert headers["x-object-meta-mode"] == "0040700"


def test_a_folder_object_that_changed_its_form_shows_its_newest_attributes(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    for options, mode in (
        ("dir_attributes=headers", 0o700),
        ("dir_attributes=content-type", 0o711),
        ("dir_attributes=headers", 0o755),
    ):
        with Mount(swift, container, tmp_path, options) as mount:
            (mount.path / "d").mkdir(exist_ok=True)
            (mount.path / "d").chmod(mode)
        with Mount(swift, container, tmp_path, options) as mount:
            assert stat.S_IMODE((mount.path / "d").stat().st_mode) == mode


def test_virtual_attributes_show_what_swift_has(
    connection: Connection, container: str, mounted: Mount, foreign: Path, dlo: Path
) -> None:
    etag = connection.head_object(container, "f")["etag"].strip('"')
    assert os.getxattr(foreign, "swift.etag") == etag.encode()
    assert os.getxattr(foreign, "swift.content_type") == b"text/plain"
    assert os.getxattr(foreign, "swift.segments") == b"0"
    assert os.getxattr(dlo, "swift.segments") == b"2"
    assert not [name for name in os.listxattr(foreign) if name.startswith("swift")]
    with pytest.raises(OSError, match="not supported"):
        os.setxattr(foreign, "swift.etag", b"x")


@pytest.mark.mount_options("segment_size=1M")
def test_the_segments_of_a_large_file_are_counted(mounted: Mount) -> None:
    (mounted.path / "large").write_bytes(bytes(2_500_000))
    mounted.remount()
    assert os.getxattr(mounted.path / "large", "swift.segments") == b"3"


def test_a_folder_without_an_object_has_no_etag(
    connection: Connection, container: str, mounted: Mount
) -> None:
    connection.put_object(container, "implied/f", b"")
    with pytest.raises(OSError) as caught:  # noqa: PT011  the errno is asserted
        os.getxattr(mounted.path / "implied", "swift.etag")
    assert caught.value.errno == errno.ENODATA


@pytest.mark.mount_options("ttl=3600")
@pytest.mark.parametrize("where", [".", "d", "d/new"])
def test_setting_the_refresh_attribute_lists_the_folder_again(
    connection: Connection, container: str, mounted: Mount, where: str
) -> None:
    connection.put_object(container, "d/old", b"")
    assert names(mounted.path / "d") == ["old"]
    connection.put_object(container, "d/new", b"22")
    assert names(mounted.path / "d") == ["old"]
    if where != "d/new":
        os.setxattr(mounted.path / where, "swift.refresh", b"1")
    else:
        os.setxattr(mounted.path / "d" / "old", "swift.refresh", b"1")
    wait_until(lambda: names(mounted.path / "d") == ["new", "old"])
    assert "swift.refresh" not in os.listxattr(mounted.path / "d")


@pytest.mark.mount_options("ttl=3600")
def test_after_sighup_folders_are_listed_again_and_the_mount_stays(
    connection: Connection, container: str, mounted: Mount
) -> None:
    assert names(mounted.path) == []
    for key in ("one", "two"):
        connection.put_object(container, key, b"")
        os.kill(mounted.pid, signal.SIGHUP)
        wait_until(lambda key=key: key in names(mounted.path))  # type: ignore[misc]
    assert run("stat", "-c", "%s", mounted.path / "two") == "0\n"


def test_special_files_keep_their_type(mounted: Mount) -> None:
    os.mkfifo(mounted.path / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(mounted.path)
        try:
            listener.bind("sock")
        finally:
            os.chdir("/")
    mounted.remount()
    assert stat.S_ISFIFO((mounted.path / "pipe").stat().st_mode)
    assert stat.S_ISSOCK((mounted.path / "sock").stat().st_mode)


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes device nodes")
@pytest.mark.parametrize(("kind", "major", "minor"), [(stat.S_IFCHR, 1, 3), (stat.S_IFBLK, 259, 70_000)])
@pytest.mark.mount_options("special=yes")
def test_root_keeps_device_nodes(mounted: Mount, kind: int, major: int, minor: int) -> None:
    path = mounted.path / "node"
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    path.chmod(0o640)
    mounted.remount()
    found = path.stat()
    assert stat.S_IFMT(found.st_mode) == kind
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (major, minor)
    assert (mounted.path).stat().st_rdev == 0
    path.rename(mounted.path / "moved")
    assert (mounted.path / "moved").stat().st_rdev == os.makedev(major, minor)
