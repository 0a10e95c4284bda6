"""What commands that speak to an account share: its flags, and the way from them to a store."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from swiftfs.config import Options
from swiftfs.credentials import login_environment
from swiftfs.daemon import log_to_terminal
from swiftfs.flags import Command, given, option_flags
from swiftfs.settings import build_options, gather
from swiftfs.store import Stores, connect


def account_flags(*more: str) -> Callable[[Command], Command]:
    """Return a decorator with the flags that say whose account it is, and those of `more` options."""
    return option_flags(["os_cloud", "credentials", "config", *more, "debug"])


def account_options(flags: Mapping[str, Any]) -> Options:
    """Return the options in the places that `settings.gather` knows, and in `flags`."""
    return build_options(gather(os.environ, flags=given(flags)))


@contextmanager
def connected(options: Options) -> Iterator[Stores]:
    """Log in, and lend the stores; errors as in `store.connect`."""
    log_to_terminal("DEBUG" if options.debug else "WARNING")
    stores = connect(
        login_environment(options.credentials, os.environ),
        cloud=options.os_cloud or None,
        storage_policy=options.storage_policy,
    )
    try:
        yield stores
    finally:
        stores.close()
