"""The questions that are asked of the database, as SQL."""

from __future__ import annotations

import apsw

from runtime import pattern
from runtime.contracts import Query
from runtime.journal.sqlite.rows import CODES, COLUMNS, NAMES, Row, entry_of
from runtime.journal.sqlite.schema import BEGUN, DUE, LANE
from runtime.records import Entry, Shelf, seq_of

SELECT = f"SELECT {COLUMNS} FROM events"  # noqa: S608 - names of ours
CHUNK = 500  # rows that a search with conditions SQL does not know looks at in one go


def first_of(connection: apsw.Connection, source: str, id: str, horizon: float) -> Row | None:
    """Return the row of the entry that a new one with this source and id joins, or None."""
    found: Row | None = connection.execute(
        f"{SELECT} WHERE id = ? AND source = ? AND (stage IS NOT NULL OR accepted > ?) ORDER BY seq DESC LIMIT 1", (id, source, horizon)
    ).fetchone()
    return found


def shelves(connection: apsw.Connection) -> list[Shelf]:
    """Return the lanes and sinks for which entries wait, each found by one look into the index."""
    found: list[Shelf] = []
    place: tuple[str, int] | None = ("", -1)
    while place is not None:
        place = connection.execute(
            f"SELECT type, level FROM events WHERE stage = {LANE} AND (type, level) > (?, ?) ORDER BY type, level LIMIT 1",  # noqa: S608
            place,
        ).fetchone()
        if place is not None:
            found.append(Shelf("lane", *place))
    sink: tuple[str] | None = ("",)
    while sink is not None:
        sink = connection.execute("SELECT sink FROM deliveries WHERE sink > ? ORDER BY sink LIMIT 1", sink).fetchone()
        if sink is not None:
            found.append(Shelf("sink", *sink))
    return found


def read_shelf(connection: apsw.Connection, shelf: Shelf, after: int, limit: int) -> list[Entry]:
    """Return the entries of a shelf above a `seq`."""
    values: tuple[str | int, ...]
    match shelf.kind:
        case "lane":
            where, values = f"stage = {LANE} AND type = ? AND level = ? AND seq > ?", (shelf.name, shelf.level, after)
        case "key":
            where, values = f"stage = {LANE} AND key = ? AND level = ? AND seq > ?", (shelf.name, shelf.level, after)
        case "begun":
            where, values = f"stage = {BEGUN} AND seq > ?", (after,)
        case "sink":
            where, values = (
                "seq IN (SELECT seq FROM deliveries WHERE sink = ? AND seq > ? ORDER BY seq LIMIT ?)",
                (shelf.name, after, limit),
            )
    return _entries(connection, f"{SELECT} WHERE {where} ORDER BY seq LIMIT ?", (*values, limit))


def read_due(connection: apsw.Connection, after: tuple[float, int], until: float, limit: int) -> list[Entry]:
    """Return delayed entries by the time they are due."""
    sql = f"{SELECT} WHERE stage = {DUE} AND (due, seq) > (?, ?) AND due <= ? ORDER BY due, seq LIMIT ?"
    return _entries(connection, sql, (*after, until, limit))


def waiting(connection: apsw.Connection) -> int:
    """Return how many entries wait in lanes or are delayed."""
    sql = f"SELECT (SELECT count(*) FROM events WHERE stage = {LANE}) + (SELECT count(*) FROM events WHERE stage = {DUE})"  # noqa: S608
    return _number(connection, sql)


def last_seq(connection: apsw.Connection) -> int:
    """Return the highest `seq` that was ever given, as far as the database knows."""
    there = _number(connection, "SELECT coalesce(max(seq), 0) FROM events")
    return max(there, _number(connection, "SELECT coalesce(max(number), 0) FROM counts WHERE name = 'pruned'"))


def counts(connection: apsw.Connection) -> dict[str, int]:
    """Return the counts by name."""
    return dict(connection.execute("SELECT name, number FROM counts WHERE name <> 'pruned'"))


def state(connection: apsw.Connection, function: str, key: str | None) -> bytes | None:
    """Return the packed state of a function and key."""
    row = connection.execute("SELECT value FROM states WHERE function = ? AND key = ?", (function, place_of(key))).fetchone()
    return None if row is None else row[0]


def place_of(key: str | None) -> str:
    """Return a key as `states` has it; the state of events without one has a place of its own."""
    return "" if key is None else f"k{key}"


