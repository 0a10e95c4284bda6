"""The Swift client: the only package that knows swiftclient, HTTP and credentials."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from swiftfs.objects import Limits
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.auth import Account, open_account
from swiftfs.store.first_login import log_in
from swiftfs.store.foreign_manifests import MayRead
from swiftfs.store.protocol import Headers, ObjectStore
from swiftfs.store.request import Reading
from swiftfs.store.retry import PATIENT, RetryingStore, RetryPolicy, deadline
from swiftfs.store.swift_store import SwiftStore
from swiftfs.store.transport import Counters

__all__ = [
    "PATIENT",
    "Account",
    "ConnectedAccount",
    "Counters",
    "Headers",
    "MayRead",
    "ObjectStore",
    "RetryPolicy",
    "RetryingStore",
    "SwiftStore",
    "connect",
    "deadline",
    "open_account",
]


@dataclass(frozen=True, slots=True)
class ConnectedAccount:
    """One account: its store, which repeats failed requests, the counters and the records of lost answers."""

    store: ObjectStore
    counters: Counters
    label: str
    """The auth URL and the user, for messages."""
    known_limits: Callable[[], Limits | None] = lambda: None
    """Returns the limits that the server has reported, None before that; sends no request."""
    ambiguous: AmbiguousRequests = field(default_factory=AmbiguousRequests)
    """The requests whose answer was lost."""
    reading: Reading = field(default_factory=Reading)
    """Ends the calls that wait for Swift."""

    def close(self) -> None:
        """End every pause and close every connection."""
        self.store.close()


def connect(
    environment: Mapping[str, str],
    *,
    cloud: str | None = None,
    storage_policy: str = "",
    insecure_storage: bool = False,
    may_read: MayRead | None = None,
    policy: RetryPolicy = PATIENT,
) -> ConnectedAccount:
    """Return the store of the account that `environment` or a cloud of clouds.yaml describes.

    New containers get the storage policy `storage_policy`, or the server's default one. With
    `insecure_storage` the storage may have no TLS although the login has it. Objects whose bytes lie
    elsewhere are only read where `may_read` allows it.

    Logs in at once and without retries, so that wrong credentials are reported within seconds, and whatever
    hangs within 15. Raise
    `ConfigurationError` for missing variables and insecure storage, `AccessDenied` for a wrong key,
    `Unavailable` when the server is down; each message names the auth URL and the user.
    """
    account = open_account(environment, cloud=cloud)
    try:
        log_in(account, insecure_storage=insecure_storage)
    except BaseException:
        account.close()
        raise
    reading = Reading()
    store = SwiftStore(account, storage_policy=storage_policy, may_read=may_read, reading=reading)
    ambiguous = AmbiguousRequests()
    return ConnectedAccount(
        store=RetryingStore(store, policy, ambiguous=ambiguous, reading=reading),
        counters=store.counters,
        label=account.label,
        known_limits=store.known_limits,
        ambiguous=ambiguous,
        reading=reading,
    )
