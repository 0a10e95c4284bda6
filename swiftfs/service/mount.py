"""The life of a mount: log in, check, take the cache folder; then `service.serving` mounts and serves."""

import contextlib
import gc
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from swiftfs import __version__
from swiftfs.concurrency import Event, new_event, new_thread
from swiftfs.config.cache_dir import is_unused, locked, missing_folders, own_folder, remove_unused
from swiftfs.config.credentials import account_settings
from swiftfs.control.mount_table import OWN_TABLE, mount_entries
from swiftfs.errors import ConfigurationError
from swiftfs.filecache.segment_container import may_hold_bytes_of
from swiftfs.service.daemon import Termination, block_signals
from swiftfs.service.first_requests import check_policy, find_source
from swiftfs.service.monitoring import HEADING, Monitoring
from swiftfs.service.mountpoint import MountRequest, check_mountpoint
from swiftfs.store.connect import ConnectedAccount, connect
from swiftfs.store.foreign_manifests import MayRead
from swiftfs.store.throttle import Throttle

log = logging.getLogger(__name__)


def serve(request: MountRequest, environment: Mapping[str, str], ready: Callable[[Path], None]) -> None:
    """Mount, call `ready` with the cache folder once the mount answers, and serve until it is unmounted.

    Everything is in Swift when this returns. Raise `ConfigurationError` or `StoreError` if it cannot be
    mounted, `SwiftfsError` if some changes could not be stored at the end.
    """
    check_mountpoint(request.mountpoint, is_fixed=request.is_fixed)
    with contextlib.ExitStack() as stack:
        # What is loaded and made now stays: to look for garbage among it takes a seventh of the start, and a
        # quarter with many pending changes. `serving.serve` enables it.
        gc.disable()
        stack.callback(gc.enable)
        # Before the first thread, as every thread inherits the mask of the one that starts it.
        block_signals()
        termination = Termination()
        termination.start()
        stack.callback(termination.stop)
        monitoring = Monitoring(request.options)
        stack.callback(monitoring.close)
        with _loading(request.options.fuse):
            # Before the cache folder is touched: wrong credentials leave nothing behind.
            account = stack.enter_context(_connected(request, environment))
            folder = _cache_folder(request, account.label)
            missing = missing_folders(folder)
            cache = stack.enter_context(locked(folder))
            answered = new_event()
            # Looked at while it is locked: another mount may have made and used it a moment ago.
            if missing and is_unused(folder):
                stack.callback(_leave_nothing, folder, missing, answered)
            source = find_source(request, account, cache)

        def tell_ready() -> None:
            answered.set()
            ready(folder)

        from swiftfs.service import serving  # noqa: PLC0415  loaded meanwhile

        serving.serve(source, account, cache, monitoring, termination, tell_ready)


@contextlib.contextmanager
def _loading(libfuse: str) -> Iterator[None]:
    """Load the rest of the program during the block, which mostly waits for the server."""
    thread = new_thread(_load, "loading", (libfuse,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _load(libfuse: str) -> None:
    # What fails here fails again, and is reported, where it is needed.
    with contextlib.suppress(Exception):
        from swiftfs.fuse import load_binding  # noqa: PLC0415

        load_binding(libfuse)
        importlib.import_module("swiftfs.service.serving")


@contextlib.contextmanager
def _connected(request: MountRequest, environment: Mapping[str, str]) -> Iterator[ConnectedAccount]:
    """Log in; yield the account."""
    options = request.options
    account = connect(
        environment,
        account_settings(options),
        may_read=_may_read(request),
        may_be_away=options.offline,
        throttle=Throttle(options.bwlimit, options.tpslimit),
    )
    with contextlib.closing(account):
        check_policy(options.storage_policy, account)
        yield account


def _may_read(request: MountRequest) -> MayRead | None:
    """Return from where an object of the mount may take its bytes, None for everywhere."""
    if request.options.foreign_manifests == "follow":
        return None
    is_account = request.source.is_account
    return partial(may_hold_bytes_of, choice=request.options.segments, whole_account=is_account)


def announce(request: MountRequest, cache: Path) -> None:
    """Begin the log: what is mounted where, by which release, with which cache folder."""
    log.info(
        "%s is mounted on %s by swiftfs %s; cache folder %s",
        *(request.source, request.mountpoint, __version__, cache),
        extra=HEADING,
    )


def _leave_nothing(folder: Path, missing: list[Path], answered: Event) -> None:
    """Remove a cache folder that was made for this mount, if it has never answered."""
    if not answered.is_set():
        remove_unused(folder, missing)


def _cache_folder(request: MountRequest, who: str) -> Path:
    """Return the cache folder of the option, else the source's own; refuse one in a mount of swiftfs."""
    folder = request.cache_dir
    if folder is not None and request.mountpoint in (folder, *folder.parents):
        raise ConfigurationError(f"cache folder {folder} is inside the mount point: choose another one")
    folder = folder or own_folder(who, request.source)
    # By its names alone: to resolve them could wait for a dead mount.
    places = {entry.mountpoint for entry in mount_entries(OWN_TABLE)}
    if around := next((one for one in (folder, *folder.parents) if one in places), None):
        raise ConfigurationError(
            f"cache folder {folder} is inside {around}, where a swiftfs is mounted: use another --cache-dir"
        )
    return folder
