"""The operations of the store for the fault matrix: how each is prepared, called, and checked in Swift."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from support.stores import TEXT, md5, raise_first, read
from swiftfs.errors import AlreadyExists, NotFound, PreconditionFailed, StoreError, TooLarge
from swiftfs.objects import Manifest, ObjectName, Segment
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore

OLD, NEW = b"old content", b"new content, longer"
POSTED = Headers("text/html", {"posted": "1"})


@dataclass(frozen=True)
class Cell:
    """The objects of one cell of the matrix: their names have its `mark`, so the fault hits only them."""

    mark: str
    box: str

    @property
    def name(self) -> ObjectName:
        """The object of the operation."""
        return ObjectName(self.box, f"{self.mark}/o")

    @property
    def other(self) -> ObjectName:
        """A second object, for example the target of a copy."""
        return ObjectName(self.box, f"{self.mark}/other")

    @property
    def container(self) -> str:
        """A container of this cell."""
        return f"{self.box}-{self.mark}"


Step = Callable[[ObjectStore, Cell], object]


@dataclass(frozen=True)
class Operation:
    """An operation of the store: `call` makes it and asserts its result.

    `done` returns whether Swift has executed it. `method` is that of the request that the fault hits. `body`:
    the answer has a body; `unread`: the store cannot verify it; `checked`: the store knows the ETag.
    `meanings`: statuses with another meaning here than usual. `own_account`: the cell has an account of its
    own, because its requests have no other mark.
    """

    name: str
    method: str
    call: Step
    prepare: Step = lambda _store, _cell: None
    done: Callable[[ObjectStore, Cell], bool] | None = None
    body: bool = False
    unread: bool = False
    checked: bool = False
    meanings: Mapping[int, type[StoreError] | None] = field(default_factory=dict)
    own_account: bool = False
    bulk: bool = True


def put_old(store: ObjectStore, cell: Cell) -> Segment:
    """Store the object in its old state."""
    return Segment(cell.name, store.put(cell.name, OLD, TEXT).version.etag, len(OLD))


def content(store: ObjectStore, name: ObjectName) -> bytes | None:
    """Return an object's bytes, None if it does not exist."""
    try:
        return read(store, name)[0]
    except NotFound:
        return None


def is_new(name: Callable[[Cell], ObjectName], old: bytes | None, new: bytes | None) -> Callable[..., bool]:
    """Return a check whether an object has its new content; it asserts that it has the old or the new one."""

    def done(store: ObjectStore, cell: Cell) -> bool:
        found = content(store, name(cell))
        assert found in (old, new), f"neither old nor new: {found!r}"
        return found == new

    return done


def container_exists(store: ObjectStore, cell: Cell) -> bool:
    """Return whether the cell's container exists."""
    try:
        return store.container_usage(cell.container).objects == 0
    except NotFound:
        return False


def is_posted(store: ObjectStore, cell: Cell) -> bool:
    """Return whether the object has its new headers; assert that it has the old or new ones."""
    body, info = read(store, cell.name)
    found = (info.content_type, dict(info.metadata))
    assert body == OLD
    assert found in ((TEXT.content_type, {}), (POSTED.content_type, dict(POSTED.metadata)))
    return found[0] == POSTED.content_type


def limits(store: ObjectStore, cell: Cell) -> None:
    assert store.limits().listing == 10_000


def list_containers(store: ObjectStore, cell: Cell) -> None:
    assert store.list_containers(marker="a").subdirs == (cell.box,)


def account_usage(store: ObjectStore, cell: Cell) -> None:
    assert store.account_usage().bytes_used == 0


def container_usage(store: ObjectStore, cell: Cell) -> None:
    assert store.container_usage(cell.container).objects == 0


def make_container(store: ObjectStore, cell: Cell) -> None:
    store.create_container(cell.container)


def list_page(store: ObjectStore, cell: Cell) -> None:
    page = store.list_page(cell.box, prefix=cell.mark, limit=10)
    assert [(row.key, row.size, row.hash) for row in page.rows] == [(cell.name.key, len(OLD), md5(OLD))]


def list_versions(store: ObjectStore, cell: Cell) -> None:
    page = store.list_versions(cell.box, prefix=cell.mark, limit=10)
    found = [(one.row.key, one.row.size, one.version_id, one.is_latest) for one in page.rows]
    assert found == [(cell.name.key, len(OLD), "null", True)]


def head(store: ObjectStore, cell: Cell) -> None:
    assert store.head(cell.name).size == len(OLD)


def get(store: ObjectStore, cell: Cell) -> None:
    assert read(store, cell.name)[0] == OLD


def get_part(store: ObjectStore, cell: Cell) -> None:
    body, info = read(store, cell.name, offset=1, length=6)
    assert (len(body), info.size) == (6, len(OLD))


def get_version(store: ObjectStore, cell: Cell) -> None:
    assert read(store, cell.name, etag=md5(OLD))[0] == OLD


def put(store: ObjectStore, cell: Cell) -> None:
    assert store.put(cell.name, NEW, TEXT).version.etag == md5(NEW)


def put_if_absent(store: ObjectStore, cell: Cell) -> None:
    assert store.put(cell.other, NEW, TEXT, if_absent=True).version.etag == md5(NEW)


def put_manifest(store: ObjectStore, cell: Cell) -> None:
    part = Segment(cell.name, md5(OLD), len(OLD))
    assert store.put_manifest(cell.other, Manifest((part, part)), TEXT).size == 2 * len(OLD)


