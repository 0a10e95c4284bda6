"""How each intent is carried out: the requests, and their order.

INVARIANT: after one request the new state stands, and nothing of the old one is deleted before it.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, wait
from dataclasses import replace

from swiftfs.errors import AlreadyExists, NotFound, StoreError, errno_of
from swiftfs.journal.intents import (
    CreateContainer,
    Delete,
    DeleteContainer,
    DescribeContainer,
    Intent,
    Move,
    MoveFolder,
    PutFile,
    PutMarker,
    PutSmall,
    SetHeaders,
)
from swiftfs.journal.storing import Storing
from swiftfs.model import ObjectInfo, ObjectName
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)


class Unmoved(StoreError):
    """A folder was not moved, because of `cause`; copies of its objects may be `left` at the target."""

    def __init__(self, cause: BaseException, left: tuple[ObjectName, ...]) -> None:
        super().__init__(f"the folder was not moved: {cause}")
        self.errno = errno_of(cause)
        self.left = left


class Execution:
    """Carries out intents against a store; files above `segment_size` bytes are stored as SLOs."""

    def __init__(self, store: ObjectStore, pool: Executor, segment_size: int) -> None:
        self._store = store
        self._pool = pool
        self._storing = Storing(store, segment_size, self.discard)

    def run(self, intent: Intent) -> ObjectInfo | None:
        """Carry out one intent; return what Swift said of an object that was stored.

        Raise what the store raises, while the old state stands, unless the method below says otherwise.
        """
        match intent:
            case PutFile():
                return self._storing.run(intent)
            case PutSmall():
                return self._store.put(intent.name, intent.body, intent.description.headers())
            case PutMarker():
                return self._store.put(intent.name, b"", intent.headers, if_absent=True)
            case SetHeaders():
                self._store.post(intent.name, intent.headers)
            case Delete():
                for error in self.delete_together([intent]).values():
                    raise error
            case Move():
                self._move(intent)
            case MoveFolder():
                self._move_folder(intent)
            case CreateContainer():
                if not self._store.create_container(intent.container):
                    raise AlreadyExists(f"container {intent.container} exists")
            case DescribeContainer():
                self._store.post_container(intent.container, intent.metadata)
            case DeleteContainer():
                self._store.delete_container(intent.container)
        return None

    def resume(self, intent: MoveFolder) -> None:
        """Go on with a move that a process left when it died: a marker that it has deleted has moved."""
        self._move_folder(replace(intent, markers=tuple(filter(self._is_source_there, intent.markers))))

    def delete_together(self, intents: Sequence[Delete]) -> dict[ObjectName, StoreError]:
        """Delete objects, then the segments of those that are SLOs, in few requests; return what failed."""
        failures: dict[ObjectName, StoreError] = {}
        segments: set[ObjectName] = set()
        for intent, found in zip(intents, self._pool.map(self._find_segments, intents), strict=True):
            if isinstance(found, StoreError):
                failures[intent.name] = found
            else:
                segments |= found
        names = [intent.name for intent in intents if intent.name not in failures]
        if self._store.limits().bulk_delete:  # it goes through its names in order
            failed = self.delete_all([*names, *segments])
        else:
            failed = self.delete_all(names)
            failed |= self.delete_all(() if failed else segments)
        self._log_unused({name: failed.pop(name) for name in segments & failed.keys()})
        return failures | failed

    def _find_segments(self, intent: Delete) -> set[ObjectName] | StoreError:
        try:
            return self._storing.segments_of(intent.name, large=intent.large)
        except StoreError as error:
            return error

    def delete_all(self, names: Collection[ObjectName]) -> dict[ObjectName, StoreError]:
        """Delete objects that are no SLOs, many in a request; return those that failed, and why."""
        try:
            if len(names) > 1:
                return self._store.delete_many(names)
            for name in names:
                self._store.delete(name)
        except NotFound:
            pass  # it is gone already
        except StoreError as error:
            return dict.fromkeys(names, error)
        return {}

    def discard(self, names: Iterable[ObjectName]) -> None:
        """Delete objects that are not needed any more; a failure leaves them behind and is logged."""
        self._log_unused(self.delete_all(tuple(names)))

    def _log_unused(self, failures: Mapping[ObjectName, StoreError]) -> None:
        for name, error in failures.items():
            log.warning("%s stays in Swift unused: %s", name, error)

    def _move(self, intent: Move) -> None:
        """Copy, then delete; when the deletion fails both names stand, and the move can be repeated."""
        replaced = self._storing.segments_of(intent.target, large=intent.replaces_large)
        self._store.copy(intent.source, intent.target, manifest_only=True)
        self._store.delete(intent.source)
        self.discard(replaced)

    def _move_folder(self, intent: MoveFolder) -> None:
        """Copy all in parallel, then delete.

        When a copy fails the copies are deleted again, for the target was empty before; `Unmoved` names those
        that could not be. When a deletion fails the move stands, and what it left behind is logged.
        """
        pairs = list(intent.markers)
        for name in self._names_below(intent.container, intent.source):
            key = intent.target + name.key.removeprefix(intent.source)
            pairs.append((name, ObjectName(intent.target_container, key)))
        copies = [
            self._pool.submit(self._store.copy, source, target, manifest_only=True)
            for source, target in pairs
        ]
        wait(copies)
        failures = [error for copy in copies if (error := copy.exception()) is not None]
        if failures:
            targets = [
                target for (_, target), copy in zip(pairs, copies, strict=True) if copy.exception() is None
            ]
            raise Unmoved(failures[0], tuple(self.delete_all(targets)))
        self.discard(source for source, _ in pairs)

    def _is_source_there(self, pair: tuple[ObjectName, ObjectName]) -> bool:
        try:
            self._store.head(pair[0])
        except NotFound:
            return False
        return True

    def _names_below(self, container: str, prefix: str) -> Iterable[ObjectName]:
        marker = ""
        while True:
            page = self._store.list_page(container, prefix=prefix, marker=marker)
            yield from (ObjectName(container, row.key) for row in page.rows)
            if page.last:
                return
            marker = page.marker
