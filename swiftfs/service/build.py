"""Builds a mount's parts, from the store up to the filesystem.

Where the disk of the cache folder is full, copies of what is in Swift give way to the journal first.
"""

import logging
import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from swiftfs.config.cache_dir import CONTENT, HEADS, JOURNAL, LISTINGS, VERSIONS
from swiftfs.config.options import Options
from swiftfs.errors import ConfigurationError, pluralize
from swiftfs.filecache.cache import CachedFileFactory, FileCache
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.filecache.space import CacheDisk
from swiftfs.filecache.version_cache import LostFiles, evict_closed
from swiftfs.filecache.version_index import names_in_order
from swiftfs.journal.backlog import Backlog
from swiftfs.journal.database import JournalDB
from swiftfs.journal.earlier_changes import EarlierChanges, RecentChanges
from swiftfs.journal.executor import Executor
from swiftfs.journal.journal import Journal
from swiftfs.journal.kept_copies import Conflicts, Trash
from swiftfs.journal.late_versions import only_here
from swiftfs.journal.operations import Unreadable, decode_ambiguity, decode_entry, encode
from swiftfs.journal.salvage import copy_journal
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.shared_copies import ManifestCopier, SharedCopies
from swiftfs.namespace.entry import Defaults, ForeignTimes
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.inodes import Inodes
from swiftfs.namespace.kept_listings import EntryCodec, KeptListings
from swiftfs.namespace.namespace import Namespace
from swiftfs.objects import ObjectVersion
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.open_files import OpenFiles
from swiftfs.posix.services import Services, Times
from swiftfs.service.mountpoint import MountRequest
from swiftfs.sqlite import KEPT, reason_of
from swiftfs.store.ambiguous import Ambiguity
from swiftfs.store.connect import ConnectedAccount
from swiftfs.store.moved_view import MovedNames, MovedView
from swiftfs.store.protocol import Histories, ObjectStore
from swiftfs.store.server_state import MOST
from swiftfs.store.trash_names import TrashNames

log = logging.getLogger(__name__)

PER_UPLOAD = 4
"""Parallel changes for each parallel segment (option `uploads`): they mostly wait for the answer."""


def build(account: ConnectedAccount, request: MountRequest, cache: Path) -> FileSystem:
    """Build the layers and connect them.

    Raise `ConfigurationError` as `JournalDB` does, and if the cache folder cannot be used.
    """
    _make_room(cache)
    # First of all: a journal of another format stops the mount before any other file is changed.
    db = JournalDB(cache, request.source.identity(account.label), account.place)
    try:
        return _build(account, request, cache, db)
    except OSError as error:
        db.close()
        raise ConfigurationError(f"cache folder {cache}: {reason_of(error, cache)}") from error
    except BaseException:
        db.close()  # it is locked: another attempt could not open it
        raise


def _build(account: ConnectedAccount, request: MountRequest, cache: Path, db: JournalDB) -> FileSystem:
    options, moved, left = request.options, MovedNames(), EarlierChanges(db)
    # Reads find objects at the names that renames give them; the journal sees Swift as it is.
    store = MovedView(account.store, moved)
    defaults = _defaults(request)
    identity = request.source.identity(account.label)
    namespace = _namespace(store, request, defaults, cache, RecentChanges(db), identity)
    layout = SegmentLayout(options.segment_size)
    open_files = OpenFiles(namespace)
    factory = _file_factory(store, layout, db, options, open_files, account)
    histories = Histories(account.store)
    removal = SegmentRemoval(account.store, db, SegmentOwnership(db, options.segments), histories=histories)
    # Made before both the cache, which calls it, and the journal, which needs the cache: no callback is
    # assigned later.
    backlog = Backlog(db, removal, _parallel(options.uploads), moved, account.state.load.files)
    # A record that could not be read may have named any of the local files, so none of them is deleted.
    lost = LostFiles(db.lost_folder, -math.inf if db.lost else db.synced_at)
    slowness = partial(account.state.load.slowness, options.segment_size)
    # After `left` was read: it deletes the local files that no record names.
    file_cache = FileCache(cache, options.cache_size, factory, left.files, backlog, lost, slowness)
    db.local_files_are_safe()
    inodes = Inodes(request.source)
    services = Services(
        store=store,
        namespace=namespace,
        file_cache=file_cache,
        journal=_journal(account, request, db, file_cache, removal, backlog, factory.places, open_files),
        layout=layout,
        options=options,
        defaults=defaults,
        cache_dir=cache,
        source=request.source,
        open_files=open_files,
        inodes=inodes,
        times=Times(inodes),
        histories=histories,
        trash=TrashNames(request.source, options.trash),
        set_uploads=partial(_set_uploads, factory, backlog),
    )
    return FileSystem(services, left)


def _set_uploads(factory: CachedFileFactory, backlog: Backlog, uploads: int) -> None:
    factory.set_uploads(uploads)
    backlog.parallel = _parallel(uploads)


