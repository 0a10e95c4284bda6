"""Encodes POSIX attributes for Swift: as Content-Type parameters, as metadata of markers, and as xattrs.

A listing returns each Content-Type verbatim with its parameters, and so the attributes of every file without
more requests. Other clients ignore the parameters; they read `X-Object-Meta-Mtime`, which is written too.
"""

import base64
import binascii
import mimetypes
import os
import re
import stat
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from swiftfs.objects import DIRECTORY_TYPE, Attributes, Record, VersionRow

NS = 1_000_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

DIRECTORY_TYPES = frozenset(
    {DIRECTORY_TYPE, "application/x-directory", "text/directory", "application/pseudo-folder"}
)
"""Types of directory markers: the vendor's and rclone's, S3 clients', old swift clients', and Horizon's."""

OCTET_STREAM = "application/octet-stream"

FORM_TYPE = "application/x-www-form-urlencoded"

SPECIAL_TYPES = {
    stat.S_IFLNK: "inode/symlink",
    stat.S_IFIFO: "inode/fifo",
    stat.S_IFSOCK: "inode/socket",
    stat.S_IFCHR: "inode/chardevice",
    stat.S_IFBLK: "inode/blockdevice",
}
"""The media types of files that are not regular, as freedesktop.org's shared-mime-info names them."""

MAX_TARGET = 1024
"""The longest encoded symlink target, in characters, that is in the Content-Type too; a longer one is in the
object's body only. Swift was seen to accept 3000 characters."""

MAX_LINK = 4095
"""Bytes in the target of a symbolic link; `PATH_MAX` without its NUL."""

_SECONDS = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,18}))?")
_MODE = re.compile(r"0?([0-7]{5,7})")
_NUMBER = re.compile(r"\d{1,10}")
MAX_OWNER = 2**32 - 2
"""The greatest uid and gid: chown(2) takes the next one for "unchanged"."""

MAX_MAJOR, MAX_MINOR = 2**12 - 1, 2**20 - 1
"""The greatest numbers of a device in Linux (`linux/kdev_t.h`)."""

_FILE_TYPES = frozenset({stat.S_IFREG, stat.S_IFDIR, *SPECIAL_TYPES})

_SLO = re.compile(r"[0-9a-f]{32}")
_DEVICE = re.compile(r"(\d{1,4})\.(\d{1,7})")
_TARGET = re.compile(r"[A-Za-z0-9._+~%-]*")


class Stored(Record, frozen=True):
    """The attributes that an object stores; None for those it does not.

    `slo` is the ETag of a large object; without it a listing does not show the object's version.
    """

    mode: int | None = None
    mtime_ns: int | None = None
    uid: int | None = None
    gid: int | None = None
    target: str | None = None
    slo: str | None = None
    device: int | None = None


NOTHING_STORED = Stored()


