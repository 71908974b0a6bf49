"""The source and the sink `postgres`: rows of an outbox table or of a query as events, and events as rows.

Rows of a table are locked, which others skip, and deleted in a transaction that is committed when the journal has them.
A notification only wakes: what counts is the table.
Rows of a query are found by a cursor, the largest value so far of a column, which is recorded with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import asyncpg
import jmespath
import msgspec

from runtime import Event, Inlet, PartialFailure, Reject, Sink, Source, bindings, hookimpl

from ._postgres import COLUMNS, Connection, Rows, Text, Url, quoted
from ._tls import Tls

Seconds = Annotated[float, msgspec.Meta(ge=0.01, le=86_400)]
DATA = "22"  # the class of errors about data that fit no column; see appendix A of the manual
INTEGRITY = "23"  # that of rows which a constraint refuses
NEVER = {"23502", "23514"}  # of these: NULL where none may be, and a check
JSON = {'"pg_catalog"."json"', '"pg_catalog"."jsonb"'}
WHOLE = {f'"pg_catalog"."{name}"' for name in ("int2", "int4", "int8")}  # types of ids that are given in order


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which `table` to empty, woken by `channel`, or which `query` to follow by its column `cursor`; each `every` so many seconds.

    `type` is the type of all events, or a template of `{column.NAME}`.
    """

    url: Url = "postgres://127.0.0.1:5432/postgres"
    user: Text | None = None
    password: str | None = None
    table: Annotated[str, msgspec.Meta(min_length=1, examples=["outbox"])] | None = None
    channel: Text | None = None
    query: Text | None = None
    cursor: Text | None = None
    type: Text | None = None
    every: Seconds = 1.0
    batch: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    tls: Tls | None = None


class Place(msgspec.Struct, frozen=True):
    """How far a query was followed: the cursor of the source."""

    column: str
    after: str


