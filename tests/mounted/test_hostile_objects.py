"""Objects that another client stored to harm who lists, copies or deletes them."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount, run
from support.other_users import as_root

GIGABYTES = 3 << 30


def put(connection: Connection, container: str, key: str, content_type: str, body: bytes = b"") -> None:
    connection.put_object(container, key, body, content_type=content_type)


def put_gigabytes(connection: Connection, container: str, key: str, content_type: str) -> None:
    """Store an object of `GIGABYTES` whose segments are one of 1 MiB, again and again."""
    etag = connection.put_object(container, "segments/1", bytes(1 << 20))
    part = {"path": f"/{container}/segments/1", "etag": etag}
    connection.put_object(
        container, "segments/512", json.dumps([part] * 512), query_string="multipart-manifest=put"
    )
    nested = {"path": f"/{container}/segments/512"}
    connection.put_object(
        container,
        key,
        json.dumps([nested] * 6),
        content_type=content_type,
        query_string="multipart-manifest=put",
    )


def test_a_link_of_gigabytes_is_a_regular_file(
    mounted: Mount, connection: Connection, container: str
) -> None:
    put_gigabytes(connection, container, "d/link", "inode/symlink;mtime=1.0;mode=0120777;uid=0;gid=0")
    before = mounted.rss_peak()
    shown = run("ls", "-l", mounted.path / "d").splitlines()[-1]
    assert shown.startswith("-rwxrwxrwx")
    assert str(GIGABYTES) in shown
    assert mounted.rss_peak() - before < 64 << 20
    (mounted.path / "d" / "link").unlink()


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a\0b"])
def test_a_link_to_bytes_that_are_no_path(
    mounted: Mount, connection: Connection, container: str, body: bytes
) -> None:
    put(connection, container, "link", "inode/symlink;mode=0120777", body)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (mounted.path / "link").readlink()
    run("rm", "-rf", mounted.path / "link")
    assert not list(mounted.path.iterdir())


ABSURD = [
    "text/plain;uid=9999999999;gid=4294967295",
    "text/plain;mode=0000000",
    "text/plain;mode=0170644;mtime=999999999999.5",
    "text/plain;mode=7777777;rdev=9999.9999999",
    "inode/chardevice;mode=0020666;rdev=1.3;uid=0",
    "inode/fifo;mode=0010644",
]


@pytest.mark.parametrize("content_type", ABSURD)
def test_absurd_attributes_hinder_nobody(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path, content_type: str
) -> None:
    put(connection, container, "d/file", content_type, b"bytes")
    run("rsync", "-a", f"{mounted.path}/d/", tmp_path / "copy")
    copy = tmp_path / "copy" / "file"
    assert (copy.read_bytes(), stat.S_IFMT(copy.stat().st_mode)) == (b"bytes", stat.S_IFREG)
    (mounted.path / "d" / "file").chmod(0o600)
    run("rm", "-rf", mounted.path / "d")
    assert not list(mounted.path.iterdir())


@as_root
def test_root_copies_no_setuid_bit_and_no_device(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    put(connection, container, "shell", "text/plain;mtime=1.0;mode=0104755;uid=0;gid=0", b"#!")
    put(connection, container, "group", "text/plain;mtime=1.0;mode=0102755;uid=0;gid=0", b"#!")
    put(connection, container, "disk", "inode/blockdevice;mtime=1.0;mode=0060666;uid=0;gid=0;rdev=8.0")
    put(connection, container, "memory", "inode/chardevice;mtime=1.0;mode=0020666;uid=0;gid=0;rdev=1.1")
    run("rsync", "-a", f"{mounted.path}/", tmp_path / "copy")
    modes = {path.name: path.lstat().st_mode for path in (tmp_path / "copy").iterdir()}
    assert modes == {
        "shell": stat.S_IFREG | 0o755,
        "group": stat.S_IFREG | 0o755,
        "disk": stat.S_IFREG | 0o666,
        "memory": stat.S_IFREG | 0o666,
    }
    with pytest.raises(PermissionError):
        os.mknod(mounted.path / "node", stat.S_IFCHR | 0o600, os.makedev(1, 3))


@as_root
def test_hidden_bits_stay_stored(mounted: Mount, connection: Connection, container: str) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x")
    path.chmod(0o4755)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    os.utime(path, (5, 5))
    mounted.stop()
    assert "mode=0104755" in connection.head_object(container, "file")["content-type"]
    mounted.options = "special"
    mounted.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o4755


def test_metadata_that_is_no_xattr_does_not_stop_rsync(
    mounted: Mount, connection: Connection, container: str, tmp_path: Path
) -> None:
    headers = {"X-Object-Meta-a%00b": "1", "X-Object-Meta-%FF": "2", "X-Object-Meta-plain": "3"}
    connection.put_object(container, "file", b"x", headers=headers)
    assert os.listxattr(mounted.path / "file") == ["user.plain"]
    run("rsync", "-aX", f"{mounted.path}/", tmp_path / "copy")
    assert (tmp_path / "copy" / "file").read_bytes() == b"x"


def test_a_name_too_long_for_the_kernel_does_not_hide_its_folder(
    mounted: Mount, connection: Connection, container: str
) -> None:
    name = "x" * 1022
    # Beside the folder, the file's name gets an escape.
    for key in (name, f"{name}/b", "file"):
        connection.put_object(container, key, b"x")
    mounted.expected.append("is not shown, as its name has more than 1024 bytes")
    assert sorted(path.name for path in mounted.path.iterdir()) == ["file", name]
    assert (mounted.path / name / "b").read_bytes() == b"x"
    assert len(mounted.noise()) == 0
