"""The journal: where the floors above hand in their changes."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from swiftfs.errors import StoreError
from swiftfs.journal.execution import Execution
from swiftfs.journal.intents import Delete, Intent, MoveFolder, PutMarker, SetHeaders
from swiftfs.journal.moves import MoveRecords
from swiftfs.journal.settling import Done, Settling
from swiftfs.model import ObjectInfo, ObjectName
from swiftfs.naming import Folder
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

PARALLEL = 16
"""Copies, deletions and markers under way at once."""

SUPERSEDE_SECONDS = 0.5
"""How long a deletion always waits for the rename that makes it needless, which comes within milliseconds."""


class Journal:
    """Executes every intent before `submit` returns; what may `settle` is executed within `seconds`.

    `folder` keeps what must outlive the process.
    """

    def __init__(self, store: ObjectStore, folder: Path, segment_size: int, seconds: float) -> None:
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="journal")
        self.execution = Execution(store, self._pool, segment_size)
        self._settling = Settling(self.execution, self._pool)
        self._moves = MoveRecords(folder / "moves")
        self.seconds = seconds

    def submit(self, intent: Intent) -> ObjectInfo | None:
        """Execute the intent; return what Swift said of an object that was stored, raise why it was not."""
        if isinstance(intent, SetHeaders):
            self._settling.flush([intent.name])
        if isinstance(intent, MoveFolder):
            self._move_folder(intent)
            return None
        return self.execution.run(intent)

    def recover(self) -> None:
        """Finish what a process that died had begun; what cannot be finished now waits for the next mount."""
        for path, intent in self._moves.unfinished():
            try:
                self.execution.resume(intent)
            except StoreError as error:
                log.warning("moving %s to %s cannot be finished yet: %s", intent.source, intent.target, error)
            else:
                log.info("moving %s to %s, which had been interrupted, is done", intent.source, intent.target)
                path.unlink()

    def settle(self, intent: Delete | PutMarker, done: Done) -> None:
        """Execute the intent in a moment, unless it is taken back; `done` is told how it went."""
        self._settling.add(intent, max(self.seconds, SUPERSEDE_SECONDS), done)

    def take_back(self, name: ObjectName) -> Delete | PutMarker | None:
        """Return the intent that waited for `name` and is not executed now: the object will be replaced."""
        return self._settling.take_back(name)

    def flush(self, name: ObjectName) -> None:
        """Execute what waits for `name`."""
        self._settling.flush([name])

    def flush_below(self, folder: Folder) -> None:
        """Execute what waits below `folder`."""
        self._settling.flush_below(folder)

    def _move_folder(self, intent: MoveFolder) -> None:
        self._settling.flush_below(Folder(intent.container, intent.source))
        self._settling.flush_below(Folder(intent.target_container, intent.target))
        with self._moves.kept(intent):
            self.execution.run(intent)

    def waiting(self) -> int:
        """Return how many intents wait to be executed."""
        return self._settling.waiting()

    def drain(self) -> None:
        """Execute what waits, and end the threads."""
        self._settling.close()
        self._pool.shutdown()
