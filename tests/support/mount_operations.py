"""What users do in a mount, for the fault matrix: prepared by another client, done, and checked."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.crash_oracle import State, digest
from support.fault_matrix import Kind
from swiftfs.errors import PreconditionFailed, StoreError
from swiftfs.objects import DIRECTORY_TYPE, Manifest, ObjectName, Segment
from swiftfs.store.protocol import Headers
from swiftfs.store.swift_store import SwiftStore

MIB = 1024 * 1024

OURS = "text/plain;mtime=1700000000.5;mode=0100644;uid=0;gid=0"
"""The Content-Type that swiftfs writes, so that a listing has all attributes of the file."""

OLD, NEW = b"old content", b"new content, longer"
PATCH_AT, PATCH = 1_200_000, b"patched"

FOLDER = State("folder")


def large() -> bytes:
    """Return the bytes of a file of two segments."""
    return bytes(range(256)) * (2 * MIB // 256)


def long() -> bytes:
    """Return those of a file of half a segment more."""
    return large() + b"and half a segment more" * 20_000


def patched() -> bytes:
    """Return those of the large file with the patch."""
    return large()[:PATCH_AT] + PATCH + large()[PATCH_AT + len(PATCH) :]


def file(body: bytes, mode: int = 0o644, tags: tuple[tuple[str, bytes], ...] = ()) -> State:
    """Return the state of a file of these bytes."""
    return State("file", digest(body), mode, tags=tags)


States = Mapping[str, State]

STAYS = {"stays": file(OLD)}
"""A file that no operation changes: it must always exist."""

ONE = {**STAYS, "file": file(OLD)}
EMPTY = {**STAYS, "folder": FOLDER}
FULL = {**EMPTY, "folder/one": file(OLD), "folder/two": file(OLD)}
MOVED = {**STAYS, "moved": FOLDER, "moved/one": file(OLD), "moved/two": file(OLD)}
BIG = {**STAYS, "large": file(large())}


@dataclass(frozen=True)
class MountOperation:
    """Something that users do: `call` does it in the folder `home`.

    `old` is the folder's state before it, `new` after it. The fault hits requests of `method` whose path
    matches `hits`; they are made by the operation `store` of the store, with its `meanings`.

    - `is_asked_twice`: the kernel repeats the call, so that a single final error is not seen
    - `retried_statuses`: statuses after which swiftfs or the kernel repeats the request
    - `unnoticed`: a kind of fault that is noticed later or never
    - `is_empty`: the object has no bytes, so its ETag is known
    - `needs_listing`: the folder must not have been listed before
    - `is_journaled`: the journal repeats the change after a failure
    - `may_be_refused`: the journal does not repeat it after a refusal
    - `is_looked_for`: it succeeds if Swift has carried it out, though no attempt got an answer
    - `partial`: the state that a failure may leave, all or some of it
    """

    name: str
    method: str
    call: Callable[[Path], object]
    store: str
    old: States
    new: States
    hits: str = ""
    meanings: Mapping[int, type[StoreError] | None] = field(default_factory=dict)
    is_asked_twice: bool = False
    retried_statuses: frozenset[int] = frozenset()
    unnoticed: str = ""
    is_empty: bool = False
    needs_listing: bool = False
    is_journaled: bool = True
    may_be_refused: bool = False
    is_looked_for: bool = False
    partial: States = field(default_factory=dict)

    def is_predictable(self, kind: Kind) -> bool:
        """Return whether the outcome of a fault is certain."""
        return kind.name != self.unnoticed

    @property
    def is_reading(self) -> bool:
        """Whether the operation changes nothing."""
        return self.old is self.new


def prepare(store: SwiftStore, container: str, operation: MountOperation) -> None:
    """Make the container that the operation needs, with its objects."""
    store.create_container(container)
    for path, state in operation.old.items():
        name = ObjectName(container, path)
        if state.kind == "folder":
            store.put(name, b"", Headers(DIRECTORY_TYPE))
        elif path == "large":
            _put_large(store, name)
        else:
            store.put(name, OLD, Headers(OURS, {"mtime": "1700000000.5"}))


def _put_large(store: SwiftStore, name: ObjectName) -> None:
    segments = f"{name.container}_segments"
    store.create_container(segments)
    parts = [ObjectName(segments, f"large/1700000000.5/{2 * MIB}/{MIB}/{number:08d}") for number in range(2)]
    bodies = [large()[number * MIB : (number + 1) * MIB] for number in range(2)]
    stored = [store.put(part, body, Headers("text/plain")) for part, body in zip(parts, bodies, strict=True)]
    manifest = Manifest(tuple(Segment(one.version.name, one.version.etag, MIB) for one in stored))
    store.put_manifest(name, manifest, Headers(f"{OURS};slo={manifest.etag}", {"mtime": "1700000000.5"}))


def settle(home: Path) -> None:
    """Store all changes below a folder; raise the `OSError` of what could not be stored."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, body: bytes, offset: int = 0) -> None:
    """Write into a file, which need not exist, and store it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        assert os.pwrite(descriptor, body, offset) == len(body)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def look_up(home: Path) -> None:
    assert (home / "file").stat().st_size == len(OLD)


def list_names(home: Path) -> None:
    assert sorted(os.listdir(home)) == ["file", "stays"]  # noqa: PTH208


def look_at_folder(home: Path) -> None:
    assert (home / "folder").is_dir()
    (home / "folder").stat()


def read_small(home: Path) -> None:
    assert (home / "file").read_bytes() == OLD


def read_large(home: Path) -> None:
    assert (home / "large").read_bytes() == large()


def _settled(call: Callable[[Path], object]) -> Callable[[Path], None]:
    def both(home: Path) -> None:
        call(home)
        settle(home)

    return both


_STALE = {404: PreconditionFailed, 412: PreconditionFailed}

STALE = frozenset({412})
"""It means ESTALE, after which the kernel looks the path up again."""

MOUNT_OPERATIONS = (
    MountOperation("stat", "GET", look_up, "list_page", ONE, ONE, needs_listing=True),
    MountOperation(
        "readdir",
        "GET",
        list_names,
        "list_page",
        ONE,
        ONE,
        meanings={404: PreconditionFailed},
        needs_listing=True,
    ),
    MountOperation(
        "stat of a folder",
        "HEAD",
        look_at_folder,
        "head",
        EMPTY,
        EMPTY,
        meanings={404: None},
        retried_statuses=STALE,
        is_empty=True,
        needs_listing=True,
    ),
    MountOperation(
        "read", "GET", read_small, "get of a version", ONE, ONE, meanings=_STALE, is_asked_twice=True
    ),
    MountOperation(
        "read of a large file",
        "GET",
        read_large,
        "get of a version",
        BIG,
        BIG,
        hits="/large\\?$",
        meanings=_STALE,
        is_asked_twice=True,
        unnoticed="flipped byte",
    ),
    MountOperation(
        "open of a large file",
        "GET",
        read_large,
        "manifest",
        BIG,
        BIG,
        hits="/large\\?multipart",
        retried_statuses=frozenset({404}),
        unnoticed="flipped byte",
    ),
    MountOperation(
        "write",
        "PUT",
        lambda home: write(home / "new", NEW),
        "put",
        STAYS,
        {**STAYS, "new": file(NEW)},
    ),
    MountOperation(
        "large write (a segment)",
        "PUT",
        lambda home: write(home / "new", long()),
        "put",
        STAYS,
        {**STAYS, "new": file(long())},
        hits="_segments/",
        retried_statuses=frozenset({404}),
    ),
    MountOperation(
        "large write (the manifest)",
        "PUT",
        lambda home: write(home / "new", long()),
        "put_manifest",
        STAYS,
        {**STAYS, "new": file(long())},
        hits="/new\\?",
        unnoticed="wrong ETag",
    ),
    MountOperation(
        "patch (the old bytes)",
        "GET",
        lambda home: write(home / "large", PATCH, PATCH_AT),
        "get of a version",
        BIG,
        {**STAYS, "large": file(patched())},
        hits="/large\\?$",
        meanings=_STALE,
        unnoticed="flipped byte",
        is_journaled=False,
    ),
    MountOperation(
        "patch (a segment)",
        "PUT",
        lambda home: write(home / "large", PATCH, PATCH_AT),
        "put",
        BIG,
        {**STAYS, "large": file(patched())},
        hits="_segments/",
        retried_statuses=frozenset({404}),
    ),
    MountOperation(
        "patch (the manifest)",
        "PUT",
        lambda home: write(home / "large", PATCH, PATCH_AT),
        "put_manifest",
        BIG,
        {**STAYS, "large": file(patched())},
        hits="/large\\?",
        unnoticed="wrong ETag",
    ),
    MountOperation(
        "mkdir",
        "PUT",
        _settled(lambda home: (home / "made").mkdir()),
        "put if absent",
        STAYS,
        {**STAYS, "made": FOLDER},
    ),
    MountOperation(
        "rmdir",
        "DELETE",
        _settled(lambda home: (home / "folder").rmdir()),
        "delete",
        EMPTY,
        STAYS,
        meanings={404: None},
        may_be_refused=True,
    ),
    MountOperation(
        "unlink",
        "DELETE",
        _settled(lambda home: (home / "file").unlink()),
        "delete",
        ONE,
        STAYS,
        meanings={404: None},
        may_be_refused=True,
    ),
    MountOperation(
        "rename of a file",
        "COPY",
        lambda home: (home / "file").rename(home / "moved"),
        "copy of a manifest",
        ONE,
        {**STAYS, "moved": file(OLD)},
        is_journaled=False,
        is_looked_for=True,
        partial={**ONE, "moved": file(OLD)},
    ),
    MountOperation(
        "rename of a folder",
        "COPY",
        lambda home: (home / "folder").rename(home / "moved"),
        "copy of a manifest",
        FULL,
        MOVED,
        is_journaled=False,
        partial={**FULL, **MOVED},
    ),
    MountOperation(
        "chmod",
        "POST",
        _settled(lambda home: (home / "file").chmod(0o600)),
        "post",
        ONE,
        {**STAYS, "file": file(OLD, 0o600)},
        may_be_refused=True,
    ),
    MountOperation(
        "setxattr",
        "POST",
        _settled(lambda home: os.setxattr(home / "file", "user.note", b"x")),
        "post",
        ONE,
        {**STAYS, "file": file(OLD, tags=(("user.note", b"x"),))},
        may_be_refused=True,
    ),
    MountOperation(
        "symlink",
        "PUT",
        _settled(lambda home: (home / "link").symlink_to("target")),
        "put",
        STAYS,
        {**STAYS, "link": State("link", "target")},
    ),
)


def errno_of_call(operation: MountOperation, home: Path) -> int:
    """Do the operation; return its errno, 0 for success."""
    try:
        operation.call(home)
    except OSError as error:
        return error.errno or -1
    return 0
