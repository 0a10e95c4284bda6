"""How the binding's mounts end when libfuse reports an error, served by child processes."""

import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from support.jobs import wait_until
from support.mounts import ABORTED, run
from support.passthrough_mount import PassthroughMount

FAILING_READS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* The end of the connection as a kernel reports it that was asked to abort it; or an error while it lasts. */
ssize_t splice(int in, off_t *in_at, int out, off_t *out_at, size_t size, unsigned flags)
{
    ssize_t (*real)(int, off_t *, int, off_t *, size_t, unsigned) = dlsym(RTLD_NEXT, "splice");
    ssize_t moved = real(in, in_at, out, out_at, size, flags);
    if (moved < 0 && errno == ENODEV)
        errno = ECONNABORTED;
    if (moved >= 0 && getenv("FAILING") && !in_at && !access(getenv("FAILING"), F_OK)) {
        errno = EIO;
        moved = -1;
    }
    return moved;
}
"""


@pytest.fixture
def failing_reads(tmp_path: Path) -> Mapping[str, str]:
    """Return an environment in which reads of /dev/fuse end with other errors than ENODEV."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "reads.c").write_text("#include <unistd.h>\n" + FAILING_READS)
    library = tmp_path / "reads.so"
    run(compiler, "-shared", "-fPIC", "-o", library, tmp_path / "reads.c", "-ldl")
    return {"LD_PRELOAD": str(library), "FAILING": str(tmp_path / "fail")}


def test_an_aborted_connection_is_an_ordinary_end(failing_reads: Mapping[str, str], tmp_path: Path) -> None:
    mount = PassthroughMount(tmp_path, failing_reads)
    subprocess.run(["fusermount", "-u", "-z", mount.path], check=True)
    _, errors = mount.wait()
    assert set(errors.splitlines()) <= {ABORTED}
    assert mount.process.returncode == 0
    assert not [line for line in mount.log() if "stopped serving" in line]


def ends_after_a_request(mount: PassthroughMount) -> bool:
    """Send a request, and return whether the child has ended.

    The first one may be answered: the thread that gets it may wait for it since before libfuse knew that it
    can splice, and so with read(2), which does not fail here.
    """
    with suppress(OSError):
        (mount.path / "file").stat()
    return mount.process.poll() is not None


def test_an_error_of_libfuse_while_it_is_mounted_is_reported(
    failing_reads: Mapping[str, str], tmp_path: Path
) -> None:
    mount = PassthroughMount(tmp_path, failing_reads)
    (tmp_path / "fail").touch()
    try:
        wait_until(lambda: ends_after_a_request(mount))
    finally:
        mount.wait()
    assert [line for line in mount.log() if "stopped serving" in line]
    assert not mount.path.is_mount()
