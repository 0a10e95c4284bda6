"""README, start.md and naver.md, followed literally by a user with sudo, where `./dev systemd` boots.

What they install and write stays there, so this runs nowhere else.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import run
from support.pages import ROOT, blocks, credentials, put_editor, run_blocks
from swiftfs.demo.server import SwiftServer

pytestmark = pytest.mark.skipif(
    "TESTS_MAY_CHANGE_MACHINE" not in os.environ,
    reason="changes the machine: ./dev systemd runs it in a container",
)

CLONE = Path("/home/alice/swiftfs")
ANSWERS = Path("/home/answers")
MOUNTPOINT = Path("/srv/photos")
SERVICE = "swiftfs@photos"
PROGRAMS = ("swiftfs", "mount.swiftfs", "umount.fuse.swiftfs")
INSTALLED = Path("/usr/local/bin/swiftfs")
AT_BOOT, OF_A_USER, IN_FSTAB = (
    "## At boot with systemd",
    "## At boot as your own user",
    "## At boot with fstab",
)
NETWORK = "PIP_* http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"
"""Variables that only this machine needs, to reach packages."""


def as_user(name: str, *commands: str) -> str:
    """Run commands of a user in a new terminal, in alice's clone of the repository; return the output."""
    variables = [f"{word}={value}" for word, value in os.environ.items() if word.startswith("PIP_")]
    variables += [f"{word}={os.environ[word]}" for word in NETWORK.split() if word in os.environ]
    user = [f"HOME=/home/{name}", f"USER={name}", "PATH=/usr/local/bin:/usr/bin:/bin", *variables]
    return run_blocks(
        list(commands), ["runuser", "-u", name, "--", "env", "-i", *user, "bash", "-ic"], folder=CLONE
    )


@pytest.fixture(scope="module")
def alice() -> None:
    """A user with sudo and a clone of the repository, and an editor that knows what to write."""
    for user in ("alice", "bob"):
        if subprocess.run(["id", user], capture_output=True, check=False).returncode:
            run("useradd", "--create-home", "--shell=/bin/bash", user)
    ANSWERS.mkdir(exist_ok=True)
    put_editor(Path("/usr/local/bin/nano"), ANSWERS)
    Path("/etc/sudoers.d/alice").write_text(
        f'alice ALL=(ALL) NOPASSWD: ALL\nDefaults env_keep += "{NETWORK}"\n'
    )
    Path("/etc/apt/apt.conf.d/yes").write_text('APT::Get::Assume-Yes "true";\n')
    # What an earlier run has left: perhaps an older version.
    subprocess.run(["groupdel", "photos"], capture_output=True, check=False)
    for path in (CLONE, Path("/opt/swiftfs"), Path("/home/alice/.local")):
        shutil.rmtree(path, ignore_errors=True)
    for name in PROGRAMS:
        (Path("/usr/local/bin") / name).unlink(missing_ok=True)
    CLONE.mkdir()
    for name in ("README.md", "LICENSE", "pyproject.toml", "man", "requirements", "swiftfs", "systemd"):
        run("cp", "-r", ROOT / name, CLONE)
    run("chown", "-R", "alice:", CLONE)
    run("chmod", "711", "/home/alice")


@pytest.fixture
def cloud(alice: None, server: SwiftServer) -> Iterator[Connection]:
    """A Swift whose credentials alice writes into the files; what she mounts is gone at the end."""
    (ANSWERS / "photos.credentials").write_text(credentials(server))
    shutil.copy(ROOT / "systemd" / "example.env", ANSWERS / "photos.env")
    client = Connection(server.auth_url, server.user, server.key, retries=0)
    yield client
    client.close()
    subprocess.run(["systemctl", "disable", "--now", SERVICE], check=False)
    subprocess.run(["systemctl", "clean", SERVICE], check=False)
    subprocess.run(["systemctl", "reset-failed", SERVICE], check=False)
    for path in (MOUNTPOINT, Path("/home/alice/photos")):
        subprocess.run(["umount", "-q", path], check=False)
    subprocess.run(["chattr", "-i", MOUNTPOINT], check=False)
    for path in (
        MOUNTPOINT,
        Path("/etc/swiftfs"),
        Path("/home/alice/.config"),
        Path("/home/alice/.cache/swiftfs"),
    ):
        shutil.rmtree(path, ignore_errors=True)


def stored(cloud: Connection, name: str = "README.md") -> bytes:
    return bytes(cloud.get_object("photos", name)[1])


