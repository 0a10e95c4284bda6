"""A Swift with faults of networks and servers, and with changes by other clients.

Each fault is planned: its kind, its method, and which of the requests of that method it hits. So a history
can be repeated without one of its faults.
"""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from simulation.scheduler import EPOCH, Scheduler
from support.memory_container import StoredObject
from support.memory_store import MemoryStore
from swiftfs.concurrency import may_block
from swiftfs.errors import AccessDenied, Corrupt, NoSpace, QuotaExceeded, StoreError, TimedOut, Unavailable
from swiftfs.objects import Limits, Manifest, ObjectInfo, ObjectName, ObjectVersion, Page, Segment
from swiftfs.store.protocol import Body, CopyRequest, Headers, Sink

T = TypeVar("T")

CHANGES = ("put", "put_manifest", "post", "copy", "delete", "delete_many")
"""The methods that change objects; most deletions of files and folders are `delete_many`."""

STORING = ("put", "put_manifest", "copy")
"""Those that store an object."""

READS = ("head", "get", "manifest", "list_page")

REFUSALS: dict[str, Callable[[str], StoreError]] = {
    "413": QuotaExceeded,
    "507": NoSpace,
    "503": partial(Unavailable, may_land=False),
}

CONTAINER, SEGMENTS = "box", "box_segments"

DELETED_BY_THEM = "deleted by another client"

THEIRS = "theirs/"
"""The beginning of the keys of another client's segments."""

LATE = (2.0, 45.0, 90.0)
"""Seconds after which a server executes a late request."""


LONGEST_STALL = 10.0
"""Seconds for which a thread stalls at most."""

NOTICED = 700.0
"""Seconds after which a late request must have been noticed, and its effects undone."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the request number `which`, from 0, of a method.

    - `lost`: executed, not answered; `late`: executed after its time-out; `fails`: not executed (503)
    - `slow`: takes `seconds`; `413`, `507` and `503`: it and all later ones are refused for `seconds`
    - `cut` and `flipped`: the body of the answer is truncated, or has a wrong byte
    - `theirs`: another client stores such an object just after the request; `theirs first`: just before it,
      and the request is refused
    - `403`: the source of a copy cannot be deleted for `seconds`
    """

    kind: str
    method: str
    which: int
    seconds: float = 0.0

    def __str__(self) -> str:
        took = f" ({self.seconds:g} s)" if self.seconds else ""
        return f"{self.method} number {self.which} {self.kind}{took}"


@dataclass(frozen=True, slots=True)
class Outage:
    """For some seconds no request is answered, or the disk is full."""

    begin: float
    seconds: float

    def includes(self, moment: float) -> bool:
        """Return whether it lasts at a moment (virtual seconds)."""
        return self.begin <= moment < self.begin + self.seconds

    def __str__(self) -> str:
        return f"no server from {self.begin:g} s for {self.seconds:g} s"


