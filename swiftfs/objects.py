"""The values that travel between the floors. They are frozen, and no floor adds meaning to another's."""

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NOTHING: Mapping[str, str] = MappingProxyType({})

DIRECTORY_TYPE = "application/directory"
"""The Content-Type of a directory marker, exactly so: rclone takes a marker with a parameter for a file."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectName:
    """An object's full name; `key` is the name inside the container, any UTF-8 text of 1 to 1024 bytes."""

    container: str
    key: str

    @classmethod
    def parse(cls, text: str) -> "ObjectName":
        """Read `container/key`, as `str` writes it; the key is empty where there is no slash."""
        container, _, key = text.partition("/")
        return cls(container, key)

    def __str__(self) -> str:
        return f"{self.container}/{self.key}"


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One state of an object. Bytes in a cache belong to a version, never to a name.

    `etag` is the object's ETag without quotes; for an SLO that is not the `hash` of its listing row.
    """

    name: ObjectName
    etag: str


@dataclass(frozen=True, slots=True)
class Row:
    """One object in a listing. `last_modified` is the listing's own text, UTC without a zone."""

    key: str
    size: int
    hash: str
    content_type: str
    last_modified: str


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a listing request; `last` says that no further page follows.

    `subdirs` are prefixes and end with the delimiter. `marker` continues the listing.
    """

    rows: tuple[Row, ...]
    subdirs: tuple[str, ...]
    marker: str
    last: bool


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What HEAD, GET and PUT say of an object.

    `metadata` holds the `X-Object-Meta-*` headers with lower-case names without that prefix;
    `preserved_headers` holds the headers a POST drops unless it sends them again (`Content-Encoding`,
    `X-Delete-At`, …), by their names. `size` is in bytes; `last_modified_ns` in ns since the epoch, or 0
    where the server did not say. `dlo_prefix` is what the names of a DLO's segments begin with.
    """

    version: ObjectVersion
    size: int
    content_type: str
    last_modified_ns: int
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    preserved_headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    is_slo: bool = False
    dlo_prefix: ObjectName | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of an SLO: an object of its own, or the bytes `first` to `first + length` of one.

    A `nested` one is an SLO itself: its `etag` is no MD5 of its bytes.
    """

    name: ObjectName
    etag: str
    size: int
    first: int = 0
    length: int | None = None
    nested: bool = False

    @property
    def span(self) -> int:
        """The bytes that this part adds to the file."""
        return self.size if self.length is None else self.length


@dataclass(frozen=True, slots=True)
class Manifest:
    """The segments of an SLO in their order."""

    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """The size in bytes of the object they make."""
        return sum(segment.span for segment in self.segments)

    @property
    def etag(self) -> str:
        """The ETag that Swift gives the object: md5 of the etags, each with its range where it has one.

        Source: the chapter "Retrieving a Large Object" in swift/common/middleware/slo.py.
        """
        digest = hashlib.md5(usedforsecurity=False)
        for part in self.segments:
            ranged = part.length is not None
            digest.update(
                f"{part.etag}:{part.first}-{part.first + part.span - 1};".encode()
                if ranged
                else part.etag.encode()
            )
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container or account holds; quotas are None where none is set. Sizes are in bytes.

    `metadata` holds a container's `X-Container-Meta-*` headers, as in `ObjectInfo`.
    """

    bytes_used: int
    objects: int
    quota_bytes: int | None = None
    quota_objects: int | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server says it can do, from `/info`; the defaults are those of a server that does not say.

    Sources: Swift's `/info` sections `swift`, `slo` and `bulk_delete`.
    """

    listing: int = 10_000
    object_bytes: int = 5 * 1024**3
    name_bytes: int = 1024
    container_name_bytes: int = 256
    metadata_value_bytes: int = 256
    metadata_name_bytes: int = 128
    metadata_items: int = 90
    metadata_bytes: int = 4096
    slo_segments: int = 1000
    slo: bool = True
    bulk_delete: int = 0
    policies: tuple[str, ...] = ()
    is_swift: bool = True
    """False for look-alikes such as Ceph RGW, whose short pages do not end a listing."""

    version: str = ""
    """What the server calls its own release, empty where it does not."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What `stat` tells of a path. `mode` includes the file type; `mtime_ns` is in ns since the epoch.

    `device` is what a device node stands for (makedev(3)).
    """

    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    inode: int = 0
    device: int = 0

    @property
    def is_directory(self) -> bool:
        """True for a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """True for a symbolic link."""
        return stat.S_ISLNK(self.mode)


UNCACHED_HANDLES = 1 << 61
"""The first handle whose bytes the kernel must not cache: the file has another version open as well, and the
kernel has one cache for both."""

DIRECT_HANDLES = 1 << 62
"""The first handle of the files that the kernel must not cache: each handle has bytes of its own."""


@dataclass(frozen=True, slots=True)
class FileSpan:
    """Bytes that lie in a local file: `length` bytes from `position` behind `descriptor`."""

    descriptor: int
    position: int
    length: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a system call; new files belong to them."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class FilesystemUsage:
    """What `statfs` tells: sizes in bytes, counts of objects."""

    total_bytes: int
    free_bytes: int
    total_objects: int = field(default=0)
    free_objects: int = field(default=0)
    name_bytes: int = field(default=1024)
