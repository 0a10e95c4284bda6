"""However a mount ends, its log says so."""

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from support.deadlines import within
from support.jobs import wait_until
from support.mounts import Mount
from swiftfs.control import unmount


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


def test_an_unmount_waits_for_who_looks_at_the_mount_for_a_moment(
    mounted: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unmount, "BUSY_SECONDS", within(30))
    refusals, refusal = [], unmount._refusal

    def counted(*where: Path, is_dead: bool) -> str:
        refusals.append(refusal(*where, is_dead=is_dead))
        return refusals[-1]

    monkeypatch.setattr(unmount, "_refusal", counted)
    looking = os.open(mounted.path, os.O_RDONLY)
    unmounting = threading.Thread(target=unmount.detach, args=[mounted.path])
    unmounting.start()
    wait_until(lambda: len(refusals) > 1)
    os.close(looking)
    unmounting.join(within(30))
    assert refusals[0]
    assert not refusals[-1]
    mounted.take_process().wait()
