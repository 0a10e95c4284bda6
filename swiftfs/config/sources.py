"""Where options come from: a TOML file, the environment, `-o` and flags; the later ones win."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
from msgspec import Struct
from msgspec.structs import replace

from swiftfs.config.options import OPTIONS, PREFIX, SWITCH, Options, parse_rules, show_size
from swiftfs.errors import ConfigurationError
from swiftfs.store.private_files import check_trusted, read_own_file
from swiftfs.store.throttle import goes_on

IGNORED = frozenset(
    {"auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "defaults"}
    | {"dev", "nodev", "suid", "nosuid", "silent", "loud"}
    | {"atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime"}
    | {"lazytime", "nolazytime", "mand", "nomand", "iversion", "noiversion"}
)
"""Words of fstab that mount(8) passes on and that have no effect here."""

OPPOSITES = {"rw": "ro", "async": "sync", "noexec": "exec", "no_default_permissions": "default_permissions"}
"""Words after `-o` and in fstab that turn an option off."""

OTHER_NAMES = {"readonly": "ro", "read_only": "ro"}
"""Names of options as people write them."""

SYNONYMS = {"dirsync": "sync", **OTHER_NAMES}
"""Words after `-o` and in fstab that are covered by an option."""

TABLES = frozenset({"mount", "swiftfs", "options"})
"""Tables of a TOML file whose options count as if they stood at its top."""

CONTRADICTIONS = (
    ("allow_other", "allow_root", "allow_other includes root"),
    ("sync", "settle", "with sync, changes are sent at once"),
    ("os_cloud", "credentials", "they name two users"),
)
"""Pairs of which at most one may be set, and why."""

UNIT_VARIABLES = frozenset({"SWIFTFS_SOURCE", "SWIFTFS_MOUNTPOINT", "SWIFTFS_CHECK"})
"""Variables that the systemd units pass as arguments."""

EXPIRE = "expire"
"""The table of a TOML file that has a rule a line, which the option of this name has together."""

SET_COMMAND = "swiftfs set"
"""The origin of options that are changed while a mount runs."""

_MOUNTED = "as mounted"

_OPTIONS_VARIABLE = "SWIFTFS_OPTIONS"


class Setting(Struct, frozen=True):
    """An option as it was written; `origin` says where, for messages."""

    name: str
    text: str
    origin: str


def gather(
    environment: Mapping[str, str], words: Iterable[str] = (), flags: Iterable[Setting] = ()
) -> list[list[Setting]]:
    """Return the settings of every source, the weakest first: file, environment, `-o`, flags.

    The file is the one that the strongest of the others names as `config`, else the user's own if it exists.
    Raise `ConfigurationError` for a file that cannot be read.
    """
    levels = [from_environment(environment), from_words(words), list(flags)]
    named = [setting for level in levels for setting in level if setting.name == "config"]
    if named and named[-1].text:
        return [from_file(Path(named[-1].text)), *levels]
    default = default_file()
    return [from_file(default), *levels] if default.exists() else levels


def default_file() -> Path:
    """Return the path of the file that is read when no other is named; it need not exist."""
    return platformdirs.user_config_path("swiftfs") / "config.toml"


def from_words(words: Iterable[str], origin: str = "-o") -> list[Setting]:
    """Return the settings in `-o name[=value][,…]` words; raise `ConfigurationError` for `remount`."""
    settings = []
    for word in (part for text in words for part in _parts(text)):
        name, equals, value = word.partition("=")
        name, value = _spelled(name), value.strip()
        if name == "remount":
            raise ConfigurationError(
                "remount is not supported: unmount it, then mount it with the new options"
            )
        if name in OPPOSITES:
            if equals:
                raise ConfigurationError(f"option {name}={value} ({origin}): expected no value")
            settings.append(Setting(OPPOSITES[name], "no", origin))
        elif name in IGNORED and equals and name != "user":  # mount(8) says who may unmount
            raise ConfigurationError(f"option {name}={value} ({origin}): expected no value")
        elif word and name not in IGNORED and not name.lower().startswith(("x-", "comment")):
            # Without a value a switch is on; an empty one is a variable that is not set.
            is_switch = name in OPTIONS and OPTIONS[name].kind is SWITCH
            settings.append(Setting(name, "yes" if is_switch and not equals else value, origin))
    return settings


def _parts(text: str) -> Iterator[str]:
    """Yield the options in a `-o` argument; the commas of a timetable separate none."""
    part = ""
    for piece in text.split(","):
        part = f"{part},{piece}" if part else piece
        if not (_spelled(part.partition("=")[0]) == "bwlimit" and goes_on(part.partition("=")[2].strip())):
            yield part.strip()
            part = ""
    if part:
        yield part.strip()


def from_environment(environment: Mapping[str, str]) -> list[Setting]:
    """Return the settings in `SWIFTFS_OPTIONS`, written as after `-o`, then those of `SWIFTFS_NAME`."""
    settings = from_words([environment.get(_OPTIONS_VARIABLE, "")], f"variable {_OPTIONS_VARIABLE}")
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in {_OPTIONS_VARIABLE, *UNIT_VARIABLES}:
            name = variable.removeprefix(PREFIX).lower()
            settings.append(Setting(name, environment[variable], f"variable {variable}"))
    return settings


def from_file(path: Path) -> list[Setting]:
    """Return the settings in a TOML file; raise `ConfigurationError` for a bad value or unsafe rights."""
    subject = f"configuration file {path}"
    # An option may turn checks off, or name the file with the credentials and the server that gets them.
    text, values = read_toml(path, subject, partial(check_trusted, subject))
    settings = []
    for name, value in values.items():
        place = f"{path}, line {_line_of(name, text)}"
        if not isinstance(value, dict):
            settings.append(_from_toml(name, value, place))
        elif name == EXPIRE:
            settings.append(Setting(EXPIRE, _rules(value, path, _below(name, text)), place))
        elif name in TABLES:
            below = _below(name, text)
            settings += [
                _from_toml(key, one, f"{path}, line {_line_of(key, below)}") for key, one in value.items()
            ]
        else:
            raise ConfigurationError(
                f"table [{name}] ({place}): write the options at the top of the file, or in [mount]"
            )
    _refuse_repeated(settings)
    return settings


def _refuse_repeated(settings: Iterable[Setting]) -> None:
    """Raise `ConfigurationError` if an option is set twice, as `read_ahead` and `read-ahead` for example."""
    first: dict[str, Setting] = {}
    for setting in settings:
        if (other := first.setdefault(setting.name, setting)) is not setting:
            raise ConfigurationError(
                f"option {setting.name} ({setting.origin}) is set a second time: see {other.origin}"
            )


def read_toml(path: Path, subject: str, check: Callable[[int], None]) -> tuple[str, dict[str, Any]]:
    """Return the text and the values of a TOML file; `check` is called with its descriptor.

    Raise `ConfigurationError`, whose message begins with `subject`, if it cannot be read.
    """
    # Most mounts have no such file, and the parser takes as long to load as a request to answer.
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415
    else:
        import tomli as tomllib  # noqa: PLC0415
    text = ""
    try:
        text = read_own_file(path, check)
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"{subject}: {error.strerror}") from None
    except ValueError as error:  # no UTF-8, or no TOML
        raise ConfigurationError(f"{subject}: {in_words(str(error), text)}") from None


def build_options(levels: Iterable[Sequence[Setting]]) -> Options:
    """Build `Options` from settings, the weakest source first; within a source the later one wins.

    A setting of a stronger source removes settings of weaker ones that contradict it. Raise
    `ConfigurationError`, which names the origin, for an unknown name, an invalid value or a contradiction.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for settings in levels:
        level = {setting.name: setting for setting in settings}
        parsed = {name: _parse(setting) for name, setting in level.items()}
        for first, second, why in CONTRADICTIONS:
            if parsed.get(first) and parsed.get(second):
                raise ConfigurationError(
                    f"options {first} and {second} ({level[first].origin}) contradict each other: {why}"
                )
            for given, other in ((first, second), (second, first)):
                if parsed.get(given):
                    # A flag `--sync` must not fail because the file has `settle`: the stronger source wins.
                    values.pop(other, None)
        values |= parsed
        origins |= {name: setting.origin for name, setting in level.items()}
    options = Options(**values)
    check_together(options, origins)
    return options


