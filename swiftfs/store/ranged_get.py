"""The GET of a range of an object, and the checks of the bytes that it returns."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping

from msgspec import Struct

from swiftfs.errors import BadRequest, Corrupt, PreconditionFailed
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.protocol import Sink
from swiftfs.store.request import Request
from swiftfs.store.transport import Answer
from swiftfs.store.wire.listings import version_query
from swiftfs.store.wire.object_headers import check_described, content_length, from_wire, is_md5

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


class OtherSize(PreconditionFailed):
    """The object has another size than the version that was asked for."""


class RangedGet(Struct, frozen=True):
    """A GET of `length` bytes from `offset` on, or of all up to the object's end, into `sink`.

    If `etag` is not empty, only bytes of that version are accepted, and if `size` is known, only those of an
    object of that size. Without `conditional` the request has no `If-Match`, and the ETag in the answer alone
    is checked.
    """

    name: ObjectName
    sink: Sink
    offset: int
    length: int | None
    etag: str
    size: int | None = None
    conditional: bool = True

    def __post_init__(self) -> None:
        if self.offset < 0 or (self.length is not None and self.length < 1):
            raise BadRequest(f"get {self.name}: cannot ask for {self.length} bytes from {self.offset}")

    @property
    def request(self) -> Request:
        """The request to send."""
        headers = {}
        if self.offset or self.length is not None:
            last = "" if self.length is None else self.offset + self.length - 1
            headers["Range"] = f"bytes={self.offset}-{last}"
        if self.conditional and self.etag:
            headers["If-Match"] = f'"{self.etag}"'
        meaning = {412: PreconditionFailed} if self.etag else {}
        name = self.name
        return Request(
            "get",
            "GET",
            name.container,
            name.key,
            query=version_query(name),
            headers=headers,
            meaning=meaning,
            transfer=True,
        )

    def receive(self, answer: Answer, accept: Callable[[ObjectInfo], None]) -> ObjectInfo:
        """Pass the body to the sink; raise `Corrupt` for other bytes than those requested, or network errors.

        Before the first byte `accept` is called, which may raise an error.
        The bytes of a whole plain object are compared with its ETag, their MD5. The ETag of an SLO or DLO is
        no checksum of its bytes.
        """
        size = self._announced_size(answer)
        info = from_wire(self.name, answer.headers, size or 0)
        if size is not None:
            check_described(f"get {answer.request.subject}", info)
        if self.etag and info.version.etag != self.etag:
            raise PreconditionFailed(f"get {answer.request.subject}: the object is {info.version.etag}")
        plain = not info.is_slo and info.dlo_prefix is None and is_md5(info.version.etag)
        if self.size is not None and size not in (None, self.size):
            if plain and self.etag:  # the version is the right one, and all its bytes have this MD5
                raise Corrupt(f"get {answer.request.subject}: {size} bytes were announced, not {self.size}")
            raise self._other_size(answer, f"{size} bytes")
        accept(info)
        whole = answer.status == 200 or content_length(answer.headers) == size
        digest = hashlib.md5(usedforsecurity=False) if whole and plain else None
        position = self.offset
        end = self._end(size)
        for chunk in answer.chunks():
            # Before they reach the sink, which would write them over other bytes.
            if position + len(chunk) > end:
                if info.dlo_prefix is not None and size is None:  # it has grown
                    raise self._other_size(answer, f"more than {end} bytes")
                raise Corrupt(f"get {answer.request.subject}: more bytes came than were requested")
            if digest is not None:
                digest.update(chunk)
            self.sink(position, chunk)
            position += len(chunk)
        if (size is not None or info.dlo_prefix is None) and position < end < math.inf:
            raise Corrupt(f"get {answer.request.subject}: the bytes end at {position} instead of {end}")
        if digest is not None and digest.hexdigest() != info.version.etag:
            raise Corrupt(
                f"get {answer.request.subject}: the MD5 is {digest.hexdigest()}, not {info.version.etag}"
            )
        return info if size is not None else from_wire(self.name, answer.headers, position)

    def _announced_size(self, answer: Answer) -> int | None:
        """Return the whole object's size, None where only the end of the body shows it (a long DLO)."""
        length = content_length(answer.headers)
        if answer.status == 206:
            return self._partial_size(answer.headers, length, answer.request.subject)
        # A server may ignore a Range (RFC 9110, 14.2): its bytes would be taken for those of another offset.
        # All bytes of a version of known size are the range, also if a proxy has removed their length.
        number = self.size if length is None else length
        if self.offset or (self.length is not None and (number is None or number > self.length)):
            raise Corrupt(f"get {answer.request.subject}: the server ignored the range")
        return length

    def _end(self, size: int | None) -> float:
        """Return where the bytes end at the latest, infinity where it is unknown (a long DLO)."""
        if size is None:
            return math.inf if self.size is None else self.size
        return size if self.length is None else min(size, self.offset + self.length)

    def _other_size(self, answer: Answer, found: str) -> OtherSize:
        return OtherSize(f"get {answer.request.subject}: the object has {found} instead of {self.size}")

    def _partial_size(self, headers: Mapping[str, str], length: int | None, subject: str) -> int:
        text = headers.get("content-range", "")
        found = _CONTENT_RANGE.fullmatch(text)
        if found:
            first, last, size = (int(number) for number in found.groups())
            end = size if self.length is None else min(size, self.offset + self.length)
            if first == self.offset and last == end - 1 and length in (None, end - first):
                return size
        raise Corrupt(f"get {subject}: requested {self.length} bytes from {self.offset}, got {text[:80]!r}")