def put_manifest_if_absent(store: ObjectStore, cell: Cell) -> None:
    part = Segment(cell.name, md5(OLD), len(OLD))
    assert store.put_manifest(cell.other, Manifest((part, part)), TEXT, if_absent=True).size == 2 * len(OLD)


def put_old_manifest(store: ObjectStore, cell: Cell) -> None:
    part = put_old(store, cell)
    store.put_manifest(cell.other, Manifest((part, part)), TEXT)


def manifest(store: ObjectStore, cell: Cell) -> None:
    assert store.manifest(cell.other).size == 2 * len(OLD)


def copy_manifest(store: ObjectStore, cell: Cell) -> None:
    store.copy(CopyRequest(cell.other, copied(cell), manifest_only=True))


def copied(cell: Cell) -> ObjectName:
    return ObjectName(cell.box, f"{cell.mark}/copy")


def delete_many(store: ObjectStore, cell: Cell) -> None:
    raise_first(store.delete_many([cell.name]))


def make_box(store: ObjectStore, cell: Cell) -> None:
    store.create_container(cell.box)


def put_in_own_box(store: ObjectStore, cell: Cell) -> None:
    make_box(store, cell)
    put_old(store, cell)


OPERATIONS = (
    Operation("limits", "GET", limits, body=True),
    Operation(
        "list_containers",
        "GET",
        list_containers,
        prepare=make_box,
        body=True,
        own_account=True,
    ),
    Operation("account_usage", "HEAD", account_usage, own_account=True),
    Operation("container_usage", "HEAD", container_usage, prepare=make_container),
    Operation(
        "create_container",
        "PUT",
        lambda store, cell: store.create_container(cell.container),
        done=container_exists,
        meanings={409: None},
    ),
    Operation(
        "post_container",
        "POST",
        lambda store, cell: store.post_container(cell.container, {"posted": "1"}),
        prepare=make_container,
        done=lambda store, cell: store.container_usage(cell.container).metadata == {"posted": "1"},
    ),
    Operation(
        "delete_container",
        "DELETE",
        lambda store, cell: store.delete_container(cell.container),
        prepare=make_container,
        done=lambda store, cell: not container_exists(store, cell),
    ),
    Operation("list_page", "GET", list_page, prepare=put_old, body=True),
    Operation("list_versions", "GET", list_versions, prepare=put_old, body=True),
    Operation("head", "HEAD", head, prepare=put_old, meanings={412: PreconditionFailed}),
    Operation("get", "GET", get, prepare=put_old, body=True, checked=True),
    Operation("get of a part", "GET", get_part, prepare=put_old, body=True, unread=True),
    Operation(
        "get of a version",
        "GET",
        get_version,
        prepare=put_old,
        body=True,
        checked=True,
        meanings={412: PreconditionFailed},
    ),
    Operation(
        "put",
        "PUT",
        put,
        prepare=put_old,
        done=is_new(lambda cell: cell.name, OLD, NEW),
        checked=True,
    ),
    Operation(
        "put if absent",
        "PUT",
        put_if_absent,
        done=is_new(lambda cell: cell.other, None, NEW),
        checked=True,
        meanings={412: AlreadyExists},
    ),
    Operation(
        "put_manifest",
        "PUT",
        put_manifest,
        prepare=put_old,
        done=is_new(lambda cell: cell.other, None, OLD + OLD),
        meanings={413: TooLarge},
    ),
    Operation(
        "put_manifest if absent",
        "PUT",
        put_manifest_if_absent,
        prepare=put_old,
        done=is_new(lambda cell: cell.other, None, OLD + OLD),
        meanings={412: AlreadyExists, 413: TooLarge},
    ),
    Operation("manifest", "GET", manifest, prepare=put_old_manifest, body=True),
    Operation(
        "copy",
        "COPY",
        lambda store, cell: store.copy(CopyRequest(cell.name, cell.other)),
        prepare=put_old,
        done=is_new(lambda cell: cell.other, None, OLD),
        meanings={413: TooLarge},
    ),
    Operation(
        "copy of a version",
        "COPY",
        lambda store, cell: store.copy(CopyRequest(cell.name, cell.other, etag=md5(OLD))),
        prepare=put_old,
        done=is_new(lambda cell: cell.other, None, OLD),
        meanings={412: PreconditionFailed, 413: TooLarge},  # a wrong ETag is looked up by a HEAD
    ),
    Operation(
        "copy of a manifest",
        "COPY",
        copy_manifest,
        prepare=put_old_manifest,
        done=is_new(copied, None, OLD + OLD),
        meanings={413: TooLarge},
    ),
    Operation(
        "post",
        "POST",
        lambda store, cell: store.post(cell.name, POSTED),
        prepare=put_old,
        done=is_posted,
        body=True,
        unread=True,
    ),
    Operation(
        "delete",
        "DELETE",
        lambda store, cell: store.delete(cell.name),
        prepare=put_old,
        done=is_new(lambda cell: cell.name, OLD, None),
    ),
    Operation(
        "delete_many in bulk",
        "POST",
        delete_many,
        prepare=put_in_own_box,
        done=is_new(lambda cell: cell.name, OLD, None),
        body=True,
        own_account=True,
    ),
    Operation(
        "delete_many in parallel",
        "DELETE",
        delete_many,
        prepare=put_old,
        done=is_new(lambda cell: cell.name, OLD, None),
        meanings={404: None},
        bulk=False,
    ),
)
