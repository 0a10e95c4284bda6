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
SIZE = 32 * MIB

KINDS = {
    "sequential": ("--rw=write", "--bs=128k"),
    "random": ("--rw=randwrite", "--bs=4k"),
    "mapped": ("--rw=randwrite", "--bs=4k", "--ioengine=mmap", "--io_size=8m"),
}


def fio(folder: Path, *words: str) -> int:
    """Run a job of fio on the file `data`, which fails at a wrong checksum; return the bytes that it read."""
    command = ("fio", "--name=job", f"--directory={folder}", "--filename=data", f"--size={SIZE}")
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
def test_what_fio_writes_it_reads_back(mounted: Mount, kind: str) -> None:
    workload = KINDS[kind]
    if kind == "mapped":
        (mounted.path / "data").write_bytes(bytes(SIZE))
    read = fio(mounted.path, *workload, "--do_verify=1", "--end_fsync=1")
    assert read >= (8 if kind == "mapped" else 32) * MIB
    mounted.remount(empty_cache=True)
    assert fio(mounted.path, *workload, "--verify_only") == read
