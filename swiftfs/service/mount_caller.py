"""Calls in the mount that this process serves, made by a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from swiftfs.paths import beside_hidden, split

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
