"""The costs of the budgets' jobs, as a page in Markdown with a plot."""

import importlib.util
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from budget_jobs import MIB, OURS, RCLONE, RCLONE_PROGRAM, Cost, Plan
from contenders import machine

Samples = dict[str, dict[str, list[Cost]]]
"""Costs by job and contender, in the order of the repeats."""

GOAL_DELAY = 0.02
"""Seconds a request, for which the goals are set."""

COLOURS = {OURS: "#00796b", RCLONE: "#b0bec5"}


@dataclass(frozen=True, slots=True)
class Job:
    """The goals for a job: most requests, and how many times faster than rclone or with fewer bytes."""

    title: str
    requests: int = 0
    faster: float = 0
    fewer_bytes: float = 0

    def goal(self) -> str:
        """Return the goal in a few words."""
        if self.faster:
            return f"≥ {self.faster:g} times faster"
        return f"≥ {self.fewer_bytes:g} times fewer bytes" if self.fewer_bytes else ""


JOBS = {
    "ls": Job("`ls -lR`, folders with markers", 45, faster=10),
    "ls implied": Job("`ls -lR`, implied folders", 3, faster=10),
    "ls foreign": Job("`ls -lR`, uploaded by `rclone copy`"),
    "rsync again": Job("`rsync -a` again, nothing changed", 45, faster=10),
    "read small": Job("read every small file once", 410, faster=10),
    "rsync in": Job("`rsync -a` in, until all is stored", 450, faster=2),
    "rm -rf": Job("`rm -rf` all of it", 5),
    "mv folder": Job("`mv` a folder of 20 files", 26),
    "cp big": Job("`cp` the large file in, until stored", 20, faster=1),
    "read big": Job("read the large file once", 40, faster=1),
    "patch": Job("rewrite 4 KiB inside it", 7, fewer_bytes=10),
    "append": Job("append 6 bytes to it", 6, fewer_bytes=10),
    "mv big": Job("`mv` it", 4),
    "rm big": Job("`rm` it", 3),
}

SUMMARY = (
    "ls",
    "rsync again",
    "read small",
    "rsync in",
    "rm -rf",
    "cp big",
    "read big",
    "patch",
    "append",
    "mv big",
)
BEGIN, END = "<!-- written by python benchmarks/budget.py -->", "<!-- end -->"
"""Between them the README has the summary."""


def seconds(costs: Sequence[Cost]) -> list[float]:
    """Return the seconds of each repeat until all was stored."""
    return [cost.stored for cost in costs]


def megabytes(costs: Sequence[Cost]) -> float:
    """Return the MB of bodies in both directions, the median of the repeats."""
    return median(cost.sent + cost.received for cost in costs) / 1e6


def _megabytes_text(costs: Sequence[Cost]) -> str:
    size = megabytes(costs)
    return f"{size:.2f}" if size < 10 else f"{size:.0f}"


def requests(costs: Sequence[Cost]) -> float:
    """Return the number of requests, the median of the repeats."""
    return median(cost.requests for cost in costs)


def faster(ours: Sequence[Cost], theirs: Sequence[Cost]) -> float:
    """Return how many times faster swiftfs is, the median of the pairs."""
    return median(other / own for own, other in zip(seconds(ours), seconds(theirs), strict=True))


def verdict(job: Job, ours: Sequence[Cost], theirs: Sequence[Cost], delay: float) -> str:
    """Return the job's goal and whether it is met, or nothing."""
    if any(cost.missing or cost.error for cost in ours):
        return "**failed**"
    if not job.goal() or delay != GOAL_DELAY:
        return ""
    # Both, so that one disturbed run cannot reach a goal.
    best = min(seconds(theirs)) / min(seconds(ours))
    reached = min(best, faster(ours, theirs)) >= job.faster and fewer_bytes(ours, theirs) >= job.fewer_bytes
    return f"{job.goal()}: {'met' if reached else '**missed**'}"


def fewer_bytes(ours: Sequence[Cost], theirs: Sequence[Cost]) -> float:
    """Return how many times fewer bytes swiftfs transfers."""
    return megabytes(theirs) / max(1e-6, megabytes(ours))


def table(samples: Samples, delay: float) -> Iterator[str]:
    """Yield the lines of the table of one delay."""
    yield "| job | requests (at most) | rclone's | MB | rclone's | seconds | rclone's | times faster | goal |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, by_side in samples.items():
        job, ours, theirs = JOBS[name], by_side[OURS], by_side[RCLONE]
        cells = [job.title, f"{requests(ours):g}" + (f" ({job.requests})" if job.requests else "")]
        cells += [f"{requests(theirs):g}"]
        cells += [_megabytes_text(costs) for costs in (ours, theirs)]
        cells += [f"{min(seconds(c)):.2f} / {median(seconds(c)):.2f}" for c in (ours, theirs)]
        cells += [f"{faster(ours, theirs):.1f}", verdict(job, ours, theirs, delay)]
        yield f"| {' | '.join(cells)} |"


