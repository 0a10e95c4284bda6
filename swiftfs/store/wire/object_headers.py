"""Converts an object's headers to values and back. Metadata is sent as UTF-8, as by the `swift` CLI."""

import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

from swiftfs.errors import BadRequest, Corrupt
from swiftfs.objects import ObjectInfo, ObjectName, ObjectVersion, Retrieval
from swiftfs.paths import is_utf8
from swiftfs.store.protocol import Headers, dlo_prefix
from swiftfs.store.request import RETRIEVAL_DELAY, RETRIEVAL_STATE

META = "x-object-meta-"

PRESERVED = {
    name.lower(): name
    for name in (
        "Cache-Control",
        "Content-Disposition",
        "Content-Encoding",
        "Content-Language",
        "Expires",
        "X-Delete-At",
        "X-Object-Manifest",
        "X-Robots-Tag",
    )
}
"""The headers that a POST drops unless it sends them again (`allowed_headers` of Swift's object server)."""

MAX_SIZE = 2**63 - 1
"""The largest size in `struct stat`."""

MAX_DIGITS = 100
"""Longer numbers are rejected unread: Python refuses to convert thousands of digits."""

LATEST_SECONDS = 2**34
"""Later times (after the year 2500) are rejected: to convert an exponent of millions takes all memory."""

EMPTY_MD5 = hashlib.md5(usedforsecurity=False).hexdigest()
"""The ETag of a plain object without bytes, and of no other."""

EMPTY_SLOS = {EMPTY_MD5, hashlib.md5(EMPTY_MD5.encode(), usedforsecurity=False).hexdigest()}
"""The ETags of large objects with no segment, or an empty one. Swift refuses these, other servers may not."""

_MD5 = re.compile(r"[0-9a-f]{32}")

_META_NAME = re.compile(r"[^\0\r\n:_]+")
"""What Swift takes and returns: other clients give objects such metadata as `My Note` and `größe`."""

_LINE_BREAK = re.compile(r"[\0\r\n]")
_BLANK = " \t\v\f"


def to_wire(headers: Headers) -> dict[str, str]:
    """Return the headers to send; raise `BadRequest` for what a header cannot carry unchanged.

    A name with `_` is refused: WSGI servers cannot tell it from `-`. So are the control characters that would
    begin another header, and the outer blanks of a value, which HTTP strips.
    """
    sent = {}
    if headers.content_type:
        sent["Content-Type"] = _checked("Content-Type", headers.content_type)
    for name, value in headers.metadata.items():
        if not (_META_NAME.fullmatch(name) and is_utf8(name)):
            raise BadRequest(f"{name!r} cannot be the name of object metadata")
        sent[f"X-Object-Meta-{name}"] = _checked(name, value)
    for name, value in headers.preserved_headers.items():
        if name.lower() not in PRESERVED:
            raise BadRequest(f"{name!r} is not a header that Swift keeps with an object")
        sent[PRESERVED[name.lower()]] = _checked(name, value)
    return sent


