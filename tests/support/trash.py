"""What is in the trash of a store in memory."""

from support.memory_store import MemoryStore
from swiftfs.maintenance.trash import TrashBin
from swiftfs.paths import Source

MIB = 1024 * 1024
TRASH = "trash=30"
LARGE = f"{TRASH},segment_size=1M"


def kept(store: MemoryStore, source: str = "box") -> dict[str, list[str]]:
    """Return the keys in the trash by the paths of the files."""
    found: dict[str, list[str]] = {}
    for file in TrashBin(store, Source.parse(source)).files():
        found.setdefault(file.path(Source.parse(source)), []).append(file.name.key)
    return found


def only(store: MemoryStore, path: str = "a") -> str:
    """Return the key of the only file in the trash."""
    assert list(kept(store)) == [path]
    (key,) = kept(store)[path]
    return key
