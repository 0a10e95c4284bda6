"""The programs for developers of swiftfs: `./dev lab` and `./dev trace`."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.mounts import clean_environment
from tools import trace

ROOT = Path(__file__).parents[2]


def lab(temporary: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.lab", *words],
        env={**clean_environment(), "TMPDIR": str(temporary)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_lab_has_a_mount_and_a_swift_and_leaves_nothing(tmp_path: Path) -> None:
    command = "echo hello > mnt/file && swiftfs flush mnt && swift list lab && pwd && sleep 0.01; exit 3"
    result = lab(tmp_path, "sh", "-c", command)
    assert result.returncode == 3, result
    name, folder = result.stdout.split()
    assert name == "file"
    assert Path(folder).parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    assert folder not in Path("/proc/mounts").read_text()


def test_a_lab_without_its_program_says_so_in_a_line(tmp_path: Path) -> None:
    result = lab(tmp_path, "no-such-program")
    assert result.returncode == 127
    assert result.stderr.splitlines()[-1] == "./dev lab: there is no program no-such-program"
    assert lab(tmp_path, "--help").stdout.startswith("usage: ./dev lab")


@pytest.mark.parametrize(
    ("call", "passed", "spared"),
    [
        ("lookup", "namespace.namespace", "journal.file_upload"),
        ("write", "filecache.cached_file", "journal.file_upload"),
        ("rename", "journal.object_moves", "journal.file_upload"),
        ("fsync", "journal.file_upload", "journal.object_moves"),
        ("upload", "journal.file_upload", "filecache.downloader"),
    ],
)
def test_a_trace_names_the_modules_that_a_call_passes(call: str, passed: str, spared: str) -> None:
    modules = trace.trace(call)
    assert modules[0].startswith("posix.")
    assert passed in modules
    assert spared not in modules
    assert len(set(modules)) == len(modules)
