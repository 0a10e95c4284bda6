"""A store that refuses deletions."""

from support.memory_store import MemoryStore
from swiftfs.errors import StoreError
from swiftfs.objects import ObjectName


class RefusingStore(MemoryStore):
    """A store that refuses deletions, one by one also in bulk: all, or those in a folder."""

    refused: type[StoreError] | None = None
    where = ""

    def delete_many(self, names: object) -> dict[ObjectName, StoreError]:
        assert isinstance(names, list | tuple | set)
        failures = {name: self.refused("no") for name in names if self.refused and self._refuses(name)}
        return {**failures, **super().delete_many([name for name in names if name not in failures])}

    def delete(self, name: ObjectName) -> None:
        if self.refused is not None and self._refuses(name):
            raise self.refused("no")
        super().delete(name)

    def _refuses(self, name: ObjectName) -> bool:
        return str(name).startswith(self.where)