def with_summary(readme: str, samples: Samples) -> str:
    """Return the README with a short table between its two comments."""
    rows = [
        "| job | requests | rclone's | MB | rclone's | seconds | rclone's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in SUMMARY:
        sides = [samples[name][side] for side in (OURS, RCLONE)]
        cells = [f"{requests(costs):.0f}" for costs in sides] + [_megabytes_text(costs) for costs in sides]
        cells += [f"{min(seconds(costs)):.1f}" for costs in sides]
        rows.append(f"| {JOBS[name].title} | {' | '.join(cells)} |")
    before, _, rest = readme.partition(BEGIN)
    return "\n".join([f"{before}{BEGIN}", *rows, f"{END}{rest.partition(END)[2]}"])


def mishaps(samples: Samples) -> Iterator[str]:
    """Yield what never arrived, and what failed."""
    for name, by_side in samples.items():
        for side, costs in by_side.items():
            for number, cost in enumerate(costs, 1):
                where = f"{JOBS[name].title}, {side}, repeat {number}"
                if cost.missing:
                    yield f"- {where}: {cost.missing} never arrived"
                if cost.error:
                    yield f"- {where}: failed, {cost.error.splitlines()[-1]}"


def repeats(samples: Samples) -> int:
    """Return the number of runs of each job."""
    return max(len(costs) for by_side in samples.values() for costs in by_side.values())


def page(results: dict[float, Samples], plan: Plan, plot: str, loads: Sequence[float]) -> str:
    """Return the page; `results` are by seconds of delay, `plot` is a file beside it or ""."""
    text = [
        "# Requests, bytes and seconds of jobs, compared with rclone",
        "",
        "Written by `python benchmarks/budget.py`. Run it to measure on your machine.",
        "",
        f"{plan.files} small files, one of {plan.size // MIB} MiB, segments of {plan.segment // MIB} MiB.",
        f"On {machine()},",
        f"Swift {version('swift')}, swiftfs {version('swiftfs')}, {rclone_version()}.",
        f"The load average of a minute was {min(loads):.1f} to {max(loads):.1f}, including the benchmark.",
        "",
    ]
    if plot:
        text += [f"![requests, bytes and seconds of each job, swiftfs and rclone mount]({plot})", ""]
    for delay, samples in results.items():
        text += [
            f"## With {delay * 1000:g} ms of delay; measurements of each job: {repeats(samples)}",
            "",
            *table(samples, delay),
            "",
        ]
        text += [*mishaps(samples), ""] if any(mishaps(samples)) else []
    return "\n".join(
        [*text, METHOD.format(goal=GOAL_DELAY * 1000, ours=plan.settle[OURS], rclone=plan.settle[RCLONE])]
    )


METHOD = """## How it is measured

- swiftfs and rclone run each job one after the other, and take turns at being first, against one real Swift
  on loopback that the benchmark starts; all data is in memory. The delay is added in the server and does
  not delay other requests.
- Each job runs in a new mount with an empty cache, except that `rm` runs in the mount that created or moved
  the files.
- The server counts requests and the bytes of bodies in both directions, from the moment when the mount is
  ready until it sends no more requests, without requests for a token and for `/info`: the median of the
  repeats.
- Seconds are the best and the median of the repeats, until the command has ended **and** the server has
  everything: names, checksums of small files, the large file's size or ETag. Changes in place are compared
  with a local file.
- "Times faster" is the median of the pairs. The goals are for {goal:g} ms a request; a goal of time is
  met when both the median of the pairs and the best of each reach it.
- Each waits before it uploads, and jobs "until stored" include that: swiftfs {ours:g} s (`settle`), rclone
  {rclone:g} s (`--vfs-write-back`). The defaults are 2 and 5; `--settle` sets both to the same. Otherwise
  swiftfs has its defaults, and rclone `--vfs-cache-mode full` and segments of the same size. With
  `--use-server-modtime` rclone would send no HEADs, but rsync could not compare times.
- The trees are as swiftfs stores them, with times that both can read; one is as `rclone copy` stores it.
"""


def rclone_version() -> str:
    """Return the name and version of rclone."""
    output = subprocess.run([RCLONE_PROGRAM, "version"], check=True, capture_output=True, text=True).stdout
    return output.splitlines()[0]


def draw(samples: Samples, delay: float, path: Path) -> bool:
    """Draw requests, bytes and seconds of one delay; return False when matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib  # noqa: PLC0415 - an extra of its own

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    pyplot.rcParams.update({"font.size": 9})
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 6.2), sharey=True, layout="constrained")
    figure.suptitle(
        f"The same job on swiftfs and on rclone mount, {delay * 1000:g} ms a request (log scales)"
    )
    panels: list[tuple[str, float, Callable[[Sequence[Cost]], float]]] = [
        ("requests", 1, requests),
        ("MB, both directions", 0.01, megabytes),
        ("seconds, best of the repeats", 0.1, lambda costs: min(seconds(costs))),
    ]
    for axis, (title, least, value) in zip(axes, panels, strict=True):
        axis.set_title(title)
        _bars(axis, samples, least, value)
    axes[0].set_yticks(range(len(samples)), [JOBS[name].title.replace("`", "") for name in samples])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return True


def _bars(axis: Any, samples: Samples, least: float, value: Callable[[Sequence[Cost]], float]) -> None:
    """Draw one figure of all jobs, a pair of bars for each, with numbers; values below `least` get no bar."""
    most = least
    for number, side in enumerate((OURS, RCLONE)):
        values = [value(by_side[side]) for by_side in samples.values()]
        most = max(most, *values)
        places = [row + 0.2 * (2 * number - 1) for row in range(len(values))]
        bars = axis.barh(
            places, [max(one, least / 2) for one in values], 0.38, label=side, color=COLOURS[side]
        )
        labels = [f"{one:.0f}" if least == 1 or one >= 10 else f"{one:.2f}" for one in values]
        axis.bar_label(bars, labels, padding=3, fontsize=7)
    axis.set(xscale="log", xlim=(least / 2, 5 * most))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
