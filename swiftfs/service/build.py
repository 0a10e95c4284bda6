"""Builds a mount's parts, from the store up to the filesystem."""

import os
from functools import partial
from pathlib import Path

from swiftfs.config.cache_dir import HEADS, LISTINGS
from swiftfs.config.options import Options
from swiftfs.errors import ConfigurationError
from swiftfs.filecache.cache import CachedFileFactory, FileCache
from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.filecache.segment_layout import SegmentLayout
from swiftfs.journal.backlog import Backlog
from swiftfs.journal.conflicts import Conflicts
from swiftfs.journal.database import JournalDB
from swiftfs.journal.earlier_changes import EarlierChanges
from swiftfs.journal.executor import Executor
from swiftfs.journal.first_room import make_room
from swiftfs.journal.journal import Journal
from swiftfs.journal.late_requests import Watch
from swiftfs.journal.operations import decode_entry, encode_entry
from swiftfs.journal.recent_changes import RecentChanges
from swiftfs.journal.report import progress
from swiftfs.journal.segment_ownership import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.shared_copies import ManifestCopier, SharedCopies
from swiftfs.journal.tasks import Mode
from swiftfs.journal.trash import Trash
from swiftfs.namespace.entry import Defaults, ForeignTimes
from swiftfs.namespace.head_cache import HeadCache
from swiftfs.namespace.head_fetcher import HeadFetcher
from swiftfs.namespace.inodes import Inodes
from swiftfs.namespace.kept_listings import EntryCodec, KeptListings
from swiftfs.namespace.namespace import Namespace
from swiftfs.posix.filesystem import FileSystem
from swiftfs.posix.open_files import OpenFiles
from swiftfs.posix.services import Services, Times
from swiftfs.service.mountpoint import MountRequest
from swiftfs.sqlite import reason_of
from swiftfs.store.connect import ConnectedAccount
from swiftfs.store.moved_view import MovedNames, MovedView
from swiftfs.store.protocol import Histories, ObjectStore
from swiftfs.store.server_state import MOST
from swiftfs.store.trash_names import TrashNames

PER_UPLOAD = 4
"""Parallel changes for each parallel segment (option `uploads`): they mostly wait for the answer."""


def build(account: ConnectedAccount, request: MountRequest, cache: Path) -> FileSystem:
    """Build and connect the layers; raise `ConfigurationError` if the cache folder cannot be used."""
    make_room(cache)
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
    lost = db.lost_folder if db.lost else None
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
        kept = KeptListings(cache / LISTINGS, identity, EntryCodec(encode_entry, decode_entry))
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
    settle = _settle_seconds(options)
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
        mode=Mode.WRITE_BACK if settle else Mode.SYNC,
        settle_seconds=settle,
        sent=progress(file_cache, account.state.counters.under_way),
        is_being_made=open_files.is_being_made,
        watch=Watch(account.state.ambiguous, store, request.source),
    )
