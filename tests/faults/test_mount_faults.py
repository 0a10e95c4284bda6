"""Every fault under every system call of a real mount, once and at every attempt."""

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from msgspec.structs import replace
from swiftclient import Connection

from support import mount_with_time_limits
from support.crash_oracle import differences, look_below
from support.crashes import orphans, stored_states
from support.fault_matrix import KINDS, Kind
from support.jobs import wait_until
from support.mount_faults import outcome
from support.mount_operations import MOUNT_OPERATIONS, MountOperation, States, errno_of_call, prepare
from support.mounts import Mount
from support.tiers import chosen
from swiftfs.control.client import flush
from swiftfs.demo.server import ServerSettings, SwiftServer
from swiftfs.demo.values import Fault
from swiftfs.store.auth import open_account
from swiftfs.store.swift_store import SwiftStore

CASES_AT_ONCE = 20

ALL = "SWIFTFS_ALL_FAULTS" in os.environ
APART = 7
FIRST = chosen("mount faults").randrange(APART)

OPTIONS = "settle=1000,segment_size=1M,ttl=1000,prefetch=no"

MOST_THREADS, MOST_CONNECTIONS = 130, 100
"""All pools together, and libfuse's threads."""

R = TypeVar("R")


@dataclass(frozen=True)
class TimeLimits:
    """How long the mount waits for an answer, and for all requests of a system call, in seconds."""

    silence: float
    deadline: float


ONCE, ALWAYS = TimeLimits(2.0, 60.0), TimeLimits(1.5, 3.0)


@dataclass(frozen=True)
class FaultCase:
    """A kind of fault in one operation, in a container of its own."""

    operation: MountOperation
    kind: Kind
    always: bool
    container: str

    def __str__(self) -> str:
        return f"{self.operation.name}: {self.kind.name} {'always' if self.always else 'once'}"

    def fault(self, limits: TimeLimits) -> Fault:
        """Return the fault of all requests of this case, or of the first one."""
        operation, fault = self.operation, self.kind.fault
        where = f"/{self.container}{operation.hits or '[/?]'}"
        wait = 2 * limits.silence
        return replace(
            fault,
            method=operation.method,
            path=where,
            times=-1 if self.always else 1,
            delay=wait if fault.delay else 0.0,
            stall=wait if fault.stall else 0.0,
        )

    def check(self, number: int, seen: States, stored: States) -> Iterator[str]:
        """Yield what is wrong: with the errno, with what the mount shows, with what Swift has."""
        wanted = outcome(self.operation, self.kind, always=self.always)
        # A deadline may cut the last attempt short.
        allowed = {wanted.errno, errno.ETIMEDOUT} if wanted.errno == errno.EIO else {wanted.errno}
        if self.operation.is_looked_for and self.operation.new in wanted.afterwards:
            allowed.add(0)
        if number not in allowed:
            yield f"{self}: {number and errno.errorcode[number]}, not {errno.errorcode.get(wanted.errno)}"
        for where, found in (("the mount", seen), ("Swift", stored)):
            wrong = [self._differences(found, states) for states in wanted.afterwards]
            if all(wrong):
                yield f"{self}, in {where}: {wrong[0]}"

    def _differences(self, found: States, states: States) -> list[str]:
        if states is self.operation.partial:
            states = {
                path: state for path, state in states.items() if path in found or path in self.operation.old
            }
        return differences(found, states)


def cases(*, always: bool, apart: int, first: int) -> list[FaultCase]:
    """Return one of so many cases, from the `first` on."""
    numbers = itertools.count()
    found = [
        FaultCase(operation, kind, always, f"{'always' if always else 'once'}{apart}of{next(numbers)}x")
        for operation in MOUNT_OPERATIONS
        for kind in KINDS
        if operation.is_predictable(kind)
    ]
    return found if ALL else found[first::apart]


@pytest.fixture(scope="module")
def quiet_server() -> Iterator[SwiftServer]:
    """A server without bulk-delete, so that the path of each request has the name that it deletes."""
    with SwiftServer(settings=ServerSettings(without=frozenset({"bulk"}))) as running:
        yield running


