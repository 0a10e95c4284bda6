"""What the programs of one mount share."""

import errno
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from simulation.adversary import CONTAINER, Adversary
from simulation.attributes import KnownAttributes
from simulation.model import Model
from simulation.mount import stored_body
from simulation.node import Node
from simulation.runtime import SimLock
from simulation.scheduler import Scheduler
from simulation.second import SecondMount
from simulation.words import describe_bytes
from swiftfs.errors import NotFound, SwiftfsError, errno_of
from swiftfs.objects import ObjectName
from swiftfs.posix.filesystem import FileSystem

OTHERS = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY})
"""Errors that are right if another client has made files and folders."""


NEVER = frozenset(
    {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EBADF, errno.ENOTEMPTY}
)
"""Errors that are wrong if a file system without faults would have succeeded."""

T = TypeVar("T")


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

    def renamed(self, old: str, new: str) -> None:
        """Record that what is hidden below a folder has moved with it: libfuse knows where it is."""
        for node, path in self.hidden.items():
            if path.startswith(f"{old}/"):
                self.hidden[node] = new + path[len(old) :]

    def fail(self, what: str) -> None:
        """Record a failure."""
        self.scheduler.failures.append(what)
        self.scheduler.record(f"FAILURE: {what}")

    def check_stored(self, node: Node) -> None:
        """Assert that the server has what the node holds, unless that is uncertain."""
        model, store = self.model, self.store
        if model.changing or len(model.worlds) > 1 or node.vague or node.lost or store.is_unsettled:
            return
        for path in [path for path, one in model.worlds[0].items() if one is node]:
            places = [path, *model.remnants.left_of(path)]  # what Swift has refused to move stays
            try:
                bodies = [stored_body(store, ObjectName(CONTAINER, place[1:])) for place in places]
            except NotFound as error:
                self.fail(f"{path} was fsynced, and {error} is not there")
                return
            found = bodies[0]
            if node.now not in bodies and (found is None or found not in model.theirs) and not node.foreign:
                self.fail(
                    f"{path} was fsynced with {describe_bytes(node.now)}, and the server has "
                    f"{'no such object' if found is None else describe_bytes(found)}"
                )

    def clean_nodes(self) -> list[Node]:
        """Return the files of which all is stored, as far as is known."""
        if len(self.model.worlds) > 1:
            return []
        nodes = self.model.worlds[0].values()
        return [one for one in nodes if not one.is_folder and one.kept == {one.now} and not one.writer]

    def call(self, what: str, call: Callable[[], T], right: Collection[int]) -> T:
        """Make a system call; its failure is an `OSError`, and must have a reason, or be a `right` one."""
        try:
            return call()
        except (OSError, SwiftfsError) as error:
            number = errno_of(error)
            never = NEVER - (OTHERS if self.model.theirs else set())
            never -= {errno.ENOENT} if self.model.has_their_deletions else set()
            # What Swift has refused to move is at its old name again, which a program cannot foresee.
            is_foreseen = number not in never or self.model.remnants.has_refused
            is_wrong = not (is_foreseen and self.store.met)
            if is_wrong and number not in right:
                name = errno.errorcode.get(number, str(number))
                self.fail(f"{what}: {name} ({error})")
            raise OSError(number, str(error)) from error
