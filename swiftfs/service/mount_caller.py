"""Calls in the mount that this process serves, made by a process of its own.

They move the names of replaced files away, and make the kernel drop pages with wrong bytes.
"""

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic

from swiftfs.concurrency import new_thread
from swiftfs.paths import beside_hidden, split
from swiftfs.posix.open_file import OpenFile
from swiftfs.posix.replaced_files import AskedCalls, Call, Move, ReplacedFiles, WrongPages

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("mount_calls.py")

NEEDED = {"LD_LIBRARY_PATH"}
"""The environment that Python may need; the rest may have secrets."""


class MountCaller:
    """The other process, which begins with the first call. One thread uses it, except for `kill`."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._device = 0
        self._process: subprocess.Popen[bytes] | None = None

    def mounted(self, device: int) -> None:
        """Record the mount's device, before the mount can be replaced by what is below it."""
        self._device = device
        self._mountpoint = self._mountpoint.resolve()

    def call(self, path: str, alias: str, done: Callable[[], None]) -> int:
        """Move the name `path` to `alias` in its folder, or open and close the file if that is empty.

        Return 0 or the errno. `done` is called at the success, before the process has closed what it has
        open. Raise `OSError` or `ValueError` if the process has ended.
        """
        folder, name = split(_beside_root(path))
        request = b"".join(os.fsencode(text) + b"\0" for text in (folder.lstrip("/"), name, alias))
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        number = int(process.stdout.readline())
        if number == 0:
            done()
        process.stdout.readline()
        return number

    def _start(self) -> "subprocess.Popen[bytes]":
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

    def kill(self) -> None:
        """Kill the process; a thread that waits for its answer gets an error."""
        if (process := self._process) is not None:
            process.kill()

    def end(self) -> None:
        """End the process; the next call begins another one."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(OSError):
                process.stdin.close()
            process.kill()
            process.wait()
            process.stdout.close()


def _beside_root(path: str) -> str:
    """Return the path by which the kernel knows `path`: see `ControlDirFS`."""
    _, name, *rest = path.split("/", 2)
    return "/".join(["", beside_hidden(name), *rest])


ATTEMPTS = 3
"""How often a move is tried: its path may change meanwhile."""


class MountThread(Generic[Call]):
    """A thread that makes the calls which `asked` gives it, by a process that begins with the first one."""

    def __init__(self, name: str, asked: AskedCalls[Call], mountpoint: Path) -> None:
        self._asked = asked
        self._caller = MountCaller(mountpoint)
        self._thread = new_thread(self._run, name)

    def start(self, device: int) -> None:
        """Begin, now that the mount on `device` answers."""
        self._caller.mounted(device)
        self._asked.serve()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the process: the mount is gone."""
        self._asked.stop()
        # The thread may wait for its answer.
        self._caller.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while (call := self._asked.next()) is not None:
                self._make(call)
        finally:
            self._caller.end()

    def _make(self, call: Call) -> None:
        raise NotImplementedError


class NameMover(MountThread[Move]):
    """Makes the moves that `replaced` asks for."""

    def __init__(self, replaced: ReplacedFiles, mountpoint: Path) -> None:
        super().__init__("replaced files", replaced, mountpoint)
        self._replaced = replaced

    def _make(self, call: Move) -> None:
        number, path = errno.EIO, call.path
        for _ in range(ATTEMPTS):
            if not self._replaced.is_asked(call):
                return
            path, alias = names = self._replaced.begin_again(call)
            try:
                # At once, and not when the new name is removed too.
                moved = partial(self._replaced.end_move, call, is_moved=True)
                number = self._caller.call(path, alias, moved)
            except (OSError, ValueError) as error:
                log.info("the process that moves names has ended: %s", error)
                self._caller.end()
                continue
            if number == 0 or names == self._replaced.names(call):
                break
        if number and self._replaced.is_asked(call):
            reason = os.strerror(number)
            log.info("%s: the older version, which a program has open, keeps its name: %s", path, reason)
        self._replaced.end_move(call, is_moved=number == 0)


class PageDropper(MountThread[OpenFile]):
    """Opens the files of `wrong_pages`: the kernel drops their pages at that."""

    def __init__(self, wrong_pages: WrongPages, mountpoint: Path) -> None:
        super().__init__("wrong pages", wrong_pages, mountpoint)

    def _make(self, call: OpenFile) -> None:
        path, number = call.known_as, errno.EIO
        try:
            number = self._caller.call(path, "", lambda: None)
        except (OSError, ValueError) as error:
            log.info("the process that opens files has ended: %s", error)
        finally:
            # It is rarely needed.
            self._caller.end()
        if number:
            reason = os.strerror(number)
            log.info("%s: the kernel may keep wrong bytes until the next open: %s", path, reason)
