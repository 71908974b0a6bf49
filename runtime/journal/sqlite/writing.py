"""What is written to the database, as SQL: these run in the thread of the writer, within its transaction.

Rows of many calls go in one statement (see `Statement`). Each step of a statement lets the interpreter go, and gets it
back only when the loop lets go of it: one for each row would make the writer wait for the loop a thousand times a commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Final

import apsw

from runtime.journal.sqlite import reading
from runtime.journal.sqlite.changes import Changes
from runtime.journal.sqlite.rows import CODES, Row, is_marked, progress_of
from runtime.journal.sqlite.schema import BEGUN, DUE, LANE, NEW, RAN
from runtime.journal.sqlite.statement import Statement
from runtime.records import QUEUED, Entry

UNLISTED: Final = 10_000  # entries at the end that are not in the index of their lane, at least
LISTED: Final = 1_000  # entries that are looked at in one go, whether they still wait and have to be

NEW_PLAIN: Final = Statement(
    "INSERT INTO events (seq, status, stage, type, level, accepted, due, event)"  # noqa: S608 - a number of ours
    f" SELECT column1, 0, {NEW}, column2, column3, column4, 0, column5 FROM (ROWS) WHERE column1 IS NOT NULL",
    5,
)
NEW_ANY: Final = Statement(
    "INSERT INTO events (seq, status, stage, type, level, key, id, source, accepted, due, cause, retries, event)"
    " SELECT column1, 0, column2, column3, column4, column5, column6, column7, column8, column9, column10, column11, column12"
    " FROM (ROWS) WHERE column1 IS NOT NULL",
    12,
)
DONE_PLAIN: Final = Statement(
    "INSERT OR REPLACE INTO progress (seq, status, ended, crashes, reason, steps, waits)"
    " SELECT column1, 2, column2, 0, '', column3, column4 FROM (ROWS) WHERE column1 IS NOT NULL",
    4,
)
PROGRESS_ANY: Final = Statement(
    "INSERT OR REPLACE INTO progress (seq, status, stage, ended, retries, crashes, reason, steps, waits)"
    " SELECT * FROM (ROWS) WHERE column1 IS NOT NULL",
    9,
)
BY_LENGTH: Final = {one.width: one for one in (NEW_PLAIN, NEW_ANY, DONE_PLAIN, PROGRESS_ANY)}

NOT_IN_LANE: Final = f"p.stage IS NOT {LANE}"
UNLIST: Final = Statement("UPDATE events SET stage = NULL WHERE stage IS NOT NULL AND seq IN (ROWS)", 1)
DELIVER: Final = Statement("INSERT OR IGNORE INTO deliveries SELECT * FROM (ROWS) WHERE column1 IS NOT NULL", 2)
DELIVERED: Final = Statement("DELETE FROM deliveries WHERE (sink, seq) IN (ROWS)", 2)
COUNT: Final = Statement(
    "INSERT INTO counts SELECT * FROM (ROWS) WHERE column1 IS NOT NULL ON CONFLICT (name) DO UPDATE SET number = number + excluded.number",
    2,
)


class Batch:
    """One transaction. What its jobs hand in is written when something is asked of the database, and at the end.

    `listed` is the last entry up to which all that wait are in the index of their lane; `inserted` and `last` tell of
    the entries that have come with it.
    """

    def __init__(self, connection: apsw.Connection, listed: int) -> None:
        self.connection = connection
        self.listed = listed
        self.counts: Counter[str] = Counter()
        self.inserted = 0
        self.last = 0
        self._new: list[Row] = []
        self._progress: list[Row] = []
        self._deliveries: list[tuple[str, int]] = []

    def append(self, rows: Sequence[Row]) -> None:
        """Insert entries that are plain: queued, with no id that may come again and for no sink."""
        self._new += rows
        self.inserted += len(rows)
        self.last = rows[-1][0]
        self.counts[QUEUED] += len(rows)

    def append_any(self, entries: Sequence[Entry], rows: Sequence[Row], horizon: float) -> list[Entry | Row | None]:
        """Insert entries that are new; return for each the first of its id, or the row of that, or None when it is new."""
        ids = [(entry.event.id, entry.event.source) for entry in entries if entry.looked_up]
        there: dict[tuple[str, str], Row] = {}
        if ids:
            self.flush()
            there = reading.firsts_of(self.connection, ids, horizon)
        here: dict[tuple[str, str], Entry] = {}
        return [self._append_one(entry, row, there, here) for entry, row in zip(entries, rows, strict=True)]

    def _append_one(
        self, entry: Entry, row: Row, there: dict[tuple[str, str], Row], here: dict[tuple[str, str], Entry]
    ) -> Entry | Row | None:
        if entry.looked_up:
            id = (entry.event.id, entry.event.source)
            first = there.get(id) or here.setdefault(id, entry)
            if first is not entry:
                return first
        self._new.append(row)
        self.inserted += 1
        self.last = entry.seq
        self.counts[entry.status] += 1
        if is_marked(entry):
            self._progress.append(progress_of(entry))
        self._deliveries += [(sink, entry.seq) for sink in entry.sinks]
        return None

    def record(self, changes: Changes, states: Sequence[tuple[str, str | None, bytes]]) -> None:
        """Write what outcomes change, but for what they emit."""
        rows = changes.progress
        self._progress += rows
        listed = [(row[0],) for row in rows if row[0] <= self.listed and (len(row) == DONE_PLAIN.width or row[2] not in (LANE, DUE))]
        if listed or changes.unlisted:
            self.flush()
            UNLIST.run(self.connection, [*listed, *changes.unlisted])
        if changes.returned:
            self.flush()
            stages = [(NEW if stage == LANE and seq > self.listed else stage, seq) for stage, seq in changes.returned]
            self.connection.executemany("UPDATE events SET stage = ? WHERE seq = ?", stages)
        if states:
            places = [(function, reading.place_of(key), value) for function, key, value in states]
            self.connection.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", places)
        if changes.delivered or changes.deliver:
            self.flush()
            DELIVERED.run(self.connection, changes.delivered)
            DELIVER.run(self.connection, changes.deliver)
        self.counts.update(changes.counts)

    def charge(self, executing: Sequence[int]) -> None:
        """Charge a crash to the entries that were executing when a process ended."""
        stage = f"iif(stage = {RAN}, stage, {BEGUN})"
        for seq in executing:
            self.connection.execute(
                "INSERT OR IGNORE INTO progress (seq, status, stage, retries, crashes, reason)"
                " SELECT seq, 0, stage, retries, 0, '' FROM events WHERE seq = ?",
                (seq,),
            )
            sql = f"UPDATE progress SET crashes = crashes + 1, stage = {stage} WHERE seq = ? AND stage IS NOT NULL"  # noqa: S608 - numbers of ours
            self.connection.execute(sql, (seq,))
            self.connection.execute("UPDATE events SET stage = NULL WHERE seq = ? AND stage IS NOT NULL", (seq,))

    def flush(self) -> None:
        """Write what was handed in."""
        for rows in (self._new, self._progress):
            for length, alike in groupby(rows, len):
                BY_LENGTH[length].run(self.connection, list(alike))
            rows.clear()
        DELIVER.run(self.connection, self._deliveries)
        self._deliveries.clear()

    def finish(self) -> None:
        """Write all that is left, before the commit."""
        self.flush()
        COUNT.run(self.connection, [(name, number) for name, number in self.counts.items() if number])
        self.list_waiting(self.last - UNLISTED, LISTED)

    def list_waiting(self, until: int, least: int = 1) -> None:
        """Put the entries up to one into the index of their lane if they still wait; only when there are so many to look at."""
        count = until - self.listed
        if count < least:
            return
        span = (self.listed, until)
        sql = f"SELECT count(*) FROM progress AS p WHERE seq > ? AND seq <= ? AND {NOT_IN_LANE}"  # noqa: S608 - a number of ours
        ((begun,),) = self.connection.execute(sql, span)
        if begun < count:
            self.connection.execute(
                f"UPDATE events SET stage = {LANE} WHERE seq > ? AND seq <= ? AND stage = {NEW}"  # noqa: S608 - numbers of ours
                f" AND NOT EXISTS (SELECT 1 FROM progress AS p WHERE p.seq = events.seq AND {NOT_IN_LANE})",
                span,
            )
        self.connection.execute("UPDATE counts SET number = ? WHERE name = 'listed'", (until,))
        self.listed = until


assert (CODES["done"], CODES["dead"], NEW) == (2, 3, 4), "statements and the schema's partial indexes say them as numbers"
