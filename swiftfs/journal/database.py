"""The journal's database: the operations that are not executed yet, in SQLite.

A commit survives the death of the process at once, and a power cut after the next `sync`, see `OlderRows`.
"""

import errno
import json
import logging
import math
import os
import sqlite3
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from swiftfs.concurrency import Rank, new_lock, unix_time
from swiftfs.config.cache_dir import CONTENT, JOURNAL, JOURNAL_RESERVE, LATE, LOST, UsedFolder, new_file
from swiftfs.errors import ConfigurationError, os_error, pluralize
from swiftfs.filecache.sparse_file import synchronize
from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.commits import (
    Change,
    Commit,
    Executed,
    OlderRows,
    Record,
    RowState,
    add_refused,
    go_back,
    row_of,
)
from swiftfs.journal.operations import Unreadable, decode
from swiftfs.journal.salvage import Mark, last_commit, loss, remove_mark
from swiftfs.journal.schema import (
    DELETE,
    INSERT,
    PUT_FACT,
    Reserve,
    Statement,
    ambiguous_changes,
    open_journal,
    read_uploads,
    set_aside,
    sync_data,
    upload_changes,
)
from swiftfs.objects import ObjectName
from swiftfs.sqlite import boot_id, execute_rows, is_for_want_of_space, reason_of, row_checksum

