"""Every fault in every operation of the store, once and for ever, on a real Swift."""

import itertools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import pytest
from psutil import Process

from support.fault_matrix import KINDS, SILENCE, Kind, outcome
from support.fault_operations import OPERATIONS, Cell, Operation
from swiftfs.demo.server import RecordedRequest, SwiftServer
from swiftfs.demo.values import OPERATOR
from swiftfs.errors import Corrupt, StoreError, TimedOut, Unavailable
from swiftfs.objects import Limits
from swiftfs.store import RetryingStore, RetryPolicy, SwiftStore, open_account
from swiftfs.store.wire.info import UNKNOWN

CELLS_AT_ONCE = 10

ONCE = RetryPolicy(deadline=60.0, first_pause=0.01, longest_pause=0.05)
ALWAYS = RetryPolicy(deadline=2.0, first_pause=0.1, longest_pause=0.2)
ALWAYS_SILENT = RetryPolicy(deadline=2 * SILENCE, first_pause=0.01, longest_pause=0.05)

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Field:
    """One cell of the matrix with the kind of fault that hits it."""

    cell: Cell
    kind: Kind
    always: bool

    def __str__(self) -> str:
        return f"{self.kind.name} {'always' if self.always else 'once'}"

    @property
    def policy(self) -> RetryPolicy:
        """How long the call goes on."""
        if not self.always:
            return ONCE
        return ALWAYS_SILENT if self.kind.silent else ALWAYS


class Row:
    """One operation under all faults: prepared, then run, then looked up in Swift without any fault."""

    def __init__(self, swift: SwiftServer, operation: Operation, box: str) -> None:
        self.swift = swift
        self.operation = operation
        self.fields = [
            Field(Cell(f"c{next(_numbers)}x", box), kind, always)
            for kind in KINDS
            for always in (False, True)
        ]
        self.limits = Limits(listing=10_000, bulk_delete=1000 if operation.bulk else 0)
        self._stores: dict[tuple[str, bool], SwiftStore] = {}
        self._lock = threading.Lock()
        self.store("", silent=False).create_container(box)

    def store(self, mark: str, *, silent: bool) -> SwiftStore:
        """Return a store with or without patience; a mark is the account's name."""
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

    def _account(self, field: Field) -> str:
        return field.cell.mark if self.operation.own_account else ""

    def prepare(self, field: Field) -> None:
        """Make what the operation needs, and inject the fault."""
        self.operation.prepare(self.store(self._account(field), silent=False), field.cell)
        times = -1 if field.always else 1
        fault = replace(field.kind.fault, method=self.operation.method, path=field.cell.mark, times=times)
        self.swift.inject(fault)

    def run(self, field: Field) -> StoreError | None:
        """Call the operation and return the error it ends with; what is no `StoreError` is raised."""
        store = self.store(self._account(field), silent=field.kind.silent)
        try:
            self.operation.call(RetryingStore(store, field.policy, owns=False), field.cell)
        except StoreError as error:
            return error
        return None

    def judge(self, field: Field, error: StoreError | None, requests: list[RecordedRequest]) -> str:
        """Return what is not as it should be."""
        wanted = outcome(self.operation, field.kind, always=field.always)
        if not is_as_wanted(error, wanted.error):
            return f"{field}: {error!r}, not {wanted.error}"
        sent = [one for one in requests if self._is_of(field, one)]
        hangs_up = field.kind.fault.truncate_body >= 0
        if (len(sent) > 1) != wanted.repeated and not hangs_up:
            return f"{field}: sent {len(sent)} times"
        if self.operation.done is None:
            return ""
        done = self.operation.done(self.store(self._account(field), silent=False), field.cell)
        return "" if wanted.done in (None, done) else f"{field}: {'' if done else 'not '}done"

    def _is_of(self, field: Field, request: RecordedRequest) -> bool:
        text = f"{request.path}?{request.query}"
        return request.method == self.operation.method and field.cell.mark in text

    def close(self) -> None:
        """Close every store."""
        for store in self._stores.values():
            store.close()


def is_as_wanted(error: StoreError | None, wanted: type[StoreError] | None) -> bool:
    """Compare errors. Half a body shows as broken or as wrong; a deadline may cut the last attempt short."""
    if error is None or wanted is None:
        return error is None and wanted is None
    assert "\n" not in str(error)
    same = {Corrupt, Unavailable, TimedOut} if wanted in {Corrupt, Unavailable} else {wanted}
    return type(error) in same


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail when threads or descriptors are left."""
    process, threads = Process(), set(threading.enumerate())
    descriptors = process.num_fds()
    yield
    assert set(threading.enumerate()) == threads
    assert process.num_fds() <= descriptors, process.net_connections()


@pytest.mark.matrix(6)
@pytest.mark.parametrize("operation", OPERATIONS[1:], ids=lambda operation: operation.name)
def test_the_matrix(swift: SwiftServer, container: str, operation: Operation) -> None:
    with nothing_left_behind():
        row = Row(swift, operation, container)
        with closing(row), ThreadPoolExecutor(CELLS_AT_ONCE) as pool:
            list(pool.map(row.prepare, row.fields))
            swift.reset_requests()
            errors = list(pool.map(row.run, row.fields))
            swift.clear_faults()
            requests = swift.requests()
            wrong = list(pool.map(lambda field, error: row.judge(field, error, requests), row.fields, errors))
    assert [text for text in wrong if text] == []


@pytest.mark.matrix(12)
@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_limits(swift: SwiftServer, kind: Kind, always: bool) -> None:
    """`/info` is one for all, so the faults come one after the other."""
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
                ),
            )
            swift.clear_faults()
            assert store.list_containers(marker="zzz").rows == ()
