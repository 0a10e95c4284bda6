"""Files that Swift has stored, and whose tasks have not ended yet: several end in one commit.

To its task such an upload still runs, as if the answer of Swift came a moment later: nothing else knows it.
"""

import math

from swiftfs.concurrency import monotonic
from swiftfs.journal.tasks import Success

TOGETHER = 32
"""How many tasks end in one commit at most. Each keeps its local file open until then."""

LONGEST_WAIT = 0.02
"""Seconds until the first of them ends. After a kill the next mount stores again what had not ended."""


class StoredFiles:
    """The uploads that have succeeded, and end together. Not locked: the journal's lock guards them.

    A commit for each would take a sixth of the CPU time of a small file. They end at `due` (monotonic
    seconds).
    """

    def __init__(self) -> None:
        self._successes: list[Success] = []
        self.due = math.inf

    def add(self, success: Success) -> None:
        """Add the upload of a file."""
        if not self._successes:
            self.due = monotonic() + LONGEST_WAIT
        self._successes.append(success)
        if len(self._successes) >= TOGETHER:
            self.hasten()

    def hasten(self) -> None:
        """Make them due now, if there are any."""
        if self._successes:
            self.due = -math.inf

    def take_due(self) -> list[Success]:
        """Return those that are due, and forget them."""
        if self.due > monotonic():
            return []
        taken, self._successes, self.due = self._successes, [], math.inf
        return taken
