"""A file system over the adversary: mounted, killed, mounted again, and read as a program does."""

import errno
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from stat import S_IMODE
from typing import Any

from msgspec.structs import replace

from simulation.adversary import CONTAINER, SEGMENTS, THEIRS, Adversary
from simulation.attributes import TAG, Seen
from simulation.model import UNREADABLE
from support.harness import get, listed
from support.options import parse_options
from swiftfs.attributes import decode_type, xattr_of, xattr_to_header
from swiftfs.config.cache_dir import HEADS, JOURNAL, VERSIONS
from swiftfs.errors import NotFound, PreconditionFailed, StoreError
from swiftfs.journal.operations import (
    ANY_VERSION,
    Delete,
    Move,
    MoveObject,
    PutFile,
    PutMarker,
    PutSpecial,
)
from swiftfs.objects import ObjectName
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem, RangeCopies
from swiftfs.posix.open_file import OpenFile
from swiftfs.service.build import build
from swiftfs.service.mountpoint import MountRequest
from swiftfs.store.connect import ConnectedAccount
from swiftfs.store.retry import RetryingStore
from swiftfs.store.server_state import ServerState
from swiftfs.store.trash_names import TRASH_PREFIX

SEGMENT = 128 * 1024
"""Bytes of a segment: as few as the cache's blocks allow, so that a large file is cheap."""


class EagerCopies(RangeCopies):
    """Lets the server copy small files too."""

    def _is_worth_it(self, source: OpenFile, length: int) -> bool:
        return length == source.cached_file.size


Tree = dict[str, bytes | None]
"""What each path holds; None for a folder."""


def mount(store: Adversary, cache: Path, changes: Mapping[str, Any]) -> FileSystem:
    """Build the file system as a mount does, and begin it; `changes` are fields of its options."""
    state = ServerState()
    account = ConnectedAccount(RetryingStore(store, state=state, owns=False), "memory", state)
    options = replace(parse_options([]), segment_size=SEGMENT, read_ahead=4 * SEGMENT, **changes)
    filesystem = build(account, MountRequest(Source.parse(CONTAINER), Path("/nowhere"), options), cache)
    services = filesystem.services
    copies = EagerCopies(services.open_files, services.layout, filesystem._files)
    filesystem.copy_file_range = copies.copy_file_range
    try:
        filesystem.begin()
    except BaseException:
        filesystem.close()
        raise
    return filesystem


def detach(cache: Path) -> None:
    """Give the next mount copies of the databases, as they are on the disk now.

    The frozen threads of the killed mount have the originals open. All other files stay the same.
    """
    for name in (JOURNAL, VERSIONS, HEADS):
        for path in (cache / name, cache / f"{name}-wal", cache / f"{name}-shm"):
            if path.exists():
                copy = path.with_name(f"{path.name}.copy")
                shutil.copyfile(path, copy)
                copy.replace(path)


def tree_of(
    filesystem: FileSystem, path: str = "/", *, mixed: bool = False, lost: Collection[str] = ()
) -> Tree:
    """Return all that a mount shows below a folder.

    `mixed` files, of several clients, may be unreadable. So may those at the paths `lost`: they are left out.
    """
    found: Tree = {}
    for name, attributes in listed(filesystem, path).items():
        one = f"{path.rstrip('/')}/{name}"
        if attributes.is_directory:
            found[one] = None
            found.update(tree_of(filesystem, one, mixed=mixed, lost=lost))
            continue
        try:
            found[one] = read(filesystem, one)
        except StoreError:
            if one in lost:
                continue
            if not mixed:
                raise
            found[one] = UNREADABLE
    return found


def attributes_of(filesystem: FileSystem, found: Tree, *, has_tags: bool) -> dict[str, Seen]:
    """Return the attributes that a mount shows of the files of a tree."""
    seen = {path: filesystem.getattr(path) for path, body in found.items() if body is not None}
    return {
        path: (S_IMODE(one.mode), one.mtime_ns, *([_tag_of(filesystem, path)] if has_tags else []))
        for path, one in seen.items()
    }


def _tag_of(filesystem: FileSystem, path: str) -> int:
    try:
        return int(filesystem.getxattr(path, TAG))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return 0


def stored_attributes(store: Adversary, found: Tree) -> dict[str, Seen]:
    """Return the attributes that the objects of the files of a tree store."""
    objects = store._containers[CONTAINER].objects
    header = xattr_to_header(TAG)
    assert header is not None
    seen = dict[str, Seen]()
    for path, body in found.items():
        if body is not None:
            headers = objects[path[1:]].headers
            stored = decode_type(headers.content_type)[1]
            if stored.mode is not None and stored.mtime_ns is not None:
                tag = int(xattr_of(headers.metadata, header) or 0)
                seen[path] = S_IMODE(stored.mode), stored.mtime_ns, tag
    return seen