def format_time(ns: int) -> str:
    """Return ns since the epoch as `seconds.fraction`, the format that rclone and the swift CLI read."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    seconds, rest = divmod(ns, NS)
    # `swift upload --changed` compares texts, and writes whole microseconds.
    return f"{sign}{seconds}.{rest:09d}" if rest % 1000 else f"{sign}{seconds}.{rest // 1000:06d}"


def parse_time(text: str | None) -> int | None:
    """Return the time `seconds[.fraction]` in ns since the epoch; None for other text."""
    match = _SECONDS.fullmatch(text.strip()) if text else None
    if match is None:
        return None
    ns = int(match[2]) * NS + int((match[3] or "").ljust(9, "0")[:9])
    return -ns if match[1] else ns


def parse_last_modified(text: str) -> int:
    """Return a listing's `last_modified` (UTC without a zone) in ns since the epoch; 0 for other text."""
    try:
        since = datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=timezone.utc) - _EPOCH
    except ValueError:
        return 0
    # Not by a division, which takes three times as long: this runs for every stat(2).
    return (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000


def stored_at_ns(version: VersionRow) -> int:
    """Return when a version was stored, in ns since the epoch: that is its id."""
    try:
        return int(Decimal(version.version_id.partition("_")[0]) * 10**9)
    except ArithmeticError:  # `null`, or an id of another kind
        return parse_last_modified(version.row.last_modified)


def stored_at(version: VersionRow) -> str:
    """Return when a version was stored as it is shown, such as `2026-11-28T10:15:30.123450Z`."""
    moment = _EPOCH + timedelta(microseconds=stored_at_ns(version) // 1000)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"


_COMPRESSED = {
    "gzip": "application/gzip",
    "compress": "application/x-compress",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "br": "application/x-brotli",
    "zstd": "application/zstd",
}
"""The types of compressed files by the encodings of `mimetypes`. Without a Content-Encoding, which nobody
sets, a client would take `page.html.gz` for HTML."""

_OPEN_DOCUMENT = "application/vnd.oasis.opendocument"
_OFFICE = "application/vnd.openxmlformats-officedocument"
_MORE_TYPES = {
    ".odt": f"{_OPEN_DOCUMENT}.text",
    ".ods": f"{_OPEN_DOCUMENT}.spreadsheet",
    ".odp": f"{_OPEN_DOCUMENT}.presentation",
    ".odg": f"{_OPEN_DOCUMENT}.graphics",
    ".docx": f"{_OFFICE}.wordprocessingml.document",
    ".xlsx": f"{_OFFICE}.spreadsheetml.sheet",
    ".pptx": f"{_OFFICE}.presentationml.presentation",
    ".hwp": "application/x-hwp",
    ".epub": "application/epub+zip",
    ".7z": "application/x-7z-compressed",
    ".rar": "application/vnd.rar",
    ".zst": "application/zstd",
    ".md": "text/markdown",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".ics": "text/calendar",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".ttf": "font/ttf",
    ".otf": "font/otf",
}
"""What Python does not know, or not in each release, as IANA or Debian's mime.types name it."""


def guess_type(name: str) -> str:
    """Return the media type that the end of a file's name suggests."""
    # As `PurePosixPath.suffix`, which takes longer than the rest of this.
    last = name.rpartition("/")[2]
    dot = last.rfind(".")
    return _type_of_ending(last[dot:] if 0 < dot < len(last) - 1 else "")


@lru_cache(maxsize=256)
def _type_of_ending(ending: str) -> str:
    # Only the ending: `mimetypes` takes the rest for a URL.
    media_type, encoding = _types().guess_type(f"x{ending}", strict=False)
    if encoding is not None:
        return _COMPRESSED.get(encoding, OCTET_STREAM)
    return media_type or OCTET_STREAM


def type_after_rename(media_type: str, old: str, new: str) -> str:
    """Return the media type of a file after its rename: that of the `new` name, if it had that of the `old`.

    Otherwise another client has chosen it.
    """
    return guess_type(new) if media_type == guess_type(old) else media_type


@cache
def _types() -> mimetypes.MimeTypes:
    """Return the types by the endings of names: Python's, ours, then what files of the system add to them."""
    types, system = mimetypes.MimeTypes(), mimetypes.MimeTypes()
    for path in mimetypes.knownfiles:
        if Path(path).is_file():
            system.read(path)
    for more in (_MORE_TYPES, system.types_map[True]):
        for ending, media_type in more.items():
            types.types_map[True].setdefault(ending, media_type)
    return types


def encode_type(base: str, stored: Stored) -> str:
    """Return the Content-Type of a file: `base` and the attributes as parameters."""
    parts = [base]
    if stored.mtime_ns is not None:
        parts.append(f"mtime={format_time(stored.mtime_ns)}")
    if stored.mode is not None:
        # With the file type: a listing shows links and special files by it.
        parts.append(f"mode={stored.mode:07o}")
    if stored.uid is not None:
        parts.append(f"uid={stored.uid}")
    if stored.gid is not None:
        parts.append(f"gid={stored.gid}")
    if stored.target is not None and len(target := _quote(stored.target)) <= MAX_TARGET:
        parts.append(f"target={target}")
    if stored.slo is not None:
        parts.append(f"slo={stored.slo}")
    if stored.device is not None:
        parts.append(f"rdev={os.major(stored.device)}.{os.minor(stored.device)}")
    return ";".join(parts)


def decode_type(content_type: str) -> tuple[str, Stored]:
    """Split a Content-Type into the media type with foreign parameters, and the attributes in our own."""
    if ";" not in content_type:
        return content_type, NOTHING_STORED
    foreign = []
    ours: dict[str, Any] = {}
    for part in content_type.split(";"):
        key, _, text = part.strip().partition("=")
        value = _PARSERS[key](text) if key in _PARSERS else None
        # A parameter of our name with another value is another client's: it stays in the media type.
        if value is None:
            foreign.append(part)
        else:
            ours[_FIELDS.get(key, key)] = value
    return ";".join(foreign), Stored(**ours)


def is_directory_type(content_type: str) -> bool:
    """Return whether an empty object of this type is a directory marker."""
    media_type, _, parameters = content_type.lower().partition(";")
    # Ceph's gateway has markers of this type with a charset; an empty file of curl has none.
    if media_type.strip() == FORM_TYPE:
        return parameters.strip().startswith("charset=")
    return media_type.strip() in DIRECTORY_TYPES


_MARKER_FIELDS = ("mtime", "mode", "uid", "gid")


def encode_marker(attributes: Attributes) -> dict[str, str]:
    """Return the attributes as metadata of a directory marker, whose type should have no parameters."""
    return {
        "mtime": format_time(attributes.mtime_ns),
        "mode": f"{attributes.mode:07o}",
        "uid": str(attributes.uid),
        "gid": str(attributes.gid),
    }


def decode_metadata(metadata: Mapping[str, str]) -> Stored:
    """Return the attributes in an object's metadata; other clients write only `mtime`."""
    values = {name: metadata.get(name, "") for name in _MARKER_FIELDS}
    return Stored(
        mode=_mode(values["mode"]),
        mtime_ns=parse_time(values["mtime"]),
        uid=_owner(values["uid"]),
        gid=_owner(values["gid"]),
    )


PID_ATTRIBUTE = "swiftfs.pid"
CACHE_ATTRIBUTE = "swiftfs.cache"
STATUS_ATTRIBUTE = "swift.status"
"""Read-only xattrs of the mount's root: its process, its cache folder, and its queue as JSON."""

FLUSH_ATTRIBUTE = "swift.flush"
RETRY_ATTRIBUTE = "swift.retry"
"""Set on the mount's root, to any value, they start uploading all pending changes, or retry failed ones."""

SET_ATTRIBUTE, SET_SEPARATOR = "swift.set", "\n"
"""Read on the mount's root, with `name=value`s after it, each behind a separator, it changes options, and has
those in force as JSON. It is read and not set because the kernel refuses that on a read-only mount."""

REFRESH_ATTRIBUTE = "swift.refresh"
"""Setting it, to any value, drops the cached listings of a path and of everything below it."""

STATE_ATTRIBUTE, THAW_ATTRIBUTE = "swift.state", "swift.thaw"
"""Whether a file of an archive can be read. Reading the second one asks the archive for the file before."""

PINNED_ATTRIBUTE = "swift.pinned"
PIN_ATTRIBUTE, UNPIN_ATTRIBUTE = "swift.pin", "swift.unpin"
"""Whether the copies of a file, or of a folder, stay in the cache: 1 or 0. Reading the others changes it."""

EXPIRY_ATTRIBUTE = "swift.delete_at"
"""When Swift deletes a file. Only its owner, the user who mounted and root may change it."""

PRIVATE_ATTRIBUTES = frozenset(
    (
        *(THAW_ATTRIBUTE, PIN_ATTRIBUTE, UNPIN_ATTRIBUTE),
        *(PID_ATTRIBUTE, CACHE_ATTRIBUTE, STATUS_ATTRIBUTE),
        *(FLUSH_ATTRIBUTE, RETRY_ATTRIBUTE, REFRESH_ATTRIBUTE),
    )
)
"""Xattrs that only the user who mounted and root may use: others would learn of files, or cause requests."""

MAX_XATTR_NAME = 255
"""Bytes in the name of an xattr; `XATTR_NAME_MAX` in xattr(7)."""

_XATTR_PREFIX = "user."
_VERBATIM_NAME = re.compile(r"[a-z0-9.-]+")
_BINARY = "data:;base64,"
_IN_PARTS = "data:;parts="
_PARTS = re.compile(_IN_PARTS + r"(\d{1,3}),(.*)", re.DOTALL)
_PART = "%00"
_VERBATIM_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def xattr_to_header(name: str) -> str | None:
    """Return the metadata name of a `user.*` xattr, or None for another namespace and for our own fields.

    Header names have neither case nor underscore (WSGI), so all but `a-z 0-9 . -` is %-encoded.
    """
    if not name.startswith(_XATTR_PREFIX) or name == _XATTR_PREFIX:
        return None
    plain = name.removeprefix(_XATTR_PREFIX)
    if plain in _MARKER_FIELDS:
        return None
    if _VERBATIM_NAME.fullmatch(plain):
        return plain
    return "".join(
        chr(byte) if _VERBATIM_NAME.fullmatch(chr(byte)) else f"%{byte:02x}" for byte in plain.encode()
    )


def header_to_xattr(header: str) -> str | None:
    """Return the xattr that a metadata name stands for.

    None for our own fields, for a name that no xattr can have, and for one that does not encode back to
    `header`: getxattr(2) would not find it.
    """
    name = _XATTR_PREFIX + unquote(header)
    try:
        is_name = "\0" not in name and len(name.encode()) <= MAX_XATTR_NAME
    except UnicodeEncodeError:
        return None
    return name if is_name and xattr_to_header(name) == header else None


def encode_xattr(value: bytes) -> str:
    """Return the header value of an xattr: plain text as it is, other bytes as base64 after `data:`."""
    text = value.decode("ascii", "replace")
    # HTTP strips blanks at the ends, and a text that begins like our base64 form would be decoded.
    if _VERBATIM_VALUE.fullmatch(text) and not text.startswith("data:"):
        return text
    return _BINARY + base64.b64encode(value).decode()


def decode_xattr(text: str) -> bytes:
    """Return the bytes of an xattr from its header value."""
    if text.startswith(_BINARY):
        try:
            return base64.b64decode(text.removeprefix(_BINARY), validate=True)
        except binascii.Error:
            pass
    return text.encode()


def with_xattr(metadata: Mapping[str, str], header: str, value: bytes, longest: int) -> dict[str, str]:
    """Return the metadata with an xattr, in parts of at most `longest` bytes if it is longer.

    A part's name has a NUL, which no xattr can have.
    """
    changed = without_xattr(metadata, header)
    text = encode_xattr(value)
    if len(text) <= longest:
        changed[header] = text
        return changed
    chunks = _cut(text, longest) or _cut(_BINARY + base64.b64encode(value).decode(), longest)
    changed[header] = f"{_IN_PARTS}{len(chunks) - 1},{chunks[0]}"
    changed.update({f"{header}{_PART}{number}": chunk for number, chunk in enumerate(chunks[1:], 1)})
    return changed


def xattr_of(metadata: Mapping[str, str], header: str) -> bytes | None:
    """Return the value of an xattr, None if there is none."""
    text = metadata.get(header)
    if text is None or (match := _PARTS.fullmatch(text)) is None:
        return None if text is None else decode_xattr(text)
    parts = [metadata.get(f"{header}{_PART}{number}") for number in range(1, int(match[1]) + 1)]
    whole = [part for part in parts if part is not None]
    # Another client may have such a text, or have removed a part.
    return decode_xattr(match[2] + "".join(whole)) if len(whole) == len(parts) else text.encode()


def without_xattr(metadata: Mapping[str, str], header: str) -> dict[str, str]:
    """Return the metadata without an xattr and its parts."""
    begin = header + _PART
    return {name: text for name, text in metadata.items() if name != header and not name.startswith(begin)}


def _cut(text: str, longest: int) -> list[str]:
    """Return a text in chunks that fit, none if blanks would be at the end of one: HTTP strips them."""
    first = longest - len(f"{_IN_PARTS}{len(text)},")
    if first <= 0:
        return [text]  # no server has such a limit: it will be refused
    chunks = [text[:first], *(text[at : at + longest] for at in range(first, len(text), longest))]
    return chunks if all(chunk == chunk.strip() for chunk in chunks) else []


def _quote(text: str) -> str:
    return quote(text, safe="")


def _mode(text: str) -> int | None:
    """Return a mode with a known file type; None for other text."""
    match = _MODE.fullmatch(text)
    mode = int(match[1], 8) if match else 0
    is_known = stat.S_IFMT(mode) in _FILE_TYPES and stat.S_IFMT(mode) | stat.S_IMODE(mode) == mode
    return mode if is_known else None


def _owner(text: str) -> int | None:
    """Return a uid or gid; None for other text."""
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= MAX_OWNER else None


def _device(text: str) -> int | None:
    """Return a device number; None for other text, and for one that Linux does not have."""
    match = _DEVICE.fullmatch(text)
    if match is None or int(match[1]) > MAX_MAJOR or int(match[2]) > MAX_MINOR:
        return None
    return os.makedev(int(match[1]), int(match[2]))


def _target(text: str) -> str | None:
    """Return the target of a symbolic link; None for text that is none, such as one with NUL."""
    try:
        target = unquote(text, errors="strict") if _TARGET.fullmatch(text) else "\0"
    except UnicodeDecodeError:
        return None
    return None if "\0" in target else target


def _etag(text: str) -> str | None:
    return text if _SLO.fullmatch(text) else None


_PARSERS: Mapping[str, Callable[[str], object]] = {
    "mode": _mode,
    "mtime": parse_time,
    "uid": _owner,
    "gid": _owner,
    "target": _target,
    "slo": _etag,
    "rdev": _device,
}
"""The parser of each of our parameters; it returns None for a value that we do not write."""

_FIELDS = {"mtime": "mtime_ns", "rdev": "device"}
"""The fields of `Stored` whose parameter has another name."""
