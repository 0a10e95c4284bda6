"""A store that dies between an object and its row."""

from dataclasses import replace

from support.memory_store import MemoryStore
from swiftfs.errors import Unavailable
from swiftfs.objects import ObjectInfo, ObjectName, Page
from swiftfs.store.protocol import Body, Headers


class ForgetfulStore(MemoryStore):
    """A store that can `forget` to list what it stores, and to answer, until the object changes again."""

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.forget = False
        self.unlisted: set[str] = set()

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        info = super().put(name, body, headers, if_absent=if_absent, etag=etag)
        if self.forget:
            self.unlisted.add(name.key)
            raise Unavailable("died")
        return info

    def post(self, name: ObjectName, headers: Headers) -> None:
        super().post(name, headers)
        self.unlisted.discard(name.key)

    def list_page(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = "", limit: int = 0
    ) -> Page:
        page = super().list_page(container, prefix=prefix, delimiter=delimiter, marker=marker, limit=limit)
        return replace(page, rows=tuple(row for row in page.rows if row.key not in self.unlisted))
