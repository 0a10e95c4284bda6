"""What users do in a mount, as the fault matrix needs it: prepared by another client, done, and looked at."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.crash_oracle import State, digest
from support.fault_matrix import Kind
from swiftfs.errors import PreconditionFailed, StoreError
from swiftfs.objects import DIRECTORY_TYPE, Manifest, ObjectName, Segment
from swiftfs.store import SwiftStore
from swiftfs.store.protocol import Headers

MIB = 1024 * 1024

OURS = "text/plain;mtime=1700000000.5;mode=0100644;uid=0;gid=0"
"""As swiftfs writes it, so that a listing tells all of the file."""

OLD, NEW = b"old content", b"new content, longer"
LARGE = bytes(range(256)) * (2 * MIB // 256)
LONG = LARGE + b"and half a segment more" * 20_000
PATCH_AT, PATCH = 1_200_000, b"patched"
PATCHED = LARGE[:PATCH_AT] + PATCH + LARGE[PATCH_AT + len(PATCH) :]

FOLDER = State("folder")


def file(body: bytes, mode: int = 0o644, tags: tuple[tuple[str, bytes], ...] = ()) -> State:
    """Return the state of a file of these bytes."""
    return State("file", digest(body), mode, tags=tags)


States = Mapping[str, State]

STAYS = {"stays": file(OLD)}
"""A file that nothing happens to: it must never be missing."""

ONE = {**STAYS, "file": file(OLD)}
EMPTY = {**STAYS, "folder": FOLDER}
FULL = {**EMPTY, "folder/one": file(OLD), "folder/two": file(OLD)}
MOVED = {**STAYS, "moved": FOLDER, "moved/one": file(OLD), "moved/two": file(OLD)}
BIG = {**STAYS, "large": file(LARGE)}


@dataclass(frozen=True)
class MountOperation:
    """One thing that users do: `call` does it in the folder `home`, which holds `old`, and makes it `new`.

    A fault hits the requests of `method` whose address has `hits`, and `store` names the operation of the
    store that makes them, with `meanings` as there. A request that failed once for good is sent again all
    the same with `twice`, because the kernel asks again, and after the statuses that `heal`. A `lists` one
    finds a folder that nobody has listed yet. What the journal is never `told` is not tried again after a
    failure; of what `may_be_refused` it takes a refusal for an answer. A failure may leave all or some of
    `torn`. A kind of fault that is `unseen` is noticed later or never.
    """

    name: str
    method: str
    call: Callable[[Path], object]
    store: str
    old: States
    new: States
    hits: str = ""
    meanings: Mapping[int, type[StoreError] | None] = field(default_factory=dict)
    twice: bool = False
    heal: frozenset[int] = frozenset()
    unseen: str = ""
    lists: bool = False
    told: bool = True
    may_be_refused: bool = False
    torn: States = field(default_factory=dict)

    def knows(self, kind: Kind) -> bool:
        """Say whether it is certain what comes of a fault."""
        return kind.name != self.unseen

    @property
    def is_reading(self) -> bool:
        """Say whether nothing is to change."""
        return self.old is self.new


def prepare(store: SwiftStore, container: str, operation: MountOperation) -> None:
    """Make what the operation finds, in a container of its own."""
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
    parts = [
        ObjectName(segments, f"large/1700000000.5/{len(LARGE)}/{MIB}/{number:08d}") for number in range(2)
    ]
    bodies = [LARGE[number * MIB : (number + 1) * MIB] for number in range(2)]
    stored = [store.put(part, body, Headers("text/plain")) for part, body in zip(parts, bodies, strict=True)]
    manifest = Manifest(tuple(Segment(one.version.name, one.version.etag, MIB) for one in stored))
    store.put_manifest(name, manifest, Headers(f"{OURS};slo={manifest.etag}", {"mtime": "1700000000.5"}))


def settle(home: Path) -> None:
    """Have all that was changed below a folder stored: fsync(2) tells why it is not."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, body: bytes, offset: int = 0) -> None:
    """Write into a file, new or not, and have it stored."""
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
    assert (home / "large").read_bytes() == LARGE


def _settled(call: Callable[[Path], object]) -> Callable[[Path], None]:
    def both(home: Path) -> None:
        call(home)
        settle(home)

    return both


_STALE = {404: PreconditionFailed, 412: PreconditionFailed}

STALE = frozenset({412})
"""Where this means ESTALE the kernel looks a path up once more."""

MOUNT_OPERATIONS = (
    MountOperation("stat", "GET", look_up, "list_page", ONE, ONE, lists=True),
    MountOperation(
        "readdir", "GET", list_names, "list_page", ONE, ONE, meanings={404: PreconditionFailed}, lists=True
    ),
    MountOperation(
        "stat of a folder",
        "HEAD",
        look_at_folder,
        "head",
        EMPTY,
        EMPTY,
        meanings={404: None},
        heal=STALE,
        lists=True,
    ),
    MountOperation("read", "GET", read_small, "get of a version", ONE, ONE, meanings=_STALE, twice=True),
    MountOperation(
        "read of a large file",
        "GET",
        read_large,
        "get of a version",
        BIG,
        BIG,
        meanings=_STALE,
        twice=True,
        unseen="flipped byte",
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
        lambda home: write(home / "new", LONG),
        "put",
        STAYS,
        {**STAYS, "new": file(LONG)},
        hits="_segments/",
        heal=frozenset({404}),
    ),
    MountOperation(
        "large write (the manifest)",
        "PUT",
        lambda home: write(home / "new", LONG),
        "put_manifest",
        STAYS,
        {**STAYS, "new": file(LONG)},
        hits="/new\\?",
        unseen="wrong ETag",
    ),
    MountOperation(
        "patch (the old bytes)",
        "GET",
        lambda home: write(home / "large", PATCH, PATCH_AT),
        "get of a version",
        BIG,
        {**STAYS, "large": file(PATCHED)},
        hits="/large\\?",
        meanings=_STALE,
        unseen="flipped byte",
        told=False,
    ),
    MountOperation(
        "patch (a segment)",
        "PUT",
        lambda home: write(home / "large", PATCH, PATCH_AT),
        "put",
        BIG,
        {**STAYS, "large": file(PATCHED)},
        hits="_segments/",
        heal=frozenset({404}),
    ),
    MountOperation(
        "patch (the manifest)",
        "PUT",
        lambda home: write(home / "large", PATCH, PATCH_AT),
        "put_manifest",
        BIG,
        {**STAYS, "large": file(PATCHED)},
        hits="/large\\?",
        unseen="wrong ETag",
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
        told=False,
        torn={**ONE, "moved": file(OLD)},
    ),
    MountOperation(
        "rename of a folder",
        "COPY",
        lambda home: (home / "folder").rename(home / "moved"),
        "copy of a manifest",
        FULL,
        MOVED,
        told=False,
        torn={**FULL, **MOVED},
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
    """Do the operation; return the errno it ends with, 0 for success."""
    try:
        operation.call(home)
    except OSError as error:
        return error.errno or -1
    return 0
