"""Copies on the server: each is proved to be there, and to be of the version that was asked for.

The source may be deleted next.
"""

from collections.abc import Callable, Mapping
from email.utils import formatdate
from urllib.parse import unquote

from msgspec.structs import replace

from swiftfs.errors import Clash, Corrupt, NotFound, PreconditionFailed, StoreError, TooLarge
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion, OlderName
from swiftfs.store.protocol import CopyRequest
from swiftfs.store.request import WORK_SECONDS, Request, quoted_path
from swiftfs.store.wire.listings import CURRENT, version_query
from swiftfs.store.wire.object_headers import etag_of, to_wire

NS = 1_000_000_000

Head = Callable[[ObjectName], ObjectInfo]


def prove_copy(request: CopyRequest, source: ObjectInfo, head: Head) -> str:
    """Return the ETag of a copy of `source` by one HEAD; raise `Corrupt` if it is not there."""
    try:
        found = head(request.target)
    except NotFound:
        raise _no_copy(request) from None
    # A copy of the bytes of a large object, and of a part, has an ETag of its own.
    is_large = source.is_slo or source.dlo_prefix is not None
    has_other_etag = request.span is not None or (is_large and not request.manifest_only)
    size = source.size if request.span is None else request.span[1] - request.span[0]
    if found.size != size or not (has_other_etag or found.version.etag == source.version.etag):
        text = (
            f"copy {request.source}: the server says that it is done, but {request.target} is another object"
        )
        raise Corrupt(text, may_land=True)
    return found.version.etag


class ServerCopies:
    """The COPYs of a store, by its `send` and `head`. No lock: each use of `_versioned` is one step."""

    def __init__(self, send: Callable[[Request], Mapping[str, str]], head: Head) -> None:
        self._send_request = send
        self._head = head
        self._versioned: set[str] = set()

    def copy(self, wanted: CopyRequest) -> ObjectVersion:
        """Copy as `ObjectStore.copy`, wherever the bytes of the source lie."""
        # Swift answers 500 if it does not copy a manifest because of this condition, which always compares
        # the MD5 of the manifest's text.
        is_by_time = wanted.manifest_only and bool(wanted.etag)
        by_etag = {"If-Match": f'"{wanted.etag}"'} if wanted.etag else {}
        try:
            answer = self._send_as_seen(wanted) if is_by_time else self._send(wanted, by_etag)
        except PreconditionFailed:
            if is_by_time or not wanted.etag:
                raise
            # As in `SwiftStore.get`: a plain copy of an SLO has that one's ETag in its own metadata.
            answer = self._send_as_seen(wanted)
            # The ETag of a part does not tell a change within the second of `_if_unmodified`.
            if wanted.span is not None and self._head(wanted.source).version.etag != wanted.etag:
                raise _other_version(wanted) from None
        said = answer.get("x-copied-from", "").lstrip("/")
        if said and f"{wanted.source}" not in (said, unquote(said)):
            text = f"copy {wanted.source}: the server says that it has copied {said[:200]!r}"
            raise Corrupt(text, may_land=True)
        return ObjectVersion(wanted.target, self._etag_of_copy(wanted, etag_of(answer)))

    def _etag_of_copy(self, wanted: CopyRequest, said: str) -> str:
        """Return the ETag of a copy, whose answer has `said` one; raise what `ObjectStore.copy` does.

        A HEAD of the copy decides, unless it is the one that is expected, or the caller looks at it.
        """
        expected = (wanted.etag if wanted.span is None else "") or wanted.likely
        is_looked_at = not expected and (wanted.manifest_only or wanted.span is not None)
        if said and (said == expected or is_looked_at):
            return said
        if not said and not expected:
            return prove_copy(wanted, self._head(wanted.source), self._head)
        try:
            found = self._head(wanted.target).version.etag
        except NotFound:
            raise _no_copy(wanted) from None
        if found == expected:
            return found
        if not said:
            found = prove_copy(wanted, self._head(wanted.source), self._head)
        # A server may ignore the condition.
        if wanted.etag and found != wanted.etag and wanted.span is None:
            raise _other_version(wanted)
        return found

    def _send_as_seen(self, wanted: CopyRequest) -> Mapping[str, str]:
        """Send a COPY if a HEAD shows the version that is wanted, and Swift has not changed it since."""
        seen = self._head(wanted.source)
        if seen.version.etag != wanted.etag:
            raise PreconditionFailed(f"{wanted.source}: it is another version")
        return self._send(wanted, _if_unmodified(seen))

    def _send(self, wanted: CopyRequest, condition: dict[str, str]) -> Mapping[str, str]:
        """Send a COPY, and return the answer's headers.

        In a container with versioning an object is a link to its version: that is what must be copied. Such a
        server answers 409 for the link.
        """
        request = _request(wanted, condition)
        is_itself = wanted.manifest_only and not isinstance(wanted.source, OlderName)
        if is_itself and wanted.source.container in self._versioned:
            request = self._of_current_version(request, wanted.source)
        try:
            return self._send_request(request)
        except Clash:
            current = self._of_current_version(request, wanted.source) if is_itself else request
            if current == request:
                raise
            self._versioned.add(wanted.source.container)
            return self._send_request(current)

    def _of_current_version(self, request: Request, source: ObjectName) -> Request:
        """Return a COPY of the version that the source is now; the same one if it has no versions."""
        head = Request("head", "HEAD", source.container, source.key)
        found = self._send_request(head).get("x-object-version-id", CURRENT)
        if found == CURRENT:
            return request
        return replace(request, query=_query(OlderName(source.container, source.key, found), True))


def _request(wanted: CopyRequest, condition: dict[str, str]) -> Request:
    sent = {"Destination": quoted_path(wanted.target), **condition}
    meaning: dict[int, type[StoreError]] = {413: TooLarge}
    if condition:
        meaning[412] = PreconditionFailed
    if wanted.headers is not None:
        sent |= {**to_wire(wanted.headers), "X-Fresh-Metadata": "true"}
    if wanted.delete_at is not None:
        sent["X-Delete-At"] = str(wanted.delete_at)
    if wanted.span is not None:
        # Swift passes it on to the GET of the source (swift/common/middleware/copy.py), as the condition.
        sent["Range"] = f"bytes={wanted.span[0]}-{wanted.span[1] - 1}"
    return Request(
        "copy",
        "COPY",
        wanted.source.container,
        wanted.source.key,
        query=_query(wanted.source, wanted.manifest_only),
        headers=sent,
        meaning=meaning,
        read_timeout=WORK_SECONDS,
        long_running=True,
    )


def _query(source: ObjectName, manifest_only: bool) -> str:
    # A symlink of Swift is copied itself too: its target may be what others may not read.
    return version_query(source, "multipart-manifest=get&symlink=get" if manifest_only else "")


def _if_unmodified(seen: ObjectInfo) -> dict[str, str]:
    """Return the condition that an object is as it was seen: it may change only within the same second."""
    if not seen.last_modified_ns:
        return {}
    # Swift compares whole seconds, rounded up.
    return {"If-Unmodified-Since": formatdate(-(-seen.last_modified_ns // NS), usegmt=True)}


def _no_copy(wanted: CopyRequest) -> Corrupt:
    text = f"copy {wanted.source}: the server says that it is done, but there is no copy"
    return Corrupt(text, may_land=True)


def _other_version(wanted: CopyRequest) -> PreconditionFailed:
    return PreconditionFailed(f"{wanted.source}: another version was copied", may_land=True)
