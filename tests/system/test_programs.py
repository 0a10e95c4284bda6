"""Programs that people run on a mount: each keeps its data in one, and gets it back in a new mount."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import wait_until
from support.mounts import Mount
from support.noise import noise
from swiftfs.attributes import decode_type

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1024 * 1024


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test where a program is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with small files, one of 3 MiB, a symbolic link and an old time."""
    folder = tmp_path / "data"
    (folder / "sub" / "empty").mkdir(parents=True)
    for number in range(20):
        (folder / "sub" / f"file {number} ü").write_text(f"text {number}\n" * number)
    (folder / "large").write_bytes(noise(3 * MIB))
    (folder / "link").symlink_to("sub/file 1 ü")
    os.utime(folder / "large", (1_000_000_000, 1_000_000_000))
    return folder


@pytest.fixture
def program(tmp_path: Path) -> "Program":
    """Runs programs with a home folder of their own."""
    home = tmp_path / "home"
    home.mkdir()
    return Program(home)


class Program:
    """Runs programs that find no settings, and no terminal to ask for a password."""

    def __init__(self, home: Path) -> None:
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
            **{"HOME": str(home), "LANG": "C.UTF-8", "PASSPHRASE": "x"},
            **{"BORG_PASSPHRASE": "x", "RESTIC_PASSWORD": "x", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"},
        }

    def __call__(self, *words: object, expected: int = 0) -> str:
        """Run a program and return its output; fail if it ends otherwise than `expected`."""
        result = subprocess.run(
            [str(word) for word in words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == expected, f"{words}: {result.stdout[-2000:]}{result.stderr[-2000:]}"
        return result.stdout


def change(tree: Path) -> None:
    """Make what a second backup has to find."""
    changed = tree / "sub" / "file 3 ü"
    changed.write_text("changed\n")
    os.utime(changed, (changed.stat().st_mtime + 10,) * 2)  # some compare whole seconds
    (tree / "sub" / "file 4 ü").unlink()
    (tree / "new").write_bytes(noise(MIB, 1))


def assert_same(one: Path, other: Path) -> None:
    """Assert that two trees have the same names and bytes."""
    result = subprocess.run(
        ["diff", "-r", "--no-dereference", one, other], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@needs("borg")
def test_borg(mounted: Mount, tree: Path, tmp_path: Path, program: Program) -> None:
    repository = mounted.path / "borg"
    program("borg", "init", "--encryption=repokey", repository)
    program("borg", "create", f"{repository}::one", tree)
    change(tree)
    program("borg", "create", f"{repository}::two", tree)
    mounted.remount()
    program("borg", "check", "--verify-data", repository)
    program("borg", "prune", "--keep-last=1", repository)
    program("borg", "compact", repository)
    target = tmp_path / "restored"
    target.mkdir()
    subprocess.run(
        ["borg", "extract", f"{repository}::two"],
        cwd=target,
        env={**os.environ, "BORG_PASSPHRASE": "x", "HOME": str(tmp_path / "home"), "LANG": "C.UTF-8"},
        check=True,
    )
    assert_same(tree, target / tree.relative_to("/"))


@needs("restic")
def test_restic(mounted: Mount, tree: Path, tmp_path: Path, program: Program) -> None:
    repository = mounted.path / "restic"
    program("restic", "init", "-r", repository)
    program("restic", "-r", repository, "backup", tree)
    change(tree)
    program("restic", "-r", repository, "backup", tree)
    mounted.remount()
    program("restic", "-r", repository, "check", "--read-data")
    program("restic", "-r", repository, "forget", "--keep-last=1", "--prune")
    program("restic", "-r", repository, "restore", "latest", "--target", tmp_path / "restored")
    assert_same(tree, tmp_path / "restored" / tree.relative_to("/"))


@needs("restic")
def test_a_backup_of_a_mount_finds_what_changed(mounted: Mount, tree: Path, program: Program) -> None:
    """By the times, so that what did not change is not read again."""
    source, repository = mounted.path / "source", tree.parent / "repository"
    shutil.copytree(tree, source, symlinks=True)
    program("restic", "init", "-r", repository)
    program("restic", "-r", repository, "backup", source)
    said = program("restic", "-r", repository, "backup", source)
    assert "0 new,     0 changed," in said
    before = (source / "large").stat()
    with (source / "large").open("r+b") as file:
        file.write(b"other")
    os.utime(source / "large", ns=(before.st_atime_ns, before.st_mtime_ns))
    said = program("restic", "-r", repository, "backup", source)
    assert "0 new,     1 changed," in said, "the mtime is the same, but not the ctime"


@contextmanager
def encrypted(cipher: Path, plain: Path, password: Path) -> Iterator[Path]:
    """Mount what is below `cipher` at `plain` with gocryptfs."""
    plain.mkdir(exist_ok=True)
    process = subprocess.Popen(
        ["gocryptfs", "-fg", "-q", "-passfile", password, cipher, plain], stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: plain.is_mount() or process.poll() is not None)
        assert process.poll() is None
        yield plain
    finally:
        subprocess.run(["fusermount", "-u", plain], check=False)
        process.send_signal(signal.SIGTERM)
        process.wait()


@needs("gocryptfs", "fusermount")
def test_gocryptfs_above_the_mount(mounted: Mount, tree: Path, tmp_path: Path, program: Program) -> None:
    cipher, password = mounted.path / "cipher", tmp_path / "password"
    cipher.mkdir()
    password.write_text("x")
    program("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", password, cipher)
    with encrypted(cipher, tmp_path / "plain", password) as plain:
        shutil.copytree(tree, plain / "data", symlinks=True)
        (plain / "data" / "large").rename(plain / "data" / "renamed")
        with (plain / "data" / "renamed").open("r+b") as file:
            file.seek(MIB)
            file.write(b"in the middle")
        (plain / ("long" * 40)).write_text("a name that is stored beside the file")
        (plain / "data" / "sub" / "file 5 ü").unlink()
    mounted.remount()
    data = bytearray(noise(3 * MIB))
    data[MIB : MIB + 13] = b"in the middle"
    with encrypted(cipher, tmp_path / "plain", password) as plain:
        assert (plain / "data" / "renamed").read_bytes() == data
        assert (plain / ("long" * 40)).read_text() == "a name that is stored beside the file"
        (plain / "data" / "renamed").unlink()
        (tree / "large").unlink()
        (tree / "sub" / "file 5 ü").unlink()
        assert_same(tree, plain / "data")
        shutil.rmtree(plain / "data")
        assert not (plain / "data").exists()


@needs("rdiff-backup")
def test_rdiff_backup(mounted: Mount, tree: Path, tmp_path: Path, program: Program) -> None:
    target = mounted.path / "rdiff"
    # It refuses two backups in one second.
    program("rdiff-backup", "--current-time", "1600000000", tree, target)
    change(tree)
    program("rdiff-backup", "--current-time", "1700000000", tree, target)
    mounted.remount()
    program("rdiff-backup", "--verify", target)
    program("rdiff-backup", "-r", "now", target, tmp_path / "restored")
    assert_same(tree, tmp_path / "restored")
    program("rdiff-backup", "-r", "1B", target, tmp_path / "older")
    assert (tmp_path / "older" / "sub" / "file 4 ü").exists()


@needs("duplicity")
def test_duplicity(mounted: Mount, tree: Path, tmp_path: Path, program: Program) -> None:
    target = f"file://{mounted.path}/duplicity"
    program("duplicity", "--no-encryption", tree, target)
    change(tree)
    program("duplicity", "--no-encryption", tree, target)
    mounted.remount()
    program("duplicity", "verify", "--no-encryption", "--compare-data", target, tree)
    program("duplicity", "restore", "--no-encryption", target, tmp_path / "restored")
    assert_same(tree, tmp_path / "restored")


@needs("unison")
def test_unison(mounted: Mount, tree: Path, program: Program) -> None:
    target = mounted.path / "unison"
    target.mkdir()
    words = ("unison", tree, target, "-batch", "-auto", "-times", "-perms=-1", "-ui", "text")
    program(*words)
    assert_same(tree, target)
    change(tree)
    (target / "theirs").write_text("made in the mount")
    program(*words)
    assert (tree / "theirs").read_text() == "made in the mount"
    mounted.remount()
    program(*words)
    assert_same(tree, target)


@needs("rsnapshot")
@pytest.mark.mount_options("hardlinks=copy")
def test_rsnapshot(mounted: Mount, tree: Path, tmp_path: Path, program: Program) -> None:
    """It rotates by `cp -al`: each link is a copy on the server."""
    settings = tmp_path / "rsnapshot.conf"
    lines = [
        "config_version\t1.2",
        f"snapshot_root\t{mounted.path}/snapshots/",
        "cmd_rsync\t/usr/bin/rsync",
        "cmd_cp\t/bin/cp",
        f"lockfile\t{tmp_path}/rsnapshot.pid",
        "retain\tdaily\t3",
        f"backup\t{tree}/\tlocal/",
        "",
    ]
    settings.write_text("\n".join(lines))
    program("rsnapshot", "-c", settings, "daily")
    before = tmp_path / "before"
    shutil.copytree(tree, before, symlinks=True)
    change(tree)
    program("rsnapshot", "-c", settings, "daily")
    mounted.remount()
    for number, expected in enumerate((tree, before)):
        assert_same(expected, mounted.path / f"snapshots/daily.{number}/local" / tree.relative_to("/"))


@needs("qemu-img")
def test_qemu_img(mounted: Mount, tmp_path: Path, program: Program) -> None:
    raw, image = tmp_path / "raw", mounted.path / "image.qcow2"
    raw.write_bytes(noise(2 * MIB) + bytes(6 * MIB) + noise(MIB, 1))
    program("qemu-img", "convert", "-O", "qcow2", raw, image)
    program("qemu-img", "snapshot", "-c", "first", image)
    program("qemu-img", "resize", image, "+1M")
    mounted.remount()
    program("qemu-img", "check", image)
    program("qemu-img", "convert", "-O", "raw", image, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == raw.read_bytes() + bytes(MIB)


@needs("ffmpeg")
def test_ffmpeg(mounted: Mount, program: Program) -> None:
    """An MP4 is finished by changes in its beginning."""
    film = mounted.path / "film.mp4"
    source = ("-f", "lavfi", "-i", "testsrc=duration=2:size=320x240:rate=10")
    program("ffmpeg", "-v", "error", *source, "-movflags", "+faststart", film)
    mounted.remount()
    program("ffmpeg", "-v", "error", "-xerror", "-i", film, "-f", "null", "-")


@needs("git-annex", "git")
def test_git_annex(mounted: Mount, tree: Path, tmp_path: Path, program: Program) -> None:
    """A folder of a mount as a special remote."""
    remote, repository = mounted.path / "annex", tmp_path / "repository"
    remote.mkdir()
    shutil.copytree(tree, repository)
    git = ("git", "-C", repository, "-c", "user.name=x", "-c", "user.email=x@example.org")
    program("git", "init", "-q", repository)
    program(*git, "annex", "init")
    settings = ("type=directory", f"directory={remote}", "encryption=none")
    program(*git, "annex", "initremote", "mount", *settings)
    program(*git, "annex", "add", ".")
    program(*git, "annex", "move", "--to=mount", ".")
    mounted.remount()
    program(*git, "annex", "fsck", "--from=mount")
    program(*git, "annex", "get", ".")
    assert (repository / "large").read_bytes() == noise(3 * MIB)


@needs("soffice")
def test_libreoffice(mounted: Mount, connection: Connection, program: Program) -> None:
    """It writes a file beside the document and renames it over it, and leaves a lock file while it runs."""
    documents = mounted.path / "documents"
    documents.mkdir()
    (documents / "table.csv").write_text("name,number\nfirst,1\nsecond,2\n")
    office = ("soffice", "--headless", "--norestore")
    for kind in ("ods", "xlsx"):
        program(*office, "--convert-to", kind, "--outdir", documents, documents / "table.csv")
    program(*office, "--convert-to", "odt", "--outdir", documents, documents / "table.ods")
    mounted.remount()
    (documents / "table.csv").unlink()
    program(*office, "--convert-to", "csv", "--outdir", documents, documents / "table.xlsx")
    assert (documents / "table.csv").read_text() == "name,number\nfirst,1\nsecond,2\n"
    found = connection.head_object(mounted.source, "documents/table.ods")
    assert decode_type(found["content-type"])[0] == "application/vnd.oasis.opendocument.spreadsheet"


@contextmanager
def shared_by_samba(path: Path, folder: Path, port: int) -> Iterator[None]:
    """Share `path` as `//127.0.0.1/archive`, for guests, with a Samba of its own."""
    folder.mkdir()
    folders = ("private dir", "lock directory", "state directory", "cache directory", "pid directory")
    settings = folder / "smb.conf"
    lines = [
        "[global]",
        *(f"{name} = {folder}" for name in (*folders, "ncalrpc dir")),
        "interfaces = lo",
        "bind interfaces only = yes",
        "disable netbios = yes",
        "map to guest = Bad User",
        "load printers = no",
        "[archive]",
        f"path = {path}",
        "read only = no",
        "guest ok = yes",
        "force user = root",
        "store dos attributes = no",
    ]
    settings.write_text("\n".join(lines) + "\n")
    words = ("smbd", "--foreground", "--no-process-group", f"--port={port}", f"--configfile={settings}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*words, "--debug-stdout"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it ends its process group
        )
    try:
        wait_until(lambda: is_open(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def is_open(port: int) -> bool:
    """Return whether a server listens there."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@needs("smbd", "smbclient")
@pytest.mark.skipif(os.geteuid() != 0, reason="smbd needs root")
def test_a_share_of_samba(mounted: Mount, tree: Path, tmp_path: Path, program: Program) -> None:
    port = free_port()
    client = ("smbclient", "//127.0.0.1/archive", "-N", "-p", port, "-c")
    with shared_by_samba(mounted.path, tmp_path / "samba", port):
        program(*client, f"prompt OFF; recurse ON; lcd {tree}; mkdir data; cd data; mput sub large")
        program(*client, 'cd data; rename large moved; put /etc/hostname moved; rm "sub\\file 3 ü"')
        program(*client, f"cd data; put {tree}/large again; mkdir new; rename new newer; rmdir newer")
    mounted.remount()
    (tree / "sub" / "file 3 ü").unlink()
    assert_same(tree / "sub", mounted.path / "data" / "sub")
    assert (mounted.path / "data" / "moved").read_bytes() == Path("/etc/hostname").read_bytes()
    with shared_by_samba(mounted.path, tmp_path / "again", port):
        program(*client, f"cd data; get again {tmp_path}/back; allinfo again")
    assert (tmp_path / "back").read_bytes() == noise(3 * MIB)