class PostgresSource(Source):
    """Brings the rows of a table, which it deletes, or those of a query, which it leaves alone."""

    Options = SourceOptions
    finite = False
    acknowledges = True

    def __init__(self, name: str, options: SourceOptions) -> None:
        super().__init__(name, options)
        if (options.table is None) == (options.query is None):
            raise ValueError("expected a `table`, or a `query` and its `cursor`, found both or neither; give one of them")
        if (options.query is None) != (options.cursor is None):
            raise ValueError("`cursor`: expected a column to follow a `query` by, beside that and only there; add or remove it")
        self._rows = Rows(name, options.type)
        self._awake = asyncio.Event()

    async def open(self) -> None:
        """Connect, and see what columns there are.

        Raises:
            ConnectionError: there is no server or table as it should be, or the query is none; the text says why.
        """
        options = self.options
        self._connection = Connection(self.log, options.url, options.user, options.password, options.tls, self.folder)
        self._connection.woken = self._awake.set
        channel = options.channel if options.table is None else options.channel or options.table.rpartition(".")[2]
        await self._connection.open(channel)
        self._client = self._connection.client
        try:
            await (self._bind(options.query) if options.table is None else self._bind_table(options.table))
        except BaseException:
            await self._connection.close()
            raise

    async def _bind_table(self, name: str) -> None:
        self._table = table = await self._connection.table(name)
        columns = await self._connection.columns(table)
        self._rows.describe(columns, is_table=True)
        order = [name for name in ("time", "id") if name in columns and (name == "time" or columns[name] in WHOLE)]
        by = f"ORDER BY {', '.join([*order, 'ctid'])} " if order else ""  # otherwise a scan is in the order of places
        self._lock = f"SELECT tableoid, ctid FROM {table} {by}LIMIT {self.options.batch} FOR UPDATE SKIP LOCKED"  # noqa: S608
        self._delete = (
            f"DELETE FROM {table} AS _row WHERE tableoid = $1 AND ctid = ANY($2::tid[]) "  # noqa: S608
            "RETURNING ctid, xmin::text AS version, row_to_json(_row)::text AS raw"
        )

    async def _bind(self, query: str) -> None:
        rows = f"(\n{query.rstrip().rstrip(';')}\n) AS _row"
        columns = await self._connection.columns(rows)
        cursor = self.options.cursor
        if cursor not in columns:
            raise ConnectionError(f'`cursor`: expected a column of the query, found "{cursor}"; it has {", ".join(columns)}')
        self._rows.describe(columns, is_table=False)
        column = f"_row.{quoted(cursor)}"
        select = f"SELECT {column}::text AS at, row_to_json(_row)::text AS raw FROM {rows} WHERE {column} "  # noqa: S608
        end = f" ORDER BY {column} FETCH FIRST {self.options.batch} ROWS WITH TIES"
        self._first = f"{select} IS NOT NULL{end}"
        self._next = f"{select} > $1::text::{columns[cursor]}{end}"

    async def run(self, inlet: Inlet) -> None:
        """Bring rows until cancelled.

        Raises:
            ConnectionError: the connection is lost, or the server refuses something.
            JournalError: rows could not be accepted; they are read again.
        """
        take = self._follow if self.options.table is None else self._empty
        while True:
            self._awake.clear()
            if await take(inlet) >= self.options.batch:
                continue
            if self._client.is_closed():
                raise ConnectionError("the connection is lost: the server has closed it")
            with suppress(TimeoutError):
                async with asyncio.timeout(self.options.every):
                    await self._awake.wait()

    async def _empty(self, inlet: Inlet) -> int:
        """Take rows of the table, and return how many there were."""
        with self._connection.telling():
            transaction = self._client.transaction()
            await transaction.start()
            places = [(row["tableoid"], row["ctid"]) for row in await self._client.fetch(self._lock)]
            found: dict[tuple[int, tuple[int, int]], Event] = {}
            for partition in {partition for partition, _ in places}:
                rows = await self._client.fetch(self._delete, partition, [ctid for of, ctid in places if of == partition])
                for row in rows:
                    block, item = ctid = row["ctid"]
                    found[partition, ctid] = self._rows(row["raw"], None, f"{partition}:{row['version']}:{block}.{item}")
        if places:
            await inlet.put([found[place] for place in places])
        with self._connection.telling():
            await transaction.commit()
        return len(places)

    async def _follow(self, inlet: Inlet) -> int:
        """Read on in the query, and return how many rows there were."""
        column, after = self.options.cursor, _after(inlet.cursor, self.options.cursor)
        with self._connection.telling():
            found = await (self._client.fetch(self._first) if after is None else self._client.fetch(self._next, after))
        if found:
            place = Place(column, found[-1]["at"])
            await inlet.put([self._rows(row["raw"], (column, row["at"])) for row in found], cursor=msgspec.to_builtins(place))
        return len(found)

    async def close(self) -> None:
        """Give back what was not accepted, and disconnect."""
        await self._connection.close()


def _after(cursor: Any, column: str) -> str | None:
    """Return what a cursor says, or None: it may be of another column, or of another plugin."""
    with suppress(msgspec.ValidationError):
        place = msgspec.convert(cursor, Place)
        if place.column == column:
            return place.after
    return None


class SinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Into which `table`; a row that has the same `upsert` columns is replaced. `columns` are JMESPaths into the event, by column."""

    url: Url = "postgres://127.0.0.1:5432/postgres"
    user: Text | None = None
    password: str | None = None
    table: Annotated[str, msgspec.Meta(min_length=1, examples=["events"])]
    columns: dict[str, str] = {}
    upsert: list[str] = []
    tls: Tls | None = None


class PostgresSink(Sink):
    """Inserts an event as a row, or replaces the row that there is; those of one write together, or none."""

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        self._paths = {}
        for column, path in options.columns.items():
            try:
                self._paths[column] = jmespath.compile(path)
            except jmespath.exceptions.JMESPathError as error:
                raise ValueError(f"`columns`: {column}: expected a JMESPath, found {path!r}: {error}; correct it") from None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Connect, and see what columns the table has.

        Raises:
            ConnectionError: there is no server or table as it should be; the text says why.
        """
        options = self.options
        self._turn = asyncio.Lock()
        self._connection = Connection(self.log, options.url, options.user, options.password, options.tls, self.folder)
        await self._connection.open()
        self._client = self._connection.client
        try:
            await self._bind()
        except BaseException:
            await self._connection.close()
            raise

    async def _bind(self) -> None:
        table = await self._connection.table(self.options.table)
        found = await self._connection.columns(table)
        names = list(self._paths) or [name for name in COLUMNS if name in found]
        for option, wanted in (("columns", names), ("upsert", self.options.upsert)):
            if missing := [name for name in wanted if name not in found]:
                raise ConnectionError(f"`{option}`: expected columns of {table}, found {', '.join(missing)}; it has {', '.join(found)}")
        if not names:
            raise ConnectionError(
                f"`table`: expected one with columns like {', '.join(COLUMNS[:3])}, found {table} without; give it `columns`"
            )
        self._names = names
        self._binary = [name for name in names if found[name] == '"pg_catalog"."bytea"']
        self._json = [name for name in names if found[name] in JSON]  # as they are: within a record even json takes no \u0000
        listed = ", ".join(map(quoted, names))
        values = ", ".join(f"${2 + self._json.index(name)}::text::{found[name]}" if name in self._json else quoted(name) for name in names)
        others = ", ".join(f"{quoted(name)} = EXCLUDED.{quoted(name)}" for name in names if name not in self.options.upsert)
        target = f" ({', '.join(map(quoted, self.options.upsert))})" if self.options.upsert else ""
        action = f"UPDATE SET {others}" if self.options.upsert and others else "NOTHING"
        self._insert = (
            f"INSERT INTO {table} ({listed}) SELECT {values} FROM json_populate_record(NULL::{table}, $1::text::json) "  # noqa: S608
            f"ON CONFLICT{target} DO {action}"
        )

    async def write(self, events: list[Event]) -> None:
        """Insert the events, and return when they are committed.

        Raises:
            ConnectionError: the connection is lost, or the server refuses for another reason than the data.
            PartialFailure: some were refused; each has the error that says why.
        """
        failures: dict[str, str | Exception] = {}
        rows: list[tuple[str, list[str | None]]] = []  # with the id of each
        for event in events:
            try:
                rows.append((event.id, self._row(event)))
            except Reject as error:
                failures[event.id] = error
        async with self._turn:
            with self._connection.telling():
                try:
                    await self._client.executemany(self._insert, [row for _, row in rows])
                except asyncpg.PostgresError as error:
                    if not _is_of_data(error):
                        raise
                    failures |= await self._one_by_one(rows)
        if failures:
            raise PartialFailure(failures)

    async def _one_by_one(self, rows: Sequence[tuple[str, list[str | None]]]) -> dict[str, str | Exception]:
        """Insert each for itself, and return why some were refused."""
        failures: dict[str, str | Exception] = {}
        for id, row in rows:
            try:
                await self._client.execute(self._insert, *row)
            except asyncpg.PostgresError as error:
                if not _is_of_data(error):
                    raise
                why = f"{type(error).__name__}: {error}"
                is_final = error.sqlstate.startswith(DATA) or error.sqlstate in NEVER
                failures[id] = Reject(why) if is_final else why
        return failures

    def _row(self, event: Event) -> list[str | None]:
        """Return a row as JSON, of which PostgreSQL makes what the columns hold, and what those hold that are JSON."""
        said = msgspec.structs.asdict(event) | {"extensions": event.extensions or None}
        if self._paths:
            try:
                row = {column: path.search(said) for column, path in self._paths.items()}
            except jmespath.exceptions.JMESPathError as error:  # a function of it does not take what is there
                raise Reject(f"`columns`: expected an event that the paths fit, found {error}") from None
        else:
            row = {name: event.extensions.get(name) if name in bindings.TRACE else said[name] for name in self._names}
        for column, value in row.items():
            if column in self._binary and value is not None:
                row[column] = "\\x" + (value if isinstance(value, bytes) else msgspec.json.encode(value)).hex()
            elif isinstance(value, bytes):
                raise Reject(f'expected data that JSON can say for the column "{column}", found bytes; give it the type bytea')
        texts = [None if (value := row.pop(name)) is None else msgspec.json.encode(value).decode() for name in self._json]
        return [msgspec.json.encode(row).decode(), *texts]

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()


def _is_of_data(error: asyncpg.PostgresError) -> bool:
    return error.sqlstate is not None and error.sqlstate[:2] in (DATA, INTEGRITY)


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"postgres": PostgresSource}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"postgres": PostgresSink}
