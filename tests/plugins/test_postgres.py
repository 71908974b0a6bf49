"""The source and the sink `postgres`, against a real server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count as counting
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from runtime_plugins._postgres import Connection
from runtime_plugins.postgres import PostgresSink, PostgresSource
from servers import USER, Server

from runtime import Event, PartialFailure, Reject, Sink, Source, cloudevents
from runtime.testing import SinkSuite, SourceSuite
from runtime.testing.inlet import SuiteInlet

NAMES = counting(1)
EVENTS = """
    n bigserial PRIMARY KEY, id text, type text, source text, subject text, time timestamptz, datacontenttype text,
    dataschema text, priority smallint, due timestamptz, key text, extensions json, data json
"""


class OnServer(SourceSuite):
    """What the suites need of a server."""

    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "`table`": {"url": "postgres://127.0.0.1/x"},
        "one of them": {"table": "a", "query": "SELECT 1 AS n", "cursor": "n"},
        "`cursor`": {"query": "SELECT 1 AS n"},
        "{topic}": {"table": "a", "type": "{topic}"},
        "batch": {"table": "a", "batch": 0},
        "url": {"table": "a", "url": "mysql://h/d"},
        "tabel": {"tabel": "a"},
    }
    read_ahead = 100
    columns: ClassVar[str] = "id bigserial PRIMARY KEY, type text, data jsonb"

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self, postgres_server: Server) -> None:
        postgres_server.start()
        self.server = postgres_server
        self.name = f"s{next(NAMES)}"
        self.count = 0
        await self.execute(f"CREATE TABLE {self.name} ({self.columns})")

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return PostgresSource, {"url": self.server.url, "table": self.name, "batch": 100, "every": 0.05}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {**self.make()[1], "user": USER, "password": secret}

    async def execute(self, sql: str, *rows: tuple[Any, ...]) -> None:
        client = await asyncpg.connect(self.server.url)
        await (client.executemany(sql, rows) if rows else client.execute(sql))
        await client.close()

    async def send(self, rows: list[Any]) -> None:
        await self.execute(f"INSERT INTO {self.name} (type, data) VALUES ('made', $1::text::jsonb)", *((json.dumps(row),) for row in rows))

    async def produce(self, count: int) -> list[Any]:
        made = [{"n": self.count + n} for n in range(count)]
        self.count += count
        await self.send(made)
        return made

    async def spoil(self) -> bytes:
        client = await asyncpg.connect(self.server.url)
        raw = await client.fetchval(f"INSERT INTO {self.name} (data) VALUES ('1') RETURNING row_to_json({self.name})::text")
        await client.close()
        assert isinstance(raw, str)
        return raw.encode()

    async def flood(self, count: int, size: int) -> None:
        await self.send([{"n": number, "text": "x" * size} for number in range(count)])

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestOutbox(OnServer):
    pass


class TestOutboxWithoutIds(OnServer):
    columns = "type text, data jsonb"


class TestQuery(OnServer):
    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        options = {"query": f"SELECT * FROM {self.name}", "cursor": "id", "batch": 100, "every": 0.05}
        return PostgresSource, {"url": self.server.url, **options}


class OnSink(SinkSuite):
    connected = True
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "table": {"url": "postgres://127.0.0.1/x"},
        "amount": {"table": "a", "columns": {"amount": "data."}},
        "url": {"table": "a", "url": "h"},
        "mode": {"table": "a", "mode": "x"},
    }
    columns: ClassVar[str] = EVENTS
    options: ClassVar[Mapping[str, Any]] = {}

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self, postgres_server: Server) -> None:
        postgres_server.start()
        self.server = postgres_server
        self.name = f"k{next(NAMES)}"
        client = await asyncpg.connect(self.server.url)
        await client.execute(f"CREATE TABLE {self.name} ({self.columns})")
        await client.close()

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return PostgresSink, {"url": self.server.url, "table": self.name, **self.options}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {**self.make()[1], "password": secret}

    async def received(self) -> list[Event]:
        client = await asyncpg.connect(self.server.url)
        rows = [json.loads(row[0]) for row in await client.fetch(f"SELECT row_to_json({self.name})::text FROM {self.name} ORDER BY n")]
        await client.close()
        for row in rows:
            row.pop("n")
            row["partitionkey"] = row.pop("key")
            row.update(row.pop("extensions") or {})
        return [cloudevents.from_dict({"specversion": "1.0", **row}) for row in rows]

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestSink(OnSink):
    pass


class TestUpsert(OnSink):
    columns = EVENTS.replace("id text", "id text UNIQUE")
    options: ClassVar[Mapping[str, Any]] = {"upsert": ["id"]}


# --- what PostgreSQL has of its own -------------------------------------------------------------------


class Bench:
    """A client beside the connector."""

    def __init__(self, server: Server, client: asyncpg.Connection[Any]) -> None:
        self.server = server
        self.client = client
        self.name = f"b{next(NAMES)}"
        self.inlet = SuiteInlet()

    async def table(self, columns: str) -> None:
        await self.client.execute(f"CREATE TABLE {self.name} ({columns})")

    async def insert(self, columns: str, *values: Any) -> None:
        places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
        await self.client.execute(f"INSERT INTO {self.name} ({columns}) VALUES ({places})", *values)

    def source(self, **options: Any) -> PostgresSource:
        usual = {"url": self.server.url, "every": 0.05} | ({} if "query" in options else {"table": self.name})
        return PostgresSource("in", msgspec.convert(usual | options, PostgresSource.Options))

    def sink(self, **options: Any) -> PostgresSink:
        return PostgresSink("out", msgspec.convert({"url": self.server.url, "table": self.name, **options}, PostgresSink.Options))

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[PostgresSource]:
        source = self.source(**options)
        await source.open()
        task = asyncio.create_task(source.run(self.inlet))
        try:
            yield source
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await source.close()

    async def events(self, count: int = 1) -> list[Event]:
        async with asyncio.timeout(10):
            while len(self.inlet.events) + len(self.inlet.malformed) < count:
                await asyncio.sleep(0.01)
        return [*self.inlet.events, *self.inlet.malformed]

    async def left(self) -> int:
        found = await self.client.fetchval(f"SELECT count(*) FROM {self.name}")
        assert isinstance(found, int)
        return found


@pytest_asyncio.fixture
async def bench(postgres_server: Server) -> AsyncIterator[Bench]:
    postgres_server.start()
    client = await asyncpg.connect(postgres_server.url)
    yield Bench(postgres_server, client)
    await client.close()


async def test_each_column_is_the_attribute_of_its_name(bench: Bench) -> None:
    await bench.table(EVENTS + ", traceparent text, other text")
    columns = "id, type, source, subject, time, datacontenttype, dataschema, priority, due, key, extensions, data, traceparent, other"
    time = datetime(2027, 1, 15, 8, 0, 0, 125000, UTC)
    values = ("ünï", "made", "shop", "s", time, "application/json", "https://e/s", 9, time, "k", '{"count": 3}', '{"n": 1}', "00-1", "x")
    await bench.insert(columns, *values)
    async with bench.running():
        [event] = await bench.events()
        while await bench.left():
            await asyncio.sleep(0.01)
    assert event == Event(
        id="ünï",
        type="made",
        source="shop",
        subject="s",
        time=time,
        datacontenttype="application/json",
        dataschema="https://e/s",
        priority=9,
        due=time,
        key="k",
        extensions={"count": 3, "traceparent": "00-1"},
        data={"n": 1},
    )


async def test_columns_that_are_missing_are_left_out_and_others_converted(bench: Bench) -> None:
    await bench.table("id uuid, key int, time timestamp, data bytea")
    await bench.insert("id, key, time, data", "5c4c0a0e-0000-4000-8000-000000000001", 7, datetime(2027, 1, 15, 8), b"\x00\xff")  # noqa: DTZ001
    async with bench.running(type="made.{column.key}"):
        [event] = await bench.events()
    time = datetime(2027, 1, 15, 8, tzinfo=UTC)
    id = "5c4c0a0e-0000-4000-8000-000000000001"
    assert event == Event(id=id, type="made.7", source="source/in", key="7", time=time, data=b"\x00\xff")


async def test_rows_are_deleted_when_they_are_accepted_and_locked_until_then(bench: Bench) -> None:
    await bench.table("id bigserial, type text")
    await bench.insert("type", "made")
    bench.inlet.room.clear()
    async with bench.running():
        while not bench.inlet.tries:
            await asyncio.sleep(0.01)
        assert await bench.left() == 1
        assert await bench.client.fetch(f"SELECT * FROM {bench.name} FOR UPDATE SKIP LOCKED") == []
        bench.inlet.room.set()
        await bench.events()
        while await bench.left():
            await asyncio.sleep(0.01)


async def test_a_notification_wakes_it_before_it_would_look(bench: Bench) -> None:
    await bench.table("id bigserial, type text")
    async with bench.running(every=3600), bench.running(table=bench.name, channel="other", every=3600):
        for number, channel in enumerate((bench.name, "other", bench.name), 1):
            await bench.insert("type", "made")
            await bench.client.execute(f"NOTIFY {channel}")
            assert len(await bench.events(number)) == number


async def test_two_share_a_table_and_each_row_comes_once(bench: Bench) -> None:
    await bench.table("id bigserial, type text")
    await bench.client.execute(f"INSERT INTO {bench.name} (type) SELECT 'made' FROM generate_series(1, 500)")
    async with bench.running(batch=7), bench.running(batch=7):
        await bench.events(500)
        while await bench.left():
            await asyncio.sleep(0.01)
    assert bench.inlet.tries >= 500 // 7
    assert sorted(int(event.id) for event in bench.inlet.events) == list(range(1, 501))


async def test_rows_of_partitions_that_stand_at_the_same_place_are_not_mixed_up(bench: Bench) -> None:
    await bench.client.execute(f"CREATE TABLE {bench.name} (id int, type text) PARTITION BY LIST (id)")
    for number in (1, 2):
        await bench.client.execute(f"CREATE TABLE {bench.name}_{number} PARTITION OF {bench.name} FOR VALUES IN ({number})")
        await bench.insert("id, type", number, "made")
    bench.inlet.room.clear()
    async with bench.running(batch=1):
        while not bench.inlet.tries:
            await asyncio.sleep(0.01)
        bench.inlet.room.set()
        assert [event.id for event in await bench.events(2)] == ["1", "2"]


async def test_a_row_without_a_type_is_set_aside_and_deleted(bench: Bench) -> None:
    await bench.table("id int, type text, data json")
    await bench.insert("id, data", 1, "1")
    await bench.insert("id, type, data", 2, "made", '"\\ud800"')
    async with bench.running():
        await bench.events(2)
        while await bench.left():
            await asyncio.sleep(0.01)
    assert [(event.id, event.data) for event in bench.inlet.malformed] == [
        ("1", b'{"id":1,"type":null,"data":1}'),
        (bench.inlet.malformed[1].id, b'{"id":2,"type":"made","data":"\\ud800"}'),
    ]
    assert bench.inlet.malformed[0].why == 'attribute "type": expected a string, found nothing; every CloudEvent has one'
    assert "expected JSON" in bench.inlet.malformed[1].why


async def test_a_query_goes_on_behind_the_cursor_though_many_rows_share_its_value(bench: Bench) -> None:
    await bench.table("name text, total numeric, changed timestamp")
    query = {"query": f"SELECT name, total, changed FROM {bench.name} WHERE total > 1;", "cursor": "changed", "type": "order", "batch": 2}
    for number in range(7):
        await bench.insert("name, total, changed", f"n{number}", number, datetime(2027, 1, 1, 0, 0, number // 4, 5))  # noqa: DTZ001
    async with bench.running(**query):
        assert [event.data["name"] for event in await bench.events(5)] == [f"n{number}" for number in range(2, 7)]
    assert bench.inlet.cursor == {"column": "changed", "after": "2027-01-01 00:00:01.000005"}
    await bench.insert("name, total, changed", "later", 2.5, datetime(2027, 1, 2))  # noqa: DTZ001
    async with bench.running(**query):
        event = (await bench.events(6))[-1]
    assert event.data == {"name": "later", "total": 2.5, "changed": "2027-01-02T00:00:00"}
    assert event.id.startswith("2027-01-02 00:00:00:")
    assert (event.type, event.source) == ("order", "source/in")


async def test_a_row_that_changes_is_an_event_of_its_own_each_time(bench: Bench) -> None:
    await bench.table("id int, version int, data jsonb")
    await bench.insert("id, version, data", 1, 1, '"a"')
    async with bench.running(query=f"TABLE {bench.name}", cursor="version", type="row"):
        await bench.events(1)
        await bench.client.execute(f"""UPDATE {bench.name} SET version = 2, data = '"b"'""")
        assert [(event.id, event.data) for event in await bench.events(2)] == [("1:1", "a"), ("1:2", "b")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "nowhere"}, '`table`: expected a table "nowhere", found none; make it, or correct `table`'),
        ({}, 'expected a column "type" beside "data", or the option `type`, found neither; give one of them'),
        ({"query": "SELECT 1 AS n", "cursor": "m", "type": "a"}, '`cursor`: expected a column of the query, found "m"; it has n'),
        ({"query": "SELECT nope", "cursor": "m"}, 'UndefinedColumnError: column "nope" does not exist'),
    ],
)
async def test_what_cannot_be_read_is_told(bench: Bench, options: dict[str, str], message: str) -> None:
    await bench.table("id int")
    source = bench.source(**options)
    with pytest.raises(ConnectionError) as caught:
        await source.open()
    assert str(caught.value) == message
    assert not await bench.client.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'runtime sources.in'")


async def test_a_connection_that_the_server_ends_ends_the_run(bench: Bench) -> None:
    await bench.table("id int, type text")
    source = bench.source(every=3600)
    await source.open()
    task = asyncio.create_task(source.run(bench.inlet))
    await asyncio.sleep(0.05)
    await bench.client.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'runtime sources.in'")
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(task, 10)
    await source.close()


async def write(sink: PostgresSink, *events: Event) -> dict[str, str | Exception]:
    await sink.open()
    try:
        await sink.write(list(events))
    except PartialFailure as error:
        return dict(error.failures)
    finally:
        await sink.close()
    return {}


async def test_an_event_that_is_there_stays_as_it_is(bench: Bench) -> None:
    await bench.table("id text PRIMARY KEY, data jsonb")
    first, second = (Event(type="a", source="s", id="1", data=data) for data in ("old", "new"))
    assert await write(bench.sink(), first, second) == {}
    assert await bench.client.fetch(f"SELECT * FROM {bench.name}") == [("1", '"old"')]


async def test_columns_are_filled_by_paths_and_rows_replaced_by_upsert(bench: Bench) -> None:
    await bench.table(
        "shop text, number int, total numeric(10, 2), tags text[], at timestamptz, note text DEFAULT 'none', UNIQUE (shop, number)"
    )
    paths = {"shop": "source", "number": "data.id", "total": "data.total", "tags": "data.tags", "at": "time"}
    sink = bench.sink(columns=paths, upsert=["shop", "number"])
    time = datetime(2027, 1, 15, 8, tzinfo=UTC)
    old, new = (
        Event(type="a", source="s", id=str(total), time=time, data={"id": 7, "total": total, "tags": ["a", "b"]}) for total in (1, 2.5)
    )
    assert await write(sink, old, new) == {}
    [row] = await bench.client.fetch(f"SELECT shop, number, total::text, tags, at, note FROM {bench.name}")
    assert tuple(row) == ("s", 7, "2.50", ["a", "b"], time, "none")


async def test_what_fits_no_column_is_refused_for_itself_alone(bench: Bench) -> None:
    await bench.table("id text PRIMARY KEY, key text NOT NULL, subject int, data jsonb")
    events = {
        "good": Event(type="a", source="s", id="good", key="k", data={"n": 1}),
        "null": Event(type="a", source="s", id="null"),
        "number": Event(type="a", source="s", id="number", key="k", subject="x"),
        "zero": Event(type="a", source="s", id="zero", key="k", data="\x00"),
        "bytes": Event(type="a", source="s", id="bytes", key="k", data=b"x"),
    }
    failures = await write(bench.sink(), *events.values())
    assert {id: type(error) for id, error in failures.items()} == dict.fromkeys(["null", "number", "zero", "bytes"], Reject)
    assert str(failures["bytes"]) == 'expected data that JSON can say for the column "data", found bytes; give it the type bytea'
    assert await bench.client.fetch(f"SELECT id FROM {bench.name}") == [("good",)]


async def test_a_row_whose_parent_is_missing_is_tried_again(bench: Bench) -> None:
    await bench.table(f"id text PRIMARY KEY, subject text REFERENCES {bench.name}")
    failures = await write(bench.sink(), Event(type="a", source="s", id="1", subject="0"))
    assert str(failures["1"]).startswith("ForeignKeyViolationError: ")


async def test_bytes_go_into_bytea(bench: Bench) -> None:
    await bench.table("id text, data bytea")
    assert (
        await write(bench.sink(), Event(type="a", source="s", id="1", data=b"\x00\xff"), Event(type="a", source="s", id="2", data=[1]))
        == {}
    )
    assert [row[0] for row in await bench.client.fetch(f"SELECT data FROM {bench.name} ORDER BY id")] == [b"\x00\xff", b"[1]"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"other": "id"}}, "`columns`: expected columns of NAME, found other; it has id"),
        ({"upsert": ["key"]}, "`upsert`: expected columns of NAME, found key; it has id"),
    ],
)
async def test_a_table_that_does_not_fit_is_told(bench: Bench, options: dict[str, Any], message: str) -> None:
    await bench.table("id text")
    with pytest.raises(ConnectionError) as caught:
        await bench.sink(**options).open()
    assert str(caught.value) == message.replace("NAME", bench.name)


async def test_upsert_without_a_unique_index_is_told_and_tried_again(bench: Bench) -> None:
    await bench.table("id text")
    sink = bench.sink(upsert=["id"])
    await sink.open()
    with pytest.raises(ConnectionError, match="no unique or exclusion constraint matching the ON CONFLICT"):
        await sink.write([Event(type="a", source="s", id="1")])
    await sink.close()


def test_passwords_in_the_url_are_not_shown() -> None:
    connection = Connection(logging.getLogger(), "postgres://me:sword%20fish@h/d", None, "open-sesame", None, Path())
    assert (
        connection.shown("cannot reach postgres://me:sword%20fish@h/d, sword fish, open-sesame")
        == "cannot reach postgres://***@h/d, ***, ***"
    )


async def test_tls_trusts_the_certificates_it_is_told(bench: Bench) -> None:
    await bench.table("id int, type text")
    source = bench.source(tls={"ca": str(Path(__file__).with_name("webhook.pem"))})
    await source.open()
    assert await source._client.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await source.close()
    with pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        await bench.source(tls={}).open()
