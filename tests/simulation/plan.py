"""A history: what programs do, which faults happen, and when mounts are killed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from simulation.adversary import Fault, Outage
from simulation.scheduler import SwitchRates
from simulation.steps import Step

Programs = tuple[tuple[Step, ...], ...]


BEGIN, END = -1, -2
"""In place of the number of a step: as the mount begins, and as it ends, after all programs."""


@dataclass(frozen=True, slots=True)
class Kill:
    """The mount is killed so many scheduling points after the first program has begun a step.

    Or after its own `BEGIN` or `END`, if it takes so long. With a power `cut` the disk loses what was not
    synced.
    """

    step: int
    points: int
    cut: bool = False

    @property
    def event(self) -> str:
        """What happens, in words."""
        return "power cut" if self.cut else "kill -9"


@dataclass(frozen=True, slots=True)
class Life:
    """One mount: its programs, and its end, a `kill` or an unmount."""

    programs: Programs
    kill: Kill | None = None

    def words(self) -> Iterator[str]:
        """Yield a description, line by line."""
        for number, steps in enumerate(self.programs):
            for index, step in enumerate(steps):
                yield f"  program {number}: {step}"
                if self.kill is not None and number == 0 and index == self.kill.step:
                    yield f"  ({self.kill.points} points later the mount is killed)"
        if self.kill is not None and self.kill.step < 0:
            what = "begun" if self.kill.step == BEGIN else "begun to end"
            yield f"  (the mount is killed {self.kill.points} points after it has {what})"
        yield f"  {self.kill.event}" if self.kill is not None else "  unmount"


@dataclass(frozen=True, slots=True)
class History:
    """All that happens in one simulation; the seed decides the order of the threads.

    With `two_mounts` the other client is a second mount, which begins and ends with the first.
    """

    seed: int
    lives: tuple[Life, ...]
    faults: tuple[Fault, ...] = ()
    outages: tuple[Outage, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    rates: SwitchRates = field(default_factory=SwitchRates)
    lag: float = 0.0
    bulk: int = 10_000
    disk_full: tuple[Outage, ...] = ()
    two_mounts: bool = False

    @property
    def has_others(self) -> bool:
        """Whether another client stores something."""
        return any("theirs" in one.kind for one in self.faults) or any(
            step.verb.startswith("their") for step in self._steps()
        )

    @property
    def has_tags(self) -> bool:
        """Whether a program sets an extended attribute."""
        return any(step.verb == "tag" for step in self._steps())

    @property
    def has_power_cuts(self) -> bool:
        """Whether the power is cut."""
        return any(life.kill is not None and life.kill.cut for life in self.lives)

    def _steps(self) -> Iterator[Step]:
        return (step for life in self.lives for steps in life.programs for step in steps)

    def words(self) -> str:
        """Return a description."""
        lines = [f"options: {dict(self.options)}", f"switches and stalls: {self.rates}"]
        lines += [f"fault: {fault}" for fault in (*self.outages, *self.faults)]
        lines += [f"the disk is full from {one.begin:g} s for {one.seconds:g} s" for one in self.disk_full]
        if self.lag:
            lines.append(f"listings lag {self.lag:g} s")
        if self.two_mounts:
            lines.append("the other client is a second mount")
        if not self.bulk:
            lines.append("no bulk-delete")
        for number, life in enumerate(self.lives, 1):
            lines.append(f"mount {number}:")
            lines += life.words()
        return "\n".join(lines)
