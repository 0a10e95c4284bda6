"""Commits of the journal: the records that they write, and the older ones that stay in case of a power cut.

A row and the local file that it names are on the disk after the next sync. A row that was synced and is
replaced or deleted stays in the table `older` until the commit that did so is synced too, and so does its
local file. After a power cut the journal is as it was at the last sync: newer rows go, and these come back.
The move of a folder does not go. So what it carried along comes back at its new name.
"""

import sqlite3
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from weakref import WeakValueDictionary

from msgspec import Struct
from msgspec.structs import replace

from swiftfs.filecache.block_map import FileRecord
from swiftfs.filecache.block_set import Blocks
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.operations import (
    Delete,
    Move,
    MoveFolder,
    MoveObject,
    Operation,
    PutFile,
    PutMarker,
    PutSpecial,
    Replaced,
    Unreadable,
    decode,
    encode,
    names_of,
)
from swiftfs.journal.schema import COLUMNS, DELETE, INSERT, NOT_WRITTEN, SELECT_OLDER, Statement
from swiftfs.objects import ObjectName
from swiftfs.sqlite import row_checksum


class Record(Struct, frozen=True):
    """A pending operation about `path` in the mount.

    A folder's move that was executed gave it this name if it was `carried`: that is its number until then.
    """

    seq: int
    path: str
    operation: Operation
    carried: int | None = None


SetAside = Callable[[int | str, str, str, str], None]
"""Saves a row: its number, the path, the operation's text, and why it does not count."""


def go_back(database: sqlite3.Connection, synced: int, content: Path, set_aside: SetAside) -> list[Statement]:
    """Set newer rows aside; return the statements that make the journal what it was at the commit `synced`.

    Rows may name local files, in the folder `content`, that lack bytes. An older row does so only if its
    change was executed, which releases the file, and the disk has lost the commit that says so.
    """
    back = []
    for row in database.execute(SELECT_OLDER, {"synced": synced}).fetchall():
        if _is_usable(row[2], content):
            back.append(row)
        else:
            set_aside(f"{row[0]}-{row[5]}", row[1], row[2], "its local file is not whole")
    known, gone = {row[1] for row in back}, []
    query = "SELECT seq, path, intent, written FROM intents"
    for seq, path, text, written in database.execute(query).fetchall():
        if written > synced:
            rest = "; the one before it counts" if path in known else ""
            set_aside(seq, path, text, f"{NOT_WRITTEN}{rest}")
        elif not _is_usable(text, content):
            set_aside(seq, path, text, "its local file is not whole, because it was stored")
        else:
            continue
        gone.append((seq,))
    return [
        (DELETE, gone),
        (INSERT, back),
        ("DELETE FROM older WHERE until > 0", [()]),
    ]


def _is_usable(text: str, content: Path) -> bool:
    """Return whether the local file that a row names, if it names one, has all of its bytes."""
    try:
        operation = decode(text)
        if not isinstance(operation, PutFile):
            return True
        return (content / operation.file.file).stat().st_size >= operation.file.size
    except OSError:
        return False
    except Unreadable:  # it is reported as such
        return True


class RowState(Struct, frozen=True):
    """What a row held: the operation `seq`; `written` is as in the table."""

    seq: int
    written: int
    operation: Operation


def row_of(state: RowState, path: str) -> tuple[object, ...]:
    """Return a row of the table `intents`."""
    row = (state.seq, path, encode(state.operation), None, "")
    return (*row, state.written, row_checksum(*row))


class Executed(Struct, frozen=True):
    """An operation that Swift has executed, or is about to: what was synced before it must not come back.

    That is every state of an earlier row about its objects or its local file, and of its own row those that
    were written up to `commit`: a file may have been handed in again since its upload began.
    """

    operation: Operation
    seq: int
    commit: float = inf

    def covers(self, state: RowState) -> bool:
        """Return whether a state must not come back."""
        if state.seq > self.seq or (state.seq == self.seq and state.written > self.commit):
            return False
        if isinstance(self.operation, MoveFolder) and state.seq in self.operation.carried:
            return False  # it only gets a new name
        file = file_of(self.operation)
        return (file is not None and file == file_of(state.operation)) or any(
            _concerns(self.operation, name) for name in names_of(state.operation)
        )


