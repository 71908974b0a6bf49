"""The questions that are asked of the database, as SQL."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from runtime import pattern
from runtime.contracts import Query
from runtime.journal.sqlite.rows import CODES, COLUMNS, NAMES, TABLES, Row, entry_of
from runtime.journal.sqlite.schema import BEGUN, DUE, LANE, NEW
from runtime.journal.sqlite.statement import Statement
from runtime.records import DEAD, Entry, Shelf, seq_of

SELECT = f"SELECT {COLUMNS} FROM {TABLES}"  # noqa: S608 - names of ours
UNLISTED = f"e.stage = {NEW} AND coalesce(p.stage, iif(p.status IS NULL, {LANE}, -1)) = {LANE} AND seq > ?"
CHUNK = 500  # rows that a search with conditions SQL does not know looks at in one go


FIRSTS = Statement(
    f"SELECT e.id, e.source, {COLUMNS} FROM (ROWS) CROSS JOIN events AS e ON e.id = column1 AND e.source = column2"  # noqa: S608 - as above
    " LEFT JOIN progress AS p USING (seq) WHERE iif(p.seq IS NULL, e.stage, p.stage) IS NOT NULL OR accepted > ? ORDER BY e.seq",
    2,
)


def firsts_of(connection: apsw.Connection, ids: Sequence[tuple[str, str]], horizon: float) -> dict[tuple[str, str], Row]:
    """Return the row of the entry that a new one with this id and source joins, by both, where there is one."""
    return {(id, source): tuple(row) for id, source, *row in FIRSTS.run(connection, ids, horizon)}


LISTED = f"SELECT type, level FROM events WHERE stage = {LANE}"  # noqa: S608 - as above
NEXT_LEVEL = f"{LISTED} AND type = ? AND level > ? ORDER BY level LIMIT 1"
NEXT_TYPE = f"{LISTED} AND type > ? ORDER BY type, level LIMIT 1"


def shelves(connection: apsw.Connection, listed: int) -> list[Shelf]:
    """Return the lanes and sinks for which entries wait, each found by one look into the index."""
    lanes: set[tuple[str, int]] = set(connection.execute(f"SELECT DISTINCT type, level FROM {TABLES} WHERE {UNLISTED}", (listed,)))  # noqa: S608
    place: tuple[str, int] | None = ("", 9)
    while place is not None:
        place = connection.execute(NEXT_LEVEL, place).fetchone() or connection.execute(NEXT_TYPE, place[:1]).fetchone()
        if place is not None:
            lanes.add(place)
    found = [Shelf("lane", *place) for place in sorted(lanes)]
    sink: tuple[str] | None = ("",)
    while sink is not None:
        sink = connection.execute("SELECT sink FROM deliveries WHERE sink > ? ORDER BY sink LIMIT 1", sink).fetchone()
        if sink is not None:
            found.append(Shelf("sink", *sink))
    return found


def read_shelf(connection: apsw.Connection, shelf: Shelf, after: int, limit: int, listed: int) -> list[Entry]:
    """Return the entries of a shelf above a `seq`."""
    match shelf.kind:
        case "lane":
            return _read_lane(connection, "type = ? AND level = ?", shelf, after, limit, listed)
        case "key":
            return _read_lane(connection, "key = ? AND level = ?", shelf, after, limit, listed)
        case "begun":
            return _entries(connection, f"{SELECT} WHERE p.stage = {BEGUN} AND p.seq > ? ORDER BY p.seq LIMIT ?", (after, limit))
        case "sink":
            sql = f"{SELECT} WHERE seq IN (SELECT seq FROM deliveries WHERE sink = ? AND seq > ? ORDER BY seq LIMIT ?) ORDER BY seq"  # noqa: S608 - names of ours
            return _entries(connection, sql, (shelf.name, after, limit))


def _read_lane(connection: apsw.Connection, where: str, shelf: Shelf, after: int, limit: int, listed: int) -> list[Entry]:
    """Return entries that wait in their lane: those of its index, and behind them those that are not in it yet."""
    place = (shelf.name, shelf.level)
    found = _entries(connection, f"{SELECT} WHERE e.stage = {LANE} AND {where} AND seq > ? ORDER BY seq LIMIT ?", (*place, after, limit))
    if len(found) < limit:
        sql = f"{SELECT} WHERE {where} AND {UNLISTED} ORDER BY seq LIMIT ?"
        found += _entries(connection, sql, (*place, max(after, listed), limit - len(found)))
    return found


def read_due(connection: apsw.Connection, after: tuple[float, int], until: float, limit: int) -> list[Entry]:
    """Return delayed entries by the time they are due."""
    sql = f"{SELECT} WHERE e.stage = {DUE} AND (due, seq) > (?, ?) AND due <= ? ORDER BY due, seq LIMIT ?"
    return _entries(connection, sql, (*after, until, limit))


def waiting(connection: apsw.Connection, listed: int) -> int:
    """Return how many entries wait in lanes or are delayed."""
    sql = f"SELECT (SELECT count(*) FROM events WHERE stage = {LANE}) + (SELECT count(*) FROM events WHERE stage = {DUE})"  # noqa: S608
    return _number(connection, sql) + _number(connection, f"SELECT count(*) FROM {TABLES} WHERE {UNLISTED}", (listed,))  # noqa: S608


def last_seq(connection: apsw.Connection) -> int:
    """Return the highest `seq` that was ever given, as far as the database knows."""
    there = _number(connection, "SELECT coalesce(max(seq), 0) FROM events")
    return max(there, _number(connection, "SELECT coalesce(max(number), 0) FROM counts WHERE name = 'pruned'"))


def listed(connection: apsw.Connection) -> int:
    """Return the last entry up to which all that wait are in the index of their lane."""
    return _number(connection, "SELECT number FROM counts WHERE name = 'listed'")


def counts(connection: apsw.Connection) -> dict[str, int]:
    """Return the counts by name."""
    return dict(connection.execute("SELECT name, number FROM counts WHERE name NOT IN ('pruned', 'listed')"))


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
        own = [entry for entry in _entries(connection, f"{SELECT} WHERE seq = ?", (seq,)) if id in (entry.uid, entry.event.id)]
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
        codes = ", ".join(str(CODES[status]) for status in query.status)
        conditions.append("p.status = 3" if query.status == (DEAD,) else f"coalesce(p.status, 0) IN ({codes})")
    if query.type is not None:
        literal = pattern.is_literal(query.type)
        conditions.append("type = ?" if literal else "type GLOB ?")
        values.append(query.type if literal else _glob_of(query.type))
    for name in (query.function, query.error):
        if name is not None:
            conditions.append("instr(p.steps, CAST(? AS BLOB))")
            values.append(name)
    seq = "p.seq" if query.status == (DEAD,) else "e.seq"  # dead letters have an index
    sql = f"{SELECT} WHERE {' AND '.join(conditions)} AND {seq} < ? ORDER BY {seq} DESC LIMIT {CHUNK}"
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


def is_due(connection: apsw.Connection, horizon: float) -> bool:
    """Return whether an entry ended before `horizon` and may go."""
    sql = "SELECT 1 FROM progress WHERE ended IS NOT NULL AND status <> 3 AND ended < ? LIMIT 1"
    return connection.execute(sql, (horizon,)).fetchone() is not None


def prune(connection: apsw.Connection, horizon: float, limit: int) -> dict[str, int]:
    """Delete entries that ended before `horizon`, the oldest first; return how many by status. Dead letters stay."""
    old = "ended IS NOT NULL AND status <> 3"
    last = connection.execute(
        f"SELECT ended, seq FROM progress WHERE {old} AND ended < ? ORDER BY ended, seq LIMIT 1 OFFSET ?",  # noqa: S608
        (horizon, limit - 1),
    ).fetchone()
    chosen = f"{old} AND (ended, seq) <= (?, ?)" if last else f"{old} AND ended < ?"
    values = last or (horizon,)
    gone = list(connection.execute(f"SELECT status, count(*), max(seq) FROM progress WHERE {chosen} GROUP BY status", values))  # noqa: S608
    if gone:
        connection.execute(f"DELETE FROM events WHERE seq IN (SELECT seq FROM progress WHERE {chosen})", values)  # noqa: S608
        connection.execute(f"DELETE FROM progress WHERE {chosen}", values)  # noqa: S608
        connection.execute(
            "INSERT INTO counts VALUES ('pruned', ?) ON CONFLICT (name) DO UPDATE SET number = max(number, excluded.number)",
            (max(seq for _, _, seq in gone),),
        )
    return {NAMES[status]: number for status, number, _ in gone}


def _entries(connection: apsw.Connection, sql: str, values: tuple[object, ...]) -> list[Entry]:
    return [entry_of(row) for row in connection.execute(sql, values)]


def _number(connection: apsw.Connection, sql: str, values: tuple[object, ...] = ()) -> int:
    (number,) = next(connection.execute(sql, values))
    return int(number)
