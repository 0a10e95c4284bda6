"""The options of a mount: one table for every place that sets them, the help and the documentation."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from swiftfs.store.throttle import NO_LIMIT, Timetable, parse_bandwidth

KIB, MIB, GIB = 1024, 1024**2, 1024**3

_SIZE = re.compile(r"(\d+)\s*([kmgtp]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1024 * GIB, "p": 1024**2 * GIB}
_AGE = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LOOPBACK = "127.0.0.1"

LEAST_RATE = 0.1
"""Requests a second: a mount sends some before it answers, for which who mounts waits a minute at most."""

_TRUE = {"1", "yes", "true", "on"}
_FALSE = {"0", "no", "false", "off"}


def _show(value: Any) -> str:
    """Write a value as the user would type it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


class Kind(Struct, frozen=True):
    """How values of one kind are written: `word` is its placeholder in the help.

    `parse` reads one, or raises `ValueError` with what is expected; `show` writes it again. `from_number` is
    whether a number in TOML means the same as its digits.
    """

    word: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = _show
    from_number: bool = True


def parse_size(text: str) -> int:
    """Read `16M`, `16MiB`, `16777216` as bytes; raise `ValueError` for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size such as 16M")
    return int(match[1]) * _UNITS[match[2].lower()]


def parse_age(text: str) -> int:
    """Read `12h`, `7d` or `2w` as seconds; raise `ValueError` for anything else."""
    match = _AGE.fullmatch(text)
    if match is None:
        raise ValueError("an age such as 12h, 7d or 2w")
    return int(match[1]) * _SECONDS_OF[match[2]]


def parse_date(text: str) -> datetime:
    """Read a date, or a date and time, of ISO 8601: local unless it has a zone; raise `ValueError`."""
    try:
        # Before 3.11 `fromisoformat` knows no Z.
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)).astimezone()
    except OverflowError as error:
        raise ValueError(str(error)) from None


Rules = tuple[tuple[str, int], ...]
"""Folders of a mount, without slashes at their ends, and how many seconds new files below them live."""


def parse_rules(text: str) -> Rules:
    """Read `logs/=90d;tmp/=12h`; raise `ValueError` for anything else."""
    rules: dict[str, int] = {}
    for rule in filter(None, (part.strip() for part in text.split(";"))):
        given, equals, age = (part.strip() for part in rule.rpartition("="))
        folder = given.strip("/")
        # Only "/" is the whole mount: a forgotten name must not delete all of it.
        is_path = given and (not folder or not {"", ".", ".."} & set(folder.split("/")))
        if not equals or not is_path:
            raise ValueError("FOLDER=AGE, such as logs/=90d, several with ';' between them")
        seconds = parse_age(age)
        if not seconds or rules.setdefault(folder, seconds) != seconds:
            raise ValueError("one age for each folder, of a second or more")
    return tuple(sorted(rules.items()))


def show_rules(rules: Rules) -> str:
    """Write rules as `parse_rules` reads them."""
    return ";".join(f"{folder}/={seconds}s" for folder, seconds in rules)


def show_size(size: int | None) -> str:
    """Write bytes as `parse_size` reads them, in the largest unit that fits."""
    if size is None:
        return ""
    for unit in "PTGMK":
        step = _UNITS[unit.lower()]
        if size and size % step == 0:
            return f"{size // step}{unit}"
    return str(size)


def readable_size(size: int) -> str:
    """Write bytes in the units of `parse_size`, with one decimal, for texts that also show options."""
    for unit in "PTGMK":
        step = _UNITS[unit.lower()]
        if size >= step:
            return f"{size / step:.1f}".removesuffix(".0") + unit
    return f"{size} bytes"


def _parse_switch(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("yes or no" if text else "yes or no; it is empty")


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


def _given(expected: str, parse: Callable[[str], str] = str) -> Callable[[str], str]:
    """Return `parse` for all but an empty text, which as a rule is a variable that is not set."""

    def parse_given(text: str) -> str:
        if not text:
            raise ValueError(f"{expected}; it is empty")
        return parse(text)

    return parse_given


def _parse_path(text: str) -> str:
    """Expand `~`, since in fstab and TOML no shell does."""
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise ValueError("a path: there is no such home folder") from None


def _parse_place(text: str) -> str:
    if not text or "/" in text or len(text.encode()) > 256:
        raise ValueError("auto, same, or the name of a container")
    return text


def _parse_metrics(text: str) -> str:
    """Read a port (the loopback address is added), `ADDRESS:PORT`, or the path of a `.prom` or `.sock`."""
    if "/" in text or text.endswith((".prom", ".sock")):
        path = Path(_parse_path(text)).absolute()
        if path.suffix not in (".prom", ".sock"):
            raise ValueError("a path that ends in .prom, as node_exporter reads no other files, or in .sock")
        return str(path)
    address, _, port = text.rpartition(":")
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError("a port, ADDRESS:PORT, or the path of a .prom file or a .sock")
    return f"{address or LOOPBACK}:{int(port)}"


def _parse_rate(text: str) -> float:
    expected = "requests a second, such as 10 or 0.5 (0.1 or more); 0 for no limit"
    if 0 < (rate := _amount(text, expected)) < LEAST_RATE:
        raise ValueError(expected)
    return rate


def _parse_amount(text: str) -> float | None:
    return None if text.lower() == "off" else _amount(text, "an amount of the currency of `prices`, or off")


def _amount(text: str, expected: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount <= 1e12:  # not for NaN either
        raise ValueError(expected)
    return amount


def _number(low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"a number, {low} to {high}")
        return int(text)

    return Kind("NUMBER", parse)


def _size(low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        size = parse_size(text)
        if not low <= size <= high:
            raise ValueError(f"a size, {show_size(low)} to {show_size(high)}")
        return size

    return Kind("SIZE", parse, show_size)


def _choice(*words: str) -> Kind:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{', '.join(words[:-1])} or {words[-1]}")
        return text

    return Kind("|".join(words), parse)


SWITCH = Kind("", _parse_switch)
_SECONDS = Kind("SECONDS", _parse_seconds)
_OCTAL = Kind("OCTAL", _parse_octal, "{:03o}".format, from_number=False)
_TEXT = Kind("TEXT", _given("a text"))
_FILE = Kind("FILE", _given("a path", _parse_path))
_FOLDER = Kind("FOLDER", _given("a path", _parse_path))
_METRICS = Kind("PORT|ADDRESS:PORT|FILE|SOCKET", _given("a port or a path", _parse_metrics))
_BANDWIDTH = Kind(
    "off|UP[:DOWN]|TIMETABLE", lambda text: parse_bandwidth(text, parse_size), lambda table: table.text
)
_RATE = Kind("NUMBER", _parse_rate)
_AMOUNT = Kind("AMOUNT", _parse_amount)
_RULES = Kind("FOLDER=AGE;…", parse_rules, show_rules)
_PLACE = Kind("auto|same|CONTAINER", _parse_place)


_DESCRIBED: list[tuple[Kind, str]] = []
"""The kind and help of each option, in the order of the fields of `Options`."""


def _option(default: Any, kind: Kind, text: str) -> Any:
    _DESCRIBED.append((kind, text))
    return default


class Options(Struct, frozen=True):
    """The options of a mount. Sizes are in bytes, times in seconds."""

    ro: bool = _option(False, SWITCH, "mount read-only")
    create: bool = _option(False, SWITCH, "make the container and the mount point if they do not exist")
    allow_other: bool = _option(
        False, SWITCH, "let other users in (needs root, or user_allow_other in /etc/fuse.conf)"
    )
    allow_root: bool = _option(
        False, SWITCH, "let root in, besides the user who mounts (needs user_allow_other in /etc/fuse.conf)"
    )
    default_permissions: bool | None = _option(
        None,
        SWITCH,
        "let the kernel check modes and owners (default: with allow_other and allow_root); "
        "`no_default_permissions` turns it off",
    )
    fuse: str = _option(
        "auto",
        _choice("auto", "2", "3"),
        "which libfuse serves the mount: 2, 3, or 3 where it and the Python package mfusepy are installed, "
        "else 2",
    )
    special: bool = _option(
        False,
        SWITCH,
        "show setuid and setgid bits of files, and device nodes, and let root create device nodes; "
        "otherwise they are hidden",
    )
    exec: bool = _option(True, SWITCH, "allow running programs from the mount; `noexec` forbids it")
    uid: int | None = _option(
        None, _number(0, 2**32 - 2), "owner for objects that store no owner (default: the user who mounts)"
    )
    gid: int | None = _option(
        None, _number(0, 2**32 - 2), "group for objects that store no group (default: that user's)"
    )
    umask: int = _option(0o022, _OCTAL, "mode bits to clear on objects that store no mode")
    ttl: float = _option(60.0, _SECONDS, "how long a listing is used before Swift is asked again")
    max_entries: int = _option(
        100_000, _number(1000, 10**9), "how many names the listing cache holds at most, 1.2 KB of memory each"
    )
    mtime: str = _option(
        "meta",
        _choice("meta", "listing", "auto"),
        "times of other clients' objects: from a HEAD request, from the listing, or from the listing "
        "except for objects that were seen to have one",
    )
    dir_marker: str = _option(
        "plain", _choice("plain", "slash"), "name of the marker object that mkdir writes: `d`, or `d/`"
    )
    dir_attributes: str = _option(
        "headers",
        _choice("headers", "content-type"),
        "where folder markers keep attributes: in headers, or in the Content-Type (rclone takes such "
        "markers for files)",
    )
    show_segments: bool = _option(
        False, SWITCH, "in an account mount, show containers whose names end in _segments"
    )
    storage_policy: str = _option("", _TEXT, "storage policy of new containers (default: the server's)")
    segments: str = _option(
        "auto",
        _PLACE,
        "container of the segments: a name, `same` as the file's, or `auto`: NAME_segments if possible, "
        "else the same",
    )
    foreign_manifests: str = _option(
        "refuse",
        _choice("refuse", "follow"),
        "large objects and symlinks whose bytes lie in another container: refuse to read them, or follow "
        "them as Swift does",
    )
    segment_size: int = _option(
        16 * MIB,
        _size(MIB, 4 * GIB),
        "files larger than this are stored as large objects, in segments of this size",
    )
    uploads: int = _option(
        64,
        _number(1, 64),
        "how many segments are uploaded at once at most: few at first, and more as long as that is faster; "
        "of small files four times as many, up to 64",
    )
    connections: int = _option(
        8, _number(1, 64), "how many ranges, or twice as many small files, are downloaded at once"
    )
    read_ahead: int = _option(
        64 * MIB, _size(0, 4 * GIB), "how far sequential reads are downloaded in advance"
    )
    prefetch: bool = _option(
        True, SWITCH, "when the small files of a folder are read in order, download the next ones in advance"
    )
    bwlimit: Timetable = _option(
        NO_LIMIT,
        _BANDWIDTH,
        "bytes a second to send and to receive at most, such as 2M:10M or 2M:off, or a timetable such as "
        "'08:00,2M:off 19:00,off'",
    )
    tpslimit: float = _option(0.0, _RATE, "how many requests a second are sent at most; 0 for no limit")
    cache_size: int | None = _option(
        None,
        _size(64 * MIB, 2**50),
        "disk space for local copies of files (default: 10G, at most half of the free space)",
    )
    offline: bool = _option(
        False,
        SWITCH,
        "mount also when the server is away, with the listings and copies in the cache folder; changes wait "
        "there until it is back",
    )
    drain: float = _option(
        300.0, _SECONDS, "how long unmounting waits for uploads; the next mount continues with the rest"
    )
    expire: tuple[tuple[str, int], ...] = _option(
        (),
        _RULES,
        "let Swift delete new files below these folders of the mount at this age, such as "
        "`logs/=90d;tmp/=12h`; in the TOML file a table [expire]",
    )
    conflict: str = _option(
        "last",
        _choice("last", "keep"),
        "if another client changed the object: overwrite its version, or keep it under another name",
    )
    trash: int = _option(
        0,
        _number(0, 3650),
        "keep what is deleted, replaced by a rename or truncated to nothing for so many days in the folder "
        "`.trash`; with 0 it is gone",
    )
    show_trash: bool = _option(False, SWITCH, "with trash, show the folder `.trash`, which cannot be changed")
    hardlinks: str = _option(
        "no",
        _choice("no", "copy"),
        "what link(2) does: fail with EPERM, or copy the file on the server; then both names have its bytes, "
        "and change independently",
    )
    settle: float = _option(
        2.0, _SECONDS, "how long a change waits, so that later ones can be merged with it"
    )
    background_rename: int = _option(
        100,
        _number(0, 10**9),
        "if a folder has at least this many objects, rename it without waiting, and move the objects "
        "afterwards; with 0 every rename waits for them",
    )
    sync: bool = _option(False, SWITCH, "make close() wait until the file is in Swift")
    cache_dir: str = _option(
        "", _FOLDER, "folder for local copies and the journal (default: in the user's cache folder)"
    )
    config: str = _option("", _FILE, "a TOML file of options (default: ~/.config/swiftfs/config.toml)")
    os_cloud: str = _option("", _TEXT, "name of a cloud in clouds.yaml (needs the extra `clouds`)")
    credentials: str = _option("", _FILE, "a file of OS_* or ST_* variables that only its owner can read")
    storage_url: str = _option(
        "", _TEXT, "storage URL, instead of the one in the answer to the login (default: OS_STORAGE_URL)"
    )
    interface: str = _option(
        "",
        _choice("public", "internal", "admin"),
        "interface of the catalog's storage URL (default: OS_INTERFACE, or public)",
    )
    region: str = _option("", _TEXT, "region of the catalog's storage URL (default: OS_REGION_NAME)")
    insecure_storage: bool = _option(
        False, SWITCH, "allow a storage URL without TLS although the login has TLS"
    )
    metrics: str = _option(
        "",
        _METRICS,
        "serve metrics for Prometheus at a port or a Unix socket (.sock), or write them to a .prom file",
    )
    prices: str = _option(
        "", _FILE, "a TOML file with the prices of requests and traffic, for `swiftfs status`"
    )
    budget: float | None = _option(
        None,
        _AMOUNT,
        "what requests and traffic may cost a month by `prices`: the log warns at 80 %, and beyond it "
        "nothing is downloaded in advance",
    )
    debug: bool = _option(False, SWITCH, "log every request, and every call that fails")

    @property
    def checks_permissions(self) -> bool:
        """Whether the kernel checks modes and owners: if not, everyone who is let in may do everything."""
        if self.default_permissions is None:
            return self.allow_other or self.allow_root
        return self.default_permissions


class Option(Struct, frozen=True):
    """A row of the table: `default` is written as the user would type it."""

    name: str
    kind: Kind
    default: str
    help: str

    @property
    def flag(self) -> str:
        """The option on the command line, `--read-ahead`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The option in the environment, `SWIFTFS_READ_AHEAD`."""
        return PREFIX + self.name.upper()


PREFIX = "SWIFTFS_"
"""How the names of environment variables begin that set options."""


def _row(name: str, default: Any, kind: Kind, text: str) -> Option:
    return Option(name, kind, kind.show(default) if default is not None else "", text)


OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        one.name: _row(one.name, one.default, *more)
        for one, more in zip(fields(Options), _DESCRIBED, strict=True)
    }
)
"""The table's rows by name, in its order."""
