"""An object store over HTTP: each method sends the request that Swift's API reference defines for it.

Source: OpenStack Object Storage API v1 (docs.openstack.org/api-ref/object-store), tested against Swift 2.38.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from cachetools import LRUCache
from msgspec.structs import replace

from swiftfs.concurrency import Rank, new_lock
from swiftfs.errors import (
    AlreadyExists,
    BadContainer,
    BadRequest,
    BodyChanged,
    Clash,
    Corrupt,
    LinkLoop,
    PreconditionFailed,
    StoreError,
    TooLarge,
)
from swiftfs.objects import (
    UNSEALED,
    Limits,
    Manifest,
    ObjectInfo,
    ObjectName,
    ObjectVersion,
    Page,
    Usage,
    VersionPage,
)
from swiftfs.store.auth import Account
from swiftfs.store.deletion import Deletion
from swiftfs.store.error_map import not_swift, sealed
from swiftfs.store.foreign_manifests import ForeignManifests, Found, MayRead
from swiftfs.store.protocol import Body, CopyRequest, Headers, Sink, iter_dlo_segments
from swiftfs.store.ranged_get import OtherSize, RangedGet
from swiftfs.store.request import WORK_SECONDS, Request
from swiftfs.store.server_copies import ServerCopies
from swiftfs.store.server_state import ServerState
from swiftfs.store.throttle import busy_time
from swiftfs.store.transport import Answer, Transport
from swiftfs.store.wire.info import (
    CONTAINER_META,
    INFO_BYTES,
    UNKNOWN,
    account_usage,
    container_usage,
    count_of,
    read_limits,
)
from swiftfs.store.wire.listings import (
    listing_query,
    read_containers,
    read_page,
    read_versions,
    version_query,
    versions_query,
)
from swiftfs.store.wire.manifests import manifest_from_wire, manifest_to_wire, named_objects
from swiftfs.store.wire.object_headers import (
    EMPTY_MD5,
    check_described,
    content_length,
    etag_of,
    from_wire,
    sent_info,
    symlink_source,
    to_wire,
)

PUT_SECONDS = 120.0
"""Longest wait for an answer after a body was sent: the server first writes it to its replicas."""

MAX_UNMATCHED = 1000
"""How many versions to remember for which `If-Match` fails although the ETag is the object's."""

MAX_ASKED = 100
"""How many segments of an object are asked whether an archive has sealed them."""


