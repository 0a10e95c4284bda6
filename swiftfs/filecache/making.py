"""Where contents come from: each gets the store, the threads, and the segments of its file."""

from collections.abc import Callable
from pathlib import Path

from swiftfs.concurrency import new_pool
from swiftfs.filecache.block_map import Origin, SavedFile
from swiftfs.filecache.cached_file import Content
from swiftfs.filecache.segment_container import AUTO, SegmentPlaces
from swiftfs.filecache.segment_layout import Layout
from swiftfs.filecache.segment_uploader import SegmentUpload, Standing
from swiftfs.filecache.sparse_file import Kept
from swiftfs.objects import ObjectName
from swiftfs.store.protocol import ObjectStore


class ContentMaker:
    """Makes contents, which download with `connections` threads together and upload segments with `uploads`.
    They go where `segments` says, see `SegmentPlaces`.

    `begun` is told of a prefix before the first segment is stored below it, and its name ends in the id of
    the `journal`. `recalled` is what an earlier process recorded of uploads, by their prefix. A full segment
    of a file that is being written rests for `rests` seconds before it goes up.
    """

    def __init__(
        self,
        store: ObjectStore,
        layout: Layout,
        begun: Callable[[Standing], None],
        *,
        connections: int,
        uploads: int,
        read_ahead: int,
        segments: str = AUTO,
        rests: float = 0.0,
        journal: str = "",
    ) -> None:
        self.read_ahead = read_ahead
        self._store = store
        self._layout = layout
        self._parallel = uploads
        self._begun = begun
        self._rests = rests
        self._journal = journal
        self.places = SegmentPlaces(store, segments)
        self.recalled: dict[ObjectName, Standing] = {}
        self._downloads = new_pool("download", connections)
        self._uploads = new_pool("upload", uploads)

    def make(self, folder: Path, name: ObjectName, origin: Origin | None, kept: Kept | None) -> Content:
        """Return the content of a file that is to be stored as `name`."""
        content = Content(self._store, self._downloads, folder, origin, self.read_ahead, kept)
        content.uploads = self._segments(content, name, None)
        return content

    def restore(self, folder: Path, name: ObjectName, saved: SavedFile) -> Content:
        """Return a content as it was saved; raise `OSError` when its file is not what it was."""
        content = Content.restore(self._store, self._downloads, folder, saved, self.read_ahead)
        content.uploads = self._segments(content, name, saved.prefix)
        content.uploads.restore(saved.evicted)
        if saved.prefix is not None and (state := self.recalled.get(saved.prefix)) is not None:
            content.uploads.recall(state)
        return content

    def room(self, size: int) -> int:
        """Return how many bytes of disk a writer needs who has written `size` bytes of a file.

        Segments go up while the next one is written, and none goes up before it is whole.
        """
        start, end = self._layout.bounds(self._layout.index(max(size - 1, 0)))
        return max((self._parallel + 1) * self._layout.segment_size, 2 * (end - start))

    def close(self) -> None:
        """End the threads; of the segments that nobody waits for any more, those under way are stored."""
        self._uploads.shutdown(cancel_futures=True)
        self._downloads.shutdown()

    def _segments(self, content: Content, name: ObjectName, prefix: ObjectName | None) -> SegmentUpload:
        return SegmentUpload(
            self._store,
            self.places,
            self._uploads,
            content.descriptor,
            name,
            self._layout,
            prefix,
            self._begun,
            self._rests,
            content.file_name,
            self._journal,
        )
