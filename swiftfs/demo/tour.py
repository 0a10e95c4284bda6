"""The tour of `swiftfs demo`: a real Swift on loopback, mounted, and used by ordinary programs."""

import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

import swiftfs
from swiftfs.attributes import PID_ATTRIBUTE
from swiftfs.concurrency import monotonic
from swiftfs.config.cache_dir import missing_folders, remove_empty
from swiftfs.control.unmount import detach, unmount
from swiftfs.demo.server import SwiftServer
from swiftfs.errors import DEAD_MOUNT, ConfigurationError, SwiftfsError
from swiftfs.service.mountpoint import check_mountpoint

MTAB = Path("/etc/mtab")
"""The table in which fusermount looks what a user has mounted; small containers lack it."""

CONTAINER = "demo"
TREE = "tree"
BIG = "big.bin"
COPY = "copy"
BIG_MIB = 100
SHOWN_LINES = 8
"""Lines shown of a command's output: the tour should fit on a screen or two."""
END_SECONDS = 60.0
"""How long the mount gets at the end to store what programs have just written."""
INTERRUPT_SECONDS = 30.0
"""How long an interrupted command gets to end by itself before it is killed."""


@dataclass(slots=True)
class Interruption:
    """The handler of signals that end a program: raises `KeyboardInterrupt`, in `held` only at its end."""

    _holding: bool = False
    _came: bool = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if not self._holding:
            raise KeyboardInterrupt
        self._came = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raise for a signal that comes in the block when the block ends."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            if self._came:
                self._came = False
                raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class Tour:
    """The common state of the steps; commands run in the folder `work`, with names relative to it."""

    server: SwiftServer
    mountpoint: Path
    work: Path
    console: Console
    interruption: Interruption = field(default_factory=Interruption)

    @property
    def mount_name(self) -> str:
        """The mount point as it is typed."""
        below = self.mountpoint.is_relative_to(self.work)
        return str(self.mountpoint.relative_to(self.work) if below else self.mountpoint)

    @property
    def environment(self) -> Mapping[str, str]:
        """The user's own environment with the demo's credentials instead of others."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "ST_"))}
        return {**own, **self.server.environment()}

    def say(self, text: str) -> None:
        """Print a heading."""
        self.console.print(f"\n[bold]{escape(text)}[/bold]", soft_wrap=True)

    def type(self, *words: object) -> None:
        """Run a command and print it as it is typed, and its output; raise `SwiftfsError` when it fails."""
        command = [str(word) for word in words]
        self.console.print(f"  [cyan]$ {escape(shlex.join(command))}[/cyan]", soft_wrap=True)
        lines = self._call(command).splitlines()
        for line in lines[:SHOWN_LINES]:
            self.console.print(f"  {escape(line)}", soft_wrap=True)
        if len(lines) > SHOWN_LINES:
            self.console.print(f"  [dim]… and {len(lines) - SHOWN_LINES} more lines[/dim]")

    def count(self) -> None:
        """Print the number of requests since the last count."""
        methods = Counter(request.method for request in self.server.requests())
        self.server.reset_requests()
        told = ", ".join(f"{number} {method}" for method, number in methods.most_common()) or "nothing"
        self.console.print(f"  [dim]requests to Swift: {told}[/dim]")

    def _call(self, command: list[str]) -> str:
        process: subprocess.Popen[str] | None = None
        try:
            # A signal between the fork and the assignment would leave an unknown child.
            with self.interruption.held():
                process = self._start(command)
            output, _ = process.communicate()
        except BaseException:
            if process is not None:
                with self.interruption.held():
                    _end_command(process)
            raise
        if process.returncode:
            last = output.strip().rpartition("\n")[2] or f"exit code {process.returncode}"
            raise SwiftfsError(f"the tour stops here: {last.removeprefix('swiftfs: ')}")
        return output

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [find_program(command[0]), *command[1:]],
            env=self.environment,
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )


def run(mountpoint: Path | None, data: Path | None) -> None:
    """Take the tour on `mountpoint` and stay mounted there until Ctrl-C; without one, end after the tour.

    Swift keeps its data in the folder `data`, by default in a temporary one. Nothing is
    left behind, even after Ctrl-C, SIGTERM or SIGHUP. Raise `ConfigurationError` if something is missing
    on this machine, `SwiftfsError` if a step fails.
    """
    console = Console(highlight=False)
    interruption = Interruption()
    try:
        with handled_by(interruption), contextlib.ExitStack() as stack:
            tour = _prepare(stack, mountpoint, data, console, interruption)
            _write(tour)
            _look(tour)
            _read_again(tour)
            _keep(tour)
            if mountpoint is not None:
                _stay(tour)
            else:
                tour.say("The end: unmount, and stop Swift")
                tour.type("swiftfs", "umount", tour.mount_name)
    except OSError as error:  # a folder that cannot be made, a full disk
        where = f"{error.filename}: " if error.filename else ""
        raise SwiftfsError(f"the demo cannot go on: {where}{error.strerror or error}") from error


def find_program(name: str) -> str:
    """Find a program, first beside the current Python; raise `ConfigurationError` if there is none."""
    own = Path(sys.executable).with_name(name)
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise ConfigurationError(f"the demo needs the program {name}: install it")
    return found


def _check_fusermount() -> None:
    """Raise `ConfigurationError` unless fusermount can mount."""
    # libfuse 3 looks for fusermount3, and libfuse 2 for fusermount; fuse3 has both in most distributions.
    find_program("fusermount3" if shutil.which("fusermount3") else "fusermount")
    if os.geteuid() != 0 and not MTAB.exists():
        raise ConfigurationError(f"fusermount needs {MTAB}: 'ln -s /proc/self/mounts {MTAB}', as root")


def _end_command(process: subprocess.Popen[str]) -> None:
    """Interrupt a command and wait for its end; kill it when that takes too long."""
    with process:
        # Not SIGKILL at first: a mount that is about to appear must be stopped.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(INTERRUPT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _prepare(
    stack: contextlib.ExitStack,
    mountpoint: Path | None,
    data: Path | None,
    console: Console,
    interruption: Interruption,
) -> Tour:
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swiftfs-tour-")))
    place = mountpoint.absolute() if mountpoint is not None else work / "mnt"
    made = missing_folders(place)
    stack.callback(remove_empty, made)
    if made:
        place.mkdir(parents=True)
    check_mountpoint(place)
    _check_fusermount()
    server = SwiftServer(data)
    tour = Tour(server, place, work, console, interruption)
    with console.status("starting a real Swift"):
        stack.enter_context(server)
    stack.callback(end, tour)
    tour.say(f"A real OpenStack Swift runs on 127.0.0.1:{server.port}, its data in {server.data}")
    shutil.copytree(Path(swiftfs.__file__).parent, work / TREE, ignore=shutil.ignore_patterns("__pycache__"))
    (work / TREE / "start").symlink_to("__main__.py")
    return tour


def _write(tour: Tour) -> None:
    name = tour.mount_name
    tour.say("Make a container and mount it")
    tour.type("swift", "post", CONTAINER)
    _mount(tour, "cache")
    for old in (TREE, BIG, COPY):
        if (tour.mountpoint / old).exists():  # the data folder of an earlier demo
            tour.type("rm", "-r", f"{name}/{old}")
    tour.count()
    tour.say("Copy a folder in, with times, modes and a symbolic link")
    tour.type("cp", "-a", TREE, name)
    tour.type("ls", "-l", f"{name}/{TREE}")
    tour.type("swiftfs", "flush", name)
    tour.count()
    tour.say(f"Copy a file of {BIG_MIB} MiB in: it becomes a large object of segments")
    tour.type("dd", "if=/dev/urandom", f"of={BIG}", "bs=1M", f"count={BIG_MIB}", "status=none")
    began = monotonic()
    tour.type("cp", BIG, name)
    tour.type("swiftfs", "flush", name)
    tour.console.print(f"  [dim]{monotonic() - began:.1f} s until it was in Swift[/dim]")
    tour.count()


def _look(tour: Tour) -> None:
    tour.say("What another client sees: plain objects")
    tour.type("swift", "list", CONTAINER, "--lh")
    tour.type("swift", "stat", CONTAINER, BIG)
    tour.type("swift", "list", f"{CONTAINER}_segments")
    tour.server.reset_requests()


def _read_again(tour: Tour) -> None:
    name = tour.mount_name
    tour.say("Unmount, mount again with an empty cache, and compare every byte")
    tour.type("swiftfs", "umount", name)
    _mount(tour, "empty-cache", "-o", "trash=30")
    tour.type("diff", "-r", TREE, f"{name}/{TREE}")
    tour.type("cmp", BIG, f"{name}/{BIG}")
    tour.console.print("  [green]all equal[/green]")
    tour.count()


def _keep(tour: Tour) -> None:
    name = tour.mount_name
    tour.say("Compare a folder with what is in Swift, without a download")
    tour.type("swiftfs", "check", f"{CONTAINER}/{TREE}", "--against", TREE)
    tour.count()
    tour.say("Copy it on the server, and bring a deleted file back")
    tour.type("swiftfs", "cp", "-r", f"{name}/{TREE}", f"{name}/{COPY}")
    tour.type("rm", f"{name}/{BIG}")
    tour.type("swiftfs", "trash", "restore", name, BIG)
    tour.type("cmp", BIG, f"{name}/{BIG}")
    tour.count()
    tour.say("Give a file to somebody without a login, for a day")
    tour.type("swiftfs", "share", f"{CONTAINER}/{TREE}/__main__.py", "--for", "1d", "--new-key")


def _mount(tour: Tour, cache: str, *options: str) -> None:
    tour.type("swiftfs", "mount", CONTAINER, tour.mount_name, "--cache-dir", cache, *options)


def _stay(tour: Tour) -> None:
    try:
        _explain(tour)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        tour.console.print(f"\nunmounting {tour.mountpoint} and stopping Swift", soft_wrap=True)


def _explain(tour: Tour) -> None:
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in tour.server.environment().items())
    tour.say(f"{CONTAINER} stays mounted on {tour.mountpoint} until Ctrl-C. In another terminal:")
    for line in (
        f"ls -l {shlex.quote(str(tour.mountpoint))}",
        f"export {variables}",
        f"{find_program('swift')} list {CONTAINER}",
    ):
        tour.console.print(f"  {escape(line)}", soft_wrap=True)


def end(tour: Tour) -> None:
    """Unmount, even if the mount is in use. No signal can interrupt this."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    try:
        process = os.pidfd_open(int(os.getxattr(tour.mountpoint, PID_ATTRIBUTE)))
    except OSError as error:
        if error.errno in DEAD_MOUNT:
            detach(tour.mountpoint, is_dead=True)
        return
    try:
        unmount(tour.mountpoint, lambda _waiting: None)
    except ConfigurationError as error:
        tour.console.print(f"{escape(str(error))}: the mount is ended anyway", soft_wrap=True)
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], END_SECONDS)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)
    finally:
        os.close(process)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def handled_by(interruption: Interruption) -> Iterator[None]:
    """Make every signal that ends a program raise `KeyboardInterrupt`, so that everything is cleaned up."""
    before = {number: signal.signal(number, interruption) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
