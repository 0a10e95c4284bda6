"""The tour of `swiftfs demo`: a real Swift on loopback, mounted, and used by ordinary programs."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from swiftfs.demo.server import SwiftServer
from swiftfs.errors import ConfigurationError, SwiftfsError

CONTAINER = "demo"
TREE = "swiftfs"
BIG = "big.bin"
BIG_MIB = 100
SHOWN_LINES = 8
"""Of a command's output; the tour should fit on a screen or two."""

_TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Tour:
    """What the steps share. `cache` is the mount's cache folder, `work` holds the local files."""

    server: SwiftServer
    mountpoint: Path
    cache: Path
    work: Path
    console: Console

    @property
    def environment(self) -> Mapping[str, str]:
        """The user's own environment with the demo's credentials in place of others."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "ST_"))}
        return {**own, **self.server.environment()}

    def say(self, text: str) -> None:
        """Print a heading."""
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def type(self, *words: object, show: int = SHOWN_LINES) -> str:
        """Run a command as a user types it and return its output, of which `show` lines are printed.

        Raise `SwiftfsError` when it fails.
        """
        command = [str(word) for word in words]
        self.console.print(f"  [cyan]$ {escape(shlex.join(command))}[/cyan]", soft_wrap=True)
        output = self._call(command)
        lines = output.splitlines()
        for line in lines[:show]:
            self.console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
        if show and len(lines) > show:
            self.console.print(f"  [dim]… and {len(lines) - show} more lines[/dim]")
        return output

    def count(self) -> None:
        """Print what the server was asked since the last count."""
        methods = Counter(request.method for request in self.server.requests())
        self.server.reset_requests()
        told = ", ".join(f"{number} {method}" for method, number in methods.most_common()) or "nothing"
        self.console.print(f"  [dim]Swift was asked: {told}[/dim]")

    def _call(self, command: Sequence[str]) -> str:
        process = subprocess.Popen(
            [_program(command[0]), *command[1:]],
            env=self.environment,
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        with process:
            try:
                output, _ = process.communicate()
            except BaseException:
                # Not SIGKILL: a mount that is about to appear must be called off.
                process.send_signal(signal.SIGINT)
                process.wait()
                raise
        if process.returncode:
            last = output.strip().rpartition("\n")[2] or f"exit code {process.returncode}"
            raise SwiftfsError(f"{shlex.join(command)}: {last.removeprefix('swiftfs: ')}")
        return output


def run(mountpoint: Path | None, data: Path | None) -> None:
    """Take the tour on `mountpoint`, and stay mounted there until Ctrl-C; None is a private one, for the tour.

    Swift keeps its data in the folder `data`, None for a private one. Nothing private is left behind. Raise
    `ConfigurationError` when something is missing here, `SwiftfsError` when a step fails.
    """
    console = Console(highlight=False)
    with _terminate_as_interrupt(), contextlib.ExitStack() as stack:
        try:
            tour = _prepare(stack, mountpoint, data, console)
            _first_part(tour)
            _second_part(tour)
            if mountpoint is not None:
                _stay(tour)
        except KeyboardInterrupt:
            console.print("\nstopping", style="bold")
            if mountpoint is None or not _finished(stack):
                raise


def _finished(stack: contextlib.ExitStack) -> bool:
    return True


def _program(name: str) -> str:
    """Find a program, first beside the Python that runs us: there are `swiftfs` and `swift`."""
    own = Path(sys.executable).with_name(name)
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise ConfigurationError(f"the demo needs the program {name}: install it")
    return found
