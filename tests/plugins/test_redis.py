"""The source and the sink `redis`, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count as counting
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import pytest_asyncio
from runtime_plugins._redis import Connection
from runtime_plugins._redis import Server as At
from runtime_plugins.redis import RedisSink, RedisSource
from servers import PASSWORD, Server

from runtime import Event, JournalError, PartialFailure, Reject, Sink, Source, bindings
from runtime.testing import SinkSuite, SourceSuite
from runtime.testing.inlet import SuiteInlet

NAMES = counting(1)


@asynccontextmanager
async def client(server: Server) -> AsyncIterator[Connection]:
    connection = Connection("test", At(url=server.url), Path())
    await connection.open()
    yield connection
    await connection.close()


class OnServer(SourceSuite):
    """What the suites need of a server."""

    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "stream": {"url": "redis://127.0.0.1"},
        "and `list`": {"stream": "a", "list": "b"},
        "group": {"list": "a", "group": "b"},
        "url": {"url": "http://127.0.0.1", "stream": "a"},
        "rediss": {"stream": "a", "tls": {}},
        "{topic}": {"stream": "a", "type": "{topic}"},
        "batch": {"stream": "a", "batch": 0},
        "chanel": {"stream": "a", "chanel": "a"},
    }
    read_ahead = 100
    kind: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _place(self, redis_server: Server, guarded_redis_server: Server) -> None:
        redis_server.start()
        self.server, self.guarded = redis_server, guarded_redis_server
        self.name = f"s{next(NAMES)}"
        self.count = 0

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return RedisSource, self.options(self.server)

    def options(self, server: Server) -> dict[str, Any]:
        return {"url": server.url, self.kind: self.name, "batch": 100, "type": "made"}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return self.options(self.guarded) | {"password": secret}

    def command(self, body: bytes) -> tuple[str | bytes, ...]:
        raise NotImplementedError

    async def send(self, bodies: list[bytes]) -> None:
        async with client(self.server) as connection:
            for start in range(0, len(bodies), 100):
                answers = await connection.ask_all([self.command(body) for body in bodies[start : start + 100]])
                assert not any(isinstance(answer, Exception) for answer in answers)

    async def produce(self, count: int) -> list[Any]:
        made = [{"n": self.count + n} for n in range(count)]
        self.count += count
        await self.send([json.dumps(data).encode() for data in made])
        return made

    async def spoil(self) -> bytes:
        await self.send([b'{"n": '])
        return b'{"n": '

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestStream(OnServer):
    kind = "stream"

    def command(self, body: bytes) -> tuple[str | bytes, ...]:
        return ("XADD", self.name, "*", "data", body)

    async def flood(self, count: int, size: int) -> None:
        await self.send([json.dumps({"n": number, "text": "x" * size}).encode() for number in range(count)])


class TestList(TestStream):
    kind = "list"

    def command(self, body: bytes) -> tuple[str | bytes, ...]:
        return ("RPUSH", self.name, body)


class TestChannel(OnServer):
    kind = "channel"
    remembers = False
    replays = False
    holds = False

    def command(self, body: bytes) -> tuple[str | bytes, ...]:
        return ("PUBLISH", self.name, body)


class OnSink(SinkSuite):
    connected = True
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "found none": {},
        "{topic}": {"stream": "{topic}"},
        "structured": {"list": "a", "mode": "binary"},
        "max_entries": {"set": "a", "max_entries": 5},
    }
    kind: ClassVar[str]

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self, redis_server: Server, guarded_redis_server: Server) -> AsyncIterator[None]:
        redis_server.start()
        self.server, self.guarded = redis_server, guarded_redis_server
        self.name = f"k{next(NAMES)}"
        yield

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return RedisSink, {"url": self.server.url, self.kind: self.name}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {"url": self.guarded.url, self.kind: self.name, "password": secret}

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()

    async def bodies(self, connection: Connection) -> list[bytes]:
        raise NotImplementedError

    async def received(self) -> list[Event]:
        read = bindings.Reader(bindings.KAFKA, "suite", type=None, usual="x", names=())
        async with client(self.server) as connection:
            return [read({}, body, id="", names={}) for body in await self.bodies(connection)]


class TestSinkList(OnSink):
    kind = "list"

    async def bodies(self, connection: Connection) -> list[bytes]:
        return list(await connection.ask("LRANGE", self.name, 0, -1))


class TestSinkSet(OnSink):
    kind = "set"
    ordered = False

    async def bodies(self, connection: Connection) -> list[bytes]:
        return list(await connection.ask("SMEMBERS", self.name))


class TestSinkStream(OnSink):
    kind = "stream"

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        kind, options = super().make()
        return kind, {**options, "mode": "structured"}

    async def bodies(self, connection: Connection) -> list[bytes]:
        return [fields[-1] for _, fields in await connection.ask("XRANGE", self.name, "-", "+")]


class TestSinkInFields(OnSink):
    kind = "stream"
    lossless = False

    async def received(self) -> list[Event]:
        read = bindings.Reader(bindings.KAFKA, "suite", type=None, usual="x", names=())
        found = []
        async with client(self.server) as connection:
            for _, fields in await connection.ask("XRANGE", self.name, "-", "+"):
                headers = {name.decode(): value.decode() for name, value in zip(fields[:-2:2], fields[1:-2:2], strict=True)}
                found.append(read(headers, fields[-1], id="", names={}))
        return found


class TestSinkChannel(OnSink):
    """What is published reaches those who listen then."""

    kind = "channel"
    fail = SinkSuite.fail

    @pytest_asyncio.fixture(autouse=True)
    async def _listener(self, _place: None) -> AsyncIterator[None]:
        self.found: list[bytes] = []
        async with client(self.server) as connection:
            await connection.ask("SUBSCRIBE", self.name)
            self.listener = connection
            yield

    async def bodies(self, connection: Connection) -> list[bytes]:
        while (said := await self.listener.wait(0.1)) is not None:
            self.found.append(said[2])
        return self.found


# --- what streams, lists and channels have of their own -----------------------------------------------


class Bench:
    """A place in the server with a client beside it."""

    def __init__(self, server: Server, connection: Connection) -> None:
        self.server = server
        self.ask = connection.ask
        self.name = f"b{next(NAMES)}"
        self.inlet = SuiteInlet()

    def source(self, **options: Any) -> RedisSource:
        return RedisSource("in", msgspec.convert({"url": self.server.url, **options}, RedisSource.Options))

    def sink(self, **options: Any) -> RedisSink:
        return RedisSink("out", msgspec.convert({"url": self.server.url, **options}, RedisSink.Options))

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
        source = self.source(**options)
        await source.open()
        task = asyncio.create_task(source.run(self.inlet))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await source.close()

    async def events(self, count: int = 1) -> list[Event]:
        async with asyncio.timeout(10):
            while len(self.inlet.events) + len(self.inlet.malformed) < count:
                await asyncio.sleep(0.01)
        return [*self.inlet.events, *self.inlet.malformed]

    async def until(self, expected: Any, *command: str | int) -> None:
        async with asyncio.timeout(10):
            while await self.ask(*command) != expected:
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def bench(redis_server: Server) -> AsyncIterator[Bench]:
    redis_server.start()
    async with client(redis_server) as connection:
        yield Bench(redis_server, connection)


async def test_an_id_is_made_of_the_entry_and_a_new_group_starts_at_the_oldest(bench: Bench) -> None:
    first = (await bench.ask("XADD", bench.name, "*", "data", "1", "traceparent", "00-1")).decode()
    await bench.ask("XADD", bench.name, "*", "Item", "tea", "quantity", "2", "odd", b"\xff")
    await bench.ask("XADD", bench.name, "*", "data", "x", "content-type", "text/plain")
    async with bench.running(stream=bench.name, type="{stream}.{header.item}", group="g"):
        plain, text, fields = sorted(await bench.events(3), key=lambda event: str(event.data))
    assert plain.type == "malformed", "there is no field `item`"
    assert fields.type == f"{bench.name}.tea"
    assert fields.data == {"Item": "tea", "quantity": "2", "odd": "\\xff"}
    assert text.data == b"x"
    bench.inlet = SuiteInlet()
    async with bench.running(stream=bench.name, group="other"):
        one, two, three = await bench.events(3)
    assert (one.id, one.type, one.data, one.extensions) == (f"{bench.name}:{first}", bench.name, 1, {"traceparent": "00-1"})
    assert one.time is not None
    assert int(one.time.timestamp() * 1000) == int(first.partition("-")[0])
    assert (two.datacontenttype, three.data) == ("application/json", "x")


async def test_a_group_may_start_at_what_comes_then(bench: Bench) -> None:
    await bench.ask("XADD", bench.name, "*", "data", "1")
    async with bench.running(stream=bench.name, start="new"):
        await bench.ask("XADD", bench.name, "*", "data", "2")
        assert [event.data for event in await bench.events()] == [2]


async def test_an_entry_is_acknowledged_when_the_journal_has_it(bench: Bench) -> None:
    bench.inlet.room.clear()
    await bench.ask("XADD", bench.name, "*", "data", "1")
    await bench.ask("XADD", bench.name, "*", "data", "{")
    async with bench.running(stream=bench.name, consumer="me"):
        await bench.until(2, "XLEN", bench.name)
        await bench.until([2], "EVAL", "return {redis.call('XPENDING', KEYS[1], 'in')[1]}", 1, bench.name)
        bench.inlet.room.set()
        await bench.events(2)
        await bench.until([0], "EVAL", "return {redis.call('XPENDING', KEYS[1], 'in')[1]}", 1, bench.name)
    assert len(bench.inlet.malformed) == 1


async def test_leftovers_of_others_are_taken_over_and_those_that_were_deleted_let_go(bench: Bench) -> None:
    await bench.ask("XGROUP", "CREATE", bench.name, "in", "0", "MKSTREAM")
    for number in range(250):
        await bench.ask("XADD", bench.name, "*", "data", number)
    entries = (await bench.ask("XREADGROUP", "GROUP", "in", "dead", "COUNT", 250, "STREAMS", bench.name, ">"))[0][1]
    await bench.ask("XDEL", bench.name, entries[7][0])
    await asyncio.sleep(0.15)
    async with bench.running(stream=bench.name, consumer="me", batch=100, claim_after=0.1):
        assert [event.data for event in await bench.events(249)] == [number for number in range(250) if number != 7]
        await bench.until([0], "EVAL", "return {redis.call('XPENDING', KEYS[1], 'in')[1]}", 1, bench.name)


async def test_what_waits_for_room_comes_to_nobody_else(bench: Bench) -> None:
    bench.inlet.room.clear()
    await bench.ask("XADD", bench.name, "*", "data", "1")
    async with bench.running(stream=bench.name, consumer="me", claim_after=0.4):
        while not bench.inlet.tries:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.8)
        [[_, owner, idle, deliveries]] = await bench.ask("XPENDING", bench.name, "in", "-", "+", 10)
        assert (owner, deliveries) == (b"me", 1)
        assert idle < 400
        bench.inlet.room.set()
        await bench.events()


async def test_what_was_given_and_deleted_meanwhile_is_let_go(bench: Bench) -> None:
    bench.inlet.failures = 1
    entry = await bench.ask("XADD", bench.name, "*", "data", "1")
    async with bench.running(stream=bench.name) as task:
        await asyncio.wait({task}, timeout=10)
        with pytest.raises(JournalError):
            task.result()
    await bench.ask("XDEL", bench.name, entry)
    await bench.ask("XADD", bench.name, "*", "data", "2")
    async with bench.running(stream=bench.name):
        assert [event.data for event in await bench.events()] == [2]


async def test_a_group_that_is_destroyed_ends_the_run_and_is_made_again(bench: Bench) -> None:
    async with bench.running(stream=bench.name) as task:
        await bench.until([[b"name", b"in"]], "EVAL", "return {{'name', redis.call('XINFO', 'GROUPS', KEYS[1])[1][2]}}", 1, bench.name)
        await bench.until(1, "EVAL", "return redis.call('XINFO', 'GROUPS', KEYS[1])[1][4]", 1, bench.name)
        await bench.ask("XGROUP", "DESTROY", bench.name, "in")
        with pytest.raises(ConnectionError, match="the server refuses: NOGROUP"):
            await asyncio.wait_for(task, 10)
    await bench.ask("XADD", bench.name, "*", "data", "1")
    async with bench.running(stream=bench.name):
        assert [event.data for event in await bench.events()] == [1]


@pytest.mark.parametrize("kind", ["stream", "list"])
async def test_what_is_of_another_kind_is_told(bench: Bench, kind: str) -> None:
    await bench.ask("SET", bench.name, "1")
    source = bench.source(**{kind: bench.name})
    with pytest.raises(ConnectionError, match="Operation against a key holding the wrong kind of value"):
        await source.open()


async def test_two_consumers_share_a_stream(bench: Bench) -> None:
    options = {"stream": bench.name, "group": "g", "batch": 5}
    async with bench.running(**options, consumer="a"), bench.running(**options, consumer="b"):
        for number in range(50):
            await bench.ask("XADD", bench.name, "*", "data", number)
        assert sorted(event.data for event in await bench.events(50)) == list(range(50))


async def test_elements_are_taken_from_the_side_that_is_said_and_removed_when_they_are_accepted(bench: Bench) -> None:
    for number in range(3):
        await bench.ask("LPUSH", bench.name, number)
    bench.inlet.room.clear()
    async with bench.running(list=bench.name, consumer="me", side="right"):
        await bench.until([b"0", b"1", b"2"], "LRANGE", f"{bench.name}:taken:me", 0, -1)
        bench.inlet.room.set()
        assert [event.data for event in await bench.events(3)] == [0, 1, 2]
        await bench.until(0, "LLEN", f"{bench.name}:taken:me")
    assert [event.type for event in bench.inlet.events] == [bench.name] * 3


async def test_equal_elements_are_different_events_and_the_same_when_they_come_again(bench: Bench) -> None:
    bench.inlet.hangs = True
    await bench.ask("RPUSH", bench.name, "1", "1")
    async with bench.running(list=bench.name):
        before = list(await bench.events(2))
    bench.inlet.hangs = False
    await bench.ask("RPUSH", bench.name, "1")
    async with bench.running(list=bench.name):
        after = await bench.events(3)
    assert after[:2] == before
    assert len({event.id for event in after}) == 3


async def test_a_pattern_names_many_channels(bench: Bench) -> None:
    async with bench.running(channel=f"{bench.name}.*", type="{channel}"):
        await bench.until(1, "PUBSUB", "NUMPAT")
        for number in range(3):
            await bench.ask("PUBLISH", f"{bench.name}.{number}", number)
        found = await bench.events(3)
    assert [(event.type, event.subject, event.data) for event in found] == [(f"{bench.name}.{n}", f"{bench.name}.{n}", n) for n in range(3)]


async def test_a_server_that_is_silent_is_asked_for_a_sign_of_life(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime_plugins._redis_readers.BLOCK", 0.2)
    async with bench.running(channel=bench.name) as task:
        await asyncio.sleep(1)
        assert not task.done()
        await bench.ask("CLIENT", "PAUSE", 3000)
        with pytest.raises(ConnectionError, match=r"the server has given no sign of life for 0\.4 s"):
            await asyncio.wait_for(task, 10)
    await bench.ask("PING")


async def test_an_event_goes_through_a_stream_and_comes_back_as_it_was(bench: Bench) -> None:
    event = Event(type="made", source="s", id="ünï", subject="x", data={"n": 1}, key="k", priority=9, datacontenttype="application/json")
    sink = bench.sink(stream=f"{bench.name}.{{key}}")
    await sink.open()
    await sink.write([event])
    await sink.close()
    async with bench.running(stream=f"{bench.name}.k"):
        assert await bench.events() == [event]
    [[_, fields]] = await bench.ask("XRANGE", f"{bench.name}.k", "-", "+")
    assert [fields[0], *fields[-2:]] == [b"content-type", b"data", b'{"n":1}']


async def test_a_stream_is_cut_at_so_many_entries(bench: Bench) -> None:
    sink = bench.sink(stream=bench.name, max_entries=100)
    await sink.open()
    await sink.write([Event(type="a", source="s", id=str(number)) for number in range(1000)])
    await sink.close()
    assert 100 <= await bench.ask("XLEN", bench.name) < 1000


async def test_what_the_server_does_not_take_is_refused_for_itself_alone(bench: Bench) -> None:
    await bench.ask("SET", f"{bench.name}.text", "1")
    sink = bench.sink(list=f"{bench.name}.{{key}}", side="left")
    await sink.open()
    with pytest.raises(PartialFailure) as caught:
        await sink.write([Event(type="a", source="s", id=id, key=key) for id, key in {"none": None, "wrong": "text", "good": "k"}.items()])
    await sink.close()
    assert isinstance(caught.value.failures["none"], Reject)
    assert caught.value.failures["wrong"] == ("the server refuses: WRONGTYPE Operation against a key holding the wrong kind of value")
    assert caught.value.failures.keys() == {"none", "wrong"}
    assert await bench.ask("LLEN", f"{bench.name}.k") == 1


async def test_a_server_that_has_become_a_replica_is_connected_to_anew(bench: Bench) -> None:
    sink = bench.sink(list=bench.name)
    await sink.open()
    await bench.ask("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(ConnectionError, match="ReadOnlyError"):
        await sink.write([Event(type="a", source="s", id="1")])
    await bench.ask("REPLICAOF", "NO", "ONE")
    await sink.write([Event(type="a", source="s", id="1")])
    await sink.close()


async def test_a_password_opens_a_guarded_server_by_option_or_url(guarded_redis_server: Server) -> None:
    for at in (At(url=guarded_redis_server.url, password=PASSWORD), At(url=guarded_redis_server.url.replace("//", f"//:{PASSWORD}@"))):
        connection = Connection("a name", at, Path())
        await connection.open()
        assert await connection.ask("CLIENT", "GETNAME") == b"runtime-a-name"
        assert connection.shown(f"wrong {PASSWORD}") == "wrong ***"
        await connection.close()
