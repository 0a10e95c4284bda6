"""`swiftfs probe`: the features and the speed of a server, and the options that suit it."""

import contextlib
import os
import statistics
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any

import click
from msgspec import Struct, field
from rich.console import Console
from rich.filesize import decimal

from swiftfs.attributes import Stored, encode_type
from swiftfs.cli.connection import account_options, connected
from swiftfs.concurrency import Executor, monotonic, new_pool, sleep, unix_time
from swiftfs.config.options import MIB, show_size
from swiftfs.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigurationError,
    NotFound,
    QuotaExceeded,
    StoreError,
    SwiftfsError,
    command_line,
    pluralize,
    printable,
)
from swiftfs.filecache.segment_container import place_beside
from swiftfs.objects import Limits, Manifest, ObjectName, Page, Row, Segment
from swiftfs.paths import Source
from swiftfs.store.protocol import CopyRequest, Headers, ObjectStore

TEXT = Headers("text/plain")


class Finding(Struct, frozen=True):
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
        wrote = self._write(name)
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
            lambda: self._store.copy(CopyRequest(name, copy)),
            "files and folders that are in Swift cannot be renamed",
        )
        yield self._try("delete", lambda: self._store.delete(name), "rm and mv fail")
        yield self._bulk()
        yield self._create_container()

    def _write(self, name: ObjectName) -> Finding:
        try:
            return self._try(
                "write", lambda: self._store.put(name, b"text", TEXT), "mounts are read-only", "ro"
            )
        except QuotaExceeded as error:  # a mount is not read-only then
            full = 'no: there is no room: programs get "Disk quota exceeded", and changes wait for some'
            return Finding("may write", f"{full} ({error})")

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
        return self._try(
            "read",
            lambda: self._store.get(name, lambda _offset, _data: None, length=1),
            "files show, but cannot be opened",
        )

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
            if error.retryable or isinstance(error, QuotaExceeded):
                raise
            return Finding(f"may {what}", f"no: {without} ({error})", options)
        return Finding(f"may {what}", "yes")


PINGS = 5

WIDE = "connections=16"

LISTING_SECONDS = 10.0
"""Longest wait for a listing to show an object; Swift's own update takes up to a second."""

SKEW_SECONDS = 5.0
"""A larger difference of the clocks is reported: files have the client's times, listings the server's."""

TYPE = encode_type("application/x-swiftfs-probe", Stored(mode=0o100640, mtime_ns=1, uid=0, gid=0))


