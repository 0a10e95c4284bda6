"""Real mounts for tests: a swiftfs process each, its log watched, nothing left behind."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from support.deadlines import within
from support.libfuse import OPTION
from support.warm_processes import NURSERY, Process
from swiftfs.demo.server import SwiftServer

SUPPORT = Path(__file__).parent
CHECKED = (str(SUPPORT / "checked_mount.py"),)
"""`swiftfs` that asserts the ranks of its locks."""
READY_SECONDS = 30
EXIT_SECONDS = 120
BUSY_SECONDS = 5

ABORTED = "fuse: splice from device: Software caused connection abort"
"""What libfuse writes when the kernel ends a connection by an abort, which is an ordinary end."""


class Mount:
    """A source mounted by `swiftfs mount --foreground`; `path` is the mount point.

    Without a `settle` in its options close() returns when Swift has the file, so that a test can look for it
    there. It is ready when the process says so by sd_notify. Its log must hold no warning at the end, except
    lines that contain one of `expected`.
    """

    program: tuple[str, ...] = CHECKED
    """What Python runs; a test may have another."""
    forked = True
    """Whether the process may be forked from one that has imported swiftfs; `program` lies in this folder."""

    def __init__(
        self, swift: SwiftServer, source: str, folder: Path, options: str = "", flags: tuple[str, ...] = ()
    ) -> None:
        self.swift = swift
        self.source = source
        self.path = folder / "mnt"
        self.cache = folder / "cache"
        self.log = folder / "log"
        self.options = options if "settle" in options else f"{options},sync".lstrip(",")
        self.flags = flags
        self.expected: list[str] = []
        self.exit_code: int | None = 0
        self._process: Process | None = None
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        assert self._process is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the process's exit code, negative for a signal, or None while it runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def is_started(self) -> bool:
        """Whether there is a process that was not stopped yet; it may have died."""
        return self._process is not None

    def take_process(self) -> Process:
        """Return the process, which the test ends itself; the mount then counts as stopped."""
        assert self._process is not None
        process, self._process = self._process, None
        return process

    def kill(self) -> None:
        """Kill the process, and take the dead mount away."""
        process = self.take_process()
        process.kill()
        process.wait()
        subprocess.run(["fusermount", "-uz", str(self.path)], check=True)

    def start(self) -> None:
        """Mount, and return when the mount answers."""
        words = ["mount", self.source, str(self.path), "--foreground", "--cache-dir", str(self.cache)]
        words += [*self.flags, *(["-o", self.options] if self.options else [])]
        with (
            tempfile.TemporaryDirectory() as folder,
            _notify_socket(Path(folder)) as channel,
            self.log.open("ab") as log,
        ):
            environment = {
                **clean_environment(),
                **self.swift.environment(),
                "NOTIFY_SOCKET": f"{folder}/notify",
            }
            self._process = self._start_process(words, environment, log)
            if self._first_words(channel) != b"READY=1":
                self._process.kill()
                self._process.wait()
                self._process = None
                raise AssertionError(self.log.read_text())

    def _first_words(self, channel: socket.socket) -> bytes:
        """Return what the process says by sd_notify; nothing if it ends before that, or takes too long."""
        ended = os.pidfd_open(self.pid)
        try:
            waiting = select.poll()
            waiting.register(channel, select.POLLIN)
            waiting.register(ended, select.POLLIN)
            found = [descriptor for descriptor, _ in waiting.poll(1000 * within(READY_SECONDS))]
        finally:
            os.close(ended)
        return channel.recv(100) if channel.fileno() in found else b""

    def _start_process(self, words: list[str], environment: Mapping[str, str], log: IO[bytes]) -> Process:
        program, *arguments = self.program
        if self.forked and Path(program).parent == SUPPORT and NURSERY.serves(environment):
            name = "swiftfs" if self.program == CHECKED else Path(program).stem
            return NURSERY.fork([*arguments, *words], environment, log, log, program=name)
        command = [sys.executable, *self.program, *words]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def stop(self) -> None:
        """Unmount, wait for the process, and look for what should not be in its log."""
        if self._process is None:
            return
        process, self._process = self._process, None
        reason = self._unmount()
        try:
            code = process.wait(1 if reason else within(EXIT_SECONDS))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # the stacks of all threads come into the log
            subprocess.run(["fusermount", "-uz", str(self.path)], check=False)
            process.wait()
            raise AssertionError(f"unmount: {reason}, log: {self.log.read_text()}") from None
        assert code == self.exit_code, self.log.read_text()
        assert not self.noise(), "\n".join(self.noise())

    def _unmount(self) -> str:
        """Unmount as soon as no program is busy there any more; return why it fails, or nothing."""
        end = time.monotonic() + within(BUSY_SECONDS)
        while True:
            command = ["fusermount", "-u", str(self.path)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0 or "busy" not in result.stderr or time.monotonic() > end:
                return result.stderr
            time.sleep(0.1)

    def remount(self, *, empty_cache: bool = True) -> None:
        """Unmount and mount again."""
        self.stop()
        if empty_cache:
            shutil.rmtree(self.cache)
        self.start()

    def noise(self) -> list[str]:
        """Return the log's lines that are worse than information and were not expected."""
        lines = self.log.read_text().splitlines()
        return [
            line
            for line in lines
            if not line.startswith(("INFO:", "DEBUG:"))
            and line != ABORTED
            and not any(text in line for text in self.expected)
        ]

    def rss_peak(self) -> int:
        """Return the most memory the process has held, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])

    def __enter__(self) -> "Mount":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def clean_environment() -> Mapping[str, str]:
    """Return the environment without credentials and options but that of the run's libfuse."""
    others = {
        name: value for name, value in os.environ.items() if not name.startswith(("OS_", "ST_", "SWIFTFS_"))
    }
    return {**others, **OPTION}


@contextlib.contextmanager
def _notify_socket(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(folder / "notify"))
        yield channel


def run(
    *words: object, cwd: Path | None = None, check: bool = True, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command and return what it prints; with `check` it must succeed."""
    result = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=within(240),
    )
    assert not check or result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
    return result.stdout + ("" if check else result.stderr)


def swift_cli(swift: SwiftServer, *words: object, cwd: Path | None = None) -> str:
    """Run the `swift` command of python-swiftclient, another client than ours; it must succeed."""
    environment = {**clean_environment(), **swift.environment()}
    assert NURSERY.serves(environment)
    with tempfile.TemporaryFile("w+") as output:
        arguments = [str(word) for word in words]
        process = NURSERY.fork(arguments, environment, output, output, program="swift", folder=cwd)
        code = process.wait(within(240))
        output.seek(0)
        printed = output.read()
    assert code == 0, f"swift {words}: {printed}"
    return printed
