"""What commands that connect to an account share: from flags to a store."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from swiftfs.cli.options import given
from swiftfs.config.credentials import account_settings, login_environment
from swiftfs.config.options import Options
from swiftfs.config.sources import build_options, gather
from swiftfs.errors import ConfigurationError, NotFound, StoreError
from swiftfs.service.daemon import log_to_terminal
from swiftfs.store.connect import ConnectedAccount, connect, explained
from swiftfs.store.foreign_manifests import MayRead


def account_options(flags: Mapping[str, Any]) -> Options:
    """Return the options from all places that `sources.gather` reads, and from `flags`."""
    return build_options(gather(os.environ, flags=given(flags)))


@contextmanager
def connected(options: Options, may_read: MayRead | None = None) -> Iterator[ConnectedAccount]:
    """Log in and provide the account; `may_read` and errors as in `store.connect`.

    Raise `ConfigurationError` with what to do for a failed request that the block does not catch.
    """
    log_to_terminal("DEBUG" if options.debug else "WARNING")
    account = connect(
        login_environment(options.credentials, os.environ),
        account_settings(options),
        may_read=may_read,
    )
    try:
        yield account
    except StoreError as error:
        raise explained(error, account.label) from None
    finally:
        account.close()


@contextmanager
def container_of(container: str) -> Iterator[None]:
    """Say in words that there is no such container, where a request of the block finds that."""
    try:
        yield
    except NotFound:
        raise ConfigurationError(f"no container {container!r}: check its name") from None
