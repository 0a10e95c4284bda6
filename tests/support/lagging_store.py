"""A store in memory whose listings lag."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.memory_container import StoredObject
from support.memory_store import MemoryStore
from swiftfs.objects import Page


class LaggingStore(MemoryStore):
    """A store whose listings show the objects of the moment of `stop`, until `go_on`."""

    shown: dict[str, StoredObject] | None = None

    def stop(self) -> None:
        self.shown = dict(self._containers["box"].objects)

    def go_on(self) -> None:
        self.shown = None

    def list_page(self, container: str, **how: Any) -> Page:
        # Else another thread's request would see the old objects too.
        with self._lock, self._listed(container):
            return super().list_page(container, **how)

    @contextmanager
    def _listed(self, container: str) -> Iterator[None]:
        held = self._containers[container]
        whole = held.objects
        held.objects = whole if self.shown is None or container != "box" else self.shown
        try:
            yield
        finally:
            held.objects = whole