class SwiftStore:
    """An `ObjectStore` over one account. It repeats only a request whose token was refused.

    New containers get the storage policy `storage_policy`, or the server's default one. No request waits for
    its answer longer than `longest_silence` seconds. Objects whose bytes lie elsewhere are only read where
    `may_read` allows it. It keeps to what `state` says of the requests to the server, as `Transport` does.
    """

    def __init__(
        self,
        account: Account,
        storage_policy: str = "",
        longest_silence: float = math.inf,
        may_read: MayRead | None = None,
        state: ServerState | None = None,
    ) -> None:
        state = state or ServerState()
        self.counters = state.counters
        self._account = account
        self._policy = {"X-Storage-Policy": storage_policy} if storage_policy else {}
        self._transport = Transport(account, state, longest_silence)
        self._limits: Limits | None = None
        self._lock = new_lock(Rank.STORE)
        self._deletion = Deletion(
            lambda request: self._transport.send(request).body, self.delete, lambda: self.limits().bulk_delete
        )
        self._copies = ServerCopies(lambda request: self._transport.send(request).headers, self.head)
        self._foreign = None if may_read is None else ForeignManifests(may_read, self._read_manifest)
        self._unmatched: LRUCache[ObjectVersion, None] = LRUCache(MAX_UNMATCHED)

    def __repr__(self) -> str:
        return f"SwiftStore({self._account.label})"

    def limits(self) -> Limits:
        """Return the server's limits; while `/info` does not answer, those that are safe with any server."""
        if self._limits is None:
            try:
                reply = self._transport.send(Request("limits", "GET", info=True, max_bytes=INFO_BYTES))
                self._limits = read_limits(reply.body, reply.headers)
            except StoreError as error:
                # Not remembered: `/info` may answer the next time.
                if error.retryable:
                    return UNKNOWN
                self._limits = UNKNOWN
        return self._effective(self._limits)

    def known_limits(self) -> Limits | None:
        """Return the limits that `/info` has reported, None when it was not requested yet; send nothing."""
        return None if self._limits is None else self._effective(self._limits)

    def _effective(self, limits: Limits) -> Limits:
        """Return `limits`, without bulk delete if the server has refused it."""
        return replace(limits, bulk_delete=0) if self._deletion.bulk_refused else limits

    def list_containers(self, *, marker: str = "") -> Page:
        limits = self.limits()
        query = listing_query(marker=marker)
        with self._transport.open(Request("list_containers", "GET", query=query)) as answer:
            listing = _listing(answer, "x-account-container-count")
            return read_containers(listing, "the account", marker=marker, limits=limits)

    def account_usage(self) -> Usage:
        return account_usage(self._transport.send(Request("account_usage", "HEAD")).headers)

    def container_usage(self, container: str) -> Usage:
        return container_usage(self._transport.send(Request("container_usage", "HEAD", container)).headers)

    def create_container(self, container: str, *, storage_policy: str = "") -> bool:
        request = Request(
            "create_container",
            "PUT",
            container,
            headers=self._policy or ({"X-Storage-Policy": storage_policy} if storage_policy else {}),
            meaning={400: BadContainer, 409: AlreadyExists},
        )
        try:
            with self._transport.open(request) as answer:  # its body has no information
                # 202 means that the container was there (API reference, "Create container").
                return answer.status == 201
        except AlreadyExists:  # with another storage policy
            return False

    def post_container(self, container: str, metadata: Mapping[str, str]) -> None:
        sent = {CONTAINER_META + name: value for name, value in metadata.items()}
        self._transport.send(Request("post_container", "POST", container, headers=sent))

    def delete_container(self, container: str) -> None:
        self._transport.send(Request("delete_container", "DELETE", container))

    def list_page(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = "", limit: int = 0
    ) -> Page:
        # A page is the last one if it is shorter than this: only the server can say how long a full one is.
        limits = self.limits()
        limit = min(limit or (limits.listing if limits.listing_is_cut else 0), limits.listing)
        query = listing_query(prefix=prefix, delimiter=delimiter, marker=marker, limit=limit)
        request = Request("list_page", "GET", container, query=query)
        begun = busy_time()
        with self._transport.open(request) as answer:
            page = read_page(
                _listing(answer), request.subject, prefix=prefix, marker=marker, limit=limit, limits=limits
            )
        return replace(page, seconds=busy_time() - begun)

    def list_versions(
        self,
        container: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        marker: str = "",
        version_marker: str = "",
        limit: int = 0,
    ) -> VersionPage:
        limits = self.limits()
        limit = min(limit or limits.listing, limits.listing)
        query = versions_query(
            prefix=prefix, delimiter=delimiter, marker=marker, version_marker=version_marker, limit=limit
        )
        request = Request("list_versions", "GET", container, query=query)
        after = (marker, version_marker)
        with self._transport.open(request) as answer:
            return read_versions(
                _listing(answer), request.subject, prefix=prefix, marker=after, limit=limit, limits=limits
            )

    def head(self, name: ObjectName) -> ObjectInfo:
        return self._head(name, "")

    def get(
        self,
        name: ObjectName,
        sink: Sink,
        *,
        offset: int = 0,
        length: int | None = None,
        etag: str = "",
        size: int | None = None,
    ) -> ObjectInfo:
        # No Range header can ask for no bytes (RFC 9110, 14.1.2).
        if length == 0:
            return self._head(name, etag)
        version = ObjectVersion(name, etag)
        if version not in self._unmatched:
            try:
                return self._receive(RangedGet(name, sink, offset, length, etag, size=size))
            except OtherSize:
                raise
            except PreconditionFailed:
                # Swift compares `If-Match` with an ETag in its own metadata (X-Object-Sysmeta). A plain copy
                # of an SLO inherits that of the SLO, which is not its own ETag.
                if self.head(name).version.etag != etag:
                    raise
        info = self._receive(RangedGet(name, sink, offset, length, etag, size=size, conditional=False))
        with self._lock:
            # Remembered, so that each piece of this object does not cost three requests.
            self._unmatched[version] = None
        return info

    def _receive(self, get: RangedGet) -> ObjectInfo:
        try:
            with self._transport.open(get.request) as answer:
                return get.receive(answer, lambda info: self._accept(info, answer))
        except Clash:  # so Swift answers for a large object whose first segment cannot be read
            self._refuse_sealed(get.name)
            raise

    def _refuse_sealed(self, name: ObjectName) -> None:
        """Raise `Sealed` if an archive has sealed one of the first segments of an SLO."""
        if not self.head(name).is_slo:
            return
        segments = self.manifest(name).segments[:MAX_ASKED]
        for segment in dict.fromkeys(one.name for one in segments if not one.data):
            retrieval = self.head(segment).retrieval
            if retrieval is None:  # not an archive
                return
            if retrieval.state != UNSEALED:
                raise sealed(f"{name}: its segment {segment.key}", retrieval.seconds)

    def _accept(self, info: ObjectInfo, answer: Answer) -> None:
        """Raise `ForeignManifest` if the bytes of an answer may not be read."""
        if self._foreign is not None:
            self._foreign.check(info, self._source(answer))

    def check_manifest(self, version: ObjectVersion) -> Manifest | None:
        return None if self._foreign is None else self._foreign.check_version(version)

    def _read_manifest(self, name: ObjectName) -> Found:
        request = _manifest_request(name)
        with self._transport.open(request) as answer:
            info = from_wire(name, answer.headers, 0)
            chunks = answer.limited_chunks() if info.is_slo else [b"[]"]  # else it is an object's own bytes
            return Found(info, self._source(answer), named_objects(chunks, request.subject))

    def _source(self, answer: Answer) -> ObjectName | None:
        """Return the target of a symlink of Swift, whose bytes the answer has; None for other objects."""
        return symlink_source(answer.headers, urlsplit(self._account.endpoint()).path)

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        view = memoryview(body).cast("B")
        etag = etag or _md5(view)
        sent = {**to_wire(headers), "ETag": etag}
        meaning: dict[int, type[StoreError]] = {}
        if if_absent:
            sent["If-None-Match"] = "*"
            meaning[412] = AlreadyExists
        # A quota is answered with 413 too.
        if len(view) > (self._limits or UNKNOWN).object_bytes:
            meaning[413] = TooLarge
        request = Request(
            "put",
            "PUT",
            name.container,
            name.key,
            headers=sent,
            body=body,
            meaning=meaning,
            read_timeout=PUT_SECONDS,
        )
        try:
            answer = self._transport.send(request).headers
        except StoreError as error:
            error.etag = etag  # of the bytes that were sent: a writer may have changed a mapped body since
            # 422: Swift stores nothing that has another MD5 than the ETag it was sent with.
            if isinstance(error, Corrupt) and _md5(view) != etag:
                raise BodyChanged(str(error)) from error
            raise
        if not etag_of(answer):
            raise not_swift("it has no etag")
        if etag_of(answer) != etag:
            wrong = f"put {request.subject}: sent {etag}, the server stored {etag_of(answer)!r}"
            raise Corrupt(wrong, may_land=True)
        return sent_info(name, headers, answer, len(view))

    def put_manifest(
        self, name: ObjectName, manifest: Manifest, headers: Headers, *, if_absent: bool = False
    ) -> ObjectInfo:
        sent = to_wire(headers)
        meaning: dict[int, type[StoreError]] = {413: TooLarge}
        if if_absent:
            sent["If-None-Match"] = "*"
            meaning[412] = AlreadyExists
        request = Request(
            "put_manifest",
            "PUT",
            name.container,
            name.key,
            query="multipart-manifest=put",
            headers=sent,
            body=manifest_to_wire(manifest),
            meaning=meaning,
            read_timeout=WORK_SECONDS,
            long_running=True,
        )
        answer = self._transport.send(request).headers
        info = sent_info(name, headers, answer, manifest.size, is_slo=True)
        if info.version.etag != manifest.etag:
            info = replace(info, version=self._prove_manifest(info.version, manifest.etag))
        if self._foreign is not None:
            self._foreign.learn(info.version)
        return info

    def _prove_manifest(self, said: ObjectVersion, etag: str) -> ObjectVersion:
        """Return the version that was just stored, of which an answer has `said` another ETag than `etag`."""
        found = self._head(said.name, "").version
        if found.etag not in (etag, said.etag):
            text = f"put_manifest {said.name}: the server said {said.etag!r}, and has {found.etag!r}"
            raise Corrupt(text, may_land=True)
        return found

    def manifest(self, name: ObjectName) -> Manifest:
        request = _manifest_request(name)
        with self._transport.open(request) as answer:
            # Before the body is read: for an object without a manifest the query has no effect, and the
            # answer is its bytes.
            if not from_wire(name, answer.headers, 0).is_slo:
                raise BadRequest(f"manifest {request.subject}: the object has none")
            return manifest_from_wire(answer.limited_chunks(), request.subject)

    def copy(self, request: CopyRequest) -> ObjectVersion:
        if not (request.manifest_only or request.etag):
            self._check_source(request.source)
        return self._copies.copy(request)

    def _check_source(self, name: ObjectName) -> None:
        """Raise `ForeignManifest` if the bytes of an object may not be copied."""
        if self._foreign is not None:
            head = Request("head", "HEAD", name.container, name.key, query=version_query(name))
            with self._transport.open(head) as answer:
                self._accept(from_wire(name, answer.headers, 0), answer)

    def post(self, name: ObjectName, headers: Headers) -> None:
        self._transport.send(Request("post", "POST", name.container, name.key, headers=to_wire(headers)))

    def delete(self, name: ObjectName) -> None:
        self._transport.send(Request("delete", "DELETE", name.container, name.key))

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        return self._deletion.delete_many(names)

    def _head(self, name: ObjectName, etag: str) -> ObjectInfo:
        request = Request(
            "head",
            "HEAD",
            name.container,
            name.key,
            query=version_query(name),
            headers={"If-Match": f'"{etag}"'} if etag else {},
            meaning={409: LinkLoop, 412: PreconditionFailed},
        )
        try:
            answer = self._transport.send(request).headers
        except LinkLoop as error:
            # The link itself can be asked for, deleted, and copied.
            itself = replace(
                request, query=version_query(name, "symlink=get"), meaning={412: PreconditionFailed}
            )
            answer = self._transport.send(itself).headers
            if "x-symlink-target" not in answer:
                raise Clash(str(error)) from None  # what 409 means for anything else
            return replace(from_wire(name, answer, 0), is_symlink=True, unreadable=True)
        size = content_length(answer)
        info = from_wire(name, answer, size or 0)
        if info.dlo_prefix is None and size is None and info.version.etag != EMPTY_MD5:
            # Unknown is not empty: an append would replace the file.
            return self._measured(name, request.subject)
        check_described(f"head {request.subject}", info)
        if info.size or info.dlo_prefix is None:
            return info
        # HEAD says 0 bytes of a DLO whose segments fill more than one page of a listing.
        return replace(info, size=sum(row.size for row in iter_dlo_segments(self, info.dlo_prefix)))

    def _measured(self, name: ObjectName, subject: str) -> ObjectInfo:
        """Return what `_head` does, if a proxy removes the Content-Length: a range has the size with it."""
        get = RangedGet(name, lambda *_: None, 0, 1, "")
        try:
            with self._transport.open(get.request) as answer:
                return get.receive(answer, lambda _info: None)
        except Corrupt as error:
            raise Corrupt(f"head {subject}: the answer has no Content-Length, and {error}") from None

    def close(self) -> None:
        """Close every connection; running requests finish first or fail."""
        self._deletion.close()
        self._transport.close()


def _md5(body: memoryview) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def _manifest_request(name: ObjectName) -> Request:
    query = version_query(name, "multipart-manifest=get")
    return Request("manifest", "GET", name.container, name.key, query=query)


def _listing(answer: Answer, count: str = "x-container-object-count") -> Iterable[bytes]:
    """Return a listing's JSON; raise `NotSwift` for an answer without the `count` that Swift sends with it.

    A 204 is an empty listing; a 200 with an empty body is no listing.
    """
    count_of(answer.headers, count)
    return [b"[]"] if answer.status == 204 else answer.chunks()
