"""Detects walks: `find`, `du`, `ls -R` and `rsync` list folder after folder. They get a subtree at once."""

from collections import deque

from swiftfs.concurrency import monotonic
from swiftfs.paths import Folder

WINDOW = 30.0
"""Seconds in which listings belong to one walk."""

REMEMBERED = 16
"""How many listings are remembered."""

FIRST_ROWS = 1000
"""Rows of a walk's first flat page. Few: a user who looks into two folders may stop there."""

USED_SHARE = 4
"""A walk continues while at least one in this many of the folders on its last page is used."""


class WalkDetector:
    """Detects walks by the folders that are listed. Not locked: the namespace's lock guards it."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, Folder]] = deque(maxlen=REMEMBERED)
        self._served: set[Folder] = set()
        self._unused: set[Folder] = set()
        self._next: Folder | None = None
        self._asks_ahead = self._is_ahead = False

    def notice(self, folder: Folder) -> tuple[Folder, int] | None:
        """Record that `folder` must be listed; return the subtree to list flat, and how many rows.

        None means to list the folder alone; 0 rows mean a page of the server's own size.
        """
        now = monotonic()
        recent = [other for at, other in self._recent if now - at < WINDOW]
        self._recent.append((now, folder))
        above = [other for other in recent if other != folder and folder.is_below(other)]
        if not above:
            return None
        root = min(above, key=lambda other: len(other.prefix))
        # Too few for a walk: whoever opens a path lists the folders on it.
        if sum(other.is_below(root) for other in recent) < 2:
            return None
        # The folders between come from flat pages: without this, `root` would be forgotten.
        self._recent.append((now, root))
        if not self._served:
            return root, FIRST_ROWS
        # A walk that leaves most folders out (`find -prune`) costs less folder by folder.
        if not self._is_ahead and not self._is_used():
            self._served, self._unused, self._next = set(), set(), None
            return None
        return root, 0

    def _is_used(self) -> bool:
        used = len(self._served) - len(self._unused)
        return used * USED_SHARE >= len(self._served)

    def record_page(self, folders: set[Folder], following: Folder | None) -> None:
        """Record which folders a flat page showed completely, and the `following` one, None if unknown."""
        self._served, self._unused, self._next = folders, set(folders), following
        # A page that was requested ahead is not used yet, but the one before it was.
        self._is_ahead, self._asks_ahead = self._asks_ahead, False

    def record_use(self, folder: Folder) -> Folder | None:
        """Record that a folder's listing was used; return a folder to list ahead, or None.

        It is where the page ended, as soon as the walk is seen to go on: so the server makes the next page
        while the program reads this one.
        """
        if folder in self._unused:
            self._unused.discard(folder)
            self._is_ahead = False
        if self._next is None or self._is_ahead or not self._is_used():
            return None
        following, self._next, self._asks_ahead = self._next, None, True
        return following
