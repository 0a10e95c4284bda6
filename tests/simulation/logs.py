"""What the simulation learns from the log."""

import logging
import re
from collections.abc import Callable

from simulation.adversary import CONTAINER
from simulation.remnants import Remnants
from simulation.scheduler import Scheduler

STAYED = re.compile(r"(/\S+): could not be moved to (/\S+), and is at its old name")
"""Says that an object of a renamed folder stays at its old name."""

UNDELETED = re.compile(r"(/\S+): could not be deleted")
"""Says that Swift has refused to delete what is at a path."""

OVERTAKEN = re.compile(
    r"(/\S+): a request whose answer was lost was carried out late.* cannot be stored again"
)
"""Says that a late request has replaced a version of which the mount has no bytes: another client's.

What it has stored stays, also where a rename had moved the file away."""

Stayed = Callable[[str, str], None]
"""Is told the old and the new path of such an object."""


class UnexpectedErrors(logging.Handler):
    """Reports log records with a traceback as failures: they are unexpected errors.

    `unfinished` gets the keys of what an interrupted rename was to move, if it cannot be finished now, and of
    large objects that were gone from the old place when it was taken up. `stayed` is told what Swift refused
    to move after its folder's rename. `remnants` are told what it refused to delete, and what a late request
    has stored over another client's file.
    """

    def __init__(
        self, scheduler: Scheduler, unfinished: list[str], stayed: Stayed, remnants: Remnants
    ) -> None:
        super().__init__(logging.INFO)
        self._scheduler = scheduler
        self._unfinished = unfinished
        self._stayed = stayed
        self._remnants = remnants
        self._format = logging.Formatter("%(levelname)s %(message)s").format

    def emit(self, record: logging.LogRecord) -> None:
        if self._scheduler.dead:
            return
        said = self._format(record)
        if record.exc_info:
            self._scheduler.failures.append(f"unforeseen: {said}")
        if found := STAYED.search(said):
            self._stayed(*found.groups())
        if found := UNDELETED.search(said):
            self._remnants.undeleted.add(found[1])
        if found := OVERTAKEN.search(said):
            self._remnants.overtaken.add(found[1])
        is_unfinished = record.msg.startswith("the interrupted move") and "cannot be finished" in record.msg
        if is_unfinished or "was gone when its interrupted move" in record.msg:
            assert isinstance(record.args, tuple)
            self._unfinished.append(str(record.args[0]).removeprefix(f"{CONTAINER}/"))
        if record.levelno >= logging.WARNING:
            self._scheduler.record(f"log: {said}")