class Adversary(MemoryStore):
    """A store in memory with faults.

    With a `lag` listings show changes of objects only after so many seconds. `changed` is called after every
    change of an object by any client. `was_overtaken` is set if a late request was executed, other than that
    of a segment of a dead client, `was_separated` if the copy of a large object got segments of its own.
    `unnamed` are segments of large objects that another client has stored or replaced, or whose deletion a
    kill has interrupted or Swift refused: those are logged, for `swiftfs gc`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        faults: Iterable[Fault] = (),
        outages: Iterable[Outage] = (),
        *,
        lag: float = 0.0,
        bulk: int = 10_000,
        seed: int = 0,
    ) -> None:
        super().__init__(CONTAINER, limits=Limits(bulk_delete=bulk))
        self._scheduler = scheduler
        self._faults = {(fault.method, fault.which): fault for fault in faults}
        self._outages = list(outages)
        self._lag = lag
        self._random = random.Random(seed)
        self._counts: Counter[str] = Counter()
        self._refused: dict[str, tuple[float, Callable[[str], StoreError]]] = {}
        self._kept: dict[ObjectName, float] = {}
        self._in_flight: dict[int, tuple[bool, Callable[[], object]]] = {}
        self._before: defaultdict[tuple[str, str], list[tuple[float, StoredObject | None]]] = defaultdict(
            list
        )
        self.loud = True
        self.was_overtaken = self.was_separated = False
        self.unnamed: set[str] = set()
        self._deleted: list[tuple[float, set[str]]] = []
        self.changed: Callable[[str, ObjectName], None] = lambda _method, _name: None
        self.met: list[str] = []
        self._late: dict[int, float] = {}
        self._numbers = itertools.count()
        self._flips = itertools.count()
        self._unsettled_at = -NOTICED

    @property
    def is_unsettled(self) -> bool:
        """Return whether late requests or refused deletions are still open, or were executed just now."""
        return bool(self._late) or self._scheduler.now < self._unsettled_at + NOTICED

    @property
    def has_remnants(self) -> bool:
        """Return whether there is, or was, an object that a rename could not delete."""
        return bool(self._kept)

    def calm(self) -> None:
        """Cause no faults any more."""
        self.loud = False
        self._refused.clear()
        if self._kept:
            self._unsettled_at = self._scheduler.now
            self._kept.clear()

    def client_died(self) -> None:
        """Execute some of the requests that the dead client was sending.

        Requests of its last second are not lost: the client had no time to record a loss.
        """
        self._late = {number: at for number, at in self._late.items() if at < self._scheduler.now - 1.0}
        # It may not have seen the answer to a deletion: then nothing proves that no other client has renamed
        # the large object before, and its segments stay.
        recent = [keys for at, keys in self._deleted if at > self._scheduler.now - LONGEST_STALL]
        self.unnamed.update(*recent)
        # The connection is closed, and the server has either the whole request or drops it. It carries out
        # most at once; a segment may also take longer than the next mount needs to look for it.
        for is_segment, request in self._in_flight.values():
            if self._random.random() < 0.5:
                seconds = self._random.choice((0.0, *LATE)) if is_segment else 0.0
                self._later(seconds, request, overtakes=not is_segment)
        self._in_flight.clear()

    def trouble(self, what: str) -> None:
        """Record a fault that may make calls fail."""
        self._scheduler.record(what)
        self.met.append(what)

    def head(self, name: ObjectName) -> ObjectInfo:
        return self._read("head", name, lambda: super(Adversary, self).head(name))

    def manifest(self, name: ObjectName) -> Manifest:
        return self._read("manifest", name, lambda: super(Adversary, self).manifest(name))

    def get(
        self,
        name: ObjectName,
        sink: Sink,
        *,
        offset: int = 0,
        length: int | None = None,
        etag: str = "",
        size: int | None = None,
    ) -> ObjectInfo:
        fault = self._begin("get", name)
        get = super().get
        if fault is None or fault.kind not in ("cut", "flipped"):
            return get(name, sink, offset=offset, length=length, etag=etag, size=size)
        self.trouble(f"its body is {fault.kind}")
        parts: list[tuple[int, bytes]] = []
        info = get(
            name,
            lambda at, data: parts.append((at, data)),
            offset=offset,
            length=length,
            etag=etag,
            size=size,
        )
        if fault.kind == "cut":
            for at, data in parts[:1]:
                sink(at, data[: len(data) // 2])
            raise Unavailable(f"get {name}: the connection broke", may_land=False)
        wrong = 1 + next(self._flips) % 255  # two answers are never wrong alike: they would count as right
        for at, data in parts:
            sink(at, bytes([data[0] ^ wrong]) + data[1:] if at == offset and data else data)
        if offset == 0 and length is None:
            raise Corrupt(f"{name}: its checksum is wrong")
        return info

    def list_page(self, container: str, **how: Any) -> Page:
        self._begin("list_page", ObjectName(container, how.get("prefix", "")))
        now = self._containers.get(container)
        if now is None or not self._lag:
            return super().list_page(container, **how)
        shown = {**now.objects, **self._as_before(container)}
        whole = now.objects
        now.objects = {key: found for key, found in shown.items() if found is not None}
        try:
            return super().list_page(container, **how)
        finally:
            now.objects = whole

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        sent = bytes(body)
        put = super().put
        return self._change("put", [name], lambda: put(name, sent, headers, if_absent=if_absent, etag=etag))

    def put_manifest(
        self, name: ObjectName, manifest: Manifest, headers: Headers, *, if_absent: bool = False
    ) -> ObjectInfo:
        put = super().put_manifest
        return self._change("put_manifest", [name], lambda: put(name, manifest, headers, if_absent=if_absent))

    def post(self, name: ObjectName, headers: Headers) -> None:
        post = super().post
        self._change("post", [name], lambda: post(name, headers))

    def copy(self, request: CopyRequest) -> ObjectVersion:
        copy, target = super().copy, request.target
        self.was_separated |= target.container == SEGMENTS and "/copy-" in target.key
        return self._change("copy", [target, request.source], lambda: copy(request))

    def delete(self, name: ObjectName) -> None:
        delete = super().delete

        def delete_unless_kept() -> None:
            if self._kept_of([name]):
                raise AccessDenied(f"delete {name}: refused")
            delete(name)

        self._change("delete", [name], delete_unless_kept)

    def delete_many(self, names: Iterable[ObjectName]) -> dict[ObjectName, StoreError]:
        wanted = list(names)
        if not wanted:
            return {}
        delete = super().delete_many

        def delete_what_is_not_kept() -> dict[ObjectName, StoreError]:
            kept = self._kept_of(wanted)
            delete(name for name in wanted if name not in kept)
            return {name: AccessDenied(f"delete {name}: refused") for name in kept}

        return self._change("delete_many", wanted, delete_what_is_not_kept)

    def theirs(self, name: ObjectName, body: bytes) -> None:
        """Let another client store an object."""
        self._remember([name])
        self.trouble(f"another client stores {name}")
        self.unnamed |= self._segments_of(name)
        super().put(name, body, Headers("text/plain"))
        self.changed("theirs", name)

    def _segments_of(self, name: ObjectName) -> set[str]:
        container = self._containers.get(name.container)
        found = container.objects.get(name.key) if container is not None else None
        manifest = found.manifest if found is not None else None
        return {one.name.key for one in manifest.segments} if manifest is not None else set()

    def their_patch(self, name: ObjectName) -> bool:
        """Let another client change the first segment of a large object; return False if it is none."""
        found = self._containers[name.container].objects.get(name.key)
        if found is None or found.manifest is None:
            return False
        first, *rest = found.manifest.segments
        own = ObjectName(SEGMENTS, f"{THEIRS}{self._scheduler.points}")
        self._scheduler.record(f"another client changes the first segment of {name}")
        body = bytes(first.span)
        info = super().put(own, body, Headers("text/plain"))
        changed = Manifest((Segment(own, info.version.etag, len(body)), *rest))
        super().put_manifest(name, changed, found.headers)
        self.trouble(f"{name} is another client's")
        return True

    def _kept_of(self, names: Iterable[ObjectName]) -> list[ObjectName]:
        """Return the objects whose deletion is refused now."""
        kept = [name for name in names if self._scheduler.now < self._kept.get(name, 0.0)]
        self.unnamed.update(name.key for name in kept if name.container == SEGMENTS)
        return kept

    def _read(self, method: str, name: ObjectName, read: Callable[[], T]) -> T:
        self._begin(method, name)
        return read()

    def _begin(self, method: str, name: ObjectName) -> Fault | None:
        """Let time pass; raise errors of requests that are not executed."""
        may_block(f"sends {method}")
        fault = self._fault(method)
        self._scheduler.record(f"{method} {name}" + (f": {fault.kind}" if fault else ""))
        self._scheduler.sleep(self._latency(fault))
        self._raise_outage(method, name)
        if fault is not None and fault.kind in REFUSALS:
            self._refused[method] = (self._scheduler.now + fault.seconds, REFUSALS[fault.kind])
        self._raise_refusal(method, name)
        if fault is not None and fault.kind in ("fails", "lost", "late") and method not in CHANGES:
            self.trouble(f"{method} {name} fails")
            raise Unavailable(f"{method} {name}: 503", may_land=False)
        return fault

    def _change(self, method: str, names: list[ObjectName], do: Callable[[], T]) -> T:
        number = id(do)
        is_segment = method in ("put", "copy") and names[0].container == SEGMENTS
        is_theirs = self._scheduler.running.is_other and method != "post"

        def apply() -> T:
            return self._apply(method, names, do, is_theirs=is_theirs)

        self._in_flight[number] = is_segment, apply
        try:
            fault = self._begin(method, names[0])
        finally:
            if not self._scheduler.dead:
                self._in_flight.pop(number, None)
        # Nobody else stores objects at names of our segments.
        if any(name.container == SEGMENTS for name in names) and fault is not None and "theirs" in fault.kind:
            fault = None
        if fault is not None and fault.kind == "theirs first":
            self.theirs(names[0], f"theirs {self._scheduler.points}".encode())
            raise QuotaExceeded(f"{method} {names[0]}: refused")
        if fault is not None and fault.kind == "403":
            self._keep(names[-1], fault.seconds)
        if fault is not None and fault.kind == "fails":
            self.trouble(f"{method} {names[0]} is answered 503 and not done")
            raise Unavailable(f"{method} {names[0]}: 503")
        if fault is not None and fault.kind == "late":
            seconds = self._random.choice(LATE)
            self.trouble(f"{method} {names[0]} is not answered, and will be done after {seconds:g} s")
            self._later(seconds, apply)
            raise TimedOut(f"{method} {names[0]}: timed out")
        result = apply()
        if fault is not None and fault.kind == "theirs":
            where = names[-1]
            self.trouble(f"another client stores {where} after {method}")
            self.theirs(where, f"theirs {self._scheduler.points}".encode())
        self._scheduler.sleep(self._random.random() * 0.01)
        if fault is not None and fault.kind == "lost":
            self.trouble(f"{method} {names[0]} is done and its answer lost")
            raise TimedOut(f"{method} {names[0]}: timed out")
        return result

    def _apply(
        self, method: str, names: list[ObjectName], do: Callable[[], T], *, is_theirs: bool = False
    ) -> T:
        self._remember(names)
        if is_theirs and method in STORING:
            self._will_store(names[0])
        if method in STORING:
            self._kept.pop(names[0], None)
        elif method in ("delete", "delete_many"):
            deleted = set[str]().union(*map(self._segments_of, names))
            self._deleted.append((self._scheduler.now, deleted))
        result = do()
        for name in names:
            self.changed(self._told(method, name, is_first=name is names[0], is_theirs=is_theirs), name)
        return result

    def _told(self, method: str, name: ObjectName, *, is_first: bool, is_theirs: bool) -> str:
        """Return what happened to an object: what another client has stored or deleted is told apart."""
        if not is_theirs or name.container != CONTAINER:
            return method
        if method in STORING:
            return "theirs" if is_first else method
        self.trouble(f"another client deletes {name}")
        return DELETED_BY_THEM

    def _will_store(self, name: ObjectName) -> None:
        """Record that the second mount stores an object or a segment."""
        if name.container == SEGMENTS:
            self.unnamed.add(name.key)  # who replaces the object, and has not seen it, leaves its segments
            return
        self.trouble(f"another client stores {name}")
        self.unnamed |= self._segments_of(name)

    def _later(self, seconds: float, request: Callable[[], object], *, overtakes: bool = True) -> None:
        number = next(self._numbers)

        def carry_out() -> None:
            if self._late.pop(number, None) is None:
                return
            self._unsettled_at = self._scheduler.now
            try:
                request()
            except StoreError as error:
                self._scheduler.record(f"late: {error}")
            else:
                self._scheduler.record("a late request is carried out")
                self.was_overtaken |= overtakes

        self._late[number] = self._scheduler.now
        self._scheduler.at(seconds, carry_out)

    def _fault(self, method: str) -> Fault | None:
        which = self._counts[method]
        self._counts[method] += 1
        return self._faults.get((method, which)) if self.loud else None

    def _latency(self, fault: Fault | None) -> float:
        if fault is not None and fault.kind == "slow":
            return fault.seconds
        return 0.001 + self._random.random() * 0.02

    def _raise_outage(self, method: str, name: ObjectName) -> None:
        now = self._scheduler.now
        if self.loud and any(one.includes(now) for one in self._outages):
            self.trouble(f"{method} {name}: no server")
            raise Unavailable(f"{method} {name}: no server", may_land=False)

    def _keep(self, name: ObjectName, seconds: float) -> None:
        """Refuse to delete an object for some time."""
        self.trouble(f"{name} cannot be deleted for {seconds:g} s")
        self._kept[name] = self._unsettled_at = self._scheduler.now + seconds

    def _raise_refusal(self, method: str, name: ObjectName) -> None:
        end, error = self._refused.get(method, (0.0, QuotaExceeded))
        if self.loud and self._scheduler.now < end:
            self.trouble(f"{method} {name} is refused")
            raise error(f"{method} {name}: refused")

    def _remember(self, names: Iterable[ObjectName]) -> None:
        """Record the old state of objects, for listings that lag."""
        if not self._lag:
            return
        for name in names:
            found = self._containers.get(name.container)
            before = found.objects.get(name.key) if found is not None else None
            self._before[name.container, name.key].append((self._scheduler.now, before))

    def _as_before(self, container: str) -> dict[str, StoredObject | None]:
        """Return objects in the old state that lagging listings show; None for one that did not exist."""
        since = self._scheduler.now - self._lag
        shown: dict[str, StoredObject | None] = {}
        for (where, key), changes in self._before.items():
            changes[:] = [change for change in changes if change[0] > since]
            if where == container and changes:
                shown[key] = changes[0][1]
        return shown

    def _now(self) -> int:
        wall = int((EPOCH + self._scheduler.now) * 1e5) * 10_000
        self._clock = max(self._clock + 10_000, wall)
        return self._clock
