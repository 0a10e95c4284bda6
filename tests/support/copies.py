"""Runs `swiftfs cp` over a store in memory."""

from pathlib import Path

from support.memory_store import MemoryStore
from support.stores import MODE, TEXT
from swiftfs.concurrency import new_pool
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.maintenance.copy_records import CopyRecords
from swiftfs.maintenance.copy_walk import CopyProgress, CopyRun, Named, Tally, Walk, WalkOptions
from swiftfs.maintenance.object_copy import CopyOptions, ObjectCopier, ReplacedSegments
from swiftfs.objects import Manifest, ObjectInfo, ObjectName, Segment
from swiftfs.store.protocol import Headers


class Copies:
    """Runs `cp` with records in `folder`."""

    def __init__(self, store: MemoryStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.copied_bytes = 0
        self.told: list[str] = []

    def __call__(
        self,
        *names: str,
        recursive: bool = False,
        no_clobber: bool = False,
        update: bool = False,
        expiry: bool = True,
    ) -> Tally:
        replaced = ReplacedSegments(self.store, "auto", tuple)
        records = CopyRecords(self.folder, "account")
        walk = Walk(self.store, WalkOptions(recursive, no_clobber, update), records, self.told.append)
        with new_pool("segments", 4) as segments:
            copier = ObjectCopier(
                self.store,
                SegmentContainerChooser(self.store),
                records,
                replaced,
                segments,
                CopyOptions(expiry, no_clobber, update),
                self._count,
            )
            run = CopyRun(
                copier,
                records,
                replaced,
                segments,
                CopyProgress(lambda _files, _size: None, lambda _files: None),
            )
            *sources, target = map(named, names)
            try:
                run.run(walk.steps(sources, target))
            finally:
                replaced.close()
        return run.tally

    def _count(self, size: int) -> None:
        self.copied_bytes += size


def named(text: str) -> Named:
    plain = text.removesuffix("/.")
    name = ObjectName.parse(plain.rstrip("/"))
    return Named(text, name, plain.endswith("/"), contents=plain != text)


def put(store: MemoryStore, text: str, body: bytes = b"x", headers: Headers = TEXT) -> ObjectInfo:
    return store.put(ObjectName.parse(text), body, headers)


def put_large(store: MemoryStore, text: str, parts: tuple[bytes, ...] = (b"one", b"two")) -> ObjectInfo:
    """Store an SLO with segments as a mount names them."""
    name = ObjectName.parse(text)
    store.create_container(f"{name.container}_segments")
    segments = []
    for number, part in enumerate(parts):
        where = ObjectName(
            f"{name.container}_segments", f"{name.key}/swiftfs-0123456789abcdef0123456789abcdef/{number}"
        )
        info = store.put(where, part, TEXT)
        segments.append(Segment(where, info.version.etag, len(part)))
    manifest = Manifest(tuple(segments))
    return store.put_manifest(name, manifest, Headers(f"{MODE};slo={manifest.etag}", {"note": "kept"}))


def keys(store: MemoryStore, container: str) -> set[str]:
    return {row.key for row in store.list_page(container).rows}


def sent(store: MemoryStore, *methods: str) -> list[tuple[str, str]]:
    return [one for one in store.requests if one[0] in methods]
