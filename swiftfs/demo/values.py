"""The values that the two processes of the demo server exchange."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from msgspec import Struct

TOKEN_LIFE = 86_400
"""How long a token is valid, in seconds; tempauth's own default."""


@dataclass(frozen=True)
class User:
    """A user of tempauth; with the group `.admin` it owns its account, with `.reseller_admin` all."""

    name: str
    key: str
    rights: tuple[str, ...] = ()


OWNER = User("test:tester", "testing", (".admin",))
READER = User("test:reader", "reading")
"""Belongs to the owner's account, but has only the rights of a container's ACL there."""
STRANGER = User("other:tester", "testing", (".admin",))
"""Owns another account."""
OPERATOR = User("admin:admin", "admin", (".admin", ".reseller_admin"))
"""May set an account's quota."""
USERS = (OWNER, READER, STRANGER, OPERATOR)


@dataclass(frozen=True)
class Keystone:
    """Keystone v3 instead of tempauth: its URL with `/v3`, and a user there who may validate tokens.

    The user and its project belong to the domain with the id `default`. Needs PyPI `keystonemiddleware`.
    """

    auth_url: str
    user: str
    password: str = field(repr=False)
    project: str


@dataclass(frozen=True)
class ServerSettings:
    """How the server differs from an ordinary one.

    `without` names filters of the pipeline to leave out (`bulk`, `slo`, `symlink`, …); `delay` is added to
    each request, in seconds; `constraints` are further options of `[swift-constraints]` in `swift.conf`;
    `token_life` is in seconds. With `keystone` tokens come from there, and tempauth and its users are gone.
    With `object_versioning` a container may keep older versions (`X-Versions-Enabled`).
    """

    listing_limit: int = 10_000
    without: frozenset[str] = frozenset()
    delay: float = 0.0
    constraints: Mapping[str, str] = field(default_factory=dict)
    token_life: int = TOKEN_LIFE
    keystone: Keystone | None = None
    object_versioning: bool = False


@dataclass(frozen=True)
class RecordedRequest:
    """A client's request as the server saw it.

    `path` and `query` are unquoted; `status` is 0 while there is no answer, and stays 0 if the connection
    was broken first. Bytes are those of the bodies. `headers` have capitalized names and no secrets.
    """

    method: str
    path: str
    query: str = ""
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)


class Fault(Struct, frozen=True):
    """A failure of the requests with `method` ("" is any) whose unquoted `path?query` matches `path`.

    `path` is a regular expression that is searched; requests for a token never match unless it contains
    `/auth`. The fault applies to the next `times` such requests, -1 is all. It waits `delay` seconds, then

    - breaks the connection (`reset`) without executing the request, after `accept_body` bytes of its body, or
    - answers `status` with `headers` and `body`, without executing the request, or
    - lets Swift answer, with `headers` instead of its own; with the whole body, or with one byte changed
      (`flip_byte`), or with a pause of `stall` seconds before its last byte, or truncated after
      `truncate_body` bytes and the connection closed, or broken with `reset`.

    With `after` Swift executes the request before the delay, and its answer is lost. With `late` Swift
    executes it this many seconds after its arrival, as a server behind a slow proxy may do.
    """

    method: str = ""
    path: str = ""
    status: int = 0
    headers: Mapping[str, str] = MappingProxyType({})
    times: int = -1
    delay: float = 0.0
    truncate_body: int = -1
    flip_byte: bool = False
    after: bool = False
    reset: bool = False
    stall: float = 0.0
    accept_body: int = 0
    body: str = ""
    late: float = 0.0

    def __post_init__(self) -> None:
        if (self.after or self.late) and not (self.status or self.reset):
            raise ValueError("a fault after the request needs a status or a reset to replace the answer")
