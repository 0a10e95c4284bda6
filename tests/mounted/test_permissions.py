"""Owners and modes: the defaults set by options, and the checks of `default_permissions`."""

import errno
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from swiftclient import Connection

from support.mounts import Mount
from support.options import parse_options
from support.other_users import NOBODY, as_root
from swiftfs.service.serving import _kernel_options


def nobody(*words: str) -> int:
    """Run a command as a user without rights; return its exit code."""
    return subprocess.run(words, user=NOBODY, group=NOBODY, capture_output=True, check=False).returncode


@pytest.mark.mount_options("uid=1234,gid=4321,umask=027")
def test_objects_without_owner_and_mode_get_those_of_the_options(
    mounted: Mount, connection: Connection, container: str
) -> None:
    connection.put_object(container, "implied/file", b"x")
    for name, mode in (("implied", stat.S_IFDIR | 0o750), ("implied/file", stat.S_IFREG | 0o640)):
        status = (mounted.path / name).stat()
        assert (status.st_mode, status.st_uid, status.st_gid) == (mode, 1234, 4321)


def test_objects_with_owner_and_mode_keep_them(mounted: Mount) -> None:
    path = mounted.path / "file"
    path.write_text("x")
    path.chmod(0o604)
    if os.getuid() == 0:
        os.chown(path, 77, 88)
    before = path.stat()
    mounted.remount()
    after = path.stat()
    assert stat.S_IMODE(after.st_mode) == 0o604
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def test_no_one_reads_the_memory_of_the_mount(mounted: Mount) -> None:
    process = Path("/proc", str(mounted.pid))
    assert re.search(r"^Max core file size +0 +0 ", (process / "limits").read_text(), re.MULTILINE)
    code = "import ctypes; from swiftfs.service.daemon import forbid_core_dumps as f; f()"
    code += "; print(ctypes.CDLL(None).prctl(3))"  # PR_GET_DUMPABLE
    assert subprocess.check_output([sys.executable, "-c", code]) == b"0\n"


@as_root
@pytest.mark.mount_options("allow_other,default_permissions")
@pytest.mark.reachable
def test_the_kernel_checks_modes_with_default_permissions(mounted: Mount) -> None:
    private, public = mounted.path / "private", mounted.path / "public"
    private.write_text("mine")
    private.chmod(0o600)
    public.write_text("all's")
    public.chmod(0o644)
    assert nobody("cat", str(public)) == 0
    assert nobody("cat", str(private)) != 0
    assert nobody("cp", "/dev/null", str(public)) != 0


@as_root
@pytest.mark.reachable
def test_other_users_are_kept_out_unless_allowed(mounted: Mount) -> None:
    (mounted.path / "file").write_text("x")
    (mounted.path / "file").chmod(0o644)
    assert nobody("cat", str(mounted.path / "file")) != 0


