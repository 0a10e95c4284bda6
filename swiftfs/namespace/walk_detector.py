"""Walks: `find`, `du`, `ls -R` and `rsync` list folder after folder, and are served a subtree at once."""

from collections import deque

from swiftfs.concurrency import monotonic
from swiftfs.paths import Folder

WINDOW = 30.0
"""Seconds in which listings belong to one walk."""

REMEMBERED = 16
"""Listings that are looked back on: a walk goes deeper than it is wide at no more places than this."""

FIRST_ROWS = 1000
"""The first flat page of a walk is small: a user who looks into two folders is not a walk yet."""

USED_SHARE = 4
"""A walk goes on while at least one in so many of the folders it was given is asked for."""


class WalkDetector:
    """Notices walks among the folders that must be listed. Not locked: the namespace's lock guards it."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, Folder]] = deque(maxlen=REMEMBERED)
        self._served: set[Folder] = set()
        self._unused: set[Folder] = set()

    def notice(self, folder: Folder) -> tuple[Folder, int] | None:
        """Take note that `folder` must be listed; return the subtree to list flat, and how many rows.

        None means that the folder alone is wanted; 0 rows are the server's own page.
        """
        now = monotonic()
        recent = [other for at, other in self._recent if now - at < WINDOW]
        self._recent.append((now, folder))
        above = [other for other in recent if other != folder and folder.is_below(other)]
        if not above:
            return None
        root = min(above, key=lambda other: len(other.prefix))
        if sum(other.is_below(root) for other in recent) < 2:
            return None
        self._recent.append((now, root))  # flat pages serve the folders between, and root stays in sight
        if not self._served:
            return root, FIRST_ROWS
        used = len(self._served) - len(self._unused)
        if used * USED_SHARE < len(self._served):
            self._served, self._unused = set(), set()
            return None
        return root, 0

    def record_page(self, folders: set[Folder]) -> None:
        """Take note of the folders that a flat page brought."""
        self._served, self._unused = folders, set(folders)

    def record_use(self, folder: Folder) -> None:
        """Take note that a listing was asked for."""
        self._unused.discard(folder)
