"""From a connected account to a mount that answers, and to its end: build, check, mount, serve, drain.

It loads most of what a mount needs, so `service.mount` imports it while it waits for the login.
"""

import gc
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from swiftfs.concurrency import Event, monotonic, new_event, new_thread
from swiftfs.config.options import Options, readable_size
from swiftfs.control.collector import StatusCollector
from swiftfs.control.live_options import LiveOptions, live_options
from swiftfs.control.unmount import DetachWatch, Drain, detach, died
from swiftfs.errors import SwiftfsError, pluralize
from swiftfs.filecache.cache_space import CacheSpace
from swiftfs.fuse import load_binding
from swiftfs.objects import Usage
from swiftfs.paths import SCHEME
from swiftfs.posix.filesystem import FileSystem
from swiftfs.service.build import build
from swiftfs.service.daemon import SignalWatch, Termination, end_loop, log_state, notify
from swiftfs.service.first_requests import FoundSource, Reconnection, SourceMemory, begin
from swiftfs.service.monitoring import Monitoring
from swiftfs.service.mount_caller import NameMover, PageDropper
from swiftfs.service.mountpoint import MountRequest
from swiftfs.store.connect import ConnectedAccount

log = logging.getLogger(__name__)

KERNEL_CACHE_SECONDS = 1.0
"""How long the kernel may answer from its own cache. It adds to `ttl`, so it is short."""

COLLECT_AFTER = 10_000
"""So many new objects are a reason to look for cycles, which few of them have. With Python's 700 one call in
five looks."""

ANSWER_SECONDS = 60.0
"""A mount that has not answered its first stat(2) after this time has failed."""


def serve(
    source: FoundSource,
    account: ConnectedAccount,
    cache: Path,
    monitoring: Monitoring,
    termination: Termination,
    ready: Callable[[], None],
) -> None:
    """Mount with the locked cache folder, call `ready` once the mount answers, and serve until it ends.

    Errors as in `service.mount.serve`.
    """
    request = source.request
    filesystem = build(account, request, cache)
    _warn_of_small_cache(filesystem.services.file_cache.space, request.options.segment_size)
    live, budget = live_options(filesystem, account, monitoring.prices)
    collector = StatusCollector(filesystem, account, request.mountpoint, live, budget)
    Drain(0, ended=False).write(cache)  # replaces the last state of an earlier process
    detached = DetachWatch(request.mountpoint, filesystem.services.journal, cache)
    reconnection = _reconnection(filesystem, source, account, cache)
    with ExitStack() as end:  # the last one first
        if budget is not None:
            end.callback(budget.close)  # after the drain, which costs, too
        end.callback(_store_rest, filesystem, account, cache)
        # Before the drain is written: it writes the same file.
        end.callback(detached.stop)
        end.callback(reconnection.stop)
        end.callback(_stop_serving, account, termination)
        begin(filesystem, request, account, source.usage)
        if source.memory is not None:
            source.memory.save(cache)
        monitoring.begin(collector)
        reconnection.start()
        if request.options.trash and not request.options.ro:
            from swiftfs.maintenance.trash import TrashSweep  # noqa: PLC0415  few mounts have a trash

            end.callback(TrashSweep(filesystem).stop)
        if budget is not None:
            budget.start()
        ended = Drain(0, "SIGTERM ended the mount before all changes were stored")
        termination.serve(account.state.reading.end, partial(ended.write, cache))
        files = monitoring.files(collector)
        _mount(filesystem, request, files, live, ready, detached, termination.mounted)
        log.info("%s is not mounted any more", request.mountpoint)


def _stop_serving(account: ConnectedAccount, termination: Termination) -> None:
    termination.drain()
    account.state.reading.resume()  # what is stored now may need bytes of what it replaces
    notify("STOPPING=1")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _reconnection(
    filesystem: FileSystem, source: FoundSource, account: ConnectedAccount, cache: Path
) -> Reconnection:
    def back(usage: Usage, place: str) -> None:
        filesystem.come_back(usage)
        identity = source.request.source.identity(account.label)
        SourceMemory(identity, place, source.request.refused, usage).save(cache)

    return Reconnection(source, account, lambda: len(filesystem.waiting()), back)


def _store_rest(filesystem: FileSystem, account: ConnectedAccount, cache: Path) -> None:
    Drain(0, ended=False).write(cache)  # the mount is not held any more
    if account.state.presence.away is not None:
        filesystem.drain_seconds = 0.0  # whoever shuts down need not wait for the server
    _drain(filesystem, cache, str(account.state.presence.away or ""))


def _drain(filesystem: FileSystem, cache: Path, why: str) -> None:
    told: int | None = None

    def tell(waiting: int) -> None:
        nonlocal told
        if waiting == told:
            return
        if waiting and not told:
            log.info("still to be stored: %s", pluralize(waiting, "change"))
        told = waiting
        Drain(waiting, ended=False).write(cache)
        notify(f"STATUS=unmounted, still to be stored: {pluralize(waiting, 'change')}")

    try:
        filesystem.close(tell, why)
    except SwiftfsError as error:
        Drain(0, str(error)).write(cache)
        raise
    Drain(0).write(cache)


