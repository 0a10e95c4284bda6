"""A store whose listings do not change."""

from typing import Any

from support.memory_store import MemoryStore
from swiftfs.objects import Page


class OutdatedStore(MemoryStore):
    """A store whose listings show what `listed` has, None for the current objects."""

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.listed: MemoryStore | None = None

    def list_page(self, container: str, **how: Any) -> Page:
        """Return one page of the listing of `listed`."""
        listed = super().list_page if self.listed is None else self.listed.list_page
        return listed(container, **how)
