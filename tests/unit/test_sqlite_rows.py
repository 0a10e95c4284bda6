"""A statement for several rows does in one step what it does for each of them."""

import sqlite3
from contextlib import closing

from swiftfs.sqlite import AT_ONCE, execute_rows


def test_rows_are_written_and_deleted_in_few_steps() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, word TEXT)")
        steps = list[str]()
        database.set_trace_callback(steps.append)
        rows = [(number, str(number)) for number in range(2 * AT_ONCE + 1)]
        execute_rows(database, "INSERT OR REPLACE INTO t VALUES (?, ?)", [*rows, (1, "one")])
        execute_rows(database, "DELETE FROM t WHERE number IN (VALUES (?))", [(2,), (3,), (1000,)])
        assert len(steps) == 4
        database.set_trace_callback(None)
        found = dict(database.execute("SELECT * FROM t"))
    wanted = {**dict(rows), 1: "one"}
    del wanted[2], wanted[3]
    assert found == wanted
