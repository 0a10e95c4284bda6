"""Credentials in files, login methods of Keystone, read-only users, and that no secret is shown.

These run on a real Swift.
"""

import os
from pathlib import Path

import pytest
from swiftclient import Connection

from support.commands import one_line, swiftfs
from support.mounts import Mount
from support.secret_files import secret_file
from swiftfs.demo.server import READER, SwiftServer

SECRET = "s3cret-key-nobody-sees"


@pytest.fixture
def reader(swift: SwiftServer, connection: Connection, container: str) -> dict[str, str]:
    """A user that may only read and list the container."""
    connection.put_object(container, "file", b"text")
    connection.post_container(container, {"X-Container-Read": f"{READER.name},.rlistings"})
    return {
        "ST_AUTH": swift.auth_url,
        "ST_USER": READER.name,
        "ST_KEY": READER.key,
    }


def test_a_reader_s_mount_is_read_only(
    swift: SwiftServer, container: str, reader: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "mnt"
    folder.mkdir()
    words = ("mount", container, folder, "--cache-dir", tmp_path / "cache")
    assert swiftfs(*words, environment=reader).returncode == 0
    try:
        assert (folder / "file").read_text() == "text"
        for attempt in ((folder / "new").touch, (folder / "file").unlink, (folder / "new").mkdir):
            with pytest.raises(OSError, match="Read-only file system"):
                attempt()
    finally:
        assert swiftfs("umount", folder).returncode == 0


def test_no_secret_is_visible(
    swift: SwiftServer, connection: Connection, container: str, tmp_path: Path
) -> None:
    """Neither in argv, nor in the environment that the user's processes can read, nor in log and cache."""
    lines = "".join(f"{name}={value}\n" for name, value in swift.environment().items())
    file = secret_file(tmp_path, lines)
    folder = tmp_path / "mnt"
    folder.mkdir()
    cache = tmp_path / "cache"
    words = ("mount", container, folder, "--cache-dir", cache, "-o", f"credentials={file},debug")
    assert swiftfs(*words).returncode == 0
    try:
        (folder / "file").write_text("text")
        pid = int(os.getxattr(folder, "swiftfs.pid"))
        for name in ("cmdline", "environ"):
            assert swift.key.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    finally:
        assert swiftfs("umount", folder).returncode == 0
    token = connection.get_auth()[1]
    for path in cache.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert f"ST_KEY={swift.key}".encode() not in text
            assert token.encode() not in text
    file.write_text(lines.replace(f"ST_KEY={swift.key}", f"ST_KEY={SECRET}"))
    assert SECRET not in one_line(swiftfs(*words[:-1], f"credentials={file}"))


@pytest.mark.mount_options("ro")
def test_a_read_only_mount_does_not_check_write_access(mounted: Mount, swift: SwiftServer) -> None:
    swift.reset_requests()
    mounted.remount()
    assert not [request for request in swift.requests() if request.method == "DELETE"]
