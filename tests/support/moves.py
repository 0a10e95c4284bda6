"""What carries out renames, without the journal's queue."""

from concurrent.futures import Executor

from swiftfs.filecache.segment_container import SegmentContainerChooser
from swiftfs.journal.database import JournalDB
from swiftfs.journal.object_moves import MOMENT, ObjectMoves
from swiftfs.journal.segment_records import SegmentOwnership
from swiftfs.journal.segment_removal import SegmentRemoval
from swiftfs.journal.shared_copies import ManifestCopier, SharedCopies
from swiftfs.store.ambiguous import AmbiguousRequests
from swiftfs.store.protocol import ObjectStore


def object_moves(
    store: ObjectStore,
    database: JournalDB,
    pool: Executor,
    *,
    removal: SegmentRemoval | None = None,
    moment: float = MOMENT,
) -> ObjectMoves:
    """Return what moves objects of a store; no listing counts as current with a `moment` of 0."""
    removal = removal or SegmentRemoval(store, database, SegmentOwnership(database))
    copier = ManifestCopier(store, SegmentContainerChooser(store), database, removal)
    ambiguous = AmbiguousRequests()
    copies = SharedCopies(store, copier, removal, ambiguous)
    return ObjectMoves(store, pool, removal, copies, ambiguous, moment=moment)
