"""What the programs of one mount share."""

from dataclasses import dataclass

from simulation.adversary import Adversary
from simulation.attributes import KnownAttributes
from simulation.model import Model
from simulation.node import Node
from simulation.runtime import SimLock
from simulation.scheduler import Scheduler
from simulation.second import SecondMount
from swiftfs.posix.filesystem import FileSystem


class Skip(Exception):
    """A step that is impossible now."""


@dataclass(eq=False)
class Handle:
    """An open file."""

    number: int
    node: Node
    writable: bool


class MountContext:
    """What the programs of one mount share."""

    def __init__(
        self,
        scheduler: Scheduler,
        store: Adversary,
        model: Model,
        filesystem: FileSystem,
        attributes: KnownAttributes,
        *,
        doubts_reads: bool,
        second: SecondMount | None,
    ) -> None:
        self.scheduler = scheduler
        self.store = store
        self.model = model
        self.filesystem = filesystem
        self.attributes = attributes
        self.doubts_reads = doubts_reads
        self.second = second
        self.names = SimLock(scheduler, reentrant=True)
        self.hidden: dict[Node, str] = {}

    def fail(self, what: str) -> None:
        """Record a failure."""
        self.scheduler.failures.append(what)
        self.scheduler.record(f"FAILURE: {what}")
