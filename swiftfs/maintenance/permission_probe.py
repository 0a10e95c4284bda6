"""What the user may do with a container: each permission is tried on small objects, and judged in words."""

from collections.abc import Callable, Iterator

from swiftfs.errors import StoreError
from swiftfs.filecache.segment_container import place_beside
from swiftfs.lazy_dataclass import dataclass
from swiftfs.objects import ObjectName, Page, Row
from swiftfs.paths import Source
from swiftfs.store.protocol import Headers, ObjectStore

TEXT = Headers("text/plain")


@dataclass(frozen=True, slots=True)
class Finding:
    """A result about `subject`; `options` are the mount options that it suggests."""

    subject: str
    text: str
    options: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether it is the verdict that something is not allowed."""
        return self.text.startswith("no: ")


class PermissionProbe:
    """Tries what a mount of `source` needs; `name_of` makes the names of its objects, which others delete."""

    def __init__(self, store: ObjectStore, source: Source, name_of: Callable[[str], ObjectName]) -> None:
        self._store = store
        self._source = source
        self._name_of = name_of
        self._page: Page | None = None

    def run(self) -> Iterator[Finding]:
        """Yield the verdicts, that about writing too; raise `StoreError` if the server does not answer."""
        yield self._try("list", self._list, "nothing can be mounted")
        name = self._name_of("permissions")
        wrote = self._try("write", lambda: self._store.put(name, b"text", TEXT), "mounts are read-only", "ro")
        yield self._read(None if wrote.is_refusal else name)
        yield wrote
        if wrote.is_refusal:
            return
        copy = self._name_of("permissions-copy")
        yield self._try(
            "change attributes (POST)",
            lambda: self._store.post(name, TEXT),
            "chmod, chown and touch fail, for files that are in Swift",
        )
        yield self._try(
            "copy on the server (COPY)",
            lambda: self._store.copy(name, copy),
            "files and folders that are in Swift cannot be renamed",
        )
        yield self._try("delete", lambda: self._store.delete(name), "rm and mv fail")
        yield self._bulk()
        yield self._create_container()

    def _list(self) -> None:
        self._page = self._store.list_page(self._source.container, prefix=self._source.prefix, limit=100)

    def _read(self, written: ObjectName | None) -> Finding:
        """Try to read what was written, or else an object that is there."""
        rows: tuple[Row, ...] = self._page.rows if self._page is not None else ()
        found = next((row for row in rows if row.size), None)
        if written is None and found is not None:
            written = ObjectName(self._source.container, found.key)
        if written is None:
            return Finding("may read", "not known: there is no object to read")
        name = written
        return self._try("read", lambda: self._read_byte(name), "files show, but cannot be opened")

    def _read_byte(self, name: ObjectName) -> None:
        self._store.get(name, lambda _offset, _data: None, offset=0, length=1)

    def _bulk(self) -> Finding:
        names = [self._name_of(f"permissions-{number}") for number in range(2)]
        if not self._store.limits().bulk_delete:
            return Finding("may delete in bulk", "the server has no bulk delete: one DELETE an object")
        failures = self._store.delete_many(names)
        if not self._store.limits().bulk_delete or failures:
            why = next(iter(failures.values()), None)
            return Finding("may delete in bulk", f"no: one DELETE an object{f' ({why})' if why else ''}")
        return Finding("may delete in bulk", "yes")

    def _create_container(self) -> Finding:
        beside = place_beside(self._source.container).container

        def create() -> None:
            if self._store.create_container(beside):
                self._store.delete_container(beside)

        return self._try(
            "create containers",
            create,
            f"segments of large files go to {self._source.container} itself, unless {beside} exists",
        )

    def _try(self, what: str, attempt: Callable[[], object], without: str, options: str = "") -> Finding:
        """Return the verdict; `without` says in words what does not work if it is refused."""
        try:
            attempt()
        except StoreError as error:
            if error.retryable:
                raise
            return Finding(f"may {what}", f"no: {without} ({error})", options)
        return Finding(f"may {what}", "yes")
