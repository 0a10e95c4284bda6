"""Every fault under every system call of a real mount, once and for ever."""

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from swiftclient import Connection

from support import impatient_mount
from support.crash_oracle import differences, look_below
from support.crashes import orphans, stored_states
from support.fault_matrix import KINDS, Kind
from support.jobs import wait_until
from support.mount_faults import outcome
from support.mount_operations import MOUNT_OPERATIONS, MountOperation, States, errno_of_call, prepare
from support.mounts import Mount
from swiftfs.control.client import flush
from swiftfs.demo.server import ServerSettings, SwiftServer
from swiftfs.demo.values import Fault
from swiftfs.store import SwiftStore, open_account

FIELDS_AT_ONCE = 20

APART = 1 if "SWIFTFS_ALL_FAULTS" in os.environ else 4
"""Of so many fields one is tried; each kind and each operation several times."""

OPTIONS = "settle=1000,segment_size=1M,ttl=1000,prefetch=no"

MOST_THREADS, MOST_CONNECTIONS = 130, 100
"""Of all pools, and libfuse's threads."""

R = TypeVar("R")


@dataclass(frozen=True)
class Patience:
    """In seconds, how long the mount waits for an answer, and how long for its requests in all."""

    silence: float
    deadline: float


ONCE, ALWAYS = Patience(2.0, 60.0), Patience(1.5, 3.0)


@dataclass(frozen=True)
class Field:
    """One field of the matrix, in a container of its own."""

    operation: MountOperation
    kind: Kind
    always: bool
    container: str

    def __str__(self) -> str:
        return f"{self.operation.name}: {self.kind.name} {'always' if self.always else 'once'}"

    def fault(self, patience: Patience) -> Fault:
        """Return the fault that hits this field's requests, or the first of them."""
        operation, fault = self.operation, self.kind.fault
        where = f"/{self.container}{operation.hits or '[/?]'}"
        wait = 2 * patience.silence
        return replace(
            fault,
            method=operation.method,
            path=where,
            times=-1 if self.always else 1,
            delay=wait if fault.delay else 0.0,
            stall=wait if fault.stall else 0.0,
        )

    def judge(self, number: int, seen: States, stored: States) -> Iterator[str]:
        """Yield what is not as it should be."""
        wanted = outcome(self.operation, self.kind, always=self.always)
        # A deadline may cut the last attempt short.
        allowed = {wanted.errno, errno.ETIMEDOUT} if wanted.errno == errno.EIO else {wanted.errno}
        if number not in allowed:
            yield f"{self}: {number and errno.errorcode[number]}, not {errno.errorcode.get(wanted.errno)}"
        for where, found in (("the mount", seen), ("Swift", stored)):
            wrong = [self._differences(found, states) for states in wanted.afterwards]
            if all(wrong):
                yield f"{self}, in {where}: {wrong[0]}"

    def _differences(self, found: States, states: States) -> list[str]:
        if states is self.operation.torn:
            states = {
                path: state for path, state in states.items() if path in found or path in self.operation.old
            }
        return differences(found, states)


def fields(*, always: bool) -> list[Field]:
    """Return the fields that are tried."""
    numbers = itertools.count()
    found = [
        Field(operation, kind, always, f"{'always' if always else 'once'}{next(numbers)}x")
        for operation in MOUNT_OPERATIONS
        for kind in KINDS
        if operation.knows(kind)
    ]
    return found[2 * always :: APART]


@pytest.fixture(scope="module")
def quiet_server() -> Iterator[SwiftServer]:
    """A server without bulk-delete, so that each request's address names what it deletes."""
    with SwiftServer(settings=ServerSettings(without=frozenset({"bulk"}))) as running:
        yield running


class Impatient(Mount):
    """The whole account, mounted with other patience."""

    def __init__(self, server: SwiftServer, folder: Path, patience: Patience) -> None:
        super().__init__(server, "/", folder, OPTIONS)
        self.program = (impatient_mount.__file__, str(patience.silence), str(patience.deadline))
        self.expected.append("WARNING: ")  # each field may be told; no ERROR

    def warm(self, field: Field) -> None:
        """Let the mount know a field's folder, unless that is to fail."""
        if not field.operation.lists:
            for entry in os.scandir(self.path / field.container):
                entry.stat(follow_symlinks=False)

    def heal(self) -> None:
        """Return when all that waits is stored, now that nothing fails; nothing must have leaked."""
        wait_until(lambda: flush(self.path, lambda _report: None).total == 0)
        process = psutil.Process(self.pid)
        assert process.num_threads() < MOST_THREADS
        assert len(process.net_connections()) < MOST_CONNECTIONS
        content = self.cache / "content"
        wait_until(lambda: not list(content.glob("open-*")))


class Matrix:
    """Some fields of the matrix on one mount, many at once."""

    def __init__(self, server: SwiftServer, tried: Sequence[Field], patience: Patience) -> None:
        self._server = server
        self._tried = tried
        self._patience = patience

    def run(self, folder: Path) -> list[str]:
        """Return what is not as it should be."""
        with closing(SwiftStore(open_account(self._server.environment()))) as store:
            self._each(lambda field: prepare(store, field.container, field.operation))
        mount = Impatient(self._server, folder, self._patience)
        with mount:
            self._each(mount.warm)
            for field in self._tried:
                self._server.inject(field.fault(self._patience))
            numbers = self._each(lambda field: errno_of_call(field.operation, mount.path / field.container))
            self._server.clear_faults()
            mount.heal()
            seen = self._each(lambda field: look_below(mount.path / field.container))
        wrong = zip(self._tried, numbers, seen, self._each(self._stored), strict=True)
        found = [
            text
            for field, number, in_mount, in_swift in wrong
            for text in field.judge(number, in_mount, in_swift)
        ]
        return found + [name for names in self._each(self.orphans) for name in names]

    def orphans(self, field: Field) -> list[str]:
        """Return the segments in a field's container that no manifest names."""
        with closing(self._client()) as client:
            return [f"{field}: {name} is left" for name in orphans(client, field.container)]

    def _each(self, call: Callable[[Field], R]) -> list[R]:
        with ThreadPoolExecutor(FIELDS_AT_ONCE) as pool:
            return list(pool.map(call, self._tried))

    def _stored(self, field: Field) -> States:
        with closing(self._client()) as client:
            return stored_states(client, field.container)

    def _client(self) -> Connection:
        return Connection(self._server.auth_url, self._server.user, self._server.key, retries=0)


@pytest.mark.matrix(1)
@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.timeout(1200)
def test_the_matrix(quiet_server: SwiftServer, tmp_path: Path, always: bool) -> None:
    tried = fields(always=always)
    assert {field.kind.name for field in tried} == {kind.name for kind in KINDS}
    assert {field.operation.name for field in tried} == {operation.name for operation in MOUNT_OPERATIONS}
    wrong = Matrix(quiet_server, tried, ALWAYS if always else ONCE).run(tmp_path)
    assert not wrong, "\n".join(wrong)


def test_segments_whose_answer_was_lost_are_deleted(quiet_server: SwiftServer, tmp_path: Path) -> None:
    operation = next(
        operation for operation in MOUNT_OPERATIONS if operation.name == "large write (a segment)"
    )
    kind = next(kind for kind in KINDS if kind.name == "500 after doing it")
    field = Field(operation, kind, True, "lost")
    matrix = Matrix(quiet_server, [field], ALWAYS)
    assert matrix.run(tmp_path) == []
    assert matrix.orphans(field) == []
