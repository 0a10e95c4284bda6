"""However a mount ends, its log says so."""

import os
import signal
import subprocess

import pytest

from support.mounts import Mount


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGSEGV])
def test_a_fault_of_the_process_is_logged(mounted: Mount, number: signal.Signals) -> None:
    """SQLite or an upload may read a page of a mapped file that a full tmpfs cannot give."""
    process = mounted.take_process()
    os.kill(process.pid, number)
    process.wait()
    subprocess.run(["fusermount", "-uz", str(mounted.path)], check=True)
    assert "Fatal Python error" in mounted.log.read_text()


def test_an_unmount_is_logged(mounted: Mount) -> None:
    mounted.stop()
    assert f"INFO: {mounted.path} is not mounted any more" in mounted.log.read_text().splitlines()
