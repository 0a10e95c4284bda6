"""What the tests of the journal share."""

from support.memory_store import MemoryStore
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import Headers

NEVER = "settle=1000"


def keys(store: MemoryStore, container: str = "box") -> list[str]:
    return [row.key for row in store.list_page(container).rows]


def body(store: MemoryStore, key: str) -> bytes:
    parts: list[bytes] = []
    store.get(ObjectName("box", key), lambda _offset, data: parts.append(data))
    return b"".join(parts)


def refuse(store: MemoryStore, method: str, error: type[Exception]) -> None:
    def hook(called: str, _subject: object) -> None:
        if called == method:
            raise error("no")

    store.hook = hook


def foreign(store: MemoryStore, key: str, data: bytes, container: str = "box") -> None:
    store.put(ObjectName(container, key), data, Headers("text/plain"))