class Probe(Struct):
    """The objects of one probe of `source`, all of which begin with `prefix`."""

    store: ObjectStore
    source: Source
    size: int
    tell: Callable[[str], None] = lambda _text: None
    made: list[ObjectName] = field(default_factory=list)
    prefix: str = field(default_factory=lambda: f".swiftfs-probe-{uuid.uuid4().hex}")

    def run(self) -> Generator[Finding, None, None]:
        """Yield the findings one after the other; nothing is left behind when the iterator ends or is closed.

        Raise `StoreError` if the server does not answer, `ConfigurationError` without the container.
        """
        if self.source.is_account:
            yield from self._limits()
            yield Finding("account", f"{self.store.account_usage().objects} objects")
            yield Finding("objects", "not tested: give a container")
            return
        # Before anything is said: without the container that is one line only.
        latency = self._latency()
        yield from self._limits()
        yield latency
        try:
            refused = False
            for verdict in PermissionProbe(self.store, self.source, self._name).run():
                refused = refused or (verdict.subject == "may write" and verdict.is_refusal)
                yield verdict
            if refused:
                self.made.clear()
                return
            yield self._clock()
            yield from self._abilities()
            yield from self._throughput()
        finally:
            self._clean()

    @property
    def _object(self) -> ObjectName:
        """The object that `_clock` has stored."""
        return ObjectName(self.source.container, f"{self.source.prefix}{self.prefix}/object")

    def left(self) -> list[ObjectName]:
        """Return the objects that could not be deleted."""
        return list(self.made)

    def _name(self, key: str) -> ObjectName:
        name = ObjectName(self.source.container, f"{self.source.prefix}{self.prefix}/{key}")
        self.made.append(name)
        return name

    def _abilities(self) -> Iterator[Finding]:
        for subject, test in (
            ("attributes in Content-Type", self._attributes),
            ("listing", self._listing),
            ("If-None-Match", self._conditions),
            ("large objects", self._large_objects),
            ("segments", self._segments),
        ):
            try:
                yield test()
            except AccessDenied as error:  # the verdict on the permission has said what that means
                yield Finding(subject, f"not tested: {error}")

    def _limits(self) -> Iterator[Finding]:
        limits = self.store.limits()
        kind = (
            "Swift"
            if limits.is_swift
            else "not Swift, or /info is hidden: a short page does not end a listing"
        )
        yield Finding("server", kind)
        yield Finding("limits", _limits_text(limits))
        deletes = (
            f"{limits.bulk_delete} names a request" if limits.bulk_delete else "no: one DELETE an object"
        )
        yield Finding("bulk delete", deletes)
        if limits.policies:
            yield Finding("storage policies", ", ".join(limits.policies))

    def _latency(self) -> Finding:
        seconds = []
        for _ in range(PINGS):
            begun = monotonic()
            try:
                self.store.container_usage(self.source.container)
            except AccessDenied as error:
                return Finding("latency", f"not measured: {error}")
            except NotFound:
                raise ConfigurationError(
                    f"no container {self.source.container!r}: check its name, or make it by "
                    f"{command_line('mount --create', self.source, 'FOLDER')}"
                ) from None
            seconds.append(monotonic() - begun)
        middle = statistics.median(seconds)
        text = f"{middle * 1000:.0f} ms a request (median of {PINGS} HEADs)"
        return Finding("latency", text, WIDE if middle > 0.05 else "")

    def _clock(self) -> Finding:
        before = unix_time()
        info = self.store.put(self._name("object"), b"text", Headers(TYPE))
        skew = info.last_modified_ns / 10**9 - (before + unix_time()) / 2
        agree = abs(skew) < SKEW_SECONDS
        text = "server and this machine agree" if agree else f"the server's is {skew:+.0f} s off"
        return Finding("clock", text)

    def _attributes(self) -> Finding:
        info = self.store.head(self._object)
        kept = info.content_type == TYPE
        text = "kept" if kept else f"changed to {info.content_type!r}: HEADs are needed"
        return Finding("attributes in Content-Type", text)

    def _listing(self) -> Finding:
        begun = monotonic()
        names = [self._object, *[self._name(f"page-{number}") for number in range(2)]]
        for name in names[1:]:
            self.store.put(name, b"", Headers("text/plain"))
        prefix = names[0].key.removesuffix("object")
        while monotonic() - begun < LISTING_SECONDS:
            rows = self.store.list_page(names[0].container, prefix=prefix).rows
            if {row.key for row in rows}.issuperset(name.key for name in names):
                break
            sleep(0.1)
        seconds = monotonic() - begun
        page = self.store.list_page(names[0].container, prefix=prefix, limit=2)
        short = "; pages are too short" if len(page.rows) < 2 else ""
        typed = any(row.content_type == TYPE for row in rows)
        shown = "attributes are shown" if typed else "attributes are not shown"
        return Finding("listing", f"shows new objects within {seconds:.1f} s, {shown}{short}")

    def _conditions(self) -> Finding:
        try:
            self.store.put(self._object, b"", Headers("text/plain"), if_absent=True)
        except AlreadyExists:
            return Finding("If-None-Match", "honoured")
        return Finding("If-None-Match", "ignored: two mounts may create the same folder")

    def _large_objects(self) -> Finding:
        if not self.store.limits().slo:
            return Finding("large objects", "none (no SLO)", f"segment_size={show_size(4096 * MIB)}")
        body = os.urandom(MIB)
        part = self._name("segment")
        etag = self.store.put(part, body, Headers("application/octet-stream")).version.etag
        manifest = Manifest((Segment(part, etag, MIB), Segment(part, etag, MIB, 0, MIB // 2)))
        large, copy = self._name("large"), self._name("copy")
        self.store.put_manifest(large, manifest, Headers(TYPE))
        self.store.copy(CopyRequest(large, copy, manifest_only=True))
        same = self.store.manifest(copy) == self.store.manifest(large)
        ranges = "with ranges" if self.store.head(large).size == manifest.size else "without ranges"
        renamed = "COPY copies manifests" if same else "COPY does not copy manifests: renames copy all bytes"
        return Finding("large objects", f"SLO {ranges}; {renamed}")

    def _segments(self) -> Finding:
        beside = place_beside(self.source.container).container
        try:
            self.store.container_usage(beside)
            return Finding("segments", f"{beside} exists")
        except NotFound:
            pass
        except StoreError as error:
            return Finding("segments", f"{beside} cannot be used: {error}", "segments=same")
        try:
            self.store.create_container(beside)
        except StoreError as error:
            return Finding("segments", f"{printable(beside)} cannot be created: {error}", "segments=same")
        self.store.delete_container(beside)
        return Finding("segments", f"{printable(beside)} can be created")

    def _throughput(self) -> Iterator[Finding]:
        """Send and fetch `size` bytes, first as one object, then as four in parallel."""
        body = os.urandom(self.size)
        quarter = self.size // 4
        speeds = {}
        for count, part in ((1, self.size), (4, quarter)):
            names = [self._name(f"speed-{count}-{number}") for number in range(count)]
            self.tell(f"throughput, {count} at once")
            with new_pool("probe", count) as pool:
                sent = _seconds(partial(_each, pool, partial(self._send, body[:part]), names))
                got = _seconds(partial(_each, pool, partial(self._fetch, part), names))
            speeds[count] = (count * part / sent / 1e6, count * part / got / 1e6)
        (up, down), (up4, down4) = speeds[1], speeds[4]
        for subject, one, four, option in (("upload", up, up4, "uploads=8"), ("download", down, down4, WIDE)):
            yield Finding(
                subject, f"{one:.0f} MB/s, four at once {four:.0f} MB/s", option if four > 2 * one else ""
            )

    def _send(self, body: bytes, name: ObjectName) -> None:
        self.store.put(name, body, Headers("application/octet-stream"))

    def _fetch(self, size: int, name: ObjectName) -> None:
        self.store.get(name, lambda _offset, _data: None, size=size)

    def _clean(self) -> None:
        """Delete all objects of the probe; those that cannot be deleted stay in `made`."""
        if self.made:
            failures = self.store.delete_many(self.made)
            self.made = [name for name in self.made if name in failures]


def _each(pool: Executor, work: Callable[[ObjectName], None], names: list[ObjectName]) -> None:
    for _ in pool.map(work, names):
        pass


def _seconds(work: Callable[[], object]) -> float:
    begun = monotonic()
    work()
    return max(monotonic() - begun, 1e-6)


def _limits_text(limits: Limits) -> str:
    largest = show_size(limits.object_bytes - limits.object_bytes % MIB)
    return (
        f"{limits.listing} names a listing, {largest} an object, "
        f"{limits.slo_segments} segments, names of {limits.name_bytes} bytes"
    )


def advice(findings: list[Finding]) -> str:
    """Return the advised options, each once, as after `-o`."""
    words = dict.fromkeys(word for finding in findings for word in finding.options.split(",") if word)
    return ",".join(words)


def run(source: str, size: int, flags: Mapping[str, Any]) -> None:
    """Print features and speed of the server of `source`, measured with objects of `size` bytes."""
    options = account_options(flags)
    findings: list[Finding] = []
    with connected(options) as account, Console(stderr=True).status("testing") as status:
        found = Probe(account.store, Source.parse(source), size, status.update)
        with contextlib.closing(found.run()) as running:
            for finding in running:
                if not findings:
                    click.echo(f"account: {account.label}")
                findings.append(finding)
                click.echo(f"{finding.subject}: {finding.text}")
        total = account.state.counters.snapshot().total
        click.echo(
            f"cost: {pluralize(total.requests, 'request')}, {decimal(total.bytes_sent)} sent, "
            f"{decimal(total.bytes_received)} received"
        )
        click.echo(f"advice: -o {advice(findings)}" if advice(findings) else "advice: the defaults are fine")
        if left := found.left():
            objects = pluralize(len(left), "object")
            raise SwiftfsError(f"{objects} could not be deleted, such as {left[0]}: delete them yourself")
