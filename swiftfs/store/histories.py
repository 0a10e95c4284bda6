"""Which containers keep older versions of their objects, asked for once a minute."""

import logging
import math

from swiftfs.concurrency import monotonic
from swiftfs.errors import NotFound, StoreError
from swiftfs.objects import History
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)

FRESH_SECONDS = 60.0
"""How long an answer is used again: somebody may switch versioning on at any time."""


class Histories:
    """The `History` of containers, by one HEAD each. It needs no lock: each call is one step."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: dict[str, tuple[float, History]] = {}

    def learn(self, container: str, history: History) -> None:
        """Record what an answer has said about a container."""
        self._known[container] = monotonic(), history

    def of(self, container: str) -> History:
        """Return whether a container keeps older versions; raise `StoreError` if Swift does not say it."""
        since, history = self._known.get(container, (-math.inf, History.NONE))
        if monotonic() - since < FRESH_SECONDS:
            return history
        try:
            history = self._store.container_usage(container).history
        except NotFound:
            history = History.NONE
        self.learn(container, history)
        return history

    def may_have_versions(self, container: str) -> bool:
        """Return whether older versions of objects may exist: also where Swift does not say it."""
        try:
            return self.of(container) is not History.NONE
        except StoreError as error:
            log.info("cannot find out whether %s keeps older versions: %s", container, error)
            return True