class Commit(Struct, frozen=True):
    """What one commit does: it deletes the records `drop`, and then writes those of `put`, by their numbers.

    It also writes the prefixes `unreferenced`. What was synced before of the records comes back after a power
    cut, unless it is `executed`.
    """

    put: Mapping[int, Record]
    drop: Collection[int]
    unreferenced: tuple[UnreferencedPrefix, ...] = ()
    executed: tuple[Executed, ...] = ()

    @classmethod
    def of(
        cls,
        put: Iterable[Record],
        drop: Iterable[int],
        unreferenced: Iterable[UnreferencedPrefix] = (),
        executed: Iterable[Executed] = (),
    ) -> "Commit":
        """Return the commit of these."""
        return cls({one.seq: one for one in put}, {*drop}, tuple(unreferenced), tuple(executed))

    @property
    def carries(self) -> bool:
        """Whether it gives records the names that a folder's move has brought."""
        return any(one.carried is not None for one in self.put.values())

    def then(self, later: "Commit") -> "Commit":
        """Return a commit that does what this one and a later one do."""
        left = {seq: one for seq, one in self.put.items() if seq not in later.drop}
        return Commit(
            {**left, **later.put},
            {*self.drop, *later.drop},
            (*self.unreferenced, *later.unreferenced),
            (*self.executed, *later.executed),
        )


def add_refused(refused: deque[Commit], commit: Commit) -> None:
    """Add the newest commit that the disk has refused; all are repeated in their order before another one."""
    # One commit of all: a disk may be full for hours. Not with another change of what was carried: how a
    # record came to its name decides what comes back after a power cut.
    if refused and not refused[-1].carries and not commit.carries:
        commit = refused.pop().then(commit)
    refused.append(commit)


class Change(Struct, frozen=True):
    """What a commit does: it writes the rows `put`, deletes `drop`, keeps and ends older states.

    Those of what a move has carried along are `renamed`. `overtakes` means that the disk may have a state
    which must not come back, or lack a move.
    """

    commit: int
    put: Sequence[RowState] = ()
    drop: Collection[int] = ()
    kept: Sequence[RowState] = ()
    ended: Sequence[RowState] = ()
    renamed: Sequence[tuple[RowState, RowState]] = ()
    overtakes: bool = False

    @property
    def is_new(self) -> bool:
        """Whether it only writes rows that are new."""
        return not (self.drop or self.kept or self.ended or self.renamed)

    def statements(self, paths: Mapping[int, str]) -> list[Statement]:
        """Return the statements about older rows, to be run before the rows change to the new `paths`."""
        return [
            (
                "INSERT OR REPLACE INTO older SELECT *, ? FROM intents WHERE seq = ?",
                [(self.commit, one.seq) for one in self.kept],
            ),
            (
                "DELETE FROM older WHERE seq = ? AND written = ?",
                [(one.seq, one.written) for one in self.ended],
            ),
            (
                f"UPDATE older SET ({COLUMNS}) = (?, ?, ?, ?, ?, ?, ?) WHERE seq = ? AND written = ?",
                [(*row_of(now, paths[now.seq]), was.seq, was.written) for was, now in self.renamed],
            ),
        ]


