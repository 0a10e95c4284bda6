"""Commands of swiftfs, and of python-swiftclient, forked from a process that has imported both.

That is nine tenths of what most of them cost.

What a command does after its imports is the same, until its functions for `atexit` have run. The interpreter
is not taken down then: that would touch each object, and so copy its page, a quarter of what a mount costs.
Mounts of the demo and of /etc/fstab, which are not forked, end as those of users do.

What the interpreter reads when it starts is not the same either: a command whose environment differs there is
started by itself.
"""

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

Output = IO[bytes] | IO[str]

REQUEST_BYTES = 128 * 1024
STARTUP = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_")
"""How names of variables begin that a process reads once, when it starts."""
IMPORTED_LATER = (
    *("swiftfs.service.mount", "swiftfs.service.serving", "swiftfs.control.control_dir", "netrc", "difflib"),
    *("rich.table", "rich.progress"),
)
"""What mounts, and then commands, import while they run."""


class ForkedProcess:
    """A process of the nursery, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, negative for a signal; raise `TimeoutExpired` while it runs."""
        if self.returncode is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                waiting = select.poll()
                waiting.register(descriptor, select.POLLIN)
                ended = waiting.poll(None if timeout is None else 1000 * timeout)
            finally:
                os.close(descriptor)
            if not ended:
                raise subprocess.TimeoutExpired("swiftfs", timeout or 0)
            self.returncode = self._nursery.ask({"ended": self.pid})
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | ForkedProcess


class Nursery:
    """The process from which commands are forked; it ends with this one, and starts when it is first used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self._environment: dict[str, str] = {}

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Return whether a command with this environment may be forked."""
        return startup(environment) == startup(self._environment if self._channel else os.environ)

    def fork(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        output: Output,
        errors: Output,
        *,
        program: str = "swiftfs",
        folder: Path | None = None,
    ) -> ForkedProcess:
        """Run a program with these arguments; the files get its standard output and standard error.

        It is `swiftfs`, `swift`, or a module beside this one, whose function `serve` gets the arguments.
        """
        request = {
            "words": [program, *words],
            "environment": dict(environment),
            "folder": str(folder or Path.cwd()),
        }
        return ForkedProcess(self, self.ask(request, output.fileno(), errors.fileno()))

    def ask(self, request: Mapping[str, object], *descriptors: int) -> int:
        """Return the answer to a request."""
        with self._lock:
            channel = self._channel or self._start()
            socket.send_fds(channel, [json.dumps(request).encode()], descriptors)
            answer = channel.recv(100)
        assert answer, "the process that forks commands has died"
        return int(answer)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self._environment = dict(os.environ)
        self._channel = ours

        def end() -> None:
            ours.close()
            process.wait()

        atexit.register(end)
        return ours


def startup(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that matter when a process starts."""
    return {name: value for name, value in environment.items() if name.startswith(STARTUP)}


NURSERY = Nursery()


def serve(channel: socket.socket) -> list[str] | None:
    """Fork commands and return in each its words; return None in the first process, at the end."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 2)
        if not message:
            return None
        request = json.loads(message)
        if "ended" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
        else:
            assert threading.active_count() == 1
            answer = os.fork()
            if not answer:
                _become(request["environment"], request["folder"], descriptors)
                return list(request["words"])
            for descriptor in descriptors:
                os.close(descriptor)
        channel.send(b"%d" % answer)


def _become(environment: Mapping[str, str], folder: str, outputs: Sequence[int]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
        os.close(output)


def main(number: int) -> None:
    """Import what mounts and commands do, and fork them for the process at the other end of the socket."""
    codes: list[int] = []
    atexit.register(_leave, codes)  # the first, so it runs after all others
    from swiftclient import shell  # noqa: PLC0415

    from swiftfs import concurrency  # noqa: PLC0415

    faulthandler.enable()
    concurrency.check()
    # After the check, for the locks of modules.
    from swiftfs import cli  # noqa: PLC0415
    from swiftfs.cli import app  # noqa: PLC0415
    from swiftfs.fuse import load_binding  # noqa: PLC0415
    from swiftfs.journal import segment_records  # noqa: PLC0415

    load_binding(os.environ.get("TEST_FUSE") or "auto")
    commands = [module.name for module in pkgutil.iter_modules(cli.__path__, "swiftfs.cli.")]
    for module in (*commands, *IMPORTED_LATER):
        importlib.import_module(module)
    segment_records.REST_SECONDS = 0.0  # as in `checked_mount`
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=number) as channel:
        words = serve(channel)
    if words is None:
        return
    sys.argv = words
    try:
        if words[0] == "swift":
            shell.main(words)
        elif words[0] == "swiftfs":
            app.main()
        else:
            importlib.import_module(words[0]).serve(*words[1:])
        codes.append(0)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        codes.append(end.code or 0)


def _leave(codes: Sequence[int]) -> None:
    """End a forked process with its exit code; one that failed otherwise ends as usual."""
    if codes:
        with contextlib.suppress(OSError):  # the interpreter reports it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(codes[0])


if __name__ == "__main__":
    main(int(sys.argv[1]))
