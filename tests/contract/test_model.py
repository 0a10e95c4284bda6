"""Random system calls on the file system and on a model in memory: all results must be equal.

A failure is printed as a program. With `SWIFTFS_SHRINK` set it is shortened first, which takes minutes.
"""

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace
from swiftclient import Connection

from support.harness import ME, names, put, read, write
from support.options import parse_options
from support.reference_model import ReferenceModel, Thing
from swiftfs.demo.server import SwiftServer
from swiftfs.errors import SwiftfsError, Unavailable, errno_of
from swiftfs.paths import Source, split
from swiftfs.posix.filesystem import FileSystem
from swiftfs.service.build import build
from swiftfs.service.mountpoint import MountRequest
from swiftfs.store.connect import ConnectedAccount, connect
from swiftfs.store.protocol import ObjectStore

OPTIONS = "segment_size=1M,settle=0.2"

NAMES = ["a", "b", "c"]
PATHS = st.sampled_from(
    [f"/{one}" for one in NAMES] + [f"/{one}/{two}" for one in NAMES for two in NAMES] + ["/a/b/c", "/b/a/b"]
)


@cache
def _body(size: int) -> bytes:
    """Return the bytes of a file, of each size the same ones: the model has many files."""
    return b"some bytes"[:size].ljust(size, b"L")


BODIES = st.sampled_from([1, 10, 1_300_000]).map(_body)
"""Not samples of the bytes themselves: hypothesis makes and keeps texts of all samples."""
SIZES = st.sampled_from([0, 1, 5, 1_100_000])

_numbers = itertools.count(1)


