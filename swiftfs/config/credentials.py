"""Credentials from a file: `NAME=value` lines, of `OS_*` and `ST_*` variables or of NAVER's keys."""

import os
import re
from collections.abc import Mapping, MutableMapping
from functools import partial
from pathlib import Path

from swiftfs.config.options import Options
from swiftfs.errors import ConfigurationError
from swiftfs.store.account_settings import (
    LOGIN_VARIABLES,
    STORAGE_VARIABLE,
    TOKEN_VARIABLE,
    AccountSettings,
    StorageChoice,
)
from swiftfs.store.private_files import check_writers, is_readable_by_others, read_own_file

CREDENTIALS = ("OS_", "ST_")
"""How the names of the variables with credentials begin."""

NAVER_AUTH_URL = "https://kr.archive.ncloudstorage.com:5000/v3"
"""Source of this URL and of the keys' meaning: the API guide of NAVER Cloud's Archive Storage."""

NAVER_KEYS = {
    "access_key": "OS_USERNAME",
    "secret_key": "OS_PASSWORD",
    "project_id": "OS_PROJECT_ID",
    "domain_id": "OS_USER_DOMAIN_ID",
}

_AUTH_URL = "auth_url"

_SECRET = re.compile("KEY|PASS|SECRET|TOKEN")
"""Occurs in the names of variables with secrets, such as OS_APPLICATION_CREDENTIAL_SECRET and OS_PASSCODE."""


def read_credentials(path: Path) -> dict[str, str]:
    """Return the `OS_*` and `ST_*` variables in a file of this user or of root that no one else may read.

    It may be a pipe, such as that of `<(command)` in a shell. `access_key`, `secret_key`, `project_id` and
    `domain_id` are NAVER's; `auth_url` is for another region. Raise `ConfigurationError` if it cannot be
    read, another user owns it or can read it, or a line is not an assignment; no message contains a value.
    """
    try:
        lines = read_own_file(path, partial(_check_private, path)).splitlines()
    except OSError as error:
        raise ConfigurationError(f"credentials file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"credentials file {path}: {error}") from None
    values = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith(("#", ";")):
            continue
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not (name.startswith(CREDENTIALS) or name in {*NAVER_KEYS, _AUTH_URL}):
            raise ConfigurationError(
                f"credentials file {path}, line {number}: expected OS_NAME=value, ST_NAME=value, "
                f"or {', '.join(NAVER_KEYS)}"
            )
        values[name] = _unquote(value.strip())
    if not values:
        raise ConfigurationError(f"credentials file {path} is empty")
    if values.keys() & {*NAVER_KEYS, _AUTH_URL}:
        return _from_naver(path, values)
    if not any(values.get(name) for name in LOGIN_VARIABLES):
        raise ConfigurationError(
            f"credentials file {path} has no login: it needs ST_AUTH, ST_USER and ST_KEY, or OS_AUTH_URL and "
            f"the other OS_* variables, or {STORAGE_VARIABLE} and {TOKEN_VARIABLE}"
        )
    return values


def login_environment(file: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return `environment`, with the credentials of `file` if given; errors as in `read_credentials`."""
    if not file:
        return environment
    # All or nothing: a mixture of the file and the environment could mix two users.
    others = {name: value for name, value in environment.items() if not name.startswith(CREDENTIALS)}
    return {**others, **read_credentials(Path(file))}


def account_settings(options: Options) -> AccountSettings:
    """Return what the options say about the account."""
    return AccountSettings(
        options.os_cloud or None,
        StorageChoice(options.storage_url, options.interface, options.region),
        options.storage_policy,
        options.insecure_storage,
    )


def forget_secrets(environment: MutableMapping[str, str]) -> None:
    """Remove the variables with keys, passwords and tokens: children of this process do not need them."""
    for name in [name for name in environment if name.startswith(CREDENTIALS) and _SECRET.search(name)]:
        del environment[name]


def _is_systemd_credential(path: Path) -> bool:
    """Return whether it is in systemd's own folder: LoadCredential= lets the service's user in by an ACL."""
    lent = os.environ.get("CREDENTIALS_DIRECTORY")
    return lent is not None and path.absolute().parent == Path(lent)


def _check_private(path: Path, descriptor: int) -> None:
    if _is_systemd_credential(path):
        return
    found = os.fstat(descriptor)

    check_writers(f"credentials file {path}", found)
    if is_readable_by_others(found):
        raise ConfigurationError(f"credentials file {path} can be read by other users: chmod 600 it")


def _from_naver(path: Path, values: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in NAVER_KEYS if not values.get(name)]
    if missing:
        raise ConfigurationError(f"credentials file {path}: {', '.join(missing)} is missing")
    others = [name for name in values if name not in {*NAVER_KEYS, _AUTH_URL}]
    if others:
        raise ConfigurationError(f"credentials file {path}: access_key and {others[0]} exclude each other")
    found = {variable: values[name] for name, variable in NAVER_KEYS.items()}
    return {**found, "OS_AUTH_URL": values.get(_AUTH_URL) or NAVER_AUTH_URL}


def _unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value
