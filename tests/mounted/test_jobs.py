"""Everyday programs in a mount: rsync, git, tar and SQLite, before and after a mount with an empty cache."""

import os
import sqlite3
import stat
import sysconfig
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from swiftclient import Connection

from support.jobs import Job, methods
from support.mounts import Mount, run

FILES = 2_000
LINKS = 100
"""At most so many of the machine's own, besides three made here."""
LARGEST = 64 * 1024
"""Bytes of a file in the rsync tree: many small files are the hard case, large ones have their own tests."""

ROOTS = ("/usr/share/doc", "/usr/share/zoneinfo", "/usr/share/terminfo", "/usr/lib/python3", "/usr/share")
PER_ROOT = 600
SKIPPED = {"__pycache__", ".git"}


def real_files(root: Path) -> Iterator[Path]:
    """Yield the small files and the links below `root`."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for path in (Path(folder, name) for name in sorted([*names, *folders])):
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST):
                yield path


def choose_files() -> list[Path]:
    """Return exactly 2,000 files of this machine, from as many roots as it takes, and links beside them."""
    files: dict[Path, None] = {}
    links: dict[Path, None] = {}
    stdlib = Path(sysconfig.get_path("stdlib"))
    for root, most in [*((Path(root), PER_ROOT) for root in ROOTS), (stdlib, FILES), (Path("/usr"), FILES)]:
        before = len(files)
        for path in real_files(root):
            if path.is_symlink():
                if len(links) < LINKS:
                    links[path] = None
                continue
            if len(files) == min(FILES, before + most):
                break
            files[path] = None
    return [*files, *links]


def copy_of(files: list[Path], tree: Path) -> Path:
    """Make a tree of real files and links, with their times and modes, and some names of our own."""
    names = tree.parent / "names"
    names.write_text("\0".join(map(str, files)))
    run("rsync", "-a", "--from0", "--files-from", names, "/", tree)
    (tree / "an empty folder").mkdir()
    (tree / "relative").symlink_to("an empty folder")
    (tree / "dangling").symlink_to("/nowhere/at all")
    (tree / "ümläut 漢字").write_text("named in UTF-8\n")
    os.utime(tree / "ümläut 漢字", ns=(1, 981_173_106_123_456_789))
    return tree


def small_tree(folder: Path) -> Path:
    """Make a tree whose root has a mode and a time of its own."""
    tree = folder / "small"
    (tree / "docs" / "deep").mkdir(parents=True)
    for number in range(10):
        (tree / "docs" / f"page{number}").write_text(f"page {number}\n" * number)
    (tree / "docs" / "latest").symlink_to("page9")
    (tree / "run me").write_text("#!/bin/sh\n")
    (tree / "run me").chmod(0o750)
    for path in (tree / "docs" / "deep", tree / "docs", tree):
        os.utime(path, (1_500_000_000, 1_500_000_000.25))
    tree.chmod(0o751)
    return tree


def differences(source: Path, target: Path) -> str:
    """Return what rsync, reading every byte, and diff find to differ."""
    changed = run("rsync", "-ac", "--dry-run", "-i", "--delete", f"{source}/", f"{target}/")
    return changed + run("diff", "-r", "--no-dereference", source, target)


def metadata(tree: Path) -> dict[str, tuple[int, int, int, str]]:
    """Return mode, size of files, mtime in ns and link target of everything below `tree`."""
    found = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        target = str(path.readlink()) if path.is_symlink() else ""
        found[str(path.relative_to(tree))] = (status.st_mode, size, status.st_mtime_ns, target)
    return found


@pytest.mark.matrix(1)
@pytest.mark.parametrize("step", [50, 2])
@pytest.mark.mount_options("settle=1")
def test_rsync_of_a_real_tree(mounted: Mount, tmp_path: Path, step: int) -> None:
    carry(mounted, copy_of(choose_files()[::step], tmp_path / "tree"), FILES // step)


@pytest.mark.matrix(1)
@pytest.mark.parametrize("step", [200, 20])
def test_rsync_of_a_real_tree_with_sync(mounted: Mount, tmp_path: Path, step: int) -> None:
    """Of few of the files, for each takes six requests: it is stored, described, moved, described."""
    carry(mounted, copy_of(choose_files()[::step], tmp_path / "tree"), FILES // step)


def carry(mounted: Mount, tree: Path, least: int) -> None:
    """Copy a tree of at least so many files into the mount with rsync, and compare all, warm and cold."""
    entries = list(tree.rglob("*"))
    links = sum(path.is_symlink() for path in entries)
    files = sum(path.is_file() and not path.is_symlink() for path in entries)
    folders = len(entries) - links - files
    assert files >= least
    assert links >= 2
    target = mounted.path / "tree"
    job = Job(mounted)
    run("rsync", "-a", f"{tree}/", f"{target}/")
    job.step(f"rsync in, {files} files, {links} links, {folders} folders")
    assert differences(tree, target) == ""
    job.step("compare, warm")
    mounted.remount(empty_cache=True)
    job.step("remount")
    assert run("rsync", "-a", "--dry-run", "-i", "--delete", f"{tree}/", f"{target}/") == ""
    requests = job.step("rsync again, cold")
    assert set(methods(requests)) <= {"GET", "HEAD"}
    assert differences(tree, target) == ""
    job.step("compare, cold")


def test_rsync_into_the_root_of_a_mount(mounted: Mount, tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    run("rsync", "-a", f"{tree}/", f"{mounted.path}/")
    assert differences(tree, mounted.path) == ""
    mounted.remount(empty_cache=True)
    assert differences(tree, mounted.path) == ""


def test_rsync_out_of_a_mount(mounted: Mount, tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    run("rsync", "-a", tree, mounted.path)
    mounted.remount(empty_cache=True)
    out = tmp_path / "out"
    run("rsync", "-a", f"{mounted.path}/small/", f"{out}/")
    assert differences(tree, out) == ""


def test_rsync_of_a_change_and_a_deletion(mounted: Mount, tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    target = mounted.path / "small"
    run("rsync", "-a", f"{tree}/", f"{target}/")
    (tree / "docs" / "page3").write_text("another page\n")
    (tree / "docs" / "page4").unlink()
    (tree / "docs" / "deep").rmdir()
    (tree / "docs" / "page5").chmod(0o600)
    run("rsync", "-a", "--delete", f"{tree}/", f"{target}/")
    assert differences(tree, target) == ""
    mounted.remount(empty_cache=True)
    assert differences(tree, target) == ""


def git(folder: Path, *words: object) -> str:
    """Run git as a user of no configuration."""
    identity = ("-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
    place = ("-c", f"safe.directory={folder}", "-C", folder)
    return run("git", *identity, *place, *words)


def local_repository(folder: Path) -> Path:
    """Make a repository of 4 commits, packed, and some loose objects."""
    repository = folder / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet", "--initial-branch=main")
    for commit in range(4):
        for number in range(25):
            path = repository / f"folder{number % 5}" / f"file{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"commit {commit} of file {number}\n" * (number + 1))
        git(repository, "add", "--all")
        git(repository, "commit", "--quiet", "--message", f"commit {commit}")
        if commit == 2:
            git(repository, "gc", "--quiet")
    return repository


def test_git_clone_commit_and_fsck(mounted: Mount, tmp_path: Path) -> None:
    repository = local_repository(tmp_path)
    head = git(repository, "rev-parse", "HEAD")
    clone = mounted.path / "clone"
    job = Job(mounted)
    git(mounted.path, "clone", "--quiet", "--no-hardlinks", f"file://{repository}", clone)
    job.step("git clone")
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "rev-parse", "HEAD") == head
    (clone / "new file").write_text("made in the mount\n")
    (clone / "folder1" / "file1").unlink()
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "from the mount")
    committed = git(clone, "rev-parse", "HEAD")
    job.step("git fsck, status, commit")
    mounted.remount(empty_cache=True)
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "rev-parse", "HEAD") == committed != head
    assert (clone / "new file").read_text() == "made in the mount\n"
    assert not (clone / "folder1" / "file1").exists()
    git(clone, "gc", "--quiet", "--prune=now")
    git(clone, "fsck", "--full", "--strict")
    job.step("git fsck, status, gc after a remount")


@pytest.mark.mount_options("special")
def test_tar_x_keeps_everything(mounted: Mount, tmp_path: Path) -> None:
    source = small_tree(tmp_path)
    for number, mode in enumerate((0o400, 0o444, 0o600, 0o755, 0o4711)):
        path = source / f"mode{number}"
        path.write_bytes(bytes(number * 1000))
        path.chmod(mode)
        os.utime(path, ns=(0, 1_234_567_890_000_000_000 + number))
    (source / "to nowhere").symlink_to("x" * 200)
    os.utime(source, (1_500_000_000, 1_500_000_000))
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(source, "unpacked")
    run("tar", "-x", "-p", "-f", archive, "-C", mounted.path)
    run("tar", "--compare", "-f", archive, "-C", mounted.path)
    local = tmp_path / "local"
    local.mkdir()
    run("tar", "-x", "-p", "-f", archive, "-C", local)
    unpacked = metadata(local / "unpacked")
    assert metadata(mounted.path / "unpacked") == unpacked
    mounted.remount(empty_cache=True)
    run("tar", "--compare", "-f", archive, "-C", mounted.path)
    assert metadata(mounted.path / "unpacked") == unpacked
    assert (mounted.path / "unpacked").stat().st_mode == (local / "unpacked").stat().st_mode


def test_sqlite_in_a_mount(mounted: Mount, connection: Connection, container: str) -> None:
    path = mounted.path / "data.db"
    job = Job(mounted)
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table rows (number integer primary key, text text)")
        database.executemany(
            "insert into rows (text) values (?)", [(f"row {number} " * 20,) for number in range(1_000)]
        )
        database.commit()
        database.execute("update rows set text = 'changed' where number % 3 = 0")
        database.commit()
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    job.step("sqlite create, 1,000 inserts, update")
    mounted.remount(empty_cache=True)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        query = "select count(*), sum(text = 'changed') from rows"
        assert database.execute(query).fetchall() == [(1_000, 333)]
        database.execute("delete from rows where number > 500")
        database.rollback()
        database.execute("delete from rows where number > 900")
        database.commit()
        assert database.execute("select count(*) from rows").fetchall() == [(900,)]
    job.step("sqlite after a remount")
    mounted.stop()
    assert [row["name"] for row in connection.get_container(container)[1]] == ["data.db"]


def test_files_unlinked_as_soon_as_they_are_closed_leave_nothing(
    mounted: Mount, connection: Connection, container: str
) -> None:
    """libfuse hides a file whose release is under way; no such name may reach Swift, let alone stay."""
    for number in range(60):
        path = mounted.path / f"short-lived{number}"
        path.write_bytes(b"text")
        path.read_bytes()
        path.unlink()
        assert not path.exists()
    assert list(mounted.path.iterdir()) == []
    assert not [request for request in mounted.swift.requests() if ".fuse_hidden" in request.path]
    mounted.stop()
    assert connection.get_container(container)[1] == []
