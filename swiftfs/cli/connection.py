"""What commands on an account begin with: from flags to a store, and what this machine has not stored.

A command must not work beside a mount or a journal that has changes of the same files.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

from swiftfs.cli.options import given
from swiftfs.config.credentials import account_settings, login_environment
from swiftfs.config.options import Options
from swiftfs.config.sources import build_options, gather
from swiftfs.control.client import mountpoints, read_state
from swiftfs.control.snapshot import MountStatus
from swiftfs.errors import ConfigurationError, NotFound, StoreError
from swiftfs.maintenance.other_journals import Journaled, PendingNames, journaled
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
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


SYSTEM_CACHE = Path("/var/cache/swiftfs")
"""Where the cache folders of the systemd units are."""


def cache_roots(options: Options) -> list[Path]:
    """Return the folders in which the cache folders of this machine are searched."""
    given = [Path(options.cache_dir)] if options.cache_dir else []
    return [platformdirs.user_cache_path("swiftfs"), SYSTEM_CACHE, *given]


def journals_here(options: Options) -> Journaled:
    """Return what the journals on this machine need; errors as of `journaled`."""
    return Journaled.all_of(journaled(root) for root in cache_roots(options))


class Unstored(ConfigurationError):
    """A mount on this machine has a change of the file that is not in Swift yet."""


def mounts_here() -> dict[Path, MountStatus]:
    """Return the mounts that this user may ask, by their cache folders."""
    found = {}
    for mountpoint in mountpoints():
        with suppress(ConfigurationError):  # of another user, or dead
            state = read_state(mountpoint)
            found[Path(state.cache_folder)] = state
    return found


class LocalChanges:
    """Knows of which files below `source` this machine has changes that are not in Swift.

    They are in the journals of the account's mounts, and of dead mounts, and in open files.
    """

    def __init__(self, options: Options, source: Source, account: str) -> None:
        mounts = mounts_here()
        self._mounts = {cache: one for cache, one in mounts.items() if one.server.account == account}
        foreign = mounts.keys() - self._mounts.keys()
        roots = [*cache_roots(options), *self._mounts]
        self._pending = PendingNames(roots, source, lambda cache: cache.absolute() in foreign)
        self._open = {name: mount.mountpoint for mount in self._mounts.values() for name in _written(mount)}

    def check(self, name: ObjectName, path: str) -> None:
        """Raise `Unstored` if there is a change of the file `name`; the message begins with its `path`."""
        if name in self._open:
            raise Unstored(f"{path}: it is open and being written in the mount at {self._open[name]}")
        cache = self._pending.cache_of(name)
        if cache is None:
            return
        mount = self._mounts.get(cache.absolute())
        if mount is not None:
            where = f"the mount at {mount.mountpoint}: see 'swiftfs status {mount.mountpoint}'"
        else:
            where = f"the cache folder {cache}: mount it again to store it"
        raise Unstored(f"{path}: a change of it is not in Swift yet, but in {where}")


def _written(mount: MountStatus) -> list[ObjectName]:
    """Return the files of a mount that are open with changes."""
    source = Source.parse(mount.source)
    found = []
    for file in mount.writing:
        with suppress(OSError):  # a file whose folder is the whole account
            found.append(source.object(file.path))
    return found