def _parallel(uploads: int) -> int:
    return min(PER_UPLOAD * uploads, MOST)


def _settle_seconds(options: Options) -> float:
    return 0.0 if options.sync else options.settle


def _defaults(request: MountRequest) -> Defaults:
    options = request.options
    return Defaults(
        uid=os.getuid() if options.uid is None else options.uid,
        gid=os.getgid() if options.gid is None else options.gid,
        umask=options.umask,
        times=ForeignTimes(options.mtime),
        slash_markers=options.dir_marker == "slash",
        typed_markers=options.dir_attributes == "content-type",
        show_segments=options.show_segments,
        special=options.special,
        hidden_trash=request.source.prefix if options.trash and not options.show_trash else None,
    )


def _namespace(
    store: ObjectStore,
    request: MountRequest,
    defaults: Defaults,
    cache: Path,
    recent: RecentChanges,
    identity: str,
) -> Namespace:
    heads = HeadFetcher(store, HeadCache(cache / HEADS))
    options, kept = request.options, None
    if options.offline:
        kept = KeptListings(cache / LISTINGS, identity, EntryCodec(encode, decode_entry))
    return Namespace(
        store,
        heads,
        request.source,
        defaults,
        ttl=options.ttl,
        max_entries=options.max_entries,
        recent=recent,
        kept=kept,
    )


def _file_factory(
    store: ObjectStore,
    layout: SegmentLayout,
    db: JournalDB,
    options: Options,
    open_files: OpenFiles,
    account: ConnectedAccount,
) -> CachedFileFactory:
    return CachedFileFactory(
        store,
        layout,
        db.begin_upload,
        connections=options.connections,
        uploads=options.uploads,
        read_ahead=options.read_ahead,
        segments=options.segments,
        settle_seconds=_settle_seconds(options),
        journal=db.id,
        # Not synced: a power cut ends no more than the requests of this moment, and `gc` finds what is left.
        on_put=db.write_upload,
        on_wrong_bytes=open_files.found_wrong,
        limit=account.state.load.segments,
        rate=lambda: account.state.throttle.rates().received,
    )


def _journal(
    account: ConnectedAccount,
    request: MountRequest,
    db: JournalDB,
    file_cache: FileCache,
    removal: SegmentRemoval,
    backlog: Backlog,
    containers: SegmentContainerChooser,
    open_files: OpenFiles,
) -> Journal:
    options, store = request.options, account.store
    copier = ManifestCopier(store, containers, db, removal)
    copies = SharedCopies(store, copier, removal, account.state.ambiguous)
    conflicts = Conflicts(store, copier, removal, account.state.ambiguous, keep=options.conflict == "keep")
    return Journal(
        Executor(
            store,
            options.segment_size,
            conflicts,
            removal,
            copies,
            account.state.ambiguous,
            Trash(store, removal, options.trash),
            account.state.presence,
        ),
        file_cache,
        db,
        backlog,
        settle_seconds=_settle_seconds(options),
        source=request.source,
        under_way=account.state.counters.under_way,
        is_being_made=open_files.is_being_made,
    )


ROOM = 2 * KEPT
"""Free bytes of disk with which a mount begins, if copies can be deleted for them."""

_IN_MEMORY = Path("/dev/shm")


def _make_room(cache: Path) -> None:
    """Delete copies in `cache` if the journal has no space to begin, the least recently used ones first.

    Those that may be needed after a late request stay. While that is unknown nothing is deleted.
    """
    disk = CacheDisk(cache)
    if disk.free() >= KEPT or not (cache / CONTENT).is_dir():
        return
    # On a full disk SQLite can open no database with a write-ahead log, not even to read it.
    folder = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    try:
        with TemporaryDirectory(dir=folder, prefix="swiftfs-") as elsewhere:
            needed = _needed(copy_journal(cache / JOURNAL, Path(elsewhere)))
            order = names_in_order(copy_journal(cache / VERSIONS, Path(elsewhere)))
        count = evict_closed(cache / CONTENT, order, needed, lambda: disk.free() >= ROOM)
    except (ConfigurationError, OSError, sqlite3.Error, Unreadable) as error:
        log.info("no copy is deleted, although the disk of %s is full: %s", cache, error)
    else:
        log.info("the disk of %s is full: %s deleted", cache, pluralize(count, "copy", "copies"))


def _needed(journal: Path) -> set[ObjectVersion]:
    """Return the versions that only a local file may have, by the records of lost requests."""
    return set(only_here(_lost(journal)))


def _lost(journal: Path) -> Iterator[Ambiguity]:
    if not journal.exists():
        return
    with closing(sqlite3.connect(journal)) as database:
        if database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ambiguous'").fetchone():
            for (text,) in database.execute("SELECT record FROM ambiguous").fetchall():
                yield decode_ambiguity(text)
