"""The binding on real mounts, served by child processes so that nothing can block pytest."""

import ctypes
import errno
import os
import platform
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.deadlines import within
from support.directory_streams import directory_stream, read_in_small_parts
from support.libfuse import is_libfuse3
from support.passthrough import FAULTS, NO_SET_ID, READERS, Passthrough, binding
from support.passthrough_mount import PassthroughMount
from swiftfs.errors import ConfigurationError
from swiftfs.fuse.library import stat_layout
from swiftfs.objects import Attributes

MIB = 1 << 20


def failure_of(call: Callable[[], object]) -> int | None:
    """Return the errno with which a system call fails, or None."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def kernel_version() -> tuple[int, ...]:
    return tuple(map(int, platform.release().split("-")[0].split(".")[:2]))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[PassthroughMount]:
    mounted = PassthroughMount(tmp_path)
    yield mounted
    mounted.close()


def test_data_is_written_appended_and_read_whole(mount: PassthroughMount) -> None:
    data = random.Random(1).randbytes(3 * MIB + 12345)
    (mount.path / "file").write_bytes(data)
    with (mount.path / "file").open("ab") as file:
        file.write(b"tail")
    with (mount.path / "file").open("r+b", buffering=0) as file:
        file.seek(MIB - 3)
        file.write(b"patch!")
    data = data[: MIB - 3] + b"patch!" + data[MIB + 3 :] + b"tail"
    assert (mount.root / "file").read_bytes() == data
    with (mount.path / "file").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == data
        assert os.pread(file.fileno(), 7, len(data) - 4) == b"tail"
        assert os.pread(file.fileno(), 7, len(data)) == b""
    (mount.path / "empty").write_bytes(b"")
    assert (mount.path / "empty").read_bytes() == b""


def test_stat_returns_every_attribute(mount: PassthroughMount) -> None:
    file = mount.path / "file"
    file.write_bytes(b"x" * 1000)
    os.utime(file, ns=(1, 1_700_000_000_123_456_789))
    file.chmod(0o640)
    os.chown(file, 1234, 5678)
    ours, theirs = file.stat(), (mount.root / "file").stat()
    for name in ("st_mode", "st_size", "st_uid", "st_gid", "st_ino", "st_mtime_ns"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (ours.st_mtime_ns, ours.st_uid, ours.st_gid) == (1_700_000_000_123_456_789, 1234, 5678)
    assert (ours.st_nlink, ours.st_blocks, ours.st_blksize) == (1, 2, 131072)
    os.utime(file, ns=(0, -1))
    assert file.stat().st_mtime_ns == -1
    os.chown(file, -1, 99)
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 99)


def test_a_folder_of_ten_thousand_names_is_listed_whole(mount: PassthroughMount) -> None:
    names = {f"name-{number:05}-ü" for number in range(10_000)}
    (mount.root / "folder").mkdir()
    for name in names:
        (mount.root / "folder" / name).touch()
    with os.scandir(mount.path / "folder") as entries:
        listed = {entry.name: (entry.inode(), entry.is_file()) for entry in entries}
    assert listed.keys() == names
    some = next(iter(names))
    assert listed[some] == ((mount.root / "folder" / some).stat().st_ino, True)
    shown = subprocess.run(
        ["ls", "-af", mount.path / "folder"], capture_output=True, check=True, text=True
    ).stdout.splitlines()
    assert shown[:2] == [".", ".."]
    assert len(shown) == 10_002


def set_times(path: Path, atime_nsec: int, mtime_nsec: int) -> None:
    """Call utimensat(2) directly: Python lacks UTIME_NOW and UTIME_OMIT."""
    times = (ctypes.c_long * 4)(0, atime_nsec, 0, mtime_nsec)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.utimensat(-100, os.fsencode(path), times, 0) == 0, os.strerror(ctypes.get_errno())


def test_utimens_accepts_now_and_omit(mount: PassthroughMount) -> None:
    now, omit = (1 << 30) - 1, (1 << 30) - 2
    file = mount.path / "file"
    file.touch()
    os.utime(file, ns=(5, 7))
    set_times(file, 11, omit)
    below = mount.root / "file"
    assert (below.stat().st_atime_ns, below.stat().st_mtime_ns) == (11, 7)
    before = time.time_ns()
    set_times(file, omit, now)
    assert below.stat().st_atime_ns == 11
    assert before <= below.stat().st_mtime_ns <= time.time_ns()


def test_an_unlinked_open_file_lives_until_it_is_closed(mount: PassthroughMount) -> None:
    with (mount.path / "file").open("w+b", buffering=0) as file:
        file.write(b"0123456789")
        (mount.path / "file").unlink()
        assert not (mount.path / "file").exists()
        assert [name.name[:12] for name in mount.root.iterdir()] == [".fuse_hidden"]
        file.truncate(4)
        assert os.fstat(file.fileno()).st_size == 4
        assert os.pread(file.fileno(), 10, 0) == b"0123"
    deadline = time.monotonic() + within(10)
    while list(mount.root.iterdir()) and time.monotonic() < deadline:
        os.listdir(mount.path)  # noqa: PTH208  a round trip through the mount: release is asynchronous
    assert list(mount.root.iterdir()) == []


def test_names_links_and_special_files(mount: PassthroughMount) -> None:
    (mount.path / "a").mkdir(0o750)
    assert stat.S_IMODE((mount.root / "a").stat().st_mode) == 0o750
    (mount.path / "a" / "link").symlink_to("some/where ü")
    assert (mount.path / "a" / "link").readlink() == Path("some/where ü")
    os.mkfifo(mount.path / "a" / "fifo")
    assert stat.S_ISFIFO((mount.root / "a" / "fifo").stat().st_mode)
    (mount.path / "hard").hardlink_to(mount.path / "a" / "fifo")
    assert (mount.root / "hard").samefile(mount.root / "a" / "fifo")
    (mount.path / "hard").unlink()
    (mount.path / "a").rename(mount.path / "b")
    with pytest.raises(OSError, match="not empty"):
        (mount.path / "b").rmdir()
    (mount.path / "b" / "link").unlink()
    (mount.path / "b" / "fifo").unlink()
    (mount.path / "b").rmdir()
    assert list(mount.root.iterdir()) == []


def test_statfs_fallocate_and_mount_table(mount: PassthroughMount) -> None:
    usage = os.statvfs(mount.path)
    assert (usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize) == (1 << 40, 1 << 39)
    assert (usage.f_files, usage.f_ffree, usage.f_namemax) == (1000, 900, 255)
    with (mount.path / "file").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 70_000)
    assert (mount.root / "file").stat().st_size == 70_000
    table = Path("/proc/mounts").read_text(errors="surrogateescape").splitlines()
    (line,) = (line for line in table if f" {mount.path} " in line)
    assert line.replace("\\134", "\\").split()[0:3:2] == ["con,tain\\er", "fuse.swiftfs"]


def test_extended_attributes(mount: PassthroughMount) -> None:
    file = mount.path / "file"
    file.write_bytes(b"x")
    os.setxattr(file, "user.a", b"\x00\xff value")
    assert os.getxattr(file, "user.a") == b"\x00\xff value"
    assert os.listxattr(file) == ["user.a"]
    os.removexattr(file, "user.a")
    for name, number in (
        ("user.a", errno.ENODATA),
        ("security.capability", errno.EOPNOTSUPP),
        ("system.posix_acl_access", errno.EOPNOTSUPP),
    ):
        assert failure_of(partial(os.getxattr, file, name)) == number


def test_a_name_that_is_not_utf8_is_refused(mount: PassthroughMount) -> None:
    for call in (os.stat, os.mkdir, os.unlink):
        path = os.fsencode(mount.path) + b"/caf\xe9"
        assert failure_of(partial(call, path)) in (errno.EILSEQ, errno.EINVAL)
    assert mount.log() == []


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(b"x" * 5000)


def _fallocate(path: Path) -> None:
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 10)


def _ftruncate(path: Path) -> None:
    with path.open("r+b") as file:
        os.ftruncate(file.fileno(), 2)


TRIGGERS: dict[str, Callable[[Path], object]] = {
    "getattr": lambda path: (path / "file").stat(),
    "readlink": lambda path: (path / "link").readlink(),
    "opendir": lambda path: list(path.iterdir()),
    "readdir": lambda path: list(path.iterdir()),
    "mkdir": lambda path: (path / "new").mkdir(),
    "rmdir": lambda path: (path / "folder").rmdir(),
    "unlink": lambda path: (path / "file").unlink(),
    "rename": lambda path: (path / "file").rename(path / "new"),
    "symlink": lambda path: (path / "new").symlink_to("x"),
    "mknod": lambda path: os.mkfifo(path / "new"),
    "chmod": lambda path: (path / "file").chmod(0o600),
    "chown": lambda path: os.chown(path / "file", 1, 1),
    "utimens": lambda path: os.utime(path / "file"),
    "truncate": lambda path: os.truncate(path / "file", 1),
    "truncate_handle": lambda path: _ftruncate(path / "file"),
    "create": lambda path: (path / "new").write_bytes(b"x"),
    "open": lambda path: (path / "file").read_bytes(),
    "read": lambda path: (path / "file").read_bytes(),
    "write": lambda path: _write(path / "file"),
    "flush": lambda path: (path / "file").open("r+b").close(),
    "fsync": lambda path: _fsync(path / "file"),
    "fallocate": lambda path: _fallocate(path / "file"),
    "statfs": os.statvfs,
    "getxattr": lambda path: os.getxattr(path / "file", "user.a"),
    "listxattr": lambda path: os.listxattr(path / "file"),
    "setxattr": lambda path: os.setxattr(path / "file", "user.b", b"x"),
    "removexattr": lambda path: os.removexattr(path / "file", "user.a"),
}

CALLBACKS = {
    "read": "read_buf",
    "write": "write_buf",
    "truncate_handle": "truncate" if is_libfuse3() else "ftruncate",
}
"""The callbacks that are called otherwise than the operation."""


@pytest.mark.parametrize("kind", FAULTS)
def test_every_exception_becomes_an_errno_and_unexpected_ones_are_logged_in_one_line(
    mount: PassthroughMount, kind: str
) -> None:
    expected = errno.ENOTEMPTY if kind == "ENOTEMPTY" else errno.EIO
    (mount.root / "folder").mkdir()
    (mount.root / "link").symlink_to("file")
    (mount.root / "file").write_bytes(b"content")
    os.setxattr(mount.root / "file", "user.a", b"x")
    for operation, trigger in TRIGGERS.items():
        (mount.control / "calls").write_text("")
        log_size = len(mount.log())
        (mount.control / operation).write_text(kind)
        caught = failure_of(partial(trigger, mount.path))
        (mount.control / operation).unlink()
        assert (operation, caught) == (operation, expected)
        calls = (mount.control / "calls").read_text().splitlines()
        lines = mount.log()[log_size:]
        assert calls
        assert len(lines) == (0 if kind == "ENOTEMPTY" else len(calls))
        for line in lines:
            assert line.startswith(f"ERROR {CALLBACKS.get(operation, operation)} ")
            assert "'/" in line or "handle " in line
        assert (mount.path / "file").stat().st_size >= 0


def test_the_close_of_a_handle_that_only_reads_is_no_request(mount: PassthroughMount) -> None:
    file = mount.path / "file"
    file.write_bytes(b"content")
    (mount.control / "flush").write_text("ENOTEMPTY")
    reader, writer = os.open(file, os.O_RDONLY), os.open(file, os.O_RDWR)
    assert os.read(reader, 10) == b"content"
    is_request = binding().libfuse.version < (3, 11) or kernel_version() < (5, 16)
    failures = [failure_of(partial(os.close, descriptor)) for descriptor in (reader, writer)]
    assert failures == [errno.ENOTEMPTY if is_request else None, errno.ENOTEMPTY]


@pytest.mark.parametrize("has_set_id", [True, False])
def test_where_no_file_has_setuid_bits_the_kernel_asks_for_privileges_once(
    tmp_path: Path, *, has_set_id: bool
) -> None:
    mount = PassthroughMount(tmp_path, {} if has_set_id else {NO_SET_ID: "1"})
    try:
        with (mount.path / "file").open("wb", buffering=0) as file:
            for _ in range(10):
                file.write(b"x" * 1000)
        asked = (mount.control / "xattrs").read_text().count("security.capability")
    finally:
        mount.close()
    assert (mount.root / "file").read_bytes() == b"x" * 10_000
    is_told = not has_set_id and is_libfuse3() and kernel_version() >= (5, 11)
    assert asked == (1 if is_told else 10)


def test_a_folder_is_read_from_any_place(mount: PassthroughMount) -> None:
    names = [f"name-{number:04d}" + "x" * (number % 200) for number in range(500)]
    for name in names:
        (mount.root / name).touch()
    with directory_stream(mount.path) as stream:
        found, places = [], [stream.tell()]
        for name in iter(stream.read, None):
            found.append(name)
            places.append(stream.tell())
        assert found[:2] == [".", ".."]
        assert sorted(found[2:]) == names
        assert len(set(places)) == len(places)
        for number in (0, 1, 2, 3, 250, 501, 502, 100):
            stream.seek(places[number])
            assert stream.rest() == found[number:]
        (mount.root / "new").touch()
        stream.rewind()
        assert sorted(stream.rest()) == sorted([*found, "new"])
    for size in (280, 2048, 100_000):
        assert sorted(read_in_small_parts(mount.path, size)) == sorted([*found, "new"])


def test_an_empty_folder_is_read_from_any_place(mount: PassthroughMount) -> None:
    with directory_stream(mount.path) as stream:
        assert stream.rest() == [".", ".."]
        end = stream.tell()
        stream.rewind()
        assert stream.read() == "."
        stream.seek(end)
        assert stream.rest() == []


def test_reads_of_different_files_run_in_parallel(mount: PassthroughMount) -> None:
    paths = [mount.path / f"together-{number}" for number in range(READERS)]
    for path in paths:
        (mount.root / path.name).write_bytes(path.name.encode())
    with ThreadPoolExecutor(READERS) as pool:
        assert list(pool.map(Path.read_bytes, paths)) == [path.name.encode() for path in paths]


def test_many_threads_come_and_go_and_every_unmount_is_clean(tmp_path: Path) -> None:
    for _ in range(10):
        mount = PassthroughMount(tmp_path)
        try:
            with ThreadPoolExecutor(24) as pool:
                for number in range(200):
                    pool.submit((mount.path / f"file-{number}").write_bytes, b"x" * 10_000)
            threads = len(os.listdir(f"/proc/{mount.process.pid}/task"))  # noqa: PTH208
            assert len(list(mount.path.iterdir())) == 200
            assert threads < 40
        finally:
            out, _ = mount.close()
        assert out == "destroyed\nreturned\n"


@pytest.mark.matrix(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_returns(tmp_path: Path, number: signal.Signals) -> None:
    mount = PassthroughMount(tmp_path)
    (mount.path / "file").touch()
    mount.process.send_signal(number)
    assert mount.process.wait(timeout=within(20)) == 0
    assert not mount.path.is_mount()
    assert mount.close()[0] == "destroyed\nreturned\n"


def mount_nothing(mountpoint: Path, **options: str) -> None:
    binding()(
        Passthrough(mountpoint),
        mountpoint,
        source="x",
        on_init=partial(pytest.fail, "mounted"),
        options=options,
    )


def test_a_wrong_mount_point_is_a_clear_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for place, options, words in (
        ("missing", {}, "mount point .*No such file or directory"),
        ("file", {}, "cannot mount on .*it is not a directory"),
        (".", {}, "cannot mount on .*mountpoint is not empty"),
        ("empty", {"nonsense": "1"}, "cannot mount on .*unknown option"),
    ):
        with pytest.raises(ConfigurationError, match=words) as caught:
            mount_nothing(tmp_path / place, **options)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_failure_at_the_start_ends_the_mount(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom support import passthrough as t\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "t.binding()(t.Passthrough(folder), folder, source='x', on_init=lambda: 1 / 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        timeout=within(20),
        check=False,
        text=True,
    )
    assert ended.stderr.splitlines()[-1:] == ["ZeroDivisionError: division by zero"]
    assert not tmp_path.is_mount()


def test_lookups_in_one_folder_run_at_once(mount: PassthroughMount) -> None:
    if not is_libfuse3():
        pytest.skip("libfuse 2 does not ask the kernel for it")
    paths = [mount.path / f"looked-up-together-{number}" for number in range(READERS)]
    for path in paths:
        (mount.root / path.name).touch()
    with ThreadPoolExecutor(READERS) as threads:
        assert all(threads.map(Path.exists, paths))


def test_an_ftruncate_clears_setuid_as_elsewhere(mount: PassthroughMount) -> None:
    """The kernel asks for both by one request, which has a handle: libfuse 3 gives chmod no path then."""
    if os.geteuid() != 0:
        pytest.skip("only root can take its own privileges away")
    (mount.path / "file").write_bytes(b"content")
    (mount.path / "file").chmod(0o4755)
    unprivileged = ["setpriv", "--bounding-set", "-fsetid"]
    code = "import sys; open(sys.argv[1], 'r+b').truncate(1)"
    subprocess.run([*unprivileged, sys.executable, "-c", code, mount.path / "file"], check=True)
    assert (mount.root / "file").read_bytes() == b"c"
    assert stat.S_IMODE((mount.root / "file").stat().st_mode) == 0o755


def test_the_packed_stat_equals_the_structure_of_the_platform() -> None:
    some = Attributes(stat.S_IFREG | 0o644, 1 << 40, -1, 1, 2, 1 << 60)
    image = binding().libfuse.stat()
    binding().libfuse.write_stat(ctypes.addressof(image), replace(some, mtime_ns=5_000_000_007))
    assert (image.st_mode, image.st_size, image.st_ino) == (some.mode, some.size, some.inode)
    assert (image.st_uid, image.st_gid, image.st_nlink) == (1, 2, 1)
    assert (image.st_mtimespec.tv_sec, image.st_ctimespec.tv_nsec) == (5, 7)


def test_stat_layout_follows_the_order_of_the_fields() -> None:
    """aarch64 has `st_mode` before a 4-byte `st_nlink`, and a 4-byte `st_blksize`."""
    fields = dict(binding().libfuse.stat._fields_) | {"st_nlink": ctypes.c_uint, "st_blksize": ctypes.c_int}
    order = ["st_dev", "st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "pad1", "st_size"]
    order += ["st_blksize", "pad2", "st_blocks", "st_atimespec", "st_mtimespec", "st_ctimespec"]
    fields |= {"pad1": ctypes.c_ulong, "pad2": ctypes.c_int}

    class Aarch64(ctypes.Structure):
        _fields_ = [(name, fields[name]) for name in order]

    layout, arrange = stat_layout(Aarch64)
    image = Aarch64.from_buffer_copy(layout.pack(*arrange((9, 0o100644, *range(1, 9), 10, 11, 12, 13, 14))))
    assert (image.st_ino, image.st_mode, image.st_nlink, image.st_uid, image.st_gid) == (9, 0o100644, 1, 2, 3)
    assert (image.st_size, image.st_blksize, image.st_blocks, image.st_mtimespec.tv_nsec) == (4, 5, 6, 8)
    assert (image.st_atimespec.tv_sec, image.st_ctimespec.tv_nsec) == (11, 14)
    assert image.st_rdev == 10
    assert layout.size == ctypes.sizeof(Aarch64)
