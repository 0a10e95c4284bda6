"""The frozen values that packages pass to each other."""

import hashlib
import stat
from collections.abc import Collection, Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import TypeVar

from msgspec import Struct, field

T = TypeVar("T")

NOTHING: Mapping[str, str] = MappingProxyType({})

DIRECTORY_TYPE = "application/directory"
"""The Content-Type of a directory marker, without parameters: with one, rclone treats a marker as a file."""


class Record(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A value in records on disk. In JSON fields with their default are left out.

    An unknown key is refused: a record would be executed without what that key means.
    """


def equal_but(left_out: str, one: Struct, other: object) -> bool:
    """Return whether two values are of one type and have the same fields, but for one."""
    names = (name for name in one.__struct_fields__ if name != left_out)
    return type(one) is type(other) and all(getattr(one, name) == getattr(other, name) for name in names)


def check_transition(what: str, following: Mapping[T, Collection[T]], before: T, after: T) -> None:
    """Raise `RuntimeError` if `what` cannot change from `before` to `after`: that is not in its table."""
    if after not in following[before]:
        raise RuntimeError(f"{what} cannot change from {before} to {after}")


class ObjectName(Record, frozen=True, order=True):
    """An object's full name; `key` is the name inside the container, any UTF-8 text of 1 to 1024 bytes."""

    container: str
    key: str

    @classmethod
    def parse(cls, text: str) -> "ObjectName":
        """Read `container/key`, as `str` writes it; the key is empty if there is no slash."""
        container, _, key = text.partition("/")
        return cls(container, key)

    def __str__(self) -> str:
        return f"{self.container}/{self.key}"


class OlderName(ObjectName, frozen=True, order=True):
    """A version of an object that a container with versioning has kept; it can be read and copied only.

    `version_id` is the server's: the time of the PUT in seconds, or `null`. It is never equal to the object.
    """

    version_id: str


class ObjectVersion(Struct, frozen=True):
    """One version of an object. Cached bytes belong to a version, never to a name.

    `etag` is the object's ETag without quotes; for an SLO it is not the `hash` of its listing row.
    """

    name: ObjectName
    etag: str


class Row(Record, frozen=True):
    """One object in a listing. `last_modified` is the listing's own text, UTC without a zone.

    With `is_stripped` the parameters of the Content-Type are missing, and only a HEAD shows them. A symlink
    of Swift that `is_symlink` is answered with 404 if it leads to no object.
    """

    key: str
    size: int
    hash: str
    content_type: str
    last_modified: str
    is_stripped: bool = False
    is_symlink: bool = False


class Page(Struct, frozen=True):
    """One page of a listing; `last` if no other page follows.

    `subdirs` are prefixes and end with the delimiter. `marker` continues the listing. Of `unreadable` keys
    only the name is certain: the server has sent a size, hash, type or time that no object has. The request
    that was answered took `seconds`, without those before it that were not.
    """

    rows: tuple[Row, ...]
    subdirs: tuple[str, ...]
    marker: str
    last: bool
    unreadable: tuple[str, ...] = ()
    seconds: float = 0.0

    def __eq__(self, other: object) -> bool:
        return equal_but("seconds", self, other)

    def __hash__(self) -> int:
        raise TypeError("it is not hashed")


class VersionRow(Struct, frozen=True):
    """One version of an object in a listing of versions, or its `is_deletion`.

    `is_latest` is what the object is now.
    """

    row: Row
    version_id: str
    is_latest: bool
    is_deletion: bool


class VersionPage(Struct, frozen=True):
    """One page of a listing of versions: names in their order, and of each name the newest version first.

    `marker` and `version_marker` continue the listing; `last` and `subdirs` are as in `Page`.
    """

    rows: tuple[VersionRow, ...]
    subdirs: tuple[str, ...]
    marker: str
    version_marker: str
    last: bool


class History(Enum):
    """Whether a container keeps older versions of its objects, or has kept them once."""

    NONE = auto()
    KEPT = auto()
    """They can be listed (`X-Versions-Enabled`)."""
    ELSEWHERE = auto()
    """They are objects of another container (`X-Versions-Location`, `X-History-Location`)."""


class Retrieval(Struct, frozen=True):
    """What an archive says of an object: `state` is SEALED, UNSEALING, or UNSEALED, which can be read.

    `seconds` is how long it takes until it can be read, None where the server does not say it.
    """

    state: str
    seconds: float | None = None


SEALED, UNSEALING, UNSEALED = "sealed", "unsealing", "unsealed"


class ObjectInfo(Struct, frozen=True):
    """What the answer to a HEAD, GET or PUT says about an object.

    `metadata` holds the `X-Object-Meta-*` headers with lower-case names without that prefix;
    `preserved_headers` holds the headers a POST drops unless it sends them again (`Content-Encoding`,
    `X-Delete-At`, …), by their names. `size` is in bytes; `last_modified_ns` in ns since the epoch, or 0
    if it is unknown. `dlo_prefix` is how the names of a DLO's segments begin. Of a symlink of Swift this is
    all about its target, unless it is `unreadable`: it leads to no object. `retrieval` is None unless the
    server is an archive.
    """

    version: ObjectVersion
    size: int
    content_type: str
    last_modified_ns: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    preserved_headers: Mapping[str, str] = field(default_factory=dict)
    is_slo: bool = False
    dlo_prefix: ObjectName | None = None
    is_symlink: bool = False
    unreadable: bool = False
    retrieval: Retrieval | None = None

    def __eq__(self, other: object) -> bool:
        return equal_but("retrieval", self, other)

    def __hash__(self) -> int:
        raise TypeError("it is not hashed")


NO_OBJECT = ObjectName("", "")


class Segment(Record, frozen=True):
    """A segment of an SLO: a whole object, or `length` bytes of one from `first` on.

    A `nested` one is an SLO itself: its `etag` is not the MD5 of its bytes. The bytes of an inline one are in
    the manifest: `data` has them, in base64, and its name is `NO_OBJECT`.
    """

    name: ObjectName
    etag: str
    size: int
    first: int = 0
    length: int | None = None
    nested: bool = False
    data: str = ""

    @property
    def span(self) -> int:
        """How many bytes it adds to the object."""
        return self.size if self.length is None else self.length


class Manifest(Record, frozen=True):
    """The segments of an SLO in their order."""

    segments: tuple[Segment, ...]

    @property
    def names(self) -> set[ObjectName]:
        """The objects that it names."""
        return {segment.name for segment in self.segments if not segment.data}

    @property
    def size(self) -> int:
        """The size of the object in bytes."""
        return sum(segment.span for segment in self.segments)

    @property
    def etag(self) -> str:
        """The ETag that Swift gives the object: the MD5 of the segments' ETags, with their ranges if any.

        Source: the chapter "Retrieving a Large Object" in swift/common/middleware/slo.py.
        """
        digest = hashlib.md5(usedforsecurity=False)
        for part in self.segments:
            ranged = f":{part.first}-{part.first + part.span - 1};" if part.length is not None else ""
            digest.update(f"{part.etag}{ranged}".encode())
        return digest.hexdigest()


class Usage(Struct, frozen=True):
    """The usage of a container or account; quotas are None where none is set. Sizes are in bytes.

    `metadata` holds the `X-Container-Meta-*` or `X-Account-Meta-*` headers, as in `ObjectInfo`; `modified_ns`
    is when a container was made, in ns since the epoch, 0 if the server does not say it. `storage_policy` and
    `history` are a container's. With `versioning` each change makes a version in it now; Swift then takes no
    X-Delete-At for its objects.
    """

    bytes_used: int
    objects: int
    quota_bytes: int | None = None
    quota_objects: int | None = None
    modified_ns: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    storage_policy: str = ""
    history: History = History.NONE
    versioning: bool = False


class Limits(Struct, frozen=True):
    """The server's limits and features from `/info`; the defaults are for values that it does not report.

    Sources: Swift's `/info` sections `swift`, `slo` and `bulk_delete`.
    """

    listing: int = 10_000
    """The maximum number of names in a page."""

    listing_is_cut: bool = False
    """Whether the server's own pages are longer than `listing`, so that each request must ask for fewer."""

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
    """The server's release, empty where it does not report one."""

    temp_url_methods: tuple[str, ...] = ()
    """The methods for which it takes TempURLs; none if it does not."""

    temp_url_digests: tuple[str, ...] = ()
    """The digests by which TempURLs may be signed."""


class Attributes(Record, frozen=True):
    """The result of `stat`. `mode` includes the file type; `mtime_ns` is in ns since the epoch.

    `device` is the device number of a device node (makedev(3)). `atime_ns` and `ctime_ns` are None where they
    are not known: then they are shown as `mtime_ns`.
    """

    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    inode: int = 0
    device: int = 0
    atime_ns: int | None = None
    ctime_ns: int | None = None

    def modified(self, mtime_ns: int) -> "Attributes":
        """Return the same with another modification time: each write(2) gives the file one."""
        one = self
        return Attributes(
            one.mode,
            one.size,
            mtime_ns,
            one.uid,
            one.gid,
            one.inode,
            one.device,
            one.atime_ns,
            one.ctime_ns,
        )

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    def with_times(self, mtime_ns: int, atime_ns: int, ctime_ns: int) -> "Attributes":
        """Return the attributes with these times; 0 stands for the modification time."""
        return Attributes(
            self.mode,
            self.size,
            mtime_ns,
            self.uid,
            self.gid,
            self.inode,
            self.device,
            atime_ns or mtime_ns,
            ctime_ns or mtime_ns,
        )


class PageUse(Enum):
    """What the kernel does at an open with the file's pages: use them, drop them, or go without.

    LOOK_AGAIN means that it may know another size of the file: it has to look the name up, and open it then,
    or go without the pages.
    """

    KEEP = auto()
    DROP = auto()
    BYPASS = auto()
    LOOK_AGAIN = auto()


class FileSpan(Struct, frozen=True):
    """A range of a local file: `length` bytes from `position` in the open file `descriptor`."""

    descriptor: int
    position: int
    length: int


class Caller(Struct, frozen=True):
    """The user and group of a system call; they own the files that it creates."""

    uid: int
    gid: int


class FilesystemUsage(Struct, frozen=True):
    """The result of `statfs`: sizes in bytes, numbers of objects, and bytes in the longest new name."""

    total_bytes: int
    free_bytes: int
    total_objects: int = 0
    free_objects: int = 0
    name_bytes: int = 255


REQUEST_CLASSES = (
    *("put", "put_manifest", "copy", "post", "delete", "delete_many"),
    *("get", "head", "manifest", "list_page", "list_versions", "list_containers"),
    *("create_container", "post_container", "delete_container", "container_usage", "account_usage"),
    "limits",
)
"""The classes of requests, named after the methods of `ObjectStore` that send them."""


class Count(Struct, frozen=True):
    """The requests of one class: how many, body bytes sent and received, seconds until the answer's end.

    `failures` counts those without an answer or with one outside 2xx, except HEADs and DELETEs with 404.
    """

    requests: int = 0
    failures: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.requests + other.requests,
            self.failures + other.failures,
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.seconds + other.seconds,
        )


class Counts(Struct, frozen=True):
    """The state of the counters at one moment; `classes` are named after the store's methods."""

    classes: Mapping[str, Count] = field(default_factory=dict)

    @property
    def total(self) -> Count:
        """The sum over all classes."""
        return sum(self.classes.values(), Count())


class CacheUse(Struct, frozen=True):
    """The disk space of the cache in bytes: `used` of `limit`.

    Of the used bytes `dirty` are not in Swift, and `pinned` stay.
    """

    used: int
    dirty: int
    limit: int
    pinned: int = 0
