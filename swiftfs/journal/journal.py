"""The journal: where the floors above hand in their changes."""

from concurrent.futures import ThreadPoolExecutor

from swiftfs.journal.execution import Execution
from swiftfs.journal.intents import Delete, Intent, MoveFolder, PutMarker, SetHeaders
from swiftfs.journal.settling import Done, Settling
from swiftfs.model import ObjectInfo, ObjectName
from swiftfs.naming import Folder
from swiftfs.store.protocol import ObjectStore

PARALLEL = 16
"""Copies, deletions and markers under way at once."""

SUPERSEDE_SECONDS = 0.5
"""How long a deletion always waits for the rename that makes it needless, which comes within milliseconds."""


class Journal:
    """Executes every intent before `submit` returns; what may `settle` is executed within `seconds`."""

    def __init__(self, store: ObjectStore, segment_size: int, seconds: float) -> None:
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="journal")
        self.execution = Execution(store, self._pool, segment_size)
        self._settling = Settling(self.execution, self._pool)
        self.seconds = seconds

    def submit(self, intent: Intent) -> ObjectInfo | None:
        """Execute the intent; return what Swift said of an object that was stored, raise why it was not."""
        if isinstance(intent, SetHeaders):
            self._settling.flush([intent.name])
        if isinstance(intent, MoveFolder):
            self._settling.flush_below(Folder(intent.container, intent.source))
            self._settling.flush_below(Folder(intent.target_container, intent.target))
        return self.execution.run(intent)

    def settle(self, intent: Delete | PutMarker, done: Done) -> None:
        """Execute the intent in a moment, unless it is taken back; `done` is told how it went."""
        self._settling.add(intent, max(self.seconds, SUPERSEDE_SECONDS), done)

    def take_back(self, name: ObjectName) -> Delete | PutMarker | None:
        """Return the intent that waited for `name` and is not executed now: the object will be replaced."""
        return self._settling.take_back(name)

    def flush_below(self, folder: Folder) -> None:
        """Execute what waits below `folder`."""
        self._settling.flush_below(folder)

    def drain(self) -> None:
        """Execute what waits, and end the threads."""
        self._settling.close()
        self._pool.shutdown()