def read(filesystem: FileSystem, path: str) -> bytes:
    """Return a file's bytes; repeat the read once if a listing had shown another version (ESTALE)."""
    try:
        return _read_once(filesystem, path)
    except PreconditionFailed:
        return _read_once(filesystem, path)


def _read_once(filesystem: FileSystem, path: str) -> bytes:
    handle = filesystem.open(path, 0)
    try:
        return get(filesystem, handle)
    finally:
        filesystem.release(handle)


def stored_body(store: Adversary, name: ObjectName) -> bytes | None:
    """Return what an object holds, None for a missing one; raise `NotFound` if a segment is missing."""
    held = store._containers[name.container].objects.get(name.key)
    return None if held is None else store._content(held)


def is_marker(store: Adversary, name: ObjectName) -> bool:
    """Return whether an object is the marker of a folder."""
    held = store._containers[name.container].objects.get(name.key)
    return held is not None and held.headers.content_type.startswith("application/directory")


def stored_tree(store: Adversary) -> Tree:
    """Return what other clients see in the container, without segments and the trash."""
    found: Tree = {}
    for key, held in store._containers[CONTAINER].objects.items():
        if key.startswith(TRASH_PREFIX):
            continue
        path = f"/{key.rstrip('/')}"
        parents = [path[:at] for at in range(1, len(path)) if path[at] == "/"]
        folders = [*parents, path] if is_marker(store, ObjectName(CONTAINER, key)) else parents
        for folder in folders:
            found.setdefault(folder, None)  # it may be a file of another client
        if path not in folders:
            found[path] = store._content(held)
    return found


def broken_manifests(store: Adversary) -> list[str]:
    """Return the names of large objects that lack a segment."""
    found = []
    for key, held in store._containers[CONTAINER].objects.items():
        if held.manifest is not None:
            try:
                store._content(held)
            except NotFound as error:
                found.append(f"{key} names {error}, which is gone")
    return found


def orphans(store: Adversary) -> list[str]:
    """Return the segments that no manifest names."""
    named = {
        segment.name.key
        for held in store._containers[CONTAINER].objects.values()
        if held.manifest is not None
        for segment in held.manifest.segments
    }
    there = store._containers.get(SEGMENTS)
    found = sorted(set(there.objects) - named) if there is not None else []
    return [key for key in found if not key.startswith(THEIRS)]


def moving_from(filesystem: FileSystem, store: Adversary, name: ObjectName) -> list[str]:
    """Return the new path of an object that is to move from `name` and has not been copied yet."""
    return [
        task.operation.part_of.renamed(task.path)
        for task in filesystem.services.journal._queue.chain(name)
        if isinstance(task.operation, MoveObject) and task.operation.source == name
        if stored_body(store, task.operation.target) is None
    ]


def moves_to(filesystem: FileSystem, name: ObjectName) -> bool:
    """Return whether an object is moving to a name now: between the HEAD there and the COPY nothing helps."""
    return any(
        task.running and isinstance(task.operation, MoveObject) and task.operation.target == name
        for task in filesystem.services.journal._queue.chain(name)
    )


def will_replace(filesystem: FileSystem, name: ObjectName, after: MoveObject | None = None) -> bool:
    """Return whether a change waits that replaces or deletes whatever is at a name: the last writer wins.

    So does one of an open file. No deletion does it of what the mount has shown there and Swift may still
    refuse. Those that a rename replaces come back if it fails. Of changes there that come `after` a move, a
    deletion takes what the move has taken along.
    """
    # Without the locks: this is called in the moment of a request, whoever has them.
    opened = filesystem.services.open_files.at(f"/{name.key}")
    if opened is not None and opened.dirty:
        return True
    operations = [task.operation for task in filesystem.services.journal._queue.chain(name)]
    if after is not None:
        operations = operations[operations.index(after) + 1 :] if after in operations else []
    if any(isinstance(one, PutFile | PutSpecial) for one in operations):
        return True
    moves = [one for one in operations if isinstance(one, MoveObject)]
    if moves or any(isinstance(one, PutMarker) for one in operations):
        return any(one.source == name and will_replace(filesystem, one.target, one) for one in moves)
    return any(
        one.replaces_etag == ANY_VERSION
        if isinstance(one, Move)
        else isinstance(one, Delete) and not one.is_conditional
        for one in operations
    )