class CuttableStore:
    """A store whose requests can be stopped, as those of a dead process are."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.is_cut = False

    def __getattr__(self, name: str) -> Any:
        if self.is_cut and name != "close":
            raise Unavailable("the process is dead")
        return getattr(self._store, name)


class Machine(RuleBasedStateMachine):
    """Makes each call on both file systems."""

    swift: SwiftServer
    """Set by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.container = f"model{next(_numbers)}"
        self.client = Connection(self.swift.auth_url, self.swift.user, self.swift.key, retries=0)
        self.client.put_container(self.container)
        self.cache = Path(tempfile.mkdtemp(prefix="swiftfs-model-"))
        self.connected: ConnectedAccount = connect(self.swift.environment())
        self.model = ReferenceModel()
        self.real = self.mount()

    def mount(self) -> FileSystem:
        options = parse_options([OPTIONS])
        request = MountRequest(Source.parse(self.container), Path("/nowhere"), options)
        self.line = CuttableStore(self.connected.store)
        connected = replace(self.connected, store=cast(ObjectStore, self.line))
        filesystem = build(connected, request, self.cache)
        filesystem.begin()
        return filesystem

    def teardown(self) -> None:
        self.real.close()
        for path, thing in self.model.things.items():
            if thing.kind == "file":
                assert self.client.get_object(self.container, path[1:])[1] == thing.body, path
        self.connected.close()
        self.client.close()
        shutil.rmtree(self.cache)

    def both(self, wanted: Callable[[], Any], real: Callable[[], Any]) -> None:
        """Call both; the results or the errnos must be equal."""
        assert _answer(real) == _answer(wanted)

    def reach(self, path: str) -> None:
        """Look up the folders of a path, as the kernel does; raise the error that it would return."""
        parent = split(path)[0]
        above = [
            parent[: end or 1] for end in range(1, len(parent) + 1) if parent[end : end + 1] in ("", "/")
        ]
        for folder in above if parent != "/" else []:
            if not self.real.getattr(folder).is_directory:
                raise OSError(errno.ENOTDIR, folder)

    def act(self, path: str, call: Callable[[], Any]) -> Any:
        self.reach(path)
        return call()

    @rule(path=PATHS, body=BODIES)
    def write(self, path: str, body: bytes) -> None:
        if self._is("link", path):
            return
        self.both(
            lambda: self.model.write(path, body),
            lambda: self.act(path, lambda: write(self.real, path, body)),
        )

    @rule(path=PATHS, offset=SIZES, body=BODIES, sync=st.booleans())
    def patch(self, path: str, offset: int, body: bytes, sync: bool) -> None:
        if self._is("link", path):
            return

        stored: list[bytes] = []

        def real() -> None:
            handle = self.real.open(path, os.O_WRONLY)
            try:
                put(self.real, handle, offset, body)
                if sync:
                    self.real.fsync(handle, False)
                    stored.append(self.client.get_object(self.container, path[1:])[1])
                self.real.flush(handle)
            finally:
                self.real.release(handle)

        self.both(lambda: self.model.patch(path, offset, body), lambda: self.act(path, real))
        assert all(found == self.model.at(path).body for found in stored)

    @rule(path=PATHS, size=SIZES)
    def truncate(self, path: str, size: int) -> None:
        if not self._is("link", path):
            self.both(
                lambda: self.model.truncate(path, size),
                lambda: self.act(path, lambda: self.real.truncate(path, size)),
            )

    @rule(path=PATHS)
    def mkdir(self, path: str) -> None:
        def real() -> None:
            self._must_be_new(path)
            self.real.mkdir(path, 0o755, ME)

        self.both(lambda: self.model.mkdir(path), lambda: self.act(path, real))

    @rule(path=PATHS, to=st.sampled_from(["a", "../b"]))
    def symlink(self, path: str, to: str) -> None:
        def real() -> None:
            self._must_be_new(path)
            self.real.symlink(to, path, ME)

        self.both(lambda: self.model.symlink(to, path), lambda: self.act(path, real))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.both(lambda: self.model.unlink(path), lambda: self.act(path, lambda: self.real.unlink(path)))

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        def real() -> None:
            if not self.real.getattr(path).is_directory:
                raise OSError(errno.ENOTDIR, path)
            self.real.rmdir(path)

        self.both(lambda: self.model.rmdir(path), lambda: self.act(path, real))

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: str, new: str) -> None:
        def real() -> None:
            self.real.getattr(old)
            self.reach(new)
            self.real.rename(old, new)

        self.both(lambda: self.model.rename(old, new), lambda: self.act(old, real))

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o755]), mtime_ns=st.sampled_from([0, 10**18 + 5]))
    def describe(self, path: str, mode: int, mtime_ns: int) -> None:
        if path not in self.model.things or self._is("link", path):
            return
        thing = self.model.things[path]
        thing.mode, thing.mtime_ns = mode, mtime_ns
        thing.tags["user.color"] = b"%o" % mode
        self.real.chmod(path, mode)
        self.real.utimens(path, None, mtime_ns)
        self.real.setxattr(path, "user.color", b"%o" % mode, 0)

    @rule()
    def remount(self) -> None:
        self.real.close()
        self.real = self.mount()

    @rule()
    def crash(self) -> None:
        """Continue with a copy of the cache as it is on disk; requests of the dead process are stopped."""
        self.line.is_cut = True
        left = Path(tempfile.mkdtemp(prefix="swiftfs-model-"))
        # Local files are copied first: else a record might name one that was deleted between the two copies.
        for path in sorted(path for path in self.cache.rglob("*") if path.is_file()):
            copy = left / path.relative_to(self.cache)
            copy.parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(path, copy)
        self.real.services.journal.close(0.0, lambda _: None)
        self.real.services.file_cache.close()
        self.real.services.namespace.close()
        shutil.rmtree(self.cache)
        self.cache = left
        self.real = self.mount()

    @rule(name=st.sampled_from(NAMES), body=st.sampled_from([b"", b"foreign"]))
    def another_client_puts(self, name: str, body: bytes) -> None:
        if not self._is("file", f"/{name}"):
            return
        self.remount()
        self.client.put_object(self.container, name, body, content_type="text/plain")
        self.model.things[f"/{name}"] = Thing("file", body)
        self.real.refresh()

    @rule(name=st.sampled_from(NAMES))
    def another_client_deletes(self, name: str) -> None:
        if not self._is("file", f"/{name}"):
            return
        self.remount()
        self.client.delete_object(self.container, name)
        del self.model.things[f"/{name}"]
        self.real.refresh()

    @invariant()
    def all_is_the_same(self) -> None:
        for path, thing in self.model.things.items():
            if thing.kind == "folder":
                assert names(self.real, path) == self.model.children(path), path
            if path != "/":
                self._compare(path, thing)

    def _compare(self, path: str, thing: Thing) -> None:
        found = self.real.getattr(path)
        assert found.is_directory == (thing.kind == "folder"), path
        assert found.is_symlink == (thing.kind == "link"), path
        if thing.mtime_ns is not None:
            assert (found.mode & 0o7777, found.mtime_ns) == (thing.mode, thing.mtime_ns), path
        for name, value in thing.tags.items():
            assert self.real.getxattr(path, name) == value, path
        if thing.kind == "link":
            assert self.real.readlink(path).encode() == thing.body, path
        if thing.kind == "file":
            assert found.size == len(thing.body), path
            assert read(self.real, path) == thing.body, path

    def _is(self, kind: str, path: str) -> bool:
        return path in self.model.things and self.model.things[path].kind == kind

    def _must_be_new(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.real.getattr(path)
            raise OSError(errno.EEXIST, path)


def _answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (OSError, SwiftfsError) as error:
        return errno.errorcode[errno_of(error)]


@pytest.fixture
def machine(swift: SwiftServer) -> Iterator[type[Machine]]:
    Machine.swift = swift
    yield Machine
    del Machine.swift


@pytest.mark.matrix(1)
@pytest.mark.parametrize("examples", [15, 70])
def test_random_calls_are_answered_as_posix_says(machine: type[Machine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            derandomize=True,
            database=None,
            phases=[Phase.generate, *([Phase.shrink] if "SWIFTFS_SHRINK" in os.environ else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )
