"""Which containers keep older versions of their objects, asked for once a minute."""

import logging
import math
from contextlib import suppress

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
        self._versioned: set[str] = set()

    def learn(self, container: str, history: History, *, versioning: bool = False) -> None:
        """Record what an answer has said about a container."""
        self._known[container] = monotonic(), history
        if versioning:
            self._versioned.add(container)
        else:
            self._versioned.discard(container)

    def of(self, container: str) -> History:
        """Return whether a container keeps older versions; raise `StoreError` if Swift does not say it."""
        since, history = self._known.get(container, (-math.inf, History.NONE))
        if monotonic() - since < FRESH_SECONDS:
            return history
        usage = None
        with suppress(NotFound):
            usage = self._store.container_usage(container)
        history = usage.history if usage is not None else History.NONE
        self.learn(container, history, versioning=usage is not None and usage.versioning)
        return history

    def known_versioned(self, container: str) -> bool:
        """Return whether each change makes a version in a container, as the last answer said; ask nothing."""
        return container in self._versioned

    def is_versioned(self, container: str) -> bool:
        """Return the same, asked for once a minute; where Swift does not say it, as it was known before."""
        try:
            self.of(container)
        except StoreError as error:
            log.info("cannot find out whether %s keeps older versions: %s", container, error)
        return self.known_versioned(container)

    def may_have_versions(self, container: str) -> bool:
        """Return whether older versions of objects may exist: also where Swift refuses to say it.

        Raise a retryable `StoreError` if it does not answer.
        """
        try:
            return self.of(container) is not History.NONE
        except StoreError as error:
            if error.retryable:
                raise
            log.info("cannot find out whether %s keeps older versions: %s", container, error)
            return True
