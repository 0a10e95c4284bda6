"""The units of systemd/ in a running systemd: `./dev systemd` boots one in a container."""

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import run
from swiftfs.demo.server import SwiftServer

SOURCE = Path(__file__).parents[2] / "systemd"
UNITS = Path("/run/systemd/system")
PROGRAM = Path(sys.executable).with_name("swiftfs")
HELPERS = (Path("/sbin/mount.swiftfs"), Path("/sbin/umount.fuse.swiftfs"))
SECONDS = 60

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not UNITS.is_dir() or shutil.which("systemctl") is None,
    reason="needs a running systemd, and root",
)


def systemctl(*words: str, check: bool = True) -> str:
    return run("systemctl", *words, check=check).strip()


class Service:
    """An instance of the template unit, with its files in `folder` in place of /etc/swiftfs."""

    def __init__(self, swift: SwiftServer, container: str, folder: Path) -> None:
        self.name = f"swiftfs-test@{container}.service"
        self.path = folder / "mnt"
        self.path.mkdir()
        text = (SOURCE / "swiftfs@.service").read_text()
        text = text.replace("/usr/local/bin/swiftfs", str(PROGRAM)).replace("/etc/swiftfs", str(folder))
        text = re.sub("^RestartSec=.*", "RestartSec=1", text, flags=re.MULTILINE)
        text = text.replace("CacheDirectory=swiftfs/", "CacheDirectory=swiftfs-test/")
        self.unit = UNITS / "swiftfs-test@.service"
        self.unit.write_text(text)
        credentials = folder / f"{container}.credentials"
        credentials.touch(0o600)
        credentials.write_text("".join(f"{name}={value}\n" for name, value in swift.environment().items()))
        (folder / f"{container}.env").write_text(
            (SOURCE / "example.env").read_text()
            + f"SWIFTFS_SOURCE={container}\nSWIFTFS_MOUNTPOINT={self.path}\nSWIFTFS_SETTLE=60\n"
        )

    def show(self, name: str) -> str:
        return systemctl("show", "--value", "--property", name, self.name)

    def state(self) -> str:
        return self.show("ActiveState")

    def pid(self) -> int:
        return int(self.show("MainPID"))

    def journal(self) -> str:
        return run("journalctl", "--no-pager", "--output=cat", f"--unit={self.name}")


@pytest.fixture
def service(swift: SwiftServer, connection: Connection, container: str, tmp_path: Path) -> Iterator[Service]:
    """The service of `container`, not started."""
    with served(Service(swift, container, tmp_path)) as service:
        yield service


@contextlib.contextmanager
def served(service: Service) -> Iterator[Service]:
    systemctl("daemon-reload")
    try:
        yield service
    finally:
        systemctl("stop", service.name, check=False)
        subprocess.run(["fusermount", "-uqz", str(service.path)], check=False)
        systemctl("clean", service.name, check=False)
        systemctl("reset-failed", service.name, check=False)
        service.unit.unlink()
        systemctl("daemon-reload")


def test_start_returns_when_the_mount_answers(service: Service) -> None:
    systemctl("start", service.name)
    assert service.path.is_mount()
    assert service.state() == "active"
    environment = Path(f"/proc/{service.pid()}/environ").read_bytes()
    assert b"SWIFTFS_CREDENTIALS=" in environment
    assert b"ST_KEY" not in environment


def test_other_users_see_the_mount(service: Service) -> None:
    """No setting of the unit gives it a mount namespace."""
    systemctl("start", service.name)
    (service.path / "file").write_text("text")
    for folder in service.path.parents:
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 1:
            folder.chmod(0o711)
    assert run("setpriv", "--reuid=65534", "--clear-groups", "cat", service.path / "file") == "text"


def test_stop_waits_until_all_is_stored(service: Service, connection: Connection, container: str) -> None:
    systemctl("start", service.name)
    (service.path / "file").write_text("text")
    assert connection.get_container(container)[1] == []
    systemctl("stop", service.name)
    assert connection.get_object(container, "file")[1] == b"text"
    assert (service.state(), service.show("Result")) == ("inactive", "success")
    assert not service.path.is_mount()


def test_stop_of_a_busy_mount_stores_all_too(
    service: Service, connection: Connection, container: str
) -> None:
    systemctl("start", service.name)
    (service.path / "file").write_text("text")
    with subprocess.Popen(["sleep", str(SECONDS)], cwd=service.path) as program:
        systemctl("stop", service.name)
        program.terminate()
    assert connection.get_object(container, "file")[1] == b"text"
    assert (service.state(), service.show("Result")) == ("inactive", "success")
    assert "a program has a file or folder open there" in service.journal()


