"""A cloud of clouds.yaml, found as openstacksdk does it; errors name the file and what is missing there."""

import importlib.util
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keystoneauth1.exceptions as keystone_errors
import requests

from swiftfs.errors import ConfigurationError, printable
from swiftfs.store.error_map import reason
from swiftfs.store.private_files import check_writers, is_readable_by_others
from swiftfs.store.sockets import LimitedAdapter, Limits, limited

log = logging.getLogger(__name__)

PROFILE_SECONDS = 10.0
"""How long fetching a profile may take in all."""

PROFILE_BYTES = 64 * 1024
"""The most that is read of one: unpacked, a thousand times as much."""

_USER = ("username", "user_id")
_PROJECT = ("project_name", "project_id", "system_scope", "domain_id", "domain_name")
_CREDENTIAL = ("application_credential_id", "application_credential_name")
_LOGIN: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "password": (("auth_url",), _USER, ("password",), _PROJECT),
    "v3password": (("auth_url",), _USER, ("password",), _PROJECT),
    "v1password": (("auth_url",), _USER, ("password",)),
    "v3applicationcredential": (("auth_url",), _CREDENTIAL, ("application_credential_secret",)),
    "token": (("auth_url",), ("token",)),
    "v3token": (("auth_url",), ("token",)),
}
"""What each way to log in needs: one of each group. keystoneauth notices it late, and in other words."""

_SECRETS = ("username", "password", "token", "application_credential_secret")
"""Settings that must be texts; the values are not shown."""


def find_cloud(cloud: str, environment: Mapping[str, str], option: str, region: str) -> Any:
    """Return openstacksdk's region of `cloud`, which `option` names (`--os-cloud` or `OS_CLOUD`).

    It is the one that the file names, or `region`.

    Raise `ConfigurationError`, which names the file and what is wrong or missing in it.
    """
    if importlib.util.find_spec("openstack") is None:
        raise ConfigurationError(f"{option} needs the package openstacksdk: pip install 'swiftfs[clouds]'")
    from openstack import exceptions  # noqa: PLC0415 - of the extra `clouds`, and half a second to load
    from openstack.config import OpenStackConfig, loader, vendors  # noqa: PLC0415

    # It would read an answer of any length, for as long as it comes.
    patched: Any = vendors
    patched.requests = _Requests

    # Vendor profiles name servers too. They are read from the current folder, which may be anybody's.
    for profiles in filter(os.path.exists, loader.VENDOR_FILES):
        check_writers(profiles, Path(profiles).stat())
    named = environment.get("OS_CLIENT_CONFIG_FILE")
    file = _file([named] if named else loader.CONFIG_FILES, f"{option} {cloud}")
    clouds = _clouds(file)
    if cloud not in clouds:
        others = f"; it has {', '.join(sorted(map(str, clouds)))}" if clouds else ""
        raise ConfigurationError(f"{file} has no cloud {cloud!r}{others}")
    place = f"{file}, cloud {cloud!r}"
    _check_values(clouds[cloud], place)
    logging.getLogger("stevedore").setLevel(logging.ERROR)  # what it warns of is in the error, too
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            config = OpenStackConfig(config_files=[str(file)], load_envvars=False)
            where: dict[str, Any] = {"region_name": region} if region else {}
            found = config.get_one(cloud=cloud, **where)
    except (exceptions.ConfigException, keystone_errors.ClientException) as error:
        raise ConfigurationError(f"{place}: {_short(error)}") from None
    if unknown := [str(one.message) for one in warned if "vendor profile" in str(one.message)]:
        raise ConfigurationError(f"{place}: {unknown[0]}")
    _check_login(found, place)
    for name in filter(None, (config.config_filename, config.secure_config_filename)):
        _check_file(Path(name))
    return found


def open_session(region: Any, cloud: str) -> Any:
    """Return the session of keystoneauth for a cloud; raise `ConfigurationError`."""
    try:
        return region.get_session()
    except keystone_errors.ClientException as error:
        raise ConfigurationError(f"cloud {cloud!r} of clouds.yaml: {_short(error)}") from None


