"""Builds a mount's parts, from the store up to the filesystem."""

import os
from dataclasses import dataclass
from pathlib import Path

from swiftfs.config.cache_dir import HEADS
from swiftfs.config.options import Options
from swiftfs.filecache.cache import CachedFileFactory, FileCache
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.journal.conflicts import Conflicts
from swiftfs.journal.database import JournalDB
from swiftfs.journal.executor import Executor
from swiftfs.journal.journal import Journal
from swiftfs.journal.late_requests import Watch
from swiftfs.journal.manifest_copy import ManifestCopier
from swiftfs.journal.operations import PutFile
from swiftfs.journal.report import progress
from swiftfs.journal.segment_ownership import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.tasks import Mode
from swiftfs.namespace.entry import Defaults
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.namespace import Namespace
from swiftfs.paths import Source
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.services import Services
from swiftfs.store import Stores

PER_UPLOAD = 4
"""Parallel changes for each parallel segment (option `uploads`): they mostly wait for the answer."""


@dataclass(frozen=True, slots=True)
class MountRequest:
    """The arguments of `swiftfs mount`."""

    source: Source
    mountpoint: Path
    options: Options
    cache_dir: Path | None = None
    cloud: str | None = None


def build(stores: Stores, request: MountRequest, cache: Path) -> FileSystem:
    """Build the layers and connect them."""
    options = request.options
    defaults = Defaults(
        uid=os.getuid() if options.uid is None else options.uid,
        gid=os.getgid() if options.gid is None else options.gid,
        umask=options.umask,
        ask_times=options.mtime == "meta",
        slash_markers=options.dir_marker == "slash",
        typed_markers=options.dir_attributes == "content-type",
        show_segments=options.show_segments,
    )
    store = stores.foreground
    # First of all: a journal of another format stops the mount before any other file is changed.
    journal_log = JournalDB(cache, f"{request.source} of {stores.label}")
    records = journal_log.records()
    details = HeadFetcher(store, HeadCache(cache / HEADS))
    namespace = Namespace(
        store, details, request.source, defaults, ttl=options.ttl, max_entries=options.max_entries
    )
    layout = SegmentLayout(options.segment_size)
    settle = 0.0 if options.sync else options.settle
    maker = CachedFileFactory(
        store,
        layout,
        journal_log.begin_upload,
        connections=options.connections,
        uploads=options.uploads,
        read_ahead=options.read_ahead,
        segments=options.segments,
        rests=settle,
        journal=journal_log.id,
    )
    files = {
        one.operation.file.file: one.operation.name for one in records if isinstance(one.operation, PutFile)
    }
    lost = journal_log.lost_folder if journal_log.lost else None
    contents = FileCache(cache, options.cache_size, maker, files, lost)
    removal = SegmentRemoval(store, journal_log, SegmentOwnership(journal_log, options.segments))
    copier = ManifestCopier(store, maker.places, journal_log)
    conflicts = Conflicts(store, copier, removal, stores.ambiguous, keep=options.conflict == "keep")
    execution = Executor(store, options.segment_size, conflicts, removal)
    journal = Journal(
        execution,
        contents,
        journal_log,
        mode=Mode.WRITE_BACK if settle else Mode.SYNC,
        settle_seconds=settle,
        parallel=PER_UPLOAD * options.uploads,
        sent=progress(contents, stores.counters.under_way),
        watch=Watch(stores.ambiguous, store, request.source),
    )
    services = Services(store, namespace, contents, journal, layout, options, defaults, cache)
    return FileSystem(services, request.source, records)
