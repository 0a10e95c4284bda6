"""A file that is uploaded while it is written to, with a store in memory that calls hooks."""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from support.cache_rig import no_memory
from support.memory_store import MemoryStore
from swiftfs.attributes import Stored
from swiftfs.errors import Corrupt
from swiftfs.filecache.block_map import BaseVersion, FileRecord
from swiftfs.filecache.cached_file import CachedFile
from swiftfs.filecache.file_state import FileSource, FileState
from swiftfs.filecache.read_ahead import Streams
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.filecache.space import UNLIMITED
from swiftfs.filecache.upload_record import SharedUploads, UnreferencedPrefix
from swiftfs.journal.database import JournalDB
from swiftfs.journal.file_upload import FileUpload, SegmentExpiry
from swiftfs.journal.operations import PutFile
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.objects import ObjectInfo, ObjectName
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import Body, Headers, ObjectMeta

MIB = 1024 * 1024
NAME = ObjectName("box", "file")
PLAIN = Headers("application/octet-stream")


class SlowStore(MemoryStore):
    """A store whose PUTs take time: `during` is called after the MD5 is computed and before the body is read.

    Like a server, it refuses a body that does not match the MD5. `before` is called before the MD5.
    """

    during: Callable[[ObjectName], None] | None = None
    before: Callable[[ObjectName], None] | None = None

    def put(
        self, name: ObjectName, body: Body, headers: Headers, *, if_absent: bool = False, etag: str = ""
    ) -> ObjectInfo:
        if self.before is not None:
            self.before(name)
        digest = etag or hashlib.md5(body, usedforsecurity=False).hexdigest()
        if self.during is not None:
            self.during(name)
        sent = bytes(body)
        if hashlib.md5(sent, usedforsecurity=False).hexdigest() != digest:
            raise Corrupt(f"put {name}: 422")
        return super().put(name, sent, headers, if_absent=if_absent, etag=etag)


class Writer:
    """A file with segments of 1 MiB; `model` has the bytes that it must hold.

    `pool` has `threads` threads for uploads. `now` is the time that the removal of segments sees.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.folder = folder
        self.store = SlowStore("box")
        self.pool = ThreadPoolExecutor(threads)
        self.superseded: set[ObjectName] = set()
        (folder / "journal").mkdir(exist_ok=True)
        self.log = JournalDB(folder / "journal", "box")
        self.removal = SegmentRemoval(self.store, self.log, SegmentOwnership(self.log), lambda: self.now)
        self.now = time.time()
        expiry = SegmentExpiry(self.store, self.removal)
        self.upload = partial(FileUpload, self.store, MIB, self.removal, expiry, AmbiguousRequests())
        self.places = SegmentContainerChooser(self.store)
        self.begun: list[UnreferencedPrefix] = []
        self.model = bytearray()
        self.cached_file = self.make(None)

    def make(self, base: BaseVersion | None) -> CachedFile:
        """Return a new cached file based on a version, or empty."""
        return self.compose(FileState.create(self.folder, base, None, UNLIMITED))

    def restore(self, record: FileRecord) -> CachedFile:
        """Return the cached file that the next process makes of the record of one that died."""
        return self.compose(FileState.restore(self.folder, record, UNLIMITED), record.prefix)

    def compose(self, state: FileState, prefix: ObjectName | None = None) -> CachedFile:
        """Return a cached file with this state, whose segments have this prefix."""
        shared = SharedUploads(self.store, self.places, self.pool, SegmentLayout(MIB), self.begun.append)
        uploads = SegmentUploader(shared, state, NAME, prefix)
        return CachedFile(state, FileSource(self.store, self.pool, Streams(0)), uploads, no_memory)

    def reopen(self) -> None:
        """Replace the cached file by one that only knows the stored version."""
        self.cached_file.close()
        info = self.store.head(NAME)
        self.cached_file = self.make(BaseVersion(NAME, info.version.etag, info.size, info.size))

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes at an offset."""
        assert self.cached_file.write(offset, len(data), lambda file, at: os.pwrite(file, data, at)) == len(
            data
        )
        self.model.extend(bytes(max(0, offset + len(data) - len(self.model))))
        self.model[offset : offset + len(data)] = data

    def fill(self, data: bytes) -> None:
        """Write a file of which no segment is uploaded early: a PUT that a test sees is one of `run`."""
        self.write(1, data[1:])  # segments are uploaded early only if they are written in order
        self.write(0, data[:1])

    def truncate(self, size: int) -> None:
        """Set the size."""
        self.cached_file.truncate(size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def run(self, *, replaces_large: bool | None = None) -> ObjectInfo:
        """Upload the file as the journal does; `replaces_large`: whether an SLO is replaced, if known."""
        large = self.is_large() if replaces_large is None else replaces_large
        file, description = self.cached_file.to_record(), ObjectMeta("text/plain", Stored())
        # As in the journal, segments that a failed attempt has replaced are deleted after the next success.
        operation = PutFile(
            NAME, file, description, large, superseded_segments=tuple(sorted(self.superseded))
        )
        upload = self.upload(
            operation, self.cached_file, lambda superseded, *_: self.superseded.update(superseded)
        )
        info = upload.run()
        self.superseded.clear()
        return info

    def is_large(self) -> bool:
        """Return whether the stored object is an SLO."""
        return any(row.key == NAME.key for row in self.store.list_page("box").rows) and (
            self.store.head(NAME).is_slo
        )

    def stored(self) -> bytes:
        """Return the object's bytes."""
        return download(self.store)

    def read(self) -> bytes:
        """Return the cached file's bytes."""
        span = self.cached_file.read(0, 2**40)
        return os.pread(span.descriptor, span.length, span.position)

    def segments(self) -> set[ObjectName]:
        """Return the segments in the container of segments."""
        if "box_segments" not in self.store.list_containers().subdirs:
            return set()
        rows = self.store.list_page("box_segments").rows
        return {ObjectName("box_segments", row.key) for row in rows}

    def named(self) -> set[ObjectName]:
        """Return the segments that the object's manifest names."""
        return {one.name for one in self.store.manifest(NAME).segments} if self.is_large() else set()

    def puts(self) -> int:
        """Return the number of PUTs since the last call."""
        self.pool.submit(int).result()  # then the last upload of the only thread has ended
        count = sum(method == "put" for method, _ in self.store.requests)
        self.store.requests.clear()
        return count

    def wait(self) -> None:
        """Wait until no upload runs."""
        while self.cached_file.uploads.is_busy:
            self.pool.submit(int).result()

    def leave_alone(self) -> None:
        """Let nothing change the file during PUTs any more, also not during those that still run."""
        self.store.during = None
        self.wait()

    def close(self) -> None:
        """End the uploads, and close the cached file and the journal."""
        self.pool.shutdown()
        self.cached_file.close()
        self.log.close()


def download(store: MemoryStore) -> bytes:
    """Return the object's bytes."""
    body = bytearray(store.head(NAME).size)

    def sink(offset: int, data: bytes) -> None:
        body[offset : offset + len(data)] = data

    store.get(NAME, sink)
    return bytes(body)
