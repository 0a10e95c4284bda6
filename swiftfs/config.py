"""The options of a mount: one table for `-o`, the help text and the documentation."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from swiftfs.errors import ConfigurationError

KIB, MIB, GIB = 1024, 1024**2, 1024**3

_SIZE = re.compile(r"(\d+)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1024 * GIB}
_TRUE = {"", "1", "yes", "true", "on"}
_FALSE = {"0", "no", "false", "off"}


def parse_size(text: str) -> int:
    """Read `16M`, `16MiB`, `16777216` as bytes; raise `ValueError` for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size such as 16M")
    return int(match[1]) * _UNITS[match[2].lower()]


def _parse_switch(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("yes or no")


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 31_536_000:
        raise ValueError("seconds, 0 to a year")
    return seconds


def _parse_octal(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise ValueError("an octal mode such as 022")
    return int(text, 8)


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"a number, {low} to {high}")
        return int(text)

    return parse


def _size(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        size = parse_size(text)
        if not low <= size <= high:
            raise ValueError(f"a size, {low} to {high} bytes")
        return size

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return parse


def _show(value: Any) -> str:
    """Write a default as the user would type it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _show_size(size: int) -> str:
    for unit in "GMK":
        step = _UNITS[unit.lower()]
        if size % step == 0:
            return f"{size // step}{unit}"
    return str(size)


def _option(default: Any, parse: Callable[[str], Any], text: str, show: Callable[[Any], str] = _show) -> Any:
    return field(default=default, metadata={"parse": parse, "help": text, "show": show})


@dataclass(frozen=True, slots=True)
class Options:
    """What `-o` can set. Sizes are in bytes, times in seconds."""

    ro: bool = _option(False, _parse_switch, "refuse every change")
    allow_other: bool = _option(False, _parse_switch, "let other users in (root, or user_allow_other)")
    allow_root: bool = _option(False, _parse_switch, "let root in besides the user who mounts")
    default_permissions: bool = _option(False, _parse_switch, "let the kernel check modes and owners")
    uid: int | None = _option(None, _number(0, 2**32 - 2), "owner of what carries none (default: who mounts)")
    gid: int | None = _option(None, _number(0, 2**32 - 2), "group of what carries none (default: who mounts)")
    umask: int = _option(
        0o022, _parse_octal, "permission bits that what carries no mode does not get", "{:03o}".format
    )
    ttl: float = _option(60.0, _parse_seconds, "how long a listing may answer before Swift is asked again")
    max_entries: int = _option(1_000_000, _number(1000, 10**9), "names the listing cache holds at most")
    mtime: str = _option(
        "meta", _choice("meta", "listing"), "times of other clients' objects: by HEAD, or the listing's"
    )
    dir_marker: str = _option("plain", _choice("plain", "slash"), "mkdir writes the marker `d`, or `d/`")
    dir_attributes: str = _option(
        "headers",
        _choice("headers", "content-type"),
        "where markers keep their attributes: in headers, or in the type, which rclone takes for a file's",
    )
    show_segments: bool = _option(
        False, _parse_switch, "in an account, show the containers that end in _segments"
    )
    storage_policy: str = _option(
        "", str, "the storage policy of containers that are made (default: Swift's)"
    )
    segment_size: int = _option(
        16 * MIB,
        _size(MIB, 4 * GIB),
        "files above it become large objects of such segments",
        _show_size,
    )
    uploads: int = _option(4, _number(1, 64), "segments uploaded at once")
    connections: int = _option(8, _number(1, 64), "ranges downloaded at once, and half the small files")
    read_ahead: int = _option(
        64 * MIB,
        _size(0, 4 * GIB),
        "how far sequential reads are downloaded in advance",
        _show_size,
    )
    prefetch: bool = _option(
        True, _parse_switch, "fetch the next small files of a folder that is read file by file"
    )
    cache_size: int | None = _option(
        None,
        _size(64 * MIB, 2**60),
        "disk for local copies of what is in Swift (default: 10G, at most half of what is free)",
    )
    settle: float = _option(2.0, _parse_seconds, "how long deletions wait for others to be sent together")
    sync: bool = _option(False, _parse_switch, "let close() return only when the file is in Swift")
    cache_dir: str = _option("", str, "where local copies live (default: below the user's cache folder)")
    os_cloud: str = _option("", str, "a cloud of clouds.yaml")
    credentials: str = _option("", str, "a file of OS_* or ST_* variables that only its owner may read")
    debug: bool = _option(False, _parse_switch, "narrate every operation in the log")


_FIELDS: Mapping[str, Any] = {item.name: item for item in fields(Options)}

IGNORED = frozenset(
    {"rw", "auto", "noauto", "user", "nouser", "users", "nofail", "_netdev", "dev", "nodev", "suid", "nosuid"}
    | {"exec", "noexec", "atime", "noatime", "relatime", "defaults", "async"}
)
"""Words of fstab that mount(8) hands on and that change nothing here."""


def parse_options(words: Iterable[str]) -> Options:
    """Build `Options` from `-o` arguments, each `name[=value][,…]`; a later one wins.

    Raise `ConfigurationError` for an unknown name, with the nearest one, or for a value out of range.
    """
    values: dict[str, Any] = {}
    for word in (part.strip() for text in words for part in text.split(",")):
        name, _, value = word.partition("=")
        if not word or name in IGNORED or name.startswith(("x-", "comment")):
            continue
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            raise ConfigurationError(
                f"unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        try:
            values[name] = _FIELDS[name].metadata["parse"](value)
        except ValueError as error:
            raise ConfigurationError(f"option {name}={value}: say {error}") from None
    return Options(**values)


def describe_options() -> list[tuple[str, str, str]]:
    """Return name, default and meaning of each option, in the table's order."""
    return [
        (item.name, item.metadata["show"](item.default), item.metadata["help"]) for item in fields(Options)
    ]
