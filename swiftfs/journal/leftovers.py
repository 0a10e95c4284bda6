"""The journal's table of leftovers: segments that are deleted later, if no manifest names them then."""

import json
import logging
from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum

from msgspec import Struct

from swiftfs.journal.database import JournalDB
from swiftfs.objects import ObjectName

log = logging.getLogger(__name__)


class Proof(IntEnum):
    """Whether it is known that no manifest but those of a leftover's objects names it."""

    NONE = 0
    UNNAMED = 1
    """No manifest that Swift has answered ever named it."""
    REPLACED = 2
    """This mount has deleted or replaced the version that named it; other mounts may know that version."""


class Leftover(Struct, frozen=True):
    """A segment that a manifest of one of `objects` may name, which was sent at `since` (Unix seconds)."""

    objects: tuple[ObjectName, ...]
    since: float
    proof: Proof


def proven(objects: Iterable[ObjectName], since: float, proof: Proof = Proof.UNNAMED) -> Leftover:
    """Return a leftover that only `objects` may name."""
    return Leftover(tuple(sorted(objects)), since, proof)


_KEEP_LATER = """
INSERT INTO leftovers VALUES (?, ?, ?, ?, ?) ON CONFLICT (container, key) DO UPDATE
SET objects = excluded.objects, since = excluded.since, is_proven = excluded.is_proven
WHERE excluded.since >= leftovers.since
"""
"""Records a segment, unless a newer record has come meanwhile."""


class Leftovers:
    """The rows of leftovers, by the names of the segments.

    They are not synced. If a power cut loses new ones, the segments stay in Swift until `swiftfs gc` deletes
    them. If it brings back older ones, their manifests are read once more before anything is deleted.
    What a full disk refuses is recorded with the next commit. Only segments without proof stay in Swift then.
    """

    def __init__(self, db: JournalDB) -> None:
        self._db = db

    def all(self) -> dict[ObjectName, Leftover]:
        """Return the leftovers by their names."""
        return {
            ObjectName(container, key): Leftover(
                tuple(ObjectName(*one) for one in json.loads(objects)), since, Proof(proof)
            )
            for container, key, objects, since, proof in self._db.rows("leftovers")
        }

    def keep(self, names: Collection[ObjectName], leftover: Leftover) -> None:
        """Record segments; what was recorded of them before is replaced."""
        text = _to_text(leftover.objects)
        rows = [(name.container, name.key, text, leftover.since, leftover.proof) for name in names]
        try:
            self._db.change("INSERT OR REPLACE INTO leftovers VALUES (?, ?, ?, ?, ?)", rows)
        except OSError as error:
            if not leftover.proof:
                # Later it might be taken for an attempt that came in between.
                log.warning("%d segments are left to 'swiftfs gc': %s", len(rows), error)
                return
            log.info("the journal records %d segments to delete with its next commit: %s", len(rows), error)
            for row in rows:
                self._db.change_later(_KEEP_LATER, row)

    def drop(self, names: Iterable[ObjectName]) -> None:
        """Forget segments."""
        rows = [(name.container, name.key) for name in names]
        self._change("DELETE FROM leftovers WHERE container = ? AND key = ?", rows)

    def drop_unproven(self, name: ObjectName) -> None:
        """Forget the segments without proof of one object."""
        self._change("DELETE FROM leftovers WHERE objects = ? AND NOT is_proven", [(_to_text((name,)),)])
        # A power cut must not bring them back: the next mount might take the request that follows for their
        # proof.
        try:
            self._db.sync_changes()
        except OSError as error:
            log.warning("what is known of segments to delete later is not on the disk yet: %s", error)

    def prove(self, names: Iterable[ObjectName]) -> None:
        """Record that the version that named these segments is replaced."""
        rows = [(Proof.REPLACED, name.container, name.key) for name in names]
        self._change("UPDATE leftovers SET is_proven = ? WHERE container = ? AND key = ?", rows)

    def prove_all_of(self, name: ObjectName) -> None:
        """Record it of all segments of one object."""
        self._change(
            "UPDATE leftovers SET is_proven = ? WHERE objects = ? AND NOT is_proven",
            [(Proof.REPLACED, _to_text((name,)))],
        )

    def _change(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        if not rows:
            return
        try:
            self._db.change(sql, rows)
        except OSError as error:
            log.warning("what is known of %d segments to delete later is not recorded: %s", len(rows), error)


def _to_text(objects: Iterable[ObjectName]) -> str:
    return json.dumps([[name.container, name.key] for name in objects])
