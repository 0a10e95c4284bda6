"""A store whose listings show ghosts: rows of objects that it does not have."""

from support.memory_store import MemoryStore
from swiftfs.errors import StoreError
from swiftfs.objects import ObjectName, Page, Row


class GhostStore(MemoryStore):
    """A store whose listings also show `ghosts`, each until a DELETE of its key.

    `deleted` has the keys of all DELETEs.
    """

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.ghosts: dict[str, Row] = {}
        self.deleted: list[str] = []

    def add_ghost(self, key: str, content_type: str, size: int = 7) -> None:
        """Show a row of `size` bytes for a key without an object."""
        self.ghosts[key] = Row(key, size, "5" * 32, content_type, "2026-01-01T00:00:00.000000")

    def list_page(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = "", limit: int = 0
    ) -> Page:
        page = super().list_page(container, prefix=prefix, delimiter=delimiter, marker=marker, limit=limit)
        rows, subdirs = {row.key: row for row in page.rows}, set(page.subdirs)
        for key, row in self.ghosts.items() if container == "box" else ():
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix) or key <= marker:
                continue
            if delimiter and delimiter in rest:
                subdirs.add(prefix + rest.partition("/")[0] + "/")
            else:
                rows.setdefault(key, row)
        found = [rows[key] for key in sorted(rows)][: limit or None]
        return Page(tuple(found), tuple(sorted(subdirs)), page.marker, page.last)

    def delete(self, name: ObjectName) -> None:
        self._delete_ghost(name)
        super().delete(name)

    def delete_many(self, names_: object) -> dict[ObjectName, StoreError]:
        wanted = list(names_)  # type: ignore[call-overload]
        for name in wanted:
            self._delete_ghost(name)
        return super().delete_many(wanted)

    def _delete_ghost(self, name: ObjectName) -> None:
        self.deleted.append(name.key)
        self.ghosts.pop(name.key, None)
