"""Which version of the object fills a file, as Swift's answers show it."""

import logging

from msgspec.structs import replace

from swiftfs.attributes import decode_type
from swiftfs.errors import NotFound
from swiftfs.filecache.block_map import BaseVersion
from swiftfs.filecache.file_state import FileState
from swiftfs.filecache.segment_uploader import SegmentUploader
from swiftfs.objects import Manifest, ObjectInfo
from swiftfs.store.protocol import ObjectStore

log = logging.getLogger(__name__)


class BaseResolver:
    """Corrects the base version of one file by the answers of Swift.

    While the version is known from a listing only, one thread may be `_asking` Swift for it. `last_get_info`
    is what the last download said of the object.
    """

    def __init__(self, state: FileState, store: ObjectStore, uploads: SegmentUploader) -> None:
        self._state = state
        self._store = store
        self._uploads = uploads
        self._asking = False
        self.last_get_info: ObjectInfo | None = None

    def learn(self, info: ObjectInfo) -> None:
        """Record what a download said of the object. Lock held."""
        blocks = self._state.blocks
        # The ETag was unknown (a DLO, or an object of another client): the first answer decides which version
        # fills the file.
        if blocks.base is not None and not blocks.base.etag:
            blocks.base = replace(blocks.base, etag=info.version.etag)
        self.last_get_info = info

    def learn_manifest(self, base: BaseVersion, manifest: Manifest) -> bool:
        """Record the manifest of `base`; return False if another version is the base by now. Lock held."""
        blocks = self._state.blocks
        if blocks.base is None or manifest.etag != blocks.base.etag or not blocks.is_from(base):
            return False
        blocks.base = replace(blocks.base, manifest=manifest)
        return True

    def correct(self, info: ObjectInfo) -> bool:
        """Take `info` for the base version if a listing was wrong about it; return whether it was.

        A listing shows the version of a large object by a parameter of its Content-Type. Copies keep that
        parameter, so it can be wrong for good. Where a new listing would show the right version, a new
        listing is needed instead. After the first byte of a version no other version is taken.
        """
        state = self._state
        etag, said = info.version.etag, decode_type(info.content_type)[1].slo
        is_listed = said == etag if info.is_slo else said is None
        with state.changed:
            base = state.blocks.base
            if state.is_certain or base is None or base.etag in ("", etag):
                return False
            if is_listed or info.size != base.object_size or info.version.name != base.name:
                return False
            state.blocks.base, state.is_certain = replace(base, etag=etag), True
            self.last_get_info = info
        log.info("%s: the Content-Type names another version than the object has", base.name)
        return True

    def ask(self, base: BaseVersion) -> bool:
        """Ask Swift, once, for the version that it has instead of a refused one; return whether to use it."""
        state = self._state
        with state.changed:
            # One HEAD for all readers that were refused together.
            state.changed.wait_for(lambda: not self._asking)
            if state.is_certain:
                return False
            self._asking = True
        try:
            corrected = self.correct(self._store.head(base.name))
            with state.changed:
                state.is_certain = True
        except NotFound:
            return False
        else:
            return corrected
        finally:
            with state.changed:
                self._asking = False
                state.changed.notify_all()

    def follow_upload(self, base: BaseVersion) -> bool:
        """Make what an upload of ours stored, whose answer was lost, the base version; return whether it did.

        The first refusal causes the HEAD, even if it is a reader's: the next attempt of the upload may come
        much later.
        """
        if not self._uploads.record.is_unanswered:
            return False
        try:
            info = self._store.head(base.name)
        except NotFound:
            return False
        if info.version.etag == base.etag or not self._uploads.record.landed(info.version.etag):
            return False
        blocks = self._state.blocks
        with self._state.changed:
            if blocks.is_from(base):
                blocks.rebase(BaseVersion(base.name, info.version.etag, info.size, info.size))
        log.info("%s: an upload whose answer was lost had succeeded", base.name)
        return True
