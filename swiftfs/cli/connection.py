"""What commands that speak to an account share: the way from its flags to a store."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from swiftfs.cli.options import given
from swiftfs.config.credentials import login_environment
from swiftfs.config.options import Options
from swiftfs.config.sources import build_options, gather
from swiftfs.service.daemon import log_to_terminal
from swiftfs.store import ConnectedAccount, connect


def account_options(flags: Mapping[str, Any]) -> Options:
    """Return the options in the places that `settings.gather` knows, and in `flags`."""
    return build_options(gather(os.environ, flags=given(flags)))


@contextmanager
def connected(options: Options) -> Iterator[ConnectedAccount]:
    """Log in, and lend the account; errors as in `store.connect`."""
    log_to_terminal("DEBUG" if options.debug else "WARNING")
    account = connect(
        login_environment(options.credentials, os.environ),
        cloud=options.os_cloud or None,
        storage_policy=options.storage_policy,
    )
    try:
        yield account
    finally:
        account.close()
