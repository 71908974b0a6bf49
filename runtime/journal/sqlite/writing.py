"""What is written to the database, as SQL: these run in the thread of the writer, within its transaction."""

from __future__ import annotations

import msgspec

from runtime.journal.sqlite import reading
from runtime.journal.sqlite.rows import CODES, INSERT, UPDATE, Row
from runtime.journal.sqlite.writer import Batch
from runtime.records import Entry


class Changes(msgspec.Struct):
    """What a record changes, as rows: updated entries, emitted ones, states, rows of deliveries that go and come, moves of status."""

    updates: list[Row] = []
    emitted: list[tuple[Entry, Row]] = []
    states: list[tuple[str, str | None, bytes]] = []
    delivered: list[tuple[str, int]] = []
    deliver: list[tuple[str, int]] = []
    moves: list[tuple[str, str]] = []


def append(entries: list[Entry], rows: list[Row], cursor: tuple[str, bytes] | None, horizon: float, batch: Batch) -> list[Row | None]:
    """Insert entries that are new; return for each the row of the first of its id, or None when it is new."""
    firsts = _insert(list(zip(entries, rows, strict=True)), horizon, batch)
    if cursor is not None:
        batch.connection.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", cursor)
    batch.counts["duplicates"] += sum(first is not None for first in firsts)
    return firsts


def _insert(pairs: list[tuple[Entry, Row]], horizon: float, batch: Batch) -> list[Row | None]:
    connection = batch.connection
    if not any(entry.looked_up for entry, _ in pairs):
        connection.executemany(INSERT, [row for _, row in pairs])
        firsts: list[Row | None] = [None] * len(pairs)
    else:
        firsts = []
        for entry, row in pairs:
            first = reading.first_of(connection, entry.event.source, entry.event.id, horizon) if entry.looked_up else None
            if first is None:
                connection.execute(INSERT, row)
            firsts.append(first)
    new = [entry for (entry, _), first in zip(pairs, firsts, strict=True) if first is None]
    batch.inserted += len(new)
    batch.last = max(batch.last, new[-1].seq if new else 0)
    deliveries = [(sink, entry.seq) for entry in new for sink in entry.sinks]
    if deliveries:
        connection.executemany("INSERT INTO deliveries VALUES (?, ?)", deliveries)
    for entry in new:
        batch.counts[entry.status] += 1
    return firsts


def record(changes: Changes, horizon: float, batch: Batch) -> list[bool]:
    """Write what outcomes change; return for each emitted entry whether it was dropped, since its id is known."""
    connection = batch.connection
    connection.executemany(UPDATE, changes.updates)
    firsts = _insert(changes.emitted, horizon, batch) if changes.emitted else []
    if changes.states:
        rows = [(function, reading.place_of(key), value) for function, key, value in changes.states]
        connection.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", rows)
    if changes.delivered:
        connection.executemany("DELETE FROM deliveries WHERE sink = ? AND seq = ?", changes.delivered)
    if changes.deliver:
        connection.executemany("INSERT OR IGNORE INTO deliveries VALUES (?, ?)", changes.deliver)
    for before, after in changes.moves:
        batch.counts[before] -= 1
        batch.counts[after] += 1
    return [first is not None for first in firsts]


assert CODES["dead"] == 3, "the schema's partial indexes name it by its code"