class OlderRows:
    """The older rows that stay. Not locked: the database's lock guards it.

    `synced` is the last commit that is on the disk, or is being synced: rows up to it may be what a power cut
    leaves. `read` returns a current row; none has a number above `last`. `overtook` is the last commit that
    has overtaken any. `_unsynced` are the rows that were written since.
    """

    def __init__(self, synced: int, read: Callable[[int], RowState | None], last: int) -> None:
        self._synced = synced
        # Not kept in memory: there may be 100,000 rows, and each is needed once, when it is replaced.
        self._read = read
        self._last = last
        self._unsynced: set[int] = set()
        # The blocks of rows that this process wrote, while anything refers to them: two records with the same
        # object are of one hand-in.
        self._blocks: WeakValueDictionary[int, Blocks] = WeakValueDictionary()
        self.overtook = 0
        self._older: dict[tuple[int, int], tuple[RowState, int]] = {}
        self._keys: defaultdict[ObjectName | str, set[tuple[int, int]]] = defaultdict(set)
        self._pins: list[tuple[str, bool]] = []
        self._refused: set[str] = set()

    def change(self, number: int, commit: Commit) -> Change:
        """Return what the commit of this number changes; `apply` it when it was written."""
        is_new = not (commit.drop or commit.executed)
        for seq, one in commit.put.items():  # no `all`: its generator costs as much as the rest
            is_new = is_new and one.carried is None and seq > self._last and not _is_move(one.operation)
        if is_new:
            # Nothing is replaced. Most commits are of this kind, for which a program waits in close().
            put = [RowState(seq, number, one.operation) for seq, one in commit.put.items()]
            return Change(number, put)
        # Most others end the upload of a file: its row cannot come back, so the operation need not be read.
        stored = {
            one.seq for one in commit.executed if isinstance(one.operation, PutFile) and one.commit == inf
        }
        ended_rows = stored.intersection(commit.drop)
        if not commit.put and ended_rows.issuperset(commit.drop):
            ended = self._ended_by(commit.executed)
            overtakes = bool(ended) or not ended_rows <= self._unsynced
            return Change(number, drop=commit.drop, ended=list(ended.values()), overtakes=overtakes)
        return self._replacing(number, commit, ended_rows)

    def _replacing(self, number: int, commit: Commit, ended_rows: set[int]) -> Change:
        """Return what a commit changes that may replace rows; the `ended_rows` cannot come back."""
        drop, put = commit.drop, commit.put.values()
        # The former numbers of the rows that a move has carried along.
        carried = {one.seq: one.carried for one in put if one.carried is not None}
        current = self._current({*drop, *commit.put} - ended_rows)
        states = [
            self._state(current.get(carried.get(one.seq, one.seq)), one.seq, one.operation, number)
            for one in put
        ]
        ended_moves = [current[seq].operation for seq in drop if seq in current]
        states = [_put_back(one, ended_moves) for one in states]
        moves = [one for one in states if _is_move(one.operation)]
        # Not MoveObjects, of which there may be thousands: their folder's record has ended the older rows.
        alone = [one for one in moves if not isinstance(one.operation, MoveObject)]
        executed = [*commit.executed, *(Executed(one.operation, one.seq) for one in alone)]
        replaced = {*drop, *(one.seq for one in states if one.written == number)}
        # Not replaced, although it has another number: it names the same bytes.
        replaced -= {carried[one.seq] for one in states if one.seq in carried and one.written != number}
        before = [current[seq] for seq in replaced if seq in current]
        synced = [one for one in before if one.written <= self._synced]
        # A move is never begun a second time: its requests may have been sent.
        changes = [one for one in synced if not _is_move(one.operation)]
        kept = [one for one in changes if not any(done.covers(one) for done in executed)]
        ended = self._ended_by(executed)
        overtakes = bool(ended_rows - self._unsynced or ended or moves) or len(kept) < len(synced)
        along = {carried[one.seq]: one for one in states if one.seq in carried}
        older = [state for key, (state, _) in self._older.items() if key not in ended] if along else []
        renamed = list(_renamed([*older, *kept], current, along))
        return Change(number, states, drop, kept, list(ended.values()), renamed, overtakes)

    def refuse(self, drop: Iterable[int]) -> None:
        """Keep the local files of rows that the disk refuses to delete: the next process may read those."""
        for state in self._current(drop).values():
            if isinstance(state.operation, PutFile) and state.operation.file.file not in self._refused:
                self._refused.add(state.operation.file.file)
                self._pins.append((state.operation.file.file, True))

    def end_refused(self) -> None:
        """Record that all that was refused is written."""
        if not self._refused:
            return
        self._pins += ((file, False) for file in self._refused)
        self._refused.clear()

    def apply(self, change: Change) -> None:
        """Record that a change was written."""
        for seq in change.drop:
            self._blocks.pop(seq, None)
            self._unsynced.discard(seq)
        for state in change.put:
            self._last = max(self._last, state.seq)
            if state.written == change.commit:
                self._unsynced.add(state.seq)
            if isinstance(state.operation, PutFile):
                self._blocks[state.seq] = state.operation.file.dirty
            else:
                self._blocks.pop(state.seq, None)
        for state in change.kept:
            self.keep(state, change.commit)
        for state in change.ended:
            self._end((state.seq, state.written))
        for was, now in change.renamed:
            (_, until), pins = self._older[was.seq, was.written], len(self._pins)
            self._end((was.seq, was.written))
            self.keep(now, until)
            del self._pins[pins:]  # its local file stays the same
        if change.overtakes:
            self.overtook = change.commit

    def begin_sync(self, commit: int) -> None:
        """Record that all up to a commit may be on the disk from now on."""
        self._synced = commit
        self._unsynced.clear()

    def end_sync(self, commit: int) -> None:
        """Record that all up to a commit is on the disk: what it replaced is not needed any more."""
        for key in [key for key, (_, until) in self._older.items() if until <= commit]:
            self._end(key)

    def needs(self, file: str) -> bool:
        """Return whether an older row names a local file."""
        return file in self._keys

    def concerns(self, names: Iterable[ObjectName]) -> bool:
        """Return whether an older row is about one of these objects."""
        return any(name in self._keys for name in names)

    def files(self) -> dict[str, ObjectName]:
        """Return the local files that older rows name, and their objects."""
        found = (state.operation for state, _ in self._older.values())
        return {one.file.file: one.name for one in found if isinstance(one, PutFile)}

    def take_pins(self) -> list[tuple[str, bool]]:
        """Return the local files that older rows have begun (True) or ceased to need since the last time."""
        pins, self._pins = self._pins, []
        return pins

    def _current(self, numbers: Iterable[int]) -> dict[int, RowState]:
        found = {seq: self._read(seq) for seq in numbers if seq <= self._last}
        return {seq: state for seq, state in found.items() if state is not None}

    def _state(self, before: RowState | None, seq: int, operation: Operation, commit: int) -> RowState:
        """Return the state of a row that `commit` writes, which was `before`.

        A row that names the same bytes as before keeps its `written`: only those need a sync of their own,
        and everything else, such as attributes, is in the row itself.
        """
        if _is_move(operation):
            # It names no bytes, and its requests may have been sent: it counts as soon as the disk has it.
            return RowState(seq, 0, operation)
        is_same = before is not None and self._names_same_bytes(before, operation)
        return RowState(seq, before.written if before is not None and is_same else commit, operation)

    def _names_same_bytes(self, before: RowState, operation: Operation) -> bool:
        known, file = _record_of(before.operation), _record_of(operation)
        if known is None or file is None:
            return known is file
        # Equal blocks are not enough: the file may have been written to and handed in again.
        if self._blocks.get(before.seq) is not file.dirty:
            return False
        return replace(known, dirty=file.dirty) == file

    def _ended_by(self, executed: Iterable[Executed]) -> dict[tuple[int, int], RowState]:
        """Return the older rows that must not come back, by their keys."""
        if not self._older:
            return {}
        return {(one.seq, one.written): one for done in executed for one in self._covered(done)}

    def _covered(self, executed: Executed) -> Iterator[RowState]:
        keys: Iterable[tuple[int, int]]
        if isinstance(executed.operation, MoveFolder):
            keys = self._older
        else:
            keys = {key for one in _keys_of(executed.operation) for key in self._keys.get(one, ())}
        states = (self._older[key][0] for key in keys)
        return (state for state in states if executed.covers(state))

    def keep(self, state: RowState, until: int) -> None:
        """Record an older row that must stay: the commit `until` has replaced or deleted it."""
        self._older[state.seq, state.written] = state, until
        for one in _keys_of(state.operation):
            self._keys[one].add((state.seq, state.written))
        if (file := file_of(state.operation)) is not None:
            self._pins.append((file, True))

    def _end(self, key: tuple[int, int]) -> None:
        state, _ = self._older.pop(key)
        for one in _keys_of(state.operation):
            self._keys[one].discard(key)
            if not self._keys[one]:
                del self._keys[one]
        if (file := file_of(state.operation)) is not None:
            self._pins.append((file, False))


