"""A mount that dies at one of its steps: a commit of the journal, a request, a change of a local file."""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swiftfs.cli.app import main
from swiftfs.journal import segment_removal

WATCHED = {"os.rename", "os.remove", "os.link", "os.truncate"}
"""Audit events of changes of local files; Python raises them before the change."""


class Steps:
    """Writes the process's steps into `report`, a line each, and kills it at step `last`; 0 is never."""

    def __init__(self, report: Path, last: int) -> None:
        self._report = os.open(report, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        self._last = last
        self._lock = threading.Lock()
        self._count = 0

    def take(self, text: str) -> None:
        """Count a step; it may be the last one."""
        with self._lock:
            self._count += 1
            os.write(self._report, f"{text}\n".encode())
            if self._count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def serve(cache: str, report: str, last: str, late_seconds: str, *words: str) -> None:
    """Run `swiftfs *words` in this process; it dies at step `last`, and `report` gets its steps."""
    patched: Any = segment_removal
    patched.LATE_SECONDS = float(late_seconds)
    steps = Steps(Path(report), int(last))
    _watch_files(steps, f"{cache}/")
    _watch("swiftfs.store.pool", "Connection", "send", steps, _request)
    _watch("swiftfs.journal.database", "JournalDB", "_commit", steps, lambda *_: "commit")
    main(list(words))


def _request(request: Any, *_: object) -> str:
    return f"{request.method} {request.subject}?{request.query}"


def _watch(module: str, owner: str, method: str, steps: Steps, describe: Callable[..., str]) -> None:
    """Count a step before and after each call of a method."""
    kind = getattr(importlib.import_module(module), owner)
    original = getattr(kind, method)

    def stepping(self: object, *arguments: object) -> object:
        text = describe(*arguments)
        steps.take(f"before {text}")
        result = original(self, *arguments)
        steps.take(f"after {text}")
        return result

    setattr(kind, method, stepping)


def _watch_files(steps: Steps, folder: str) -> None:
    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in WATCHED and str(arguments[0]).startswith(folder):
            names = [str(name).removeprefix(folder) for name in arguments[:2] if isinstance(name, str | Path)]
            steps.take(f"before {event} {' '.join(names)}")

    sys.addaudithook(hook)
