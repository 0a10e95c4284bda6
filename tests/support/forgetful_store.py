"""A store whose listings lack objects, as those of a server that died before it added their rows."""

from typing import Any

from msgspec.structs import replace

from support.memory_store import MemoryStore
from swiftfs.errors import Unavailable
from swiftfs.objects import ObjectInfo, ObjectName, Page
from swiftfs.store.protocol import Body, Headers


class ForgetfulStore(MemoryStore):
    """A store whose PUTs, while `forget` is set, store the object without a row, and lose the answer.

    `unlisted` has the keys without a row; a POST adds the row.
    """

    def __init__(self, *containers: str) -> None:
        super().__init__(*containers)
        self.forget = False
        self.unlisted: set[str] = set()

    def put(self, name: ObjectName, body: Body, headers: Headers, **how: Any) -> ObjectInfo:
        info = super().put(name, body, headers, **how)
        if self.forget:
            self.unlisted.add(name.key)
            raise Unavailable("died")
        return info

    def post(self, name: ObjectName, headers: Headers) -> None:
        super().post(name, headers)
        self.unlisted.discard(name.key)

    def list_page(self, container: str, **how: Any) -> Page:
        page = super().list_page(container, **how)
        return replace(page, rows=tuple(row for row in page.rows if row.key not in self.unlisted))
