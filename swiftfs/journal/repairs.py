"""Repairs of what late requests have changed: makes the operations from what is recorded, and queues them."""

import logging
import stat
from collections.abc import Callable, Sequence

from swiftfs.attributes import decode_type, is_directory_type
from swiftfs.errors import PreconditionFailed
from swiftfs.filecache.cache import FileCache
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.journal.backlog import Backlog
from swiftfs.journal.operations import (
    Delete,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    ReplaceHeaders,
    SetAttributes,
    names_of,
)
from swiftfs.journal.task_writer import TaskWriter
from swiftfs.journal.tasks import Done, Task
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.ambiguous import Ambiguity, Effect
from swiftfs.store.protocol import Headers, ObjectMeta, ObjectStore, find_object
from swiftfs.store.trash_names import is_restored

log = logging.getLogger(__name__)


def is_marker(last: Effect) -> bool:
    """Return whether a folder's marker was stored."""
    return last.headers is not None and is_directory_type(last.headers.content_type) and last.body == b""


def is_special(last: Effect) -> bool:
    """Return whether a symbolic link or special file was stored."""
    if last.headers is None or last.body is None:
        return False
    mode = decode_type(last.headers.content_type)[1].mode
    return mode is not None and not stat.S_ISREG(mode)


def headers_again(name: ObjectName, last: Effect, info: ObjectInfo) -> Operation | None:
    """Return the operation that gives the object its headers again, None if they are unknown."""
    if last.headers is None:
        return None
    if is_directory_type(last.headers.content_type) or info.dlo_prefix is not None:
        return ReplaceHeaders(name, last.headers)
    return SetAttributes(name, ObjectMeta.of(last.headers).with_slo(None), is_slo=info.is_slo)


def object_again(name: ObjectName, last: Effect, info: ObjectInfo | None) -> Operation | None:
    """Return the operation that deletes the object again, or makes it a folder or special file again."""
    if last.kind == "delete":
        return Delete(name, info.is_slo, info.version.etag) if info is not None else None
    assert last.headers is not None
    if is_marker(last):
        if info is None:
            return PutMarker(name, last.headers, creates=False)
        meta = ObjectMeta(last.headers.content_type).inherit(last.headers)
    else:
        meta = ObjectMeta.of(last.headers).with_slo(None)
    is_slo = info.is_slo if info is not None else False
    etag = info.version.etag if info is not None else None
    return PutSpecial(name, last.body or b"", meta, is_slo, etag)


def file_again(
    name: ObjectName, cached_file: CachedFile, headers: Headers, info: ObjectInfo | None
) -> Operation:
    """Return the operation that stores the file again."""
    is_slo = info.is_slo if info is not None else False
    etag = info.version.etag if info is not None else None
    return PutFile(name, cached_file.to_record(), ObjectMeta.of(headers).with_slo(None), is_slo, etag)


def landed(found: Ambiguity, info: ObjectInfo | None, store: ObjectStore) -> str | None:
    """Return what a lost request has changed: `object`, `headers`, or None if nothing is to be done.

    `info` is the object now. The `store` is asked for what a COPY may have copied; raise `StoreError`.
    """
    last = found.last
    assert last is not None
    if stands(last, info):
        return None
    if info is None:
        is_ours = any(one.kind == "delete" for one in found.lost)
    # The bytes are those of our newer change: at most a POST, or a PUT of the same bytes, came late.
    elif last.kind == "put" and last.etag in ("", info.version.etag):
        if any(_has_given_headers(one, info, store) for one in found.lost):
            return "headers"
        is_ours = False
    else:
        is_made = found.has_made(info) or any(_has_copied(one, info, store) for one in found.lost)
        is_ours = is_made and not is_restored(info)
    if not is_ours:
        log.info("%s was changed by another client since a request was lost", found.name)
    return "object" if is_ours else None


def _has_copied(effect: Effect, info: ObjectInfo, store: ObjectStore) -> bool:
    if effect.kind != "copy":
        return False
    if effect.source is None:
        return True
    source = find_object(store, effect.source)  # a copy can come late only while its source is there
    return source is not None and source.version.etag == info.version.etag


def _has_given_headers(effect: Effect, info: ObjectInfo, store: ObjectStore) -> bool:
    if effect.headers is not None:
        return effect.headers.are_those_of(info)
    if effect.source is None:
        return False
    source = find_object(store, effect.source)
    return (
        source is not None
        and source.version.etag == info.version.etag
        and Headers.of(source).are_those_of(info)
    )


def stands(last: Effect, info: ObjectInfo | None) -> bool:
    """Return whether an object, or nothing, is what the last answered request has left."""
    if info is None or last.kind == "delete":
        return info is None and last.kind == "delete"
    if last.etag not in ("", info.version.etag):
        return False
    return last.headers is None or last.headers.are_those_of(info)


class Repairs:
    """Submits repairs, unless a change of the name is pending that will replace the object anyway.

    The lock of `backlog` is the journal's.
    """

    def __init__(self, backlog: Backlog, writer: TaskWriter, cache: FileCache) -> None:
        self._queue = backlog.queue
        self._changed = backlog.changed
        self._writer = writer
        self._cache = cache

    def is_idle(self, name: ObjectName) -> bool:
        """Return whether no change of `name` waits or runs."""
        with self._changed:
            return not self._queue.has(name) and not self._writer.held.timed([name])

    def can_submit(self, name: ObjectName) -> bool:
        """Return whether a repair may be submitted: no pending change or open file replaces the object."""
        with self._changed:
            return bool(self._without_base(name)) or (
                self.is_idle(name) and not self._cache.is_changing(name)
            )

    def submit(
        self, path: str, operation: Operation, show: Callable[[], Done], holds: Callable[[], bool]
    ) -> bool:
        """Submit `operation` if `holds()` and no change of its names is pending; return whether it was.

        `show` shows it in the mount, and returns the callback for its outcome. A parked change whose base
        version a late request has overwritten does not count: the repair is put before it, and not shown.
        Raise `OSError` if the disk refuses the record.
        """
        # One acquisition for the check and the submission: a change that came between them is newer than what
        # the repair would store, and is shown.
        with self._changed:
            name, *_ = names = names_of(operation)
            waiting = self._without_base(name)
            if not holds() or not (waiting or all(map(self.is_idle, names))):
                return False
            if waiting:
                self._writer.put_before(waiting, path, operation)
            else:
                self._submit_shown(path, operation, show())
            # Without the write delay: until it is put right, a large file may not be readable.
            for task in self._queue.chain(name):
                self._queue.run_now(task)
            self._changed.notify_all()
            return True

    def _submit_shown(self, path: str, operation: Operation, done: Done) -> None:
        try:
            self._writer.submit(path, operation, done, 0.0)
        except OSError as error:
            done(error)
            raise

    def _without_base(self, name: ObjectName) -> Sequence[Task]:
        """Return the tasks about a name if the first is parked because its base version is gone, else none.

        Those behind it only set attributes.
        """
        chain = tuple(self._queue.chain(name))
        first = chain[0] if chain else None
        if first is None or not (first.blocked and isinstance(first.error, PreconditionFailed)):
            return ()
        behind = all(isinstance(one.operation, SetAttributes | ReplaceHeaders) for one in chain[1:])
        return chain if behind and isinstance(first.operation, PutFile) else ()
