"""Attributes that the kernel gets with a folder's names, by libfuse 3 (FUSE_READDIRPLUS)."""

import ctypes
import errno
import os
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.libfuse import is_libfuse3
from support.passthrough import KERNEL_SECONDS, Passthrough, binding
from support.passthrough_mount import PassthroughMount

pytestmark = pytest.mark.skipif(not is_libfuse3(), reason="libfuse 2 gives the kernel names only")

ROOM = 4096


def names_of_all_lengths() -> list[str]:
    return [f"{number:03}-{'x' * (number % 200)}" for number in range(700)]


def test_the_kernel_looks_up_only_what_is_not_known(tmp_path: Path) -> None:
    mount = PassthroughMount(tmp_path, {KERNEL_SECONDS: "60"})
    try:
        for name in [*names_of_all_lengths(), "unknown-file"]:
            (mount.root / name).write_bytes(name.encode())
        (mount.root / "folder").mkdir(0o750)
        (mount.root / "link").symlink_to("nowhere")
        listed = os.listdir(mount.path)  # noqa: PTH208
        (mount.control / "getattr").write_text("ENOTEMPTY")
        for name in listed:
            if name == "unknown-file":
                with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
                    os.lstat(mount.path / name)
            else:
                ours, theirs = os.lstat(mount.path / name), os.lstat(mount.root / name)
                for field in ("st_ino", "st_mode", "st_size", "st_uid", "st_mtime_ns"):
                    assert getattr(ours, field) == getattr(theirs, field)
        (mount.control / "getattr").unlink()
        assert len(listed) == 703
        assert stat.S_ISLNK(os.lstat(mount.path / "link").st_mode)
        assert (mount.path / "unknown-file").read_bytes() == b"unknown-file"
        shown = subprocess.run(["ls", "-lU", mount.path], capture_output=True, check=True, text=True).stdout
        assert len(shown.splitlines()) == 704
    finally:
        mount.close()


class FilledFolder:
    """What libfuse passes to `readdir`: a buffer that it fills with entries, as `fill_dir_plus` does."""

    def __init__(self, mount: int) -> None:
        self.memory = (ctypes.c_char * 112)()
        self.address = ctypes.addressof(self.memory)
        ctypes.c_void_p.from_address(self.address + 40).value = mount
        self.used = ctypes.c_uint.from_address(self.address + 80)
        ctypes.c_uint.from_address(self.address + 88).value = ROOM
        self.offset = 0
        self.with_attributes = 0
        self.found: list[str] = []

    def fill(self, _buffer: int, name: bytes, _stat: int, offset: int, flags: int) -> int:
        size = (152 + len(name) + 7) // 8 * 8
        if self.used.value + size > ROOM:
            assert not flags, "libfuse has counted a lookup of a name that the kernel does not get"
            return 1
        self.used.value += size
        self.offset = offset
        self.with_attributes += bool(flags)
        self.found.append(name.decode())
        return 0


def test_libfuse_gets_no_attributes_that_do_not_fit(tmp_path: Path) -> None:
    names = [*names_of_all_lengths(), *(f"unknown-{number}" for number in range(70))]
    for name in names:
        (tmp_path / name).touch()
    passthrough = Passthrough(tmp_path)
    served: Any = binding().__new__(binding())
    served.filesystem = passthrough
    served._write_stat, served._mount = binding().libfuse.write_stat, 4711
    handle = passthrough.opendir("/")
    file_info = SimpleNamespace(contents=SimpleNamespace(fh=handle))
    folder, before = FilledFolder(served._mount), -1
    while len(folder.found) > before:
        before = len(folder.found)
        folder.used.value = 0
        served.readdir(None, folder.address, folder.fill, folder.offset, file_info, 1)
    assert sorted(folder.found) == sorted([".", "..", *names])
    assert folder.with_attributes == 700 + len([".", ".."])
    passthrough.releasedir(handle)
