"""What is at the new name of a file that is renamed before it is stored."""

from swiftfs.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Replaced:
    """Swift's object there; the fields are as in `PutFile`, which replaces it."""

    large: bool | None = False
    etag: str | None = None
    creates: bool = False
    trash: str = ""