def test_a_killed_mount_stays_broken_until_the_next_continues_its_journal(
    service: Service, connection: Connection, container: str
) -> None:
    systemctl("start", service.name)
    (service.path / "file").write_text("text")
    os.kill(service.pid(), signal.SIGKILL)
    wait_until(lambda: service.show("SubState") == "auto-restart")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        list(service.path.iterdir())
    wait_until(lambda: service.state() == "active")
    assert (service.path / "file").read_text() == "text"
    assert service.show("NRestarts") == "1"
    systemctl("stop", service.name)
    assert connection.get_object(container, "file")[1] == b"text"


def test_a_server_that_is_down_is_reported_and_tried_again(server: SwiftServer, tmp_path: Path) -> None:
    server.kill()
    with served(Service(server, "box", tmp_path)) as service:
        assert "failed" in systemctl("start", service.name, check=False)
        assert "no answer from the authentication server" in service.journal()
        server.start()
        wait_until(lambda: service.state() == "active")
        assert service.path.is_mount()


def test_reload_drops_cached_listings(service: Service, connection: Connection, container: str) -> None:
    systemctl("start", service.name)
    assert not (service.path / "new").exists()
    connection.put_object(container, "new", b"text")
    systemctl("reload", service.name)
    wait_until((service.path / "new").exists)
    assert service.state() == "active"


def test_the_check_fails_if_a_segment_is_missing(
    service: Service, connection: Connection, container: str, tmp_path: Path
) -> None:
    """The unit has a mount namespace of its own: it needs no mount, and disturbs none."""
    name = f"swiftfs-check-test@{container}.service"
    text = (SOURCE / "swiftfs-check@.service").read_text()
    text = text.replace("/usr/local/bin/swiftfs", str(PROGRAM)).replace("/etc/swiftfs", str(tmp_path))
    unit = UNITS / "swiftfs-check-test@.service"
    # The program may be in /tmp here.
    unit.write_text(text.replace("PrivateTmp=yes", ""))
    connection.put_container(f"{container}_segments")
    connection.put_object(f"{container}_segments", "a", b"text")
    manifest = f'[{{"path": "/{container}_segments/a"}}]'
    connection.put_object(container, "film", manifest, query_string="multipart-manifest=put")
    try:
        systemctl("daemon-reload")
        systemctl("start", name)
        connection.delete_object(f"{container}_segments", "a")
        systemctl("start", name, check=False)
        assert systemctl("show", "--value", "--property", "ExecMainStatus", name) == "1"
        journal = run("journalctl", "--no-pager", "--output=cat", f"--unit={name}")
        assert f"film: segment {container}_segments/a is missing" in journal
    finally:
        systemctl("reset-failed", name, check=False)
        unit.unlink()
        systemctl("daemon-reload")


@pytest.fixture
def automount(swift: SwiftServer, connection: Connection, container: str, tmp_path: Path) -> Iterator[Path]:
    """A mount point at which systemd mounts `container` with mount(8) at the first access."""
    if not all(helper.exists() for helper in HELPERS) or not Path("/dev/autofs").exists():
        pytest.skip("needs /dev/autofs, and the helpers of mount(8) and umount(8) in /sbin")
    path = tmp_path / "mnt"
    path.mkdir()
    credentials = tmp_path / "credentials"
    credentials.touch(0o600)
    credentials.write_text("".join(f"{name}={value}\n" for name, value in swift.environment().items()))
    text = (SOURCE / "srv-photos.mount").read_text().replace("swift:photos", f"swift:{container}")
    text = text.replace("/srv/photos", str(path)).replace("/etc/swiftfs/photos.credentials", str(credentials))
    text = text.replace("/var/cache/swiftfs/photos", f"{tmp_path / 'cache'},settle=60")
    name = run("systemd-escape", "--path", path).strip()
    units = {f"{name}.mount": text, f"{name}.automount": f"[Automount]\nWhere={path}\n"}
    for unit, lines in units.items():
        (UNITS / unit).write_text(lines)
    systemctl("daemon-reload")
    systemctl("start", f"{name}.automount")
    try:
        yield path
    finally:
        systemctl("stop", *sorted(units), check=False)
        for unit in units:
            systemctl("reset-failed", unit, check=False)
            (UNITS / unit).unlink()
        systemctl("daemon-reload")


def test_an_automount_mounts_at_the_first_access(
    automount: Path, connection: Connection, container: str
) -> None:
    connection.put_object(container, "there", b"text")
    assert list(automount.iterdir()) == [automount / "there"]
    assert "fuse.swiftfs" in run("findmnt", "--noheadings", "--output=FSTYPE", automount)


def test_umount_waits_until_all_is_stored(automount: Path, connection: Connection, container: str) -> None:
    (automount / "file").write_text("text")
    run("umount", automount)
    assert connection.get_object(container, "file")[1] == b"text"


def test_stopping_the_mount_unit_waits_until_all_is_stored(
    automount: Path, connection: Connection, container: str
) -> None:
    (automount / "file").write_text("text")
    systemctl("stop", run("systemd-escape", "--path", "--suffix=mount", automount).strip())
    assert connection.get_object(container, "file")[1] == b"text"