@pytest.mark.mount_options("ro")
def test_a_read_only_mount_refuses_changes(mounted: Mount, connection: Connection, container: str) -> None:
    connection.put_object(container, "file", b"there")
    assert (mounted.path / "file").read_bytes() == b"there"
    for change in (
        lambda: (mounted.path / "new").write_text("x"),
        (mounted.path / "file").unlink,
        lambda: (mounted.path / "file").chmod(0o600),
        (mounted.path / "folder").mkdir,
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            change()


OTHERS_MAY = (
    ("cat", "private"),
    ("cp", "/dev/null", "private"),
    ("sh", "-c", "echo more >> private"),
    ("truncate", "--size=0", "private"),
    ("rm", "-f", "public"),
    ("mv", "public", "moved"),
    ("chmod", "666", "private"),
    ("touch", "new"),
    ("mkdir", "folder"),
    ("ln", "-s", "x", "link"),
    ("ls", "closed"),
    ("cat", "closed/inside"),
)
"""What other users try in a user's folder."""


def prepare(folder: Path) -> dict[str, bytes]:
    """Make private and public files; return their contents."""
    (folder / "closed").mkdir()
    for name, mode in (("private", 0o600), ("public", 0o644), ("closed/inside", 0o644)):
        (folder / name).write_text(name)
        (folder / name).chmod(mode)
    (folder / "closed").chmod(0o700)
    return tree(folder)


def tree(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {f"{path.relative_to(folder)} {path.stat().st_mode:o}": path.read_bytes() for path in found}


def tried(folder: Path, words: tuple[str, ...]) -> int:
    script = 'cd "$0" && exec "$@"'
    return nobody("sh", "-c", script, str(folder), *words)


@pytest.mark.matrix(4)
@as_root
@pytest.mark.parametrize("words", OTHERS_MAY, ids=" ".join)
@pytest.mark.mount_options("allow_other")
@pytest.mark.reachable
def test_other_users_may_do_what_modes_allow(mounted: Mount, words: tuple[str, ...]) -> None:
    before = prepare(mounted.path)
    assert tried(mounted.path, ("cat", "public")) == 0
    assert tried(mounted.path, words) != 0
    assert tree(mounted.path) == before


def set_attribute_as_nobody(path: Path) -> int:
    """Set an attribute as a user without rights; return an errno, 0 for success."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.setxattr(path, "user.x", b"y")
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@as_root
@pytest.mark.mount_options("allow_other")
@pytest.mark.reachable
def test_other_users_may_not_set_attributes_of_private_files(mounted: Mount) -> None:
    prepare(mounted.path)
    assert set_attribute_as_nobody(mounted.path / "private") == errno.EACCES
    assert os.listxattr(mounted.path / "private") == []


@as_root
@pytest.mark.mount_options("allow_other,no_default_permissions")
@pytest.mark.reachable
def test_other_users_may_do_everything_with_no_default_permissions(mounted: Mount) -> None:
    prepare(mounted.path)
    for words in (
        ("cat", "private"),
        ("cp", "/dev/null", "private"),
        ("rm", "-f", "public"),
        ("ls", "closed"),
    ):
        assert tried(mounted.path, words) == 0, words
    assert (mounted.path / "private").read_bytes() == b""
    assert not (mounted.path / "public").exists()


@pytest.mark.matrix(4)
@pytest.mark.parametrize(
    ("words", "environment", "checks"),
    [
        ("", {}, False),
        ("default_permissions", {}, True),
        ("allow_other", {}, True),
        ("allow_root", {}, True),
        ("allow_other=no", {}, False),
        ("allow_other,default_permissions", {}, True),
        ("allow_other,no_default_permissions", {}, False),
        ("allow_root,default_permissions=no", {}, False),
        ("no_default_permissions,default_permissions,allow_other", {}, True),
        ("allow_other", {"SWIFTFS_DEFAULT_PERMISSIONS": "no"}, False),
        ("allow_other", {"SWIFTFS_OPTIONS": "no_default_permissions"}, False),
        ("default_permissions", {"SWIFTFS_OPTIONS": "allow_other,no_default_permissions"}, True),
        ("", {"SWIFTFS_ALLOW_OTHER": "yes"}, True),
    ],
)
def test_access_for_other_users_turns_on_checks_of_modes(
    words: str, environment: dict[str, str], checks: bool
) -> None:
    options = parse_options([words], environment)
    assert options.checks_permissions is checks
    assert _kernel_options(options)["default_permissions"] is checks


@pytest.mark.parametrize("example", ["docs/start.md", "systemd/srv-photos.mount", "systemd/example.env"])
def test_examples_in_the_docs_keep_private_files_private(example: str) -> None:
    text = (Path(__file__).parents[2] / example).read_text()
    lists = re.findall(r"[\w=/.,]*\ballow_other\b[\w=/.,]*", text)
    assert lists
    assert all("default_permissions" in one.split(",") for one in lists if "," in one)


@as_root
@pytest.mark.mount_options("allow_other,uid=1234,settle=60")
@pytest.mark.parametrize("command", ["flush", "retry"])
def test_the_user_who_mounted_may_use_commands_if_another_owns_the_root(mounted: Mount, command: str) -> None:
    (mounted.path / "file").write_text("x")
    without = "-dac_override,-dac_read_search"
    words = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]
    assert subprocess.run([*words, "touch", mounted.path / "new"], check=False).returncode != 0
    command_line = [*words, sys.executable, "-m", "swiftfs", command, str(mounted.path)]
    result = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@as_root
def test_a_folder_with_the_setgid_bit_gives_its_group_to_what_is_made_in_it(
    mounted: Mount, tmp_path: Path
) -> None:
    """As on a local disk, so that the members of a group can share a folder."""
    trees = (tmp_path / "local", mounted.path / "swift")
    for tree in trees:
        tree.mkdir()
        os.chown(tree, NOBODY, 4321)
        tree.chmod(0o2775)
    mounted.remount()
    seen = []
    for tree in trees:
        (tree / "folder").mkdir()
        (tree / "folder" / "file").write_text("x")
        (tree / "link").symlink_to("folder")
        os.mkfifo(tree / "fifo")
        seen.append(
            {
                path.name: (path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_gid)
                for path in tree.rglob("*")
            }
        )
    assert seen[0]["file"][2] == 4321
    assert seen[1] == seen[0]


@as_root
@pytest.mark.mount_options("allow_other,special")
@pytest.mark.reachable
def test_a_folder_s_group_makes_nobody_s_program_setgid(mounted: Mount) -> None:
    folder = mounted.path / "folder"
    folder.mkdir()
    os.chown(folder, 0, 4321)
    folder.chmod(0o3777)
    code = f"import os; os.umask(0); os.open({str(folder / 'program')!r}, os.O_CREAT | os.O_WRONLY, 0o2775)"
    assert nobody("/usr/bin/python3", "-c", code) == 0
    status = (folder / "program").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o775, NOBODY, 4321)