def from_wire(name: ObjectName, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """Return the object of `size` bytes that an answer's `headers` (lower-case names) describe."""
    return ObjectInfo(
        version=ObjectVersion(name, etag_of(headers)),
        size=size,
        content_type=headers.get("content-type", ""),
        last_modified_ns=timestamp(headers),
        metadata={key[len(META) :]: value for key, value in headers.items() if key.startswith(META)},
        preserved_headers={PRESERVED[key]: value for key, value in headers.items() if key in PRESERVED},
        is_slo=headers.get("x-static-large-object", "").lower() == "true",
        dlo_prefix=dlo_prefix(headers.get("x-object-manifest")),
        is_symlink=_is_symlink(name, headers),
        retrieval=retrieval_of(headers),
    )


def check_described(subject: str, info: ObjectInfo) -> None:
    """Raise `Corrupt` for an object whose ETag and size cannot both be those of any object.

    A proxy may spoil the Content-Length of a HEAD: an append to a file that seems empty would replace it.
    """
    if info.dlo_prefix is not None:  # its ETag and size are those of its segments, which may be too many
        return
    etag = info.version.etag
    if info.is_slo:
        is_wrong = bool(etag) and info.size == 0 and etag not in EMPTY_SLOS
    else:
        is_wrong = (etag == EMPTY_MD5) != (info.size == 0) and is_md5(etag)
    if is_wrong:
        raise Corrupt(f"{subject}: an object with the ETag {etag[:80]} cannot have {info.size} bytes")


def is_md5(etag: str) -> bool:
    """Return whether an ETag looks like the MD5 of an object's bytes."""
    return bool(_MD5.fullmatch(etag))


def _is_symlink(name: ObjectName, headers: Mapping[str, str]) -> bool:
    """Return whether an answer has the bytes of another object than `name`.

    In a container with versioning each object is a link of the server to a version of its own.
    """
    location = headers.get("content-location")
    if location is None:
        return False
    parts = urlsplit(location)
    return not (parts.query.startswith("version-id=") and unquote(parts.path).endswith(f"/{name}"))


def sent_info(
    name: ObjectName, sent: Headers, answer: Mapping[str, str], size: int, *, is_slo: bool = False
) -> ObjectInfo:
    """Return the object that a PUT with the headers `sent` has stored; `answer` has the answer's headers."""
    kept = {PRESERVED[key.lower()]: value for key, value in sent.preserved_headers.items()}
    return ObjectInfo(
        version=ObjectVersion(name, etag_of(answer)),
        size=size,
        content_type=sent.content_type,
        last_modified_ns=timestamp(answer),
        metadata={lower_name(key): value for key, value in sent.metadata.items()},
        preserved_headers=kept,
        is_slo=is_slo,
        dlo_prefix=dlo_prefix(kept.get("X-Object-Manifest")),
    )


def retrieval_of(headers: Mapping[str, str]) -> Retrieval | None:
    """Return what an archive says of the object, None if the server is none."""
    state = headers.get(RETRIEVAL_STATE)
    if state is None:
        return None
    seconds = whole_number(headers.get(RETRIEVAL_DELAY, ""))
    return Retrieval(state[:80].lower(), None if seconds is None else float(seconds))


def etag_of(headers: Mapping[str, str]) -> str:
    """Return the ETag without quotes, or an empty string."""
    # Swift quotes the ETag of an SLO only, proxies may quote others or mark them as weak.
    return headers.get("etag", "").removeprefix("W/").strip('"')


def text_of(value: str) -> str:
    """Return a header's text as UTF-8: http.client decodes all headers as Latin-1."""
    try:
        return value if value.isascii() else value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def lower_name(name: str) -> str:
    """Return a header's name in lower case. Only ASCII letters have a case: for Swift `Ö` is not `ö`."""
    if name.isascii():
        return name.lower()
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the Content-Length in bytes, None where there is none; raise `Corrupt` for an absurd one."""
    value = headers.get("content-length")
    if value is None:
        return None
    size = whole_number(value)
    if size is None:
        raise Corrupt(f"the server's Content-Length is {value[:80]!r}")
    return size


def whole_number(text: str) -> int | None:
    """Return a size or count that fits into `struct stat`, below 2**63; None for any other text."""
    if not (text.isascii() and text.isdecimal() and len(text) < MAX_DIGITS):
        return None
    number = int(text)
    return number if number <= MAX_SIZE else None


def symlink_source(headers: Mapping[str, str], base: str) -> ObjectName | None:
    """Return the object whose bytes an answer has instead of its own, None if it is no symlink of Swift.

    Source: `Content-Location` in swift/common/middleware/symlink.py. `base` is the storage URL's path; a path
    outside of it is another account's, and its name begins with a slash.
    """
    value = headers.get("content-location")
    if value is None:
        return None
    path = urlsplit(value).path
    inside = path.removeprefix(base.rstrip("/") + "/")
    return ObjectName.parse(unquote(inside)) if inside != path else ObjectName(unquote(path), "")


def _checked(name: str, value: str) -> str:
    if _LINE_BREAK.search(value) or value != value.strip(_BLANK):
        raise BadRequest(f"the value of {name!r} has a line break or blanks at its ends")
    if not is_utf8(value):
        raise BadRequest(f"the value of {name!r} is not UTF-8")
    return value


def timestamp(headers: Mapping[str, str]) -> int:
    """Return ns since the epoch, or 0. `X-Timestamp` is exact to 10 us, `Last-Modified` to a second."""
    try:
        seconds = Decimal(headers["x-timestamp"])
        if 0 <= seconds < LATEST_SECONDS:
            return int(seconds * 1_000_000_000)
    except (KeyError, InvalidOperation):
        pass
    try:
        return int(parsedate_to_datetime(headers["last-modified"]).timestamp()) * 1_000_000_000
    except (KeyError, ValueError, OverflowError):
        return 0