def _warn_of_small_cache(space: CacheSpace, segment: int) -> None:
    """Warn of a cache for less than two segments: then writing and uploading take turns.

    A disk without space for one takes no file that is larger than the space.
    """
    limit = space.limit
    if limit >= 2 * segment:
        return
    if (room := space.room()) < segment:
        log.warning(
            "the disk of the cache folder has space for %s, less than a segment (%s): larger files fail with "
            "ENOSPC; free disk space, or lower segment_size",
            *(readable_size(room), readable_size(segment)),
        )
    else:
        log.warning(
            "the cache (%s) is smaller than two segments (%s each): large files are written slowly; "
            "free disk space, raise cache_size, or lower segment_size",
            *(readable_size(limit), readable_size(segment)),
        )


def _mount(
    filesystem: FileSystem,
    request: MountRequest,
    files: Mapping[str, Callable[[], bytes]],
    live: LiveOptions,
    ready: Callable[[], None],
    detached: DetachWatch,
    is_to_end: Callable[[], bool],
) -> None:
    # libfuse is loaded, and only a mount needs it.
    from swiftfs.control.control_dir import ControlDir, ControlDirFS  # noqa: PLC0415

    binding = load_binding(request.options.fuse)
    # Only now, when everything else has succeeded: until then the dead mount keeps programs out of the empty
    # folder below.
    if died(request.mountpoint):
        detach(request.mountpoint.resolve(), is_dead=True)
    seconds = min(KERNEL_CACHE_SECONDS, request.options.ttl)
    read_ahead = binding.read_ahead
    watchers = _Watchers(filesystem, request.mountpoint, ready, detached, read_ahead.begin)
    gc.set_threshold(COLLECT_AFTER)
    gc.freeze()  # later collections need not look at what is there since the start
    gc.enable()

    def answer() -> None:
        if is_to_end():
            binding.libfuse.exit()
        else:
            watchers.start()

    try:
        binding(
            ControlDirFS(filesystem, ControlDir(files, binding.libfuse.caller, live)),
            request.mountpoint,
            source=f"{SCHEME}{request.source}",
            attr_timeout=seconds,
            entry_timeout=seconds,
            negative_timeout=seconds,
            on_init=answer,
            options=_kernel_options(request.options),
            has_set_id=request.options.special,
        )
    finally:
        watchers.stop()
        read_ahead.end()


class _Watchers:
    """The threads of a mount while it serves.

    There is one for each signal, one that calls `ready` when the mount answers, one that moves names, and one
    that lets the kernel drop pages.
    """

    def __init__(
        self,
        filesystem: FileSystem,
        mountpoint: Path,
        ready: Callable[[], None],
        detached: DetachWatch,
        read_ahead: Callable[[int], None],
    ) -> None:
        services = filesystem.services
        self._mover = NameMover(services.open_files.replaced, mountpoint)
        self._dropper = PageDropper(services.open_files.wrong_pages, mountpoint)

        def answers() -> None:
            device = mountpoint.stat().st_dev
            detached.start(device)
            # The kernel refuses each rename(2) in a mount that is read-only.
            if services.options.ro:
                services.open_files.replaced.serve(moves=False)
            else:
                self._mover.start(device)
            self._dropper.start(device)
            read_ahead(device)
            ready()

        self._signals = (
            SignalWatch(signal.SIGHUP, filesystem.refresh),
            SignalWatch(signal.SIGUSR1, partial(log_state, services.journal.report)),
        )
        self._ended = new_event()
        # The device below the mount point, by which the mount can be told from it.
        outside = mountpoint.stat().st_dev
        # A thread, because its stat(2) is answered by libfuse's loop, in which the main thread is by then.
        self._first_stat = new_thread(
            _tell_when_it_answers, "ready", (mountpoint, outside, self._ended, answers)
        )

    def start(self) -> None:
        """Start the threads; after the fork."""
        for one in self._signals:
            one.start()
        self._first_stat.start()

    def stop(self) -> None:
        """End the threads that were started."""
        self._ended.set()
        for one in self._signals:
            one.stop()
        if self._first_stat.ident is not None:
            self._first_stat.join()
        self._mover.stop()
        self._dropper.stop()


def _kernel_options(options: Options) -> Mapping[str, bool]:
    """Return the options for fuse(8) and the kernel."""
    same = ("ro", "allow_other", "allow_root")
    return {
        # Otherwise the kernel truncates the path before it opens it, and the empty file would be stored.
        "atomic_o_trunc": True,
        "noexec": not options.exec,
        "default_permissions": options.checks_permissions,
        **{name: getattr(options, name) for name in same},
    }


def _tell_when_it_answers(mountpoint: Path, outside: int, ended: Event, ready: Callable[[], None]) -> None:
    """Call `ready`, or end the mount if it does not answer or if its caller is gone."""
    deadline = monotonic() + ANSWER_SECONDS
    try:
        # The mount is there as soon as the device is another one.
        while mountpoint.stat().st_dev == outside:
            if monotonic() > deadline:
                raise TimeoutError("it does not answer")  # noqa: TRY301
            if ended.wait(0.01):
                return
        ready()
    except Exception as error:  # noqa: BLE001  the waiting caller must get an end
        log.error("the mount on %s ends: %s", mountpoint, error)
        # libfuse ends its loop at that, and `serve` stores what there is.
        end_loop()
        return