class TimeLimitedMount(Mount):
    """A mount of the whole account with these time limits."""

    def __init__(self, server: SwiftServer, folder: Path, limits: TimeLimits) -> None:
        super().__init__(server, "/", folder, OPTIONS)
        self.program = (mount_with_time_limits.__file__, str(limits.silence), str(limits.deadline))
        self.expected.append("WARNING: ")  # each case may be logged; no ERROR

    def warm(self, case: FaultCase) -> None:
        """Let the mount list a case's folder, unless that request is to fail."""
        if not case.operation.needs_listing:
            for entry in os.scandir(self.path / case.container):
                entry.stat(follow_symlinks=False)

    def heal(self) -> None:
        """Return when all pending changes are stored, without faults; assert that nothing has leaked."""
        wait_until(lambda: flush(self.path, lambda _report: None).total == 0)
        process = psutil.Process(self.pid)
        assert process.num_threads() < MOST_THREADS
        assert len(process.net_connections()) < MOST_CONNECTIONS
        content = self.cache / "content"
        wait_until(lambda: not list(content.glob("open-*")))


class Matrix:
    """Cases of the matrix on one mount, many at once."""

    def __init__(self, server: SwiftServer, tried: Sequence[FaultCase], limits: TimeLimits) -> None:
        self._server = server
        self._tried = tried
        self._limits = limits
        with closing(Connection(server.auth_url, server.user, server.key, retries=0)) as client:
            self._url, self._token = client.get_auth()

    def run(self, folder: Path) -> list[str]:
        """Run all cases; return what is wrong, a line each."""
        with closing(SwiftStore(open_account(self._server.environment()))) as store:
            self._each(lambda case: prepare(store, case.container, case.operation))
        mount = TimeLimitedMount(self._server, folder, self._limits)
        with mount:
            self._each(mount.warm)
            for case in self._tried:
                self._server.inject(case.fault(self._limits))
            numbers = self._each(lambda case: errno_of_call(case.operation, mount.path / case.container))
            self._server.clear_faults()
            mount.heal()
            seen = self._each(lambda case: look_below(mount.path / case.container))
        wrong = zip(self._tried, numbers, seen, self._each(self._stored), strict=True)
        found = [
            text
            for case, number, in_mount, in_swift in wrong
            for text in case.check(number, in_mount, in_swift)
        ]
        return found + [name for names in self._each(self.orphans) for name in names]

    def orphans(self, case: FaultCase) -> list[str]:
        """Return the segments in a case's container that no manifest names."""
        with closing(self._client()) as client:
            return [f"{case}: {name} is left" for name in orphans(client, case.container)]

    def _each(self, call: Callable[[FaultCase], R]) -> list[R]:
        with ThreadPoolExecutor(CASES_AT_ONCE) as pool:
            return list(pool.map(call, self._tried))

    def _stored(self, case: FaultCase) -> States:
        with closing(self._client()) as client:
            return stored_states(client, case.container)

    def _client(self) -> Connection:
        # Two for each case, which need no login of their own.
        return Connection(preauthurl=self._url, preauthtoken=self._token, retries=0)


@pytest.mark.parametrize(
    ("always", "apart", "first"),
    [
        # Each kind and each operation occurs. In the slow tier each run has other cases.
        pytest.param(False, 14, 0, id="once, few"),
        pytest.param(False, APART, FIRST, id="once", marks=pytest.mark.slow),
        pytest.param(True, APART, FIRST, id="always", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(1200)
def test_the_matrix(quiet_server: SwiftServer, tmp_path: Path, always: bool, apart: int, first: int) -> None:
    tried = cases(always=always, apart=apart, first=first)
    assert {case.kind.name for case in tried} == {kind.name for kind in KINDS}
    assert {case.operation.name for case in tried} == {operation.name for operation in MOUNT_OPERATIONS}
    wrong = Matrix(quiet_server, tried, ALWAYS if always else ONCE).run(tmp_path)
    assert not wrong, "\n".join(wrong)


def test_segments_whose_answer_was_lost_are_deleted(quiet_server: SwiftServer, tmp_path: Path) -> None:
    operation = next(
        operation for operation in MOUNT_OPERATIONS if operation.name == "large write (a segment)"
    )
    kind = next(kind for kind in KINDS if kind.name == "500 after doing it")
    case = FaultCase(operation, kind, True, "lost")
    matrix = Matrix(quiet_server, [case], ALWAYS)
    assert matrix.run(tmp_path) == []
    assert matrix.orphans(case) == []
