"""Segments that older versions of objects may name.

In a container with versioning the manifest that is replaced or deleted stays as a version, and its segments
with it. Nothing on the server tells which version names a segment, so the journal deletes none there that a
manifest has named. `swiftfs gc` reads the manifests of all versions.
"""

from collections.abc import Collection, Iterable

from swiftfs.filecache.segment_container import RCLONE_FOLDER
from swiftfs.objects import ObjectName
from swiftfs.paths import SEGMENTS_FOLDER, SEGMENTS_SUFFIX
from swiftfs.store.histories import Histories


class KeptSegments:
    """Tells which segments must stay for older versions."""

    def __init__(self, histories: Histories) -> None:
        self._histories = histories

    def stays(self, objects: Iterable[ObjectName], segments: Iterable[ObjectName]) -> bool:
        """Return whether older versions may name the segments.

        Those are versions of `objects`, which name the segments or did so, and of the object for which they
        were uploaded: it may have been moved to another container.
        """
        containers = {name.container for name in objects} | set(map(_uploaded_for, segments))
        return any(map(self._histories.may_have_versions, sorted(containers)))

    def unneeded(
        self, name: ObjectName, segments: Collection[ObjectName], never_named: Collection[ObjectName]
    ) -> set[ObjectName]:
        """Return the segments of `name` that no version names; `never_named` are those that none ever did."""
        return set(segments).intersection(never_named) if self.stays({name}, segments) else set(segments)


def _uploaded_for(segment: ObjectName) -> str:
    """Return the container of the object for which a segment was uploaded; see `places_of`."""
    if segment.container.endswith(SEGMENTS_SUFFIX):
        return segment.container.removesuffix(SEGMENTS_SUFFIX)
    first = segment.key.partition("/")[0]
    return segment.container if first in (SEGMENTS_FOLDER, RCLONE_FOLDER) else first
