"""Where else things may be: what a rename has left at an old name, or has not brought to a new one."""

from collections.abc import Iterable

MOST_TWINS = 20


class Remnants:
    """The moves that a kill has interrupted or Swift has refused, and what may be left at old names.

    What such a move was moving may be at either name, or at both. `undeleted` are the paths of what Swift has
    refused to delete; `has_refused` is set when it has refused to move something. `overtaken` are those at
    which a late request has replaced what cannot be stored again: if no program's file is there, that stays.
    """

    def __init__(self) -> None:
        self.has_refused = False
        self.undeleted: set[str] = set()
        self.overtaken: set[str] = set()
        self._moves: list[tuple[str, str]] = []
        self._left: dict[str, set[bytes]] = {}

    def torn(self, old: str, new: str) -> None:
        """Record a move that was interrupted, or that failed and has left copies."""
        self._moves.append((old, new))

    def refused(self, old: str, new: str, bodies: Iterable[bytes]) -> None:
        """Record that what a rename has moved, with one of these contents, is at its old name again."""
        self.has_refused = True
        self._left[old] = set(bodies)
        # Its folders are there too, although a program may have removed them.
        above = old
        while above := above.rpartition("/")[0]:
            self._left.setdefault(above, set())
        self.torn(old, new)
        # And so are its folders, up to the one that was renamed.
        while old.rpartition("/")[2] == new.rpartition("/")[2] and old.count("/") > 1 < new.count("/"):
            old, new = old.rpartition("/")[0], new.rpartition("/")[0]
            self.torn(old, new)

    def moved_on(self, old: str, new: str) -> None:
        """Record that a rename may have taken along what had stayed, or what had not come to its new name.

        No program knows which of the two is there.
        """
        along = [(path, new + path[len(old) :]) for path in self._left if _is_at_or_below(path, old)]
        self._left |= {after: self._left[path] for path, after in along}
        if self.has_refused and any(_is_at_or_below(path, old) for move in self._moves for path in move):
            self._moves += [(old, new), *along]

    def forget(self) -> None:
        """Record that what is at each name was seen."""
        self._moves.clear()

    def twins(self, path: str) -> list[str]:
        """Return where else a path may be."""
        found, waiting = {path: None}, [path] if self._moves else []
        while waiting and len(found) < MOST_TWINS:
            one = waiting.pop(0)
            for here, there in (*self._moves, *(pair[::-1] for pair in self._moves)):
                twin = there + one[len(here) :]
                if _is_at_or_below(one, here) and twin not in found:
                    found[twin] = None
                    waiting.append(twin)
        return [one for one in found if one != path]

    def twins_of_left(self, path: str) -> list[str]:
        """Return where else a path may be at which something may be left."""
        return self.twins(path) if path in self._left else []

    def left_of(self, path: str) -> list[str]:
        """Return where what a rename was to bring to a path may have stayed."""
        return [one for one in self.twins(path) if one in self._left]

    def may_be_left(self, path: str, body: bytes | None) -> bool:
        """Return whether a path may have this content, None for a folder, since something was left there."""
        return bool(self._moves) and path in self._left and (body is None or body in self._left[path])


def _is_at_or_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
