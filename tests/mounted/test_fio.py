"""fio writes blocks with checksums through a real mount and reads them back."""

import json
import shutil
from pathlib import Path

import pytest

from support.mounts import Mount, run

pytestmark = [
    pytest.mark.skipif(shutil.which("fio") is None, reason="needs fio"),
    pytest.mark.mount_options("segment_size=4M"),
]

MIB = 1024**2

KINDS = {
    "sequential": ("--rw=write", "--bs=128k"),
    "random": ("--rw=randwrite", "--bs=4k"),
    "mapped": ("--rw=randwrite", "--bs=4k", "--ioengine=mmap", "--io_size=25%"),
}


def fio(folder: Path, size: int, *words: str) -> int:
    """Run a job of fio on the file `data`, which fails at a wrong checksum; return the bytes that it read."""
    command = ("fio", "--name=job", f"--directory={folder}", "--filename=data", f"--size={size}")
    options = (
        "--ioengine=psync",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--randseed=7",
        "--verify_state_save=0",
    )
    report = json.loads(run(*command, *options, "--output-format=json", *words))
    (job,) = report["jobs"]
    assert job["error"] == 0
    read: int = job["read"]["io_bytes"]
    return read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [8 * MIB, pytest.param(32 * MIB, marks=pytest.mark.slow)])
def test_what_fio_writes_it_reads_back(mounted: Mount, kind: str, size: int) -> None:
    workload = KINDS[kind]
    if kind == "mapped":
        (mounted.path / "data").write_bytes(bytes(size))
    read = fio(mounted.path, size, *workload, "--do_verify=1", "--end_fsync=1")
    assert read >= (size // 4 if kind == "mapped" else size)
    mounted.remount(empty_cache=True)
    assert fio(mounted.path, size, *workload, "--verify_only") == read