def changed_options(options: Options, settings: Iterable[Setting]) -> Options:
    """Return `options` with the settings; raise `ConfigurationError` as `build_options` does."""
    given = {setting.name: setting for setting in settings}
    changed = replace(options, **{name: _parse(setting) for name, setting in given.items()})
    check_together(changed, {name: setting.origin for name, setting in given.items()})
    return changed


def check_together(options: Options, origins: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` if an option does not fit to another one."""
    _check_sizes(options, origins)
    if options.budget is not None and not options.prices:
        raise ConfigurationError(
            f"option budget={options.budget:g} ({origins.get('budget', _MOUNTED)}) needs the prices of "
            "requests and traffic: mount with prices=FILE"
        )


def _parse(setting: Setting) -> Any:
    option = OPTIONS.get(setting.name)
    if option is None:
        import difflib  # noqa: PLC0415  only a mistake needs it

        near = difflib.get_close_matches(setting.name, OPTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"unknown option {setting.name!r} ({setting.origin}){hint}")
    try:
        return option.kind.parse(setting.text)
    except ValueError as error:
        raise ConfigurationError(
            f"option {setting.name}={setting.text} ({setting.origin}): expected {error}"
        ) from None


def _check_sizes(options: Options, origins: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` if a segment, which is on the disk before its upload, exceeds the cache."""
    if options.cache_size is None or options.segment_size <= options.cache_size:
        return
    raise ConfigurationError(
        f"option segment_size={show_size(options.segment_size)} ({origins.get('segment_size', _MOUNTED)}) "
        "does not fit into "
        f"cache_size={show_size(options.cache_size)} ({origins.get('cache_size', _MOUNTED)})"
    )


def _from_toml(name: str, value: object, origin: str) -> Setting:
    name = _spelled(name)
    option = OPTIONS.get(name)
    if name == "config":
        raise ConfigurationError(f"option 'config' ({origin}): a configuration file cannot name another one")
    if isinstance(value, bool):
        return Setting(name, "yes" if value else "no", origin)
    if isinstance(value, str) or option is None:
        return Setting(name, str(value), origin)
    if isinstance(value, int | float) and option.kind.from_number:
        return Setting(name, str(value), origin)
    raise ConfigurationError(f"option {name} ({origin}): write the value in quotes, as after -o")


def _rules(table: Mapping[str, object], path: Path, text: str) -> str:
    """Return the rules of a table as the option has them; raise `ConfigurationError` for a wrong one."""
    rules: list[str] = []
    for folder, age in table.items():
        rule = f"{folder}={age}"
        try:
            rules += _one_rule(rule)
        except ValueError as error:
            place = f"{path}, line {_line_of(folder, text)}"
            raise ConfigurationError(f"[expire] {folder!r} = {age!r} ({place}): expected {error}") from None
    return ";".join(rules)


def _one_rule(rule: str) -> list[str]:
    if ";" in rule or not parse_rules(rule):
        raise ValueError("a folder without ';'")
    return [rule]


def _spelled(name: str) -> str:
    """Return the name of an option as it is in the table; `read-ahead`, as in the flag, is accepted."""
    name = name.strip()
    plain = name.replace("-", "_")
    plain = SYNONYMS.get(plain, plain)
    return plain if plain in OPTIONS or plain in OPPOSITES else name


def _below(table: str, text: str) -> str:
    """Return the text from the header of a table on, with empty lines for those before it."""
    lines = text.splitlines()
    first = _line_of(table, text) - 1
    return "\n" * first + "\n".join(lines[first:])


def _line_of(name: str, text: str) -> int:
    """Return the line of a top-level key or table, counted from 1; the parser does not report it."""
    key = re.escape(name)
    pattern = re.compile(rf"""\s*(\[+\s*)?(["']?){key}\2\s*[=.\]]""")
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if pattern.match(line)), 1)


_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")
"""How a message of the parser ends."""

_PAIR = re.compile(r"\s*([^=\"'\s]+)\s*=\s*([^\s\"'\[{].*)")
"""A key, and a value that is neither a text nor a table nor an array."""


def in_words(message: str, text: str) -> str:
    """Return the parser's message about a text, or a clearer one; both name the line."""
    place = _PLACE.search(message)
    if place is None:
        return message
    pair = _PAIR.fullmatch(text.split("\n")[int(place[1]) - 1].rstrip("\r"))
    if pair is None:
        return message
    where = f"at line {place[1]}"
    if message.startswith("Cannot overwrite"):
        return f"{pair[1]} is set a second time {where}"
    return f'write the value in quotes {where}, as in {pair[1]} = "…"'