def _file(candidates: list[str], wish: str) -> Path:
    """Return the first file that exists and may be read, as openstacksdk does."""
    refused = ""
    for path in map(Path, candidates):
        try:
            path.open("rb").close()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = refused or f"; {path}: {error.strerror}"
            continue
        return path
    if len(candidates) == 1:
        raise ConfigurationError(f"OS_CLIENT_CONFIG_FILE={candidates[0]}{refused or ': no such file'}")
    folders = ", ".join(dict.fromkeys(str(Path(path).parent) for path in candidates))
    raise ConfigurationError(f"{wish}: no clouds.yaml in {folders}{refused}")


def _clouds(file: Path) -> Mapping[str, Any]:
    """Return the clouds of a file; raise `ConfigurationError` for a broken one, which openstacksdk skips."""
    import yaml  # noqa: PLC0415 - openstacksdk has it

    try:
        values = yaml.safe_load(file.read_text())  # JSON is YAML
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not text in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"{file}{where}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file}: {_short(error)}") from None
    clouds = values.get("clouds") if isinstance(values, dict) else None
    if not isinstance(clouds, dict):
        raise ConfigurationError(f"{file} has no clouds: it must begin with 'clouds:', and list them below")
    return clouds


class _Requests:
    """What openstacksdk uses of `requests`, to fetch a profile: that of OVH, or a URL in `clouds.yaml`."""

    @staticmethod
    def get(url: str, **_: object) -> requests.Response:
        """Return the answer, over TLS: it says where the password is sent. Raise `ConfigurationError`."""
        limits = Limits(PROFILE_SECONDS, body=PROFILE_SECONDS, total=PROFILE_SECONDS, most=PROFILE_BYTES)
        where = f"the profile at {printable(url)}"
        with requests.Session() as session, limited(limits):
            session.adapters.clear()  # http too: a redirect must not lead there either
            session.mount("https://", LimitedAdapter())
            try:
                answer = session.get(url, timeout=PROFILE_SECONDS)
                found = answer.json() if answer.ok else {}
            except requests.exceptions.InvalidSchema:
                raise ConfigurationError(f"{where} is not at a URL that begins with https://") from None
            except (requests.RequestException, ValueError, RecursionError) as error:
                raise ConfigurationError(f"{where} cannot be fetched: {_short(error)}") from None
        is_profile = isinstance(found, dict) and isinstance(found.get("profile"), dict)
        if answer.ok and not (is_profile and isinstance(found.get("name"), str)):
            raise ConfigurationError(f"{where} is no profile")
        return answer


def _check_values(values: object, place: str) -> None:
    """Raise `ConfigurationError` for what openstacksdk would fail at with a traceback."""
    if not isinstance(values, dict):
        raise ConfigurationError(f"{place}: expected settings such as 'auth:' below it")
    auth = values.get("auth", {})
    if not isinstance(auth, dict):
        raise ConfigurationError(f"{place}: expected settings such as 'auth_url:' below 'auth:'")
    for name in ("auth_url", "profile", "cloud"):
        for value in (values.get(name), auth.get(name)):
            if value is not None and not isinstance(value, str):
                raise ConfigurationError(f"{place}: {name} is no text: {value!r}")
    for url in (values.get("auth_url"), auth.get("auth_url")):
        if url is not None and url.rstrip("/").endswith(("/v2.0", "/v2")):
            raise ConfigurationError(f"{place}: {printable(url)} is Keystone v2; only v3 is supported")
    for name in _SECRETS:  # `yes` would be sent as `True`, and 0123 as 83
        if auth.get(name) is not None and not isinstance(auth[name], str):
            raise ConfigurationError(f"{place}: {name} is no text: write it in quotes")


def _check_login(region: Any, place: str) -> None:
    given = region.get_auth_args()
    needed = _LOGIN.get(region.config.get("auth_type") or "password", ())
    missing = [" or ".join(names[:2]) for names in needed if not any(given.get(name) for name in names)]
    if missing:
        raise ConfigurationError(f"{place}: auth has no {', no '.join(missing)}")


def _check_file(path: Path) -> None:
    """Refuse a file that others can change, as it says where passwords are sent; warn if they can read it."""
    found = path.stat()
    check_writers(str(path), found)
    if is_readable_by_others(found):
        log.warning("%s can be read by other users: chmod 600 it", path)


def _short(error: BaseException) -> str:
    return " ".join(reason(error).split())[:200]
