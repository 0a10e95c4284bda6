"""Encodes POSIX attributes for Swift: as Content-Type parameters, as metadata of markers, and as xattrs.

A listing returns each Content-Type verbatim with its parameters, and so the attributes of every file without
more requests. Other clients ignore the parameters; they read `X-Object-Meta-Mtime`, which is written too.
"""

import base64
import binascii
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from mimetypes import MimeTypes
from urllib.parse import quote, unquote

from swiftfs.objects import DIRECTORY_TYPE, Attributes

NS = 1_000_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)

DIRECTORY_TYPES = frozenset({DIRECTORY_TYPE, "text/directory", "application/pseudo-folder"})
"""Types of directory markers: the vendor's and rclone's, old swift clients', and Horizon's."""

SPECIAL_TYPES = {
    stat.S_IFLNK: "inode/symlink",
    stat.S_IFIFO: "inode/fifo",
    stat.S_IFSOCK: "inode/socket",
    stat.S_IFCHR: "inode/chardevice",
    stat.S_IFBLK: "inode/blockdevice",
}
"""The media types of files that are not regular, as freedesktop.org's shared-mime-info names them."""

MAX_TARGET = 1024
"""Longer symlink targets are in the object's body only; Swift was seen to accept 3000 characters."""

_SECONDS = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,18}))?")
_MODE = re.compile(r"0?([0-7]{5,7})")
_NUMBER = re.compile(r"\d{1,10}")
_SLO = re.compile(r"[0-9a-f]{32}")
_DEVICE = re.compile(r"(\d{1,4})\.(\d{1,6})")
_TYPES = MimeTypes()


@dataclass(frozen=True, slots=True)
class Stored:
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
        moment = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        return 0
    return (moment.replace(tzinfo=timezone.utc) - _EPOCH) // _MICROSECOND * 1000


def guess_type(name: str) -> str:
    """Return the media type that a file's name suggests."""
    return _TYPES.guess_type(name, strict=False)[0] or "application/octet-stream"


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
    ours: dict[str, str] = {}
    for part in content_type.split(";"):
        key, _, value = part.strip().partition("=")
        # A parameter of our name with another value is another client's: it stays in the media type.
        if key in _READERS and _READERS[key].fullmatch(value):
            ours[key] = value
        else:
            foreign.append(part)
    return ";".join(foreign), Stored(
        mode=_octal(ours.get("mode")),
        mtime_ns=parse_time(ours.get("mtime")),
        uid=_decimal(ours.get("uid")),
        gid=_decimal(ours.get("gid")),
        target=unquote(ours["target"]) if "target" in ours else None,
        slo=ours.get("slo"),
        device=_device(ours.get("rdev")),
    )


_READERS = {
    "mode": _MODE,
    "mtime": _SECONDS,
    "uid": _NUMBER,
    "gid": _NUMBER,
    "target": re.compile(r"[A-Za-z0-9._+~%-]*"),
    "slo": _SLO,
    "rdev": _DEVICE,
}


def is_directory_type(content_type: str) -> bool:
    """Return whether an empty object of this type is a directory marker."""
    return content_type.partition(";")[0].strip().lower() in DIRECTORY_TYPES


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
    mode = _MODE.fullmatch(values["mode"])
    return Stored(
        mode=int(mode[1], 8) if mode else None,
        mtime_ns=parse_time(values["mtime"]),
        uid=_decimal(values["uid"] if _NUMBER.fullmatch(values["uid"]) else None),
        gid=_decimal(values["gid"] if _NUMBER.fullmatch(values["gid"]) else None),
    )


PID_ATTRIBUTE = "swiftfs.pid"
CACHE_ATTRIBUTE = "swiftfs.cache"
STATUS_ATTRIBUTE = "swift.status"
"""Read-only xattrs of the mount's root: its process, its cache folder, and its queue as JSON."""

FLUSH_ATTRIBUTE = "swift.flush"
RETRY_ATTRIBUTE = "swift.retry"
"""Set on the mount's root, to any value, they start uploading all pending changes, or retry failed ones."""

REFRESH_ATTRIBUTE = "swift.refresh"
"""Setting it, to any value, drops the cached listings of a path and of everything below it."""

PRIVATE_ATTRIBUTES = frozenset(
    (
        *(PID_ATTRIBUTE, CACHE_ATTRIBUTE, STATUS_ATTRIBUTE),
        *(FLUSH_ATTRIBUTE, RETRY_ATTRIBUTE, REFRESH_ATTRIBUTE),
    )
)
"""Xattrs that only the user who mounted and root may use: others would learn of files, or cause requests."""

_XATTR_PREFIX = "user."
_VERBATIM_NAME = re.compile(r"[a-z0-9.-]+")
_BINARY = "data:;base64,"
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
    """Return the xattr that a metadata name stands for, or None for our own fields."""
    if header in _MARKER_FIELDS:
        return None
    return _XATTR_PREFIX + unquote(header)


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


def _quote(text: str) -> str:
    return quote(text, safe="")


def _octal(text: str | None) -> int | None:
    return int(text, 8) if text is not None else None


def _device(text: str | None) -> int | None:
    match = _DEVICE.fullmatch(text or "")
    return os.makedev(int(match[1]), int(match[2])) if match else None


def _decimal(text: str | None) -> int | None:
    return int(text) if text is not None else None
