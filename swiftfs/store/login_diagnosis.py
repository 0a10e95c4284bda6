"""Why Keystone refuses a login by a password: it says only that it does, so the likely cause is tried out.

The same password is sent to the same server, twice at most, and only at the first login of a command: servers
may lock a user out after several refusals.
"""

import logging
from collections.abc import Mapping
from dataclasses import field
from typing import Any
from urllib.parse import urlsplit

import keystoneauth1.exceptions as keystone_errors
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from swiftfs.errors import printable
from swiftfs.lazy_dataclass import dataclass

log = logging.getLogger(__name__)

MOST_SHOWN = 5
"""How many projects a message names."""

NAVER = ("ncloudstorage.com", "gov-ncloudstorage.com")
"""The domains of NAVER's login servers."""

DEFAULT_DOMAIN = "default"
"""The id of Keystone's own domain, whose name differs in a capital only."""

_SWAPPED = {"user_domain_id": "user_domain_name", "user_domain_name": "user_domain_id"}


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """A login by a password: `user` and `domain` are keyword arguments of keystoneauth's plugin.

    `project` is what was asked for, an id or a name, for a message.
    """

    url: str
    user: Mapping[str, Any]
    domain: Mapping[str, Any]
    project: str
    password: str = field(repr=False)


def likely_cause(session: Session, login: PasswordLogin) -> str:
    """Return in words what is wrong about a login that was refused."""
    token = _unscoped_token(session, login, login.domain)
    if token:
        return _wrong_project(session, login, token)
    for kind, value in login.domain.items():
        right = _SWAPPED[kind]
        if value != DEFAULT_DOMAIN and _unscoped_token(session, login, {right: value}):
            given = kind.rpartition("_")[2]
            return f"{value!r} is not the {given} of the user's domain: set OS_{right.upper()} to it"
    return "wrong user or key, or another domain of the user" + _about_naver(login.url)


def _about_naver(url: str) -> str:
    host = urlsplit(url).hostname or ""
    if not host.endswith(NAVER):
        return ""
    # It gives no token without a project, so a wrong project looks like a wrong key.
    return ", or, at NAVER, another project or the key of a sub account"


def _unscoped_token(session: Session, login: PasswordLogin, domain: Mapping[str, Any]) -> str:
    """Return a token without a project, empty if that is refused too."""
    plugin = v3.Password(
        auth_url=login.url, password=login.password, unscoped=True, **{**login.user, **domain}
    )
    try:
        return str(session.get_token(plugin) or "")
    except keystone_errors.ClientException as error:
        log.debug("a login without a project: %s", type(error).__name__)
    except (ValueError, LookupError, TypeError, AttributeError):  # as in `Account._ask`
        log.debug("the answer to a login without a project makes no sense")
    return ""


def _wrong_project(session: Session, login: PasswordLogin, token: str) -> str:
    wrong = f"user and key are right, but not the project {printable(login.project)!r}"
    names = _projects(session, login.url, token)
    if names is None:
        return wrong
    if not names:
        return f"{wrong}: the user has no role in any project"
    more = "" if len(names) <= MOST_SHOWN else f" and {len(names) - MOST_SHOWN} others"
    return f"{wrong}: the user may use {', '.join(names[:MOST_SHOWN])}{more}"


def _projects(session: Session, url: str, token: str) -> list[str] | None:
    """Return the names and ids of the projects in which the user has a role; None if they are not told."""
    headers = {"X-Auth-Token": token}
    try:
        answer: Any = session.get(f"{url}/auth/projects", headers=headers, authenticated=False).json()
        found = [(str(one["name"])[:80], str(one["id"])[:80]) for one in answer["projects"]]
    except (keystone_errors.ClientException, ValueError, LookupError, TypeError):
        return None
    return [printable(f"{name} ({number})") for name, number in found]
