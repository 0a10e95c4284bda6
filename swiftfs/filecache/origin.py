"""Where a file's bytes come from."""

from dataclasses import dataclass

from swiftfs.objects import Manifest, ObjectName


@dataclass(frozen=True, slots=True)
class Origin:
    """The version whose bytes fill the file: the first `size` bytes of it, `etag` empty while unknown.

    `whole` is the size of the object, which `size` falls below when the file is truncated. `manifest` is an
    SLO's own where it is known.
    """

    name: ObjectName
    etag: str
    size: int
    whole: int
    manifest: Manifest | None = None