def cursor(connection: apsw.Connection, source: str) -> bytes | None:
    """Return the packed cursor of a source."""
    row = connection.execute("SELECT value FROM cursors WHERE source = ?", (source,)).fetchone()
    return None if row is None else row[0]


def find(connection: apsw.Connection, id: str) -> list[Entry]:
    """Return the entries with a uid or event id, the newest first.

    Ids that the runtime made are not in the index: they begin with the uid of the event, or of the one that caused it.
    """
    seq = seq_of(id[:36])
    if seq is not None and len(id) == 36:
        own = [entry for entry in _entries(connection, f"{SELECT} WHERE seq = ?", (seq,)) if entry.uid == id]
        if own:
            return own
    found = _entries(connection, f"{SELECT} WHERE id = ?", (id,))
    if seq is not None and len(id) > 36:
        found += [entry for entry in effects(connection, seq) if entry.event.id == id and all(entry.seq != one.seq for one in found)]
    return sorted(found, key=lambda entry: -entry.seq)


def effects(connection: apsw.Connection, seq: int) -> list[Entry]:
    """Return the entries that an entry emitted."""
    return _entries(connection, f"{SELECT} WHERE cause = ? ORDER BY seq", (seq,))


def query(connection: apsw.Connection, query: Query) -> list[Entry]:
    """Return the entries a query asks for, the newest first.

    SQL leaves out what cannot be meant (a name is in the packed steps as it is written), `takes` decides about the rest.
    """
    conditions, values = ["1"], []
    if query.status:
        codes = [f"status = {CODES[status]}" for status in query.status]  # by itself `=` finds the index of dead letters
        conditions.append(f"({' OR '.join(codes)})")
    if query.type is not None:
        literal = pattern.is_literal(query.type)
        conditions.append("type = ?" if literal else "type GLOB ?")
        values.append(query.type if literal else _glob_of(query.type))
    for name in (query.function, query.error):
        if name is not None:
            conditions.append("instr(steps, CAST(? AS BLOB))")
            values.append(name)
    sql = f"{SELECT} WHERE {' AND '.join(conditions)} AND seq < ? ORDER BY seq DESC LIMIT {CHUNK}"
    found: list[Entry] = []
    before = query.before or 2**62
    while len(found) < query.limit:
        chunk = _entries(connection, sql, (*values, before))
        found += [entry for entry in chunk if query.takes(entry)]
        if len(chunk) < CHUNK:
            break
        before = chunk[-1].seq
    return found[: query.limit]


def _glob_of(pattern: str) -> str:
    """Return what GLOB takes for a pattern: more than is meant, since its `*` goes over dots."""
    return pattern.replace("[", "[[]").replace("?", "[?]").replace(">", "*")


def used_bytes(connection: apsw.Connection) -> int:
    """Return how many bytes of the database are in use."""
    return int(connection.pragma("page_size")) * (int(connection.pragma("page_count")) - int(connection.pragma("freelist_count")))


def prune(connection: apsw.Connection, horizon: float, limit: int) -> int:
    """Delete entries that ended before `horizon`, the oldest first, and return how many; dead letters stay."""
    chosen = "SELECT seq FROM events WHERE ended < ? AND ended IS NOT NULL AND status <> 3 ORDER BY ended LIMIT ?"
    if connection.execute(f"{chosen}", (horizon, 1)).fetchone() is None:
        return 0
    connection.execute("BEGIN IMMEDIATE")
    try:
        gone = list(connection.execute(f"DELETE FROM events WHERE seq IN ({chosen}) RETURNING status, seq", (horizon, limit)))  # noqa: S608
        for status in {status for status, _ in gone}:
            number = sum(one == status for one, _ in gone)
            connection.execute("UPDATE counts SET number = number - ? WHERE name = ?", (number, NAMES[status]))
        last = max(seq for _, seq in gone)
        connection.execute(
            "INSERT INTO counts VALUES ('pruned', ?) ON CONFLICT (name) DO UPDATE SET number = max(number, excluded.number)", (last,)
        )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return len(gone)


def _entries(connection: apsw.Connection, sql: str, values: tuple[object, ...]) -> list[Entry]:
    return [entry_of(row) for row in connection.execute(sql, values)]


def _number(connection: apsw.Connection, sql: str) -> int:
    (number,) = next(connection.execute(sql))
    return int(number)
