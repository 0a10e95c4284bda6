"""The thread that moves the names of replaced files away, in the mount that this process serves."""

import errno
import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from swiftfs.concurrency import new_thread
from swiftfs.paths import beside_hidden, split
from swiftfs.posix.replaced_files import Move, ReplacedFiles

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("move_name.py")

NEEDED = {"LD_LIBRARY_PATH"}
"""The environment that Python may need; the rest may have secrets."""

ATTEMPTS = 3
"""How often a move is tried: its path may change meanwhile."""


class NameMover:
    """Makes the moves that `replaced` asks for, by another process, which begins with the first move."""

    def __init__(self, replaced: ReplacedFiles, mountpoint: Path) -> None:
        self._replaced = replaced
        self._mountpoint = mountpoint
        self._device = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = new_thread(self._run, "replaced files")

    def start(self, device: int) -> None:
        """Begin, now that the mount on `device` answers."""
        self._device = device
        # Before the mount can be replaced by what is below it.
        self._mountpoint = self._mountpoint.resolve()
        self._replaced.serve()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the process: the mount is gone."""
        self._replaced.stop()
        # The thread may wait for its answer.
        if (process := self._process) is not None:
            process.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while (move := self._replaced.next_move()) is not None:
                self._make(move)
        finally:
            self._end_process()

    def _make(self, move: Move) -> None:
        number, path = errno.EIO, move.path
        for _ in range(ATTEMPTS):
            if not self._replaced.is_asked(move):
                return
            path, alias = names = self._replaced.names(move)
            try:
                number = self._ask(move, path, alias)
            except (OSError, ValueError) as error:
                log.info("the process that moves names has ended: %s", error)
                self._end_process()
                continue
            if number == 0 or names == self._replaced.names(move):
                break
        if number and self._replaced.is_asked(move):
            reason = os.strerror(number)
            log.info("%s: the older version, which a program has open, keeps its name: %s", path, reason)
        self._replaced.end_move(move, is_moved=number == 0)

    def _ask(self, move: Move, path: str, alias: str) -> int:
        """Let the other process move a name; return 0 or the errno.

        Raise `OSError` or `ValueError` if the process has ended.
        """
        folder, name = split(beside_root(path))
        request = b"".join(os.fsencode(text) + b"\0" for text in (folder.lstrip("/"), name, alias))
        process = self._process = self._process or self._start_process()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        number = int(process.stdout.readline())
        if number == 0:
            # At once, and not when the new name is removed too.
            self._replaced.end_move(move, is_moved=True)
        process.stdout.readline()
        return number

    def _start_process(self) -> "subprocess.Popen[bytes]":
        words = [
            sys.executable,
            "-I",
            "-S",
            str(PROGRAM),
            str(self._mountpoint),
            str(self._device),
            str(os.getpid()),
        ]
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={name: os.environ[name] for name in NEEDED if name in os.environ},
            cwd="/",  # it must not keep any mount busy
            start_new_session=True,  # ^C is for the mount, which it outlives by a moment
        )

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(OSError):
                process.stdin.close()
            process.kill()
            process.wait()
            process.stdout.close()


def beside_root(path: str) -> str:
    """Return the path by which the kernel knows `path`: see `ControlDirFS`."""
    _, name, *rest = path.split("/", 2)
    return "/".join(["", beside_hidden(name), *rest])
