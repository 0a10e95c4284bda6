"""What commands on an account begin with: what a path means, a store, and what this machine has not stored.

A path that lies in a mount is one there; any other is `container/path`, unless it begins like a path.
A command must not work beside a mount or a journal that has changes of the same files.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs
from msgspec import Struct

from swiftfs.attributes import REFRESH_ATTRIBUTE
from swiftfs.cli.command_line import given
from swiftfs.config.credentials import account_settings, login_environment
from swiftfs.config.options import Options
from swiftfs.config.sources import build_options, gather
from swiftfs.control.client import read_state
from swiftfs.control.mount_table import OWN_TABLE, mount_entries
from swiftfs.control.snapshot import MountStatus
from swiftfs.errors import DEAD_MOUNT, ConfigurationError, NotFound, StoreError, mount_error
from swiftfs.maintenance.other_journals import Journaled, PendingNames, journaled
from swiftfs.objects import ObjectName
from swiftfs.paths import HIDDEN_FOLDER, SCHEME, Source, unescape, without_hidden
from swiftfs.service.daemon import log_to_terminal
from swiftfs.store.connect import ConnectedAccount, connect, explained
from swiftfs.store.foreign_manifests import MayRead


class Place(Struct, frozen=True):
    """A file or folder in Swift; an empty key is the container.

    `text` is as it was given. It `must_be_folder` if that ends in a slash, and means the `contents` of a
    folder if it ends in `/.`. `is_file` means an object beside a folder of the same name. `path` and `mount`
    are None outside of mounts.
    """

    text: str
    name: ObjectName
    must_be_folder: bool = False
    contents: bool = False
    is_file: bool = False
    path: Path | None = None
    mount: MountStatus | None = None

    def check_account(self, account: str, place: str) -> None:
        """Raise `ConfigurationError` if the mount is of another account; see `ConnectedAccount`."""
        if self.mount is None:
            return
        server = self.mount.server
        if server.account == account and server.place not in ("", place):
            raise ConfigurationError(
                f"{self.mount.mountpoint} is a mount of another project or region ({server.place}) than "
                f"that of the credentials here ({place}): give those of the mount, for example by "
                "--credentials"
            )
        if server.account != account:
            raise ConfigurationError(
                f"{self.mount.mountpoint} is a mount of {server.account}, and the credentials "
                f"here are of {account}: give those of the mount, for example by --credentials"
            )

    def flush(self) -> None:
        """Return when all that was written at the path and below is in Swift.

        So is what programs have written to files that are still open. A path that does not exist has nothing
        to flush but its folder. Raise `ConfigurationError`.
        """
        if self.path is None or self.mount is None:
            return
        for file in self.mount.writing:
            path = Path(f"{self.mount.mountpoint}{file.path}")
            if path.is_relative_to(self.path):
                _flush(path)
        _flush(self.path)

    def refresh(self) -> None:
        """Let the mount list the folder of the path anew; a mount that is read-only does so after `ttl`."""
        if self.path is None or self.mount is None:
            return
        folder = self.path if self.path == Path(self.mount.mountpoint) else self.path.parent
        for path in (folder, Path(self.mount.mountpoint)):
            try:
                os.setxattr(path, REFRESH_ATTRIBUTE, b"1")
            except OSError:
                continue
            return


def find_place(text: str) -> Place:
    """Return what `text` names; raise `ConfigurationError` for a path outside of mounts, or a bad name."""
    if not text.startswith(SCHEME):
        path = _resolved(text)
        for entry in sorted(mount_entries(OWN_TABLE), key=lambda one: -len(one.mountpoint.parts)):
            if path.is_relative_to(entry.mountpoint):
                return _in_mount(text, path, entry.mountpoint)
        if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
            raise ConfigurationError(
                f"{text} is not in a swiftfs mount: give a path in one, or CONTAINER/PATH"
            )
    return _in_container(text)


def _in_container(text: str) -> Place:
    plain, contents = _without_dot(text.removeprefix(SCHEME))
    key = Source.parse(plain).prefix.removesuffix("/")
    container = Source.parse(plain).container
    if not container:
        raise ConfigurationError(f"{text!r}: give CONTAINER or CONTAINER/PATH")
    return Place(text, ObjectName(container, key), plain.endswith("/"), contents)


def _without_dot(text: str) -> tuple[str, bool]:
    """Return the text without `/.` at its end, and whether it had that."""
    return (text.removesuffix("/.") or "/", True) if text.endswith("/.") else (text, False)


def _resolved(text: str) -> Path:
    """Return the absolute path; a link at its end is not followed, as it may be what is meant."""
    plain, _ = _without_dot(os.path.join(os.getcwd(), text))  # noqa: PTH109,PTH118  `Path` drops `.` and `/`
    parent, name = os.path.split(plain.rstrip("/"))
    if name in ("", ".", ".."):
        return Path(os.path.realpath(plain))
    return Path(os.path.realpath(parent)) / name


def _in_mount(text: str, path: Path, mountpoint: Path) -> Place:
    state = read_state(mountpoint)
    inside = "/" + str(path.relative_to(mountpoint)) if path != mountpoint else "/"
    if inside.split("/")[1] == HIDDEN_FOLDER:
        raise ConfigurationError(f"{text}: these files are not in Swift")
    inside = without_hidden(inside)
    source = Source.parse(state.source)
    is_file = unescape(path.name)[1]
    try:
        if is_file:
            name = source.object(inside)
        else:
            folder = source.folder(inside)
            name = ObjectName(folder.container, folder.prefix.removesuffix("/"))
    except OSError as error:
        raise ConfigurationError(f"{text}: {error.strerror}") from None
    if not name.container:
        raise ConfigurationError(f"{text} is the whole account: give a container in it")
    plain, contents = _without_dot(text)
    return Place(text, name, plain.endswith("/"), contents, is_file, path, state)


def _flush(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
        # A link or special file cannot be opened here: its folder is flushed.
        target = path if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else path.parent
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        _flush(path.parent)
        return
    except OSError as error:
        raise mount_error(path, error) from None
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in DEAD_MOUNT:
            raise mount_error(path, error) from None
        raise ConfigurationError(
            f"{path}: what was written there is not in Swift yet ({os.strerror(error.errno or errno.EIO)}): "
            "see 'swiftfs status'"
        ) from None
    finally:
        os.close(descriptor)


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
        login_environment(options.credentials, os.environ), account_settings(options), may_read=may_read
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


def mounts_here(container: str) -> dict[Path, MountStatus]:
    """Return the mounts with a container that this user may ask, by their cache folders.

    Those of other containers are not asked: one that does not answer would hold up the command.
    """
    found = {}
    for entry in mount_entries(OWN_TABLE):
        if not container or entry.source.partition("/")[0] in ("", container):
            with suppress(ConfigurationError):  # of another user, or dead
                state = read_state(entry.mountpoint)
                found[Path(state.cache_folder)] = state
    return found


class LocalChanges:
    """Knows of which files below `source` this machine has changes that are not in Swift.

    They are in the journals of the account's mounts, and of dead mounts, and in open files.
    """

    def __init__(self, options: Options, source: Source, account: str) -> None:
        mounts = mounts_here(source.container)
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
