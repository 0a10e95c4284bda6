"""Credentials from a file: `NAME=value` lines, as in systemd's EnvironmentFile."""

import stat
from pathlib import Path

from swiftfs.errors import ConfigurationError

CREDENTIALS = ("OS_", "ST_")
"""How the names of the variables begin that say who we are to Swift."""


def read_credentials(path: Path) -> dict[str, str]:
    """Return the `OS_*` and `ST_*` variables in a file that only its owner may read.

    Raise `ConfigurationError` when it cannot be read, others may read it, or a line is no assignment.
    """
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(f"credentials file {path} is open to others: chmod 600 it")
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigurationError(f"credentials file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"credentials file {path} is not text in UTF-8") from None
    values = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith(("#", ";")):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.startswith(CREDENTIALS):
            raise ConfigurationError(
                f"credentials file {path}, line {number}: say OS_NAME=value or ST_NAME=value"
            )
        values[name.strip()] = _unquote(value.strip())
    return values


def _unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value
