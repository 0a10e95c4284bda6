"""Credentials from a file: `NAME=value` lines, of `OS_*` and `ST_*` variables or of NAVER's keys."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from swiftfs.errors import ConfigurationError

CREDENTIALS = ("OS_", "ST_")
"""How the names of the variables begin that say who we are to Swift."""

NAVER_AUTH_URL = "https://kr.archive.ncloudstorage.com:5000/v3"
"""Source: the API guide of NAVER Cloud's Archive Storage, as is what each key means to Keystone."""

NAVER_KEYS = {
    "access_key": "OS_USERNAME",
    "secret_key": "OS_PASSWORD",
    "project_id": "OS_PROJECT_ID",
    "domain_id": "OS_USER_DOMAIN_ID",
}

_AUTH_URL = "auth_url"


def read_credentials(path: Path) -> dict[str, str]:
    """Return the `OS_*` and `ST_*` variables in a file that only its owner may read.

    `access_key`, `secret_key`, `project_id` and `domain_id` are NAVER's, with `auth_url` another region's.
    Raise `ConfigurationError` when it cannot be read, others may read it, or a line is no assignment; no
    message holds a value.
    """
    try:
        if not _is_private(path):
            raise ConfigurationError(f"credentials file {path} is open to others: chmod 600 it")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
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
        name = name.strip()
        if not equals or not (name.startswith(CREDENTIALS) or name in {*NAVER_KEYS, _AUTH_URL}):
            raise ConfigurationError(
                f"credentials file {path}, line {number}: say OS_NAME=value, ST_NAME=value, "
                f"or {', '.join(NAVER_KEYS)}"
            )
        values[name] = _unquote(value.strip())
    if not values:
        raise ConfigurationError(f"credentials file {path} is empty")
    return _from_naver(path, values) if values.keys() & {*NAVER_KEYS, _AUTH_URL} else values


def login_environment(file: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return `environment` with the credentials of `file` in place of its own; as it is when `file` is empty.

    Errors as in `read_credentials`.
    """
    if not file:
        return environment
    # All or nothing: half of the file and half of the environment would be nobody's credentials.
    others = {name: value for name, value in environment.items() if not name.startswith(CREDENTIALS)}
    return {**others, **read_credentials(Path(file))}


def _is_private(path: Path) -> bool:
    """Return whether others are kept out: by the mode, or by the folder that systemd lends a service."""
    lent = os.environ.get("CREDENTIALS_DIRECTORY")  # LoadCredential= admits the service's user by an ACL
    if lent and path.absolute().parent == Path(lent):
        return True
    return not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _from_naver(path: Path, values: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in NAVER_KEYS if not values.get(name)]
    if missing:
        raise ConfigurationError(f"credentials file {path}: {', '.join(missing)} missing")
    others = [name for name in values if name not in {*NAVER_KEYS, _AUTH_URL}]
    if others:
        raise ConfigurationError(f"credentials file {path}: access_key and {others[0]} name two users")
    found = {variable: values[name] for name, variable in NAVER_KEYS.items()}
    return {**found, "OS_AUTH_URL": values.get(_AUTH_URL) or NAVER_AUTH_URL}


def _unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value