def test_the_readme(cloud: Connection) -> None:
    install, *use = blocks("README.md", "## Use it", "## What it promises")
    as_user("alice", install)
    assert as_user("alice", "command -v swiftfs").splitlines()[-1] == "/home/alice/.local/bin/swiftfs"
    assert "advice: " in as_user("alice", *use)
    assert stored(cloud) == (ROOT / "README.md").read_bytes()


def test_the_start_page(cloud: Connection) -> None:
    install, *use = blocks("docs/start.md", end=AT_BOOT)
    as_user("alice", install)
    as_user("alice", *use)
    as_user("alice", "rm -r ~/.config")
    *boot, own, group = blocks("docs/start.md", AT_BOOT, OF_A_USER)
    printed = as_user("alice", *boot)
    assert "Active: active (running)" in printed
    assert "photos on /srv/photos" in printed
    pages = as_user("alice", "man -w swiftfs mount.swiftfs").splitlines()[-2:]
    assert [Path(page).name for page in pages] == ["swiftfs.1", "mount.swiftfs.8"]
    # Only root may write at first.
    as_user("bob", "! touch /srv/photos/bobs")
    as_user("alice", own)
    as_user("bob", "! touch /srv/photos/bobs")
    as_user("alice", group)
    run("usermod", "-aG", "photos", "bob")
    as_user(
        "bob", "umask 002; echo bob >/srv/photos/bobs; mkdir /srv/photos/folder; echo 1 >/srv/photos/folder/x"
    )
    as_user(
        "alice", "echo alice >>/srv/photos/bobs; echo 2 >>/srv/photos/folder/x; echo 3 >/srv/photos/folder/y"
    )
    run("systemctl", "stop", SERVICE)
    assert stored(cloud, "bobs") == b"bob\nalice\n"
    assert stored(cloud, "folder/x") == b"1\n2\n"
    as_user("alice", "! sudo touch /srv/photos/hidden")
    # Owners are stored in Swift.
    run("systemctl", "start", SERVICE)
    assert MOUNTPOINT.group() == "photos"


def test_a_user_s_own_service(cloud: Connection) -> None:
    cloud.put_container("photos")
    runtime = f"export XDG_RUNTIME_DIR=/run/user/{pwd.getpwnam('alice').pw_uid}"  # as in a session
    run("loginctl", "enable-linger", "alice")  # as if she were logged in
    install, *_ = blocks("docs/start.md")
    log_in, *_ = blocks("docs/start.md", "## Log in", "## Mount")
    as_user("alice", install)
    try:
        as_user("alice", runtime, log_in, *blocks("docs/start.md", OF_A_USER, IN_FSTAB))
        as_user("alice", "cp README.md ~/photos/")
        assert "photos on /home/alice/photos" in as_user("alice", "swiftfs status")
    finally:
        as_user("alice", runtime, f"systemctl --user disable --now {SERVICE}")
        run("loginctl", "disable-linger", "alice")
    assert stored(cloud) == (ROOT / "README.md").read_bytes()


def test_the_fstab_of_the_start_page(cloud: Connection) -> None:
    cloud.put_container("photos")
    if not INSTALLED.exists():
        as_user("alice", *blocks("docs/start.md", AT_BOOT, OF_A_USER)[:1])
    as_user("alice", *blocks("docs/start.md", AT_BOOT, OF_A_USER)[1:3])
    as_user("alice", *blocks("docs/start.md", IN_FSTAB))
    fstab = Path("/etc/fstab")
    before = fstab.read_text()
    line = next(
        line for line in (ROOT / "docs/start.md").read_text().splitlines() if "  swiftfs  _net" in line
    )
    fstab.write_text(f"{before}{line.strip()}\n")
    try:
        run("mount", MOUNTPOINT)
        as_user("alice", "sudo cp README.md /srv/photos/", "cat /srv/photos/README.md")
        run("umount", MOUNTPOINT)
    finally:
        fstab.write_text(before)
    assert stored(cloud) == (ROOT / "README.md").read_bytes()


def test_the_page_about_naver(cloud: Connection) -> None:
    cloud.put_container("photos")  # in the console
    if not INSTALLED.exists():
        as_user("alice", *blocks("docs/start.md", AT_BOOT, OF_A_USER)[:1])
    user, use, boot, own = blocks("docs/naver.md")
    as_user("alice", user, use)
    cloud.delete_object("photos", "README.md")
    as_user("alice", boot)
    as_user("alice", own)
    run("systemctl", "stop", SERVICE)
    assert stored(cloud) == (ROOT / "README.md").read_bytes()