def _renamed(
    older: Iterable[RowState], current: Mapping[int, RowState], along: Mapping[int, RowState]
) -> Iterator[tuple[RowState, RowState]]:
    """Yield the older states of rows that a move carried along, each with what it is at its new name.

    `along` has the new rows by their former numbers, with which `current` has the former ones.
    """
    for state in older:
        was, now = current.get(state.seq), along.get(state.seq)
        # A state of another name is from before a rename of which the disk may have nothing.
        if was is None or now is None or names_of(state.operation) != names_of(was.operation):
            continue
        if (operation := _at_new_name(state.operation, now.operation)) is not None:
            yield state, replace(state, seq=now.seq, operation=operation)


def _at_new_name(older: Operation, now: Operation) -> Operation | None:
    """Return an older state of an operation whose name is now that of `now`; None if it needs the old one."""
    match older, now:
        case PutMarker(), PutMarker():
            return replace(older, name=now.name)
        case ((PutFile() | PutSpecial()), (PutFile() | PutSpecial())):
            large, etag = now.replaces_large, now.replaces_etag
            return older.renamed(now.name, Replaced(large, etag, now.creates, now.trash))
    return None


def _put_back(state: RowState, ended: Iterable[Operation]) -> RowState:
    """Return the state of a deletion that one of the `ended` moves was to replace as one that counts.

    The move does not come back after a power cut, so its end must not be taken back either.
    """
    deletion = state.operation
    is_it = isinstance(deletion, Delete) and any(
        isinstance(one, Move) and one.target == deletion.name for one in ended
    )
    return replace(state, written=0) if is_it else state


def _is_move(operation: Operation) -> bool:
    return isinstance(operation, Move | MoveObject | MoveFolder)


def file_of(operation: Operation) -> str | None:
    """Return the local file that an operation needs."""
    return operation.file.file if isinstance(operation, PutFile) else None


def _record_of(operation: Operation) -> FileRecord | None:
    if not isinstance(operation, PutFile):
        return None
    # Without the base version if none of its bytes are needed: a rename drops it.
    return replace(operation.file, base=None) if operation.file.is_whole else operation.file


def _keys_of(operation: Operation) -> set[ObjectName | str]:
    file = file_of(operation)
    return {*names_of(operation), *([file] if file is not None else [])}


def _concerns(operation: Operation, name: ObjectName) -> bool:
    """Return whether an operation is about an object; a folder's move is about all below both places."""
    if name in names_of(operation):
        return True
    if not isinstance(operation, MoveFolder):
        return False
    places = (
        (operation.container, operation.source),
        (operation.target_container, operation.target),
    )
    return any(name.container == container and name.key.startswith(prefix) for container, prefix in places)
