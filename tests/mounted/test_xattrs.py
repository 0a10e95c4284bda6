"""Extended attributes and the size of the file system on a real mount."""

import errno
import os
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount
from support.system_calls import fails
from swiftfs.control.client import flush
from swiftfs.demo.server import OPERATOR, SwiftServer

ATTRIBUTES = {
    "user.plain": b"text",
    "user.empty": b"",
    "user.binary": bytes(range(150)),
    "user.blanks": b"  outer  ",
    "user.Upper_And_under": b"1",
    "user.upper-and-under": b"2",
    "user.\xfcml\xe4ut \u6f22": "\u5b57".encode(),
    "user.lines": b"two\nlines",
    "user.data": b"data:;base64,eA==",
    "user.long": b"<a long text>" * 40,
    "user.long binary": bytes(range(256)) + b"\0" * 100,
}


def attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_xattrs_are_read_back(mounted: Mount, kind: str) -> None:
    path = mounted.path / kind
    path.mkdir() if kind == "folder" else path.write_bytes(b"x")
    for name, value in ATTRIBUTES.items():
        os.setxattr(path, name, value)
    assert attributes(path) == ATTRIBUTES
    mounted.remount()
    assert attributes(path) == ATTRIBUTES
    os.removexattr(path, "user.empty")
    assert attributes(path) == {name: ATTRIBUTES[name] for name in ATTRIBUTES if name != "user.empty"}


def test_xattrs_survive_changes_of_the_file(mounted: Mount, connection: Connection, container: str) -> None:
    file = mounted.path / "file"
    file.write_bytes(b"first")
    os.setxattr(file, "user.colour", b"red")
    assert connection.head_object(container, "file")["x-object-meta-colour"] == "red"
    file.write_bytes(b"second")
    file.chmod(0o600)
    os.utime(file, (1, 1))
    mounted.remount()
    with file.open("ab") as stream:
        stream.write(b" and third")
    file = file.rename(mounted.path / "renamed")
    assert attributes(file) == {"user.colour": b"red"}
    with file.open("r+b") as stream:
        os.setxattr(stream.fileno(), "user.shape", b"round")
        stream.write(b"S")
    mounted.remount()
    assert attributes(file) == {"user.colour": b"red", "user.shape": b"round"}
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"Second and third", 0o600)


def test_headers_of_other_clients_are_kept(mounted: Mount, connection: Connection, container: str) -> None:
    headers = {
        "X-Object-Meta-Colour": "red",
        "Content-Encoding": "gzip",
        "Cache-Control": "no-cache",
        "X-Delete-After": "86400",
        "Content-Type": "text/x-strange; charset=koi8-r",
    }
    connection.put_object(container, "file", b"x", headers=headers)
    mounted.remount()
    file = mounted.path / "file"
    file.chmod(0o600)
    os.setxattr(file, "user.shape", b"round")
    with file.open("ab") as stream:
        stream.write(b"y")
    found = connection.head_object(container, "file")
    assert found["x-object-meta-colour"] == "red"
    assert found["x-object-meta-shape"] == "round"
    assert found["content-encoding"] == "gzip"
    assert found["cache-control"] == "no-cache"
    assert "x-delete-at" in found
    assert found["content-type"].startswith("text/x-strange; charset=koi8-r;mtime=")


@pytest.mark.mount_options("settle=1000")
def test_xattrs_are_shown_and_kept_while_a_rewrite_is_pending(
    mounted: Mount, connection: Connection, container: str
) -> None:
    for name in ("seen", "twice", "more", "mode"):
        connection.put_object(container, name, b"old", headers={"X-Object-Meta-Colour": "red"})
    red, round_ = {"user.colour": b"red"}, {"user.colour": b"red", "user.shape": b"round"}
    for name in ("seen", "twice", "more", "mode"):
        (mounted.path / name).write_bytes(b"new")
        assert attributes(mounted.path / name) == red
    (mounted.path / "twice").write_bytes(b"newer")
    os.setxattr(mounted.path / "more", "user.shape", b"round")
    (mounted.path / "mode").chmod(0o600)
    with (mounted.path / "seen").open("r+b") as stream:
        os.setxattr(mounted.path / "seen", "user.shape", b"round")
        stream.write(b"now")
    wanted = {"seen": round_, "twice": red, "more": round_, "mode": red}
    assert {name: attributes(mounted.path / name) for name in wanted} == wanted
    flush(mounted.path, lambda _report: None)
    assert {name: attributes(mounted.path / name) for name in wanted} == wanted
    mounted.remount()
    assert {name: attributes(mounted.path / name) for name in wanted} == wanted