log = logging.getLogger(__name__)

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""How large the WAL may grow before a checkpoint, for which commits wait."""

REVISIONS = 10_000
"""Limit of the prefixes whose revision is known. It is needed for a moment."""


class JournalDB:
    """The records of one cache folder, which belong to the source `identity` in the account `place`.

    Raise `ConfigurationError` if the folder has operations of another source or account, or a journal that
    cannot be opened or has another format. An empty `place` is unknown, and any account. The lock guards the
    database and every field but `_later`, the statements that the next commit runs. `lost_folder` is for
    records that cannot be read, and the local files that they may name; `late_folder` for copies of files
    that a late request may overwrite. `synced_at` is when an earlier process synced it (Unix
    seconds), infinite if none did.
    """

    def __init__(self, folder: Path, identity: str, place: str = "") -> None:
        self._folder = folder
        self.lost_folder, self.late_folder = folder / LOST, folder / LATE
        self._used = UsedFolder(folder)
        self._path = folder / JOURNAL
        self._wal = folder / f"{JOURNAL}-wal"
        self._lock = new_lock(Rank.DATABASE)
        self._reserve = Reserve(folder / JOURNAL_RESERVE)
        self._refused: deque[Commit] = deque()
        self._revisions: LRUCache[ObjectName, float] = LRUCache(REVISIONS)
        self._later: deque[tuple[str, tuple[object, ...]]] = deque()
        self._commits = self._synced = self._final = self._recorded = 0
        self.lost: list[str] = []
        self._database = self._open()
        self._reserve.fill()
        try:
            self._older = self._begin_boot()
            self.synced_at = float(self._fact("synced_at") or math.inf)
            self._check_identity(identity, place)
            self.id = self._own_id()
        except OSError as error:
            self._database.close()
            raise self._not_opened(error) from None
        except BaseException:
            self._database.close()
            raise

    def records(self) -> list[Record]:
        """Return all records in their order, as `read` does."""
        found = list[Record]()
        self.read(found.append)
        return found

    def read(self, take: Callable[[Record], None]) -> None:
        """Call `take` with each record in their order; a damaged one is set aside, and reported in `lost`.

        `take` is called with the lock held, and keeps what it needs: there may be 100,000.
        """
        select = "SELECT seq, path, intent, errno, reason, checksum FROM intents ORDER BY seq"
        damaged = list[tuple[tuple[int, str, str], str]]()
        with self._lock:
            for row in self._database.execute(select):
                try:
                    record = self._read(*row)
                except Unreadable as error:
                    damaged.append((row[:3], str(error)))
                else:
                    take(record)
            for row, reason in damaged:
                self._set_row_aside(*row, reason)
                self._commit((DELETE, [row[:1]]))

    def begin_closing(self) -> None:
        """Accept changes wherever the folder is: they are stored now, or stay beside the journal."""
        self._used.release()

    def commit(
        self, put: Iterable[Record] = (), drop: Iterable[int] = (), executed: Executed | None = None
    ) -> None:
        """Write and delete records in one commit; raise `OSError` if the disk refuses it.

        What was synced before of the rows comes back after a power cut, unless it is `executed`.
        """
        self._used.check()
        with self._lock:
            self._write(Commit.of(put, drop, executed=() if executed is None else (executed,)))

    def finish(
        self,
        put: Iterable[Record] = (),
        drop: Iterable[int] = (),
        unreferenced: Iterable[UnreferencedPrefix] = (),
        executed: Iterable[Executed] = (),
    ) -> bool:
        """Delete the records of operations that are done, and write others and `unreferenced` prefixes.

        Return False if the disk refuses it: all is repeated with the next commit or `sync`. Executing an
        operation twice does no harm; but nothing else records those of `put`, which are tasks already.
        """
        commit = Commit.of(put, drop, unreferenced, executed)
        with self._lock:
            try:
                self._write(commit)
            except OSError as error:
                log.warning("the journal cannot record what was done, and will try again: %s", error)
                self._older.refuse(commit.drop)
                add_refused(self._refused, commit)
                return False
            return True

    def last_commit(self) -> int:
        """Return the number of the last commit."""
        with self._lock:
            return self._commits

    def needs_older(self, file: str) -> bool:
        """Return whether a local file has bytes that a power cut would bring back."""
        with self._lock:
            return self._older.needs(file)

    def sync_older(self, names: Iterable[ObjectName]) -> None:
        """Sync, if a power cut would bring back an older change of one of these objects.

        The objects are about to be deleted, and bytes that such a change lacks are in them. Raise `OSError`.
        """
        with self._lock:
            concerned = self._older.concerns(names)
        if concerned:
            self.sync()

    def older_files(self) -> dict[str, ObjectName]:
        """Return the local files that a power cut would bring back, and their objects."""
        with self._lock:
            return self._older.files()

    def take_pins(self) -> list[tuple[str, bool]]:
        """Return the local files to pin (True) or to unpin because of older rows, since the last time."""
        with self._lock:
            return self._older.take_pins()

    def begin_upload(self, unreferenced: UnreferencedPrefix) -> None:
        """Record that below a prefix there may be segments that no manifest names, also after a power cut.

        Without the record the next mount would take a manifest that is about to be sent for another client's.
        Raise `OSError` if the disk refuses it.
        """
        self.write_upload(unreferenced)
        sync_data(self._wal)

    def write_upload(self, unreferenced: UnreferencedPrefix) -> None:
        """Record what there may be below a prefix; raise `OSError` if the disk refuses it."""
        with self._lock:
            self._write(Commit.of((), (), [unreferenced]))

    def end_upload(self, prefix: ObjectName) -> None:
        """Record that a manifest names all segments that are left below `prefix`."""
        self.finish(unreferenced=[UnreferencedPrefix(prefix, None)])

    def uploads(self) -> list[UnreferencedPrefix]:
        """Return the prefixes below which there may be segments that no manifest names."""
        with self._lock:
            return read_uploads(self._database)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Return the rows of a table that belongs to another class."""
        with self._lock:
            return self._database.execute(f"SELECT * FROM {table}").fetchall()

    def change(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run a statement on such a table with each of `rows`; raise `OSError` if it is refused.

        After a power cut it counts only if `sync_changes` or `sync` came after it.
        """
        with self._lock:
            self._commit((sql, rows))

    def sync_changes(self) -> None:
        """Sync what `change` has committed, before a request that relies on it; raise `OSError`."""
        sync_data(self._wal)

    def change_later(self, sql: str, row: tuple[object, ...]) -> None:
        """Run a statement on such a table with the next commit of records, or with the next `sync`."""
        # Without the lock: nobody waits for the disk to add one. `append` and `popleft` are atomic.
        self._later.append((sql, row))

    def ambiguous(self) -> list[str]:
        """Return the records of requests whose answer was lost."""
        with self._lock:
            return [text for (text,) in self._database.execute("SELECT record FROM ambiguous").fetchall()]

    def keep_ambiguous(self, records: Mapping[ObjectName, str | None]) -> None:
        """Record lost requests by the object's name; None deletes a record."""
        with self._lock:
            self._commit(*ambiguous_changes(records))

    def record_end(self, ambiguous: Iterable[int]) -> None:
        """Record, before `close`, which operations an earlier request may still execute; raise `OSError`."""
        with self._lock:
            self._put_fact("end", json.dumps(sorted(ambiguous)))

    def take_end(self) -> Collection[int] | None:
        """Return what `record_end` recorded, None if the process before died; it counts once.

        Call it before any request. Raise `OSError` if the disk refuses to forget it.
        """
        with self._lock:
            if not (end := self._fact("end")):
                return None
            self._put_fact("end", "")
            # Else older rows may be back after a power cut, for which other requests were sent.
            is_synced = self._commits == int(self._fact("synced") or 0)
        sync_data(self._wal)
        return frozenset(json.loads(end)) if is_synced else None

    def sync(self) -> None:
        """Sync all commits, and the files they name, to the disk, so that they survive a power cut."""
        self._used.check()  # all below goes by the path
        with self._lock:
            if self._refused or self._later:
                self._write(Commit.of((), ()))
            # Before the files are synced: a later commit may name bytes that this syncfs(2) did not see.
            commits = self._commits
            if commits <= self._synced:
                return
            # Before the first byte is written: a row replaced from now on may be what a power cut leaves.
            self._older.begin_sync(commits)
        self._reserve.fill()
        synchronize(self._folder)
        with self._lock:
            # Another thread may have begun later, and have recorded more: that must stay.
            commits = self._recorded = max(commits, self._recorded)
            # Not counted as a commit: otherwise each sync would be a reason for the next one.
            self._write_statements(
                (PUT_FACT, [("synced", str(commits)), ("synced_at", str(unix_time()))]),
                ("DELETE FROM older WHERE until <= ?", [(commits,)]),
            )
            if self._wal.stat().st_size > CHECKPOINT_BYTES:
                # Not within a commit (`wal_autocheckpoint` is 0), for which a program waits.
                self._checkpoint()
        sync_data(self._wal)  # else a power cut may lose the fact
        Mark(self.id, commits).write(self._path)
        with self._lock:
            self._older.end_sync(commits)
            self._synced, self._final = max(commits, self._synced), max(commits, self._final)

    def local_files_are_safe(self) -> None:
        """Record that what a damaged journal may have named is in `lost_folder`."""
        if self.lost:  # until now another mount would have to find the damage again
            remove_mark(self._path)

    def make_final(self) -> None:
        """Sync the database if a power cut could bring back what Swift has executed, or overtaken, up to now.

        Otherwise the next mount would carry out such a change, over the newer one. Raise `OSError`.
        """
        with self._lock:
            overtook = self._older.overtook
            if overtook <= self._final:
                return
        sync_data(self._wal)
        with self._lock:
            self._final = max(self._final, overtook)

    def close(self) -> None:
        """Sync and close the database."""
        with suppress(OSError):
            self.sync()
        with self._lock:
            self._database.close()

    def _open(self) -> sqlite3.Connection:
        try:
            if sign := loss(self._path, boot_id()):
                raise sqlite3.DatabaseError(sign)  # noqa: TRY301
            return open_journal(self._path)
        except (sqlite3.OperationalError, OSError) as error:  # that is no sign of damage
            if is_for_want_of_space(error, self._folder) and self._reserve.release():
                return self._open()
            raise self._not_opened(error) from None
        except sqlite3.DatabaseError as error:
            self.lost_folder.mkdir(mode=0o700, exist_ok=True)
            aside, said = set_aside(self._path), f"{self._path} is damaged ({error})"
            said += f": it is set aside as {aside.name}" if aside else ""
            log.error("%s; 'swiftfs recover' copies out what can be read of it", said)
            self.lost.append(said)
            return open_journal(self._path)

    def _not_opened(self, error: Exception) -> ConfigurationError:
        reason = reason_of(error, self._folder)
        return ConfigurationError(f"the journal {self._path} cannot be opened: {reason}")

    def _check_identity(self, identity: str, place: str) -> None:
        with self._lock:
            known, known_place = self._fact("identity"), self._fact("place")
            # A user may have containers of one name in several projects.
            is_elsewhere = known == identity and "" not in (place, known_place) and place != known_place
            waiting = self._database.execute("SELECT count(*) FROM intents").fetchone()[0]
            if (is_elsewhere or known not in ("", identity)) and waiting:
                account = f", account {known_place}" if is_elsewhere else ""
                raise ConfigurationError(
                    f"cache folder {self._folder} holds {pluralize(waiting, 'change')} not yet in "
                    f"{known}{account}: mount that again, or use another --cache-dir"
                )
            if is_elsewhere or known not in ("", identity):
                # They were about objects of another source.
                for table, column in (("ambiguous", "container"), ("recent", "container"), ("older", "seq")):
                    self._commit((f"DELETE FROM {table} WHERE {column} IS NOT NULL", [()]))
            self._put_fact("identity", identity)
            if place or known != identity:
                self._put_fact("place", place)

    def _begin_boot(self) -> OlderRows:
        """Return the older rows; go back to the last sync first if the machine was started since."""
        boot, synced = boot_id(), int(self._fact("synced") or 0)
        last_seq = self._database.execute("SELECT coalesce(max(seq), 0) FROM intents").fetchone()[0]
        older = OlderRows(synced, self._current_row, last_seq)
        with self._lock:
            # The numbers go on: a new row with a number below `synced` would be trusted after a power cut.
            self._commits = last_commit(self._database)
            # Since the same boot all that was written is in the page cache, whether it is on the disk or not.
            if not boot or self._fact("boot") != boot:
                undoing = go_back(self._database, synced, self._folder / CONTENT, self._set_row_aside)
                # At once, after what it deletes was set aside: if this process dies the next does it again.
                self._write_statements(*undoing)
            for row in self._database.execute("SELECT seq, written, intent, until FROM older").fetchall():
                with suppress(Unreadable):
                    older.keep(RowState(row[0], row[1], decode(row[2])), row[3])
            self._put_fact("boot", boot)
        return older

    def _read(self, seq: int, path: str, text: str, number: int | None, reason: str, checksum: int) -> Record:
        if checksum != row_checksum(seq, path, text, number, reason):
            raise Unreadable("its checksum is wrong")
        return Record(seq, path, decode(text))

    def _current_row(self, seq: int) -> RowState | None:
        """Return what a row holds, None if there is none; raise `OSError`. Lock held."""
        try:
            found = self._database.execute("SELECT written, intent FROM intents WHERE seq = ?", (seq,))
            row = found.fetchone()
        except sqlite3.Error as error:
            raise self._os_error(error) from error
        with suppress(Unreadable):  # it cannot come back either
            return RowState(seq, row[0], decode(row[1])) if row else None
        return None

    def _set_row_aside(self, seq: int | str, path: str, text: str, reason: str) -> None:
        """Write a row to the folder `lost`, before it is deleted: it may be all that is left of a file."""
        aside = self.lost_folder / f"intent-{seq}.json"
        self.lost_folder.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(new_file(aside), "w") as file:
            file.write(text)
        said = f"the change of {path} cannot be read ({reason}): it is set aside as {aside}"
        log.error("%s", said)
        self.lost.append(said)

    def _own_id(self) -> str:
        """Return the id of this journal, by which `gc` recognizes its uploads."""
        with self._lock:
            if not self._fact("id"):
                self._put_fact("id", uuid.uuid4().hex[:12])
            return self._fact("id")

    def _fact(self, name: str) -> str:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def _put_fact(self, name: str, value: str) -> None:
        if self._fact(name) != value:
            self._write_statements((PUT_FACT, [(name, value)]))

    def _write(self, commit: Commit) -> None:
        """Write a commit, and before it those that the disk has refused."""
        while self._refused:
            self._write_one(self._refused[0])
            self._refused.popleft()
        self._write_one(commit)
        self._older.end_refused()

    def _write_one(self, commit: Commit) -> None:
        change = self._older.change(self._commits + 1, commit)
        insert = INSERT, [row_of(one, commit.put[one.seq].path) for one in change.put]
        if change.is_new and not commit.unreferenced and not self._later:
            self._commit(insert)  # mostly; a program waits for it in close()
        else:
            self._write_more(commit, change, insert)
        self._older.apply(change)

    def _write_more(self, commit: Commit, change: Change, insert: Statement) -> None:
        """Write a commit that does not only `insert` rows."""
        paths = {seq: one.path for seq, one in commit.put.items()}
        # Two threads may come here in another order than that in which they looked at a file's segments.
        prefixes = [one for one in commit.unreferenced if one.revision >= self._revisions.get(one.prefix, 0)]
        # By the index: others may be appended meanwhile.
        later = [self._later[at] for at in range(len(self._later))]
        # Most others end one row.
        statements = change.statements(paths) if change.kept or change.ended or change.renamed else []
        # Deletions first: a commit may drop a record and write another one with its number.
        if commit.drop:
            statements.append((DELETE, [(seq,) for seq in commit.drop]))
        statements.append(insert)
        if prefixes:
            statements += upload_changes(prefixes)
        for sql, group in groupby(later, itemgetter(0)):
            statements.append((sql, [row for _, row in group]))
        self._commit(*statements)
        for _ in later:
            self._later.popleft()
        for one in prefixes:
            self._revisions[one.prefix] = one.revision

    def _checkpoint(self) -> None:
        try:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self._os_error(error) from error

    def _commit(self, *statements: Statement) -> None:
        self._write_statements(*statements)
        self._commits += 1

    def _write_statements(self, *statements: Statement) -> None:
        try:
            self._execute(statements)
        except sqlite3.Error as error:
            # By its message: the exceptions of sqlite3 have error codes only since Python 3.11.
            if "full" not in str(error) or not self._reserve.release():
                raise self._os_error(error) from error
            try:
                self._execute(statements)
            except sqlite3.Error as again:
                raise self._os_error(again) from again

    def _execute(self, statements: Iterable[Statement]) -> None:
        work = [(text, rows) for text, rows in statements if rows]
        with self._database:
            # The one row of a close is a transaction of its own.
            if len(work) > 1 or (work and len(work[0][1]) > 1):
                self._database.execute("BEGIN")
            for text, rows in work:
                execute_rows(self._database, text, rows)

    def _os_error(self, error: sqlite3.Error) -> OSError:
        return os_error(errno.ENOSPC if "full" in str(error) else errno.EIO, str(self._path))
