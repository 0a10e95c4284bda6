"""`swiftfs mount`: from the command line to a mount that answers."""

import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from swiftfs.cli.command_line import given
from swiftfs.config.cache_dir import LOG
from swiftfs.config.credentials import forget_secrets, login_environment
from swiftfs.config.sources import build_options, gather
from swiftfs.paths import Source
from swiftfs.service.daemon import (
    Ready,
    allow_many_files,
    forbid_core_dumps,
    is_service,
    log_to_system,
    log_to_terminal,
    notify,
    report_crashes,
    run_in_background,
)
from swiftfs.service.mountpoint import MountRequest, check_mountpoint, made_if_missing


def run(
    source: str,
    mountpoint: Path,
    words: tuple[str, ...],
    flags: Mapping[str, Any],
    *,
    foreground: bool,
    from_fstab: bool,
) -> None:
    """Mount, and return when the mount answers; in the foreground, when it has ended."""
    options = build_options(gather(os.environ, words, given(flags)))
    request = MountRequest(
        Source.parse(source),
        mountpoint,
        options,
        Path(options.cache_dir).absolute() if options.cache_dir else None,
        is_fixed=from_fstab or is_service(),
    )
    with made_if_missing(mountpoint) if options.create else nullcontext():
        check_mountpoint(mountpoint, is_fixed=request.is_fixed)
        environment = dict(login_environment(options.credentials, os.environ))
        forget_secrets(os.environ)
        _serve(request, environment, foreground=foreground)


def _serve(request: MountRequest, environment: Mapping[str, str], *, foreground: bool) -> None:
    level = logging.DEBUG if request.options.debug else logging.INFO
    log_to_terminal(level, in_background=not foreground and not request.options.debug)
    report_crashes()
    allow_many_files()
    forbid_core_dumps()
    if foreground:
        from swiftfs.service.mount import announce, serve  # noqa: PLC0415  as below

        def tell(cache: Path) -> None:
            announce(request, cache)
            notify("READY=1")

        serve(request, environment, tell)
        return

    def work(ready: Ready) -> None:
        # Loaded after the fork: this process needs it, and the command only waits.
        from swiftfs.service.mount import announce, serve  # noqa: PLC0415

        def begin(cache: Path) -> None:
            log_to_system(level, cache)
            announce(request, cache)
            report_crashes(cache / LOG)
            ready()

        serve(request, environment, begin)

    run_in_background(work)