@pytest.mark.mount_options("settle=1000")
def test_a_file_that_another_client_deleted_is_stored_again(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "file", b"old", headers={"X-Object-Meta-Colour": "red"})
    (mounted.path / "file").write_bytes(b"new")
    connection.delete_object(container, "file")
    (mounted.path / "file").chmod(0o600)
    os.setxattr(mounted.path / "file", "user.shape", b"round")
    flush(mounted.path, lambda _report: None)
    assert connection.get_object(container, "file")[1] == b"new"


def test_xattr_errnos(mounted: Mount) -> None:
    file = mounted.path / "file"
    file.write_bytes(b"x")
    for ask in (os.getxattr, os.removexattr):
        with fails(errno.ENODATA):
            ask(file, "user.none")
    with fails(errno.ENODATA):
        os.setxattr(file, "user.none", b"", os.XATTR_REPLACE)
    os.setxattr(file, "user.here", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(file, "user.here", b"2", os.XATTR_CREATE)
    os.setxattr(file, "user.here", b"3", os.XATTR_REPLACE)
    for name, value in (
        ("user.big", b"x" * 4000),
        ("user.here", b"\xff" * 3000),
        ("user." + "n" * 200, b"x"),
    ):
        with fails(errno.E2BIG):
            os.setxattr(file, name, value)
    for name in ("trusted.x", "user.mtime"):
        with fails(errno.EOPNOTSUPP):
            os.setxattr(file, name, b"x")
    assert attributes(file) == {"user.here": b"3"}


def test_too_much_metadata_is_e2big(mounted: Mount) -> None:
    """Swift accepts 90 items of 4096 bytes in total."""
    file = mounted.path / "file"
    file.write_bytes(b"x")
    with fails(errno.E2BIG):
        for number in range(100):
            os.setxattr(file, f"user.{number}", b"x" * 100)
    assert 10 < len(attributes(file)) < 90


def test_a_tree_keeps_its_size_under_a_quota(
    mounted: Mount, swift: SwiftServer, connection: Connection, container: str
) -> None:
    mib = 1024 * 1024
    without = os.statvfs(mounted.path)
    assert without.f_bavail * without.f_frsize > 10**12
    assert without.f_namemax == 255
    connection.post_container(
        container, {"X-Container-Meta-Quota-Bytes": str(4 * mib), "X-Container-Meta-Quota-Count": "10"}
    )
    connection.put_object(container, "big", bytes(mib))
    mounted.remount()
    found = os.statvfs(mounted.path)
    assert (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize) == (4 * mib, 3 * mib)
    assert (found.f_files, found.f_ffree) == (10, 9)
    operator = Connection(swift.auth_url, OPERATOR.name, OPERATOR.key, retries=0)
    used = int(connection.head_account()["x-account-bytes-used"])
    url = swift.storage_url
    try:
        operator.url = url
        operator.get_auth()
        operator.url = url
        operator.post_account({"X-Account-Meta-Quota-Bytes": str(used + mib)})
        mounted.remount()
        found = os.statvfs(mounted.path)
        used = int(connection.head_account()["x-account-bytes-used"])
        assert found.f_bavail * found.f_frsize <= mib
    finally:
        operator.url = url
        operator.post_account({"X-Account-Meta-Quota-Bytes": ""})
        operator.close()
