"""Every fault in every operation of the store, once and at every attempt, on a real Swift."""

import itertools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pytest
from msgspec.structs import replace
from psutil import Process

from support.deadlines import within
from support.fault_matrix import KINDS, SILENCE, Kind, outcome
from support.fault_operations import OPERATIONS, Cell, Operation
from swiftfs.demo.server import OPERATOR, RecordedRequest, SwiftServer
from swiftfs.errors import Corrupt, StoreError, TimedOut, Unavailable
from swiftfs.objects import Limits
from swiftfs.store.auth import open_account
from swiftfs.store.retry import RetryingStore, RetryPolicy
from swiftfs.store.swift_store import SwiftStore
from swiftfs.store.wire.info import UNKNOWN

CASES_AT_ONCE = 10

ONCE = RetryPolicy(deadline=60.0, first_pause=0.01, longest_pause=0.05)

_numbers = itertools.count(1)


@dataclass(frozen=True)
class FaultCase:
    """A kind of fault in one operation, which works on the objects of `cell`."""

    cell: Cell
    kind: Kind
    always: bool

    def __str__(self) -> str:
        return f"{self.kind.name} {'always' if self.always else 'once'}"

    @property
    def policy(self) -> RetryPolicy:
        """How long requests are repeated: long enough for a second one, on a busy machine too."""
        seconds = within(2 * SILENCE)
        # Pauses that end in time, and of which few follow: each request costs the server 5 ms.
        return RetryPolicy(seconds, seconds / 16, seconds / 4) if self.always else ONCE


@pytest.fixture(scope="module")
def swift_server(versioned_server: SwiftServer) -> SwiftServer:
    """A Swift that lists versions."""
    return versioned_server


class OperationCases:
    """All faults of one operation: prepared, then run, then checked in Swift without any fault."""

    def __init__(self, swift: SwiftServer, operation: Operation, box: str) -> None:
        self.swift = swift
        self.operation = operation
        self.cases = [
            FaultCase(Cell(f"c{next(_numbers)}x", box), kind, always)
            for kind in KINDS
            for always in (False, True)
        ]
        self.limits = Limits(listing=10_000, bulk_delete=1000 if operation.bulk else 0)
        self._stores: dict[tuple[str, bool], SwiftStore] = {}
        self._lock = threading.Lock()
        self.store("", silent=False).create_container(box)

    def store(self, mark: str, *, silent: bool) -> SwiftStore:
        """Return the store of the account `mark`, or of the usual one, with or without `SILENCE`."""
        with self._lock:
            if (mark, silent) not in self._stores:
                self._stores[mark, silent] = self._open(mark, SILENCE if silent else math.inf)
            return self._stores[mark, silent]

    def _open(self, mark: str, silence: float) -> SwiftStore:
        environment = self.swift.environment()
        if mark:
            environment |= {"ST_USER": OPERATOR.name, "ST_KEY": OPERATOR.key}
        account = open_account(environment)
        if mark:
            account._endpoint = f"{self.swift.storage_url.rpartition('/')[0]}/AUTH_{mark}"
        account.token()
        store = SwiftStore(account, longest_silence=silence)
        if self.operation.name != "limits":
            store._limits = self.limits
        return store

    def _account(self, case: FaultCase) -> str:
        return case.cell.mark if self.operation.own_account else ""

    def prepare(self, case: FaultCase) -> None:
        """Make the objects of a case, and inject its fault."""
        self.operation.prepare(self.store(self._account(case), silent=False), case.cell)
        times = -1 if case.always else 1
        fault = replace(case.kind.fault, method=self.operation.method, path=case.cell.mark, times=times)
        self.swift.inject(fault)

    def run(self, case: FaultCase) -> StoreError | None:
        """Call the operation; return the `StoreError` it ends with."""
        store = self.store(self._account(case), silent=case.kind.silent)
        try:
            self.operation.call(RetryingStore(store, case.policy, owns=False), case.cell)
        except StoreError as error:
            return error
        return None

    def check(self, case: FaultCase, error: StoreError | None, requests: list[RecordedRequest]) -> str:
        """Return what is wrong with the result, or an empty text."""
        wanted = outcome(self.operation, case.kind, always=case.always)
        if not is_as_wanted(error, wanted.error):
            return f"{case}: {error!r}, not {wanted.error}"
        sent = [one for one in requests if self._is_of(case, one)]
        hangs_up = case.kind.fault.truncate_body >= 0
        if (len(sent) > 1) != wanted.repeated and not hangs_up:
            return f"{case}: sent {len(sent)} times"
        if self.operation.done is None:
            return ""
        done = self.operation.done(self.store(self._account(case), silent=False), case.cell)
        return "" if wanted.done in (None, done) else f"{case}: {'' if done else 'not '}done"

    def _is_of(self, case: FaultCase, request: RecordedRequest) -> bool:
        text = f"{request.path}?{request.query}"
        return request.method == self.operation.method and case.cell.mark in text

    def close(self) -> None:
        """Close all stores."""
        for store in self._stores.values():
            store.close()


def is_as_wanted(error: StoreError | None, wanted: type[StoreError] | None) -> bool:
    """Return whether the error is the wanted one; where the cause of half a body varies, another may be."""
    if error is None or wanted is None:
        return error is None and wanted is None
    assert "\n" not in str(error)
    same = {Corrupt, Unavailable, TimedOut} if wanted in {Corrupt, Unavailable} else {wanted}
    return type(error) in same


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if threads or descriptors are left."""
    process, threads = Process(), set(threading.enumerate())
    descriptors = process.num_fds()
    yield
    assert set(threading.enumerate()) == threads
    assert process.num_fds() <= descriptors, process.net_connections()


@pytest.mark.matrix(4)
@pytest.mark.parametrize("operation", OPERATIONS[1:], ids=lambda operation: operation.name)
def test_the_matrix(swift: SwiftServer, container: str, operation: Operation) -> None:
    with nothing_left_behind():
        matrix = OperationCases(swift, operation, container)
        with closing(matrix), ThreadPoolExecutor(CASES_AT_ONCE) as pool:
            list(pool.map(matrix.prepare, matrix.cases))
            swift.reset_requests()
            errors = list(pool.map(matrix.run, matrix.cases))
            swift.clear_faults()
            requests = swift.requests()
            wrong = list(
                pool.map(lambda case, error: matrix.check(case, error, requests), matrix.cases, errors)
            )
    assert [text for text in wrong if text] == []


@pytest.mark.matrix(12)
@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_limits(swift: SwiftServer, kind: Kind, always: bool) -> None:
    """`/info` is the same for all accounts, so one fault runs at a time."""
    with nothing_left_behind():
        store = SwiftStore(open_account(swift.environment()), longest_silence=SILENCE)
        with closing(store):
            swift.inject(replace(kind.fault, method="GET", path="^/info", times=-1 if always else 1))
            wanted = outcome(OPERATIONS[0], kind, always=always)
            first = RetryingStore(store, ONCE, owns=False).limits()
            assert wanted.error is None
            assert first in (
                UNKNOWN,
                Limits(
                    bulk_delete=10_000,
                    object_bytes=first.object_bytes,
                    policies=first.policies,
                    version=first.version,
                    temp_url_methods=first.temp_url_methods,
                    temp_url_digests=first.temp_url_digests,
                ),
            )
            swift.clear_faults()
            assert store.list_containers(marker="zzz").rows == ()
