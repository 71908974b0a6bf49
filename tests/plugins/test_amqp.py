"""The source and the sink `amqp`, against a real RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import count as counting
from pathlib import Path
from typing import Any, ClassVar

import aiormq
import msgspec
import pytest
import pytest_asyncio
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic
from runtime_plugins._amqp import Connection, headers_of
from runtime_plugins._tls import Tls
from runtime_plugins.amqp import AmqpSink, AmqpSource
from servers import Server

from runtime import Event, JournalError, Malformed, PartialFailure, Reject, Sink, Source, bindings
from runtime.testing import SinkSuite, SourceSuite
from runtime.testing.inlet import SuiteInlet

NAMES = counting(1)
TIME = datetime(2027, 1, 15, 8, tzinfo=UTC)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[AbstractChannel]:
    """Give a channel of another client."""
    client = await aiormq.connect(server.url)
    try:
        yield await client.channel()
    finally:
        await client.close()


def denied_at(server: Server, secret: str) -> Mapping[str, Any]:
    return {"url": server.url, "access": {"user": "guest", "password": secret}}


class TestSource(SourceSuite):
    patience = 30.0  # of which the server needs some to start
    read_ahead = 100
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "queue": {},
        "url": {"queue": "a", "url": "http://127.0.0.1"},
        "amqps": {"queue": "a", "tls": {}},
        "an `exchange` beside": {"queue": "a", "routing_key": "b"},
        "exchange_type": {"queue": "a", "exchange": "b", "exchange_type": "x"},
        "{topic}": {"queue": "a", "type": "{topic}"},
        "prefetch": {"queue": "a", "prefetch": 0},
        "acess": {"queue": "a", "acess": {}},
    }

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self, rabbitmq_server: Server) -> None:
        rabbitmq_server.start()
        self.server = rabbitmq_server
        self.name = f"s{next(NAMES)}"
        self.count = 0
        async with connected(self.server) as channel:
            await channel.queue_declare(self.name, durable=True)

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return AmqpSource, {"url": self.server.url, "queue": self.name, "prefetch": 100}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {**denied_at(self.server, secret), "queue": self.name}

    async def send(self, bodies: Mapping[str, bytes]) -> None:
        """Publish until all is confirmed: the server may be killed meanwhile."""
        left = dict(bodies)
        while left:
            with suppress(OSError):
                async with connected(self.server) as channel:
                    said = await asyncio.gather(*(self.publish(channel, id, body) for id, body in left.items()), return_exceptions=True)
                    left = {id: body for (id, body), error in zip(left.items(), said, strict=True) if error is not None}
            if left:
                await asyncio.sleep(0.1)

    async def publish(self, channel: AbstractChannel, id: str, body: bytes) -> None:
        await channel.basic_publish(body, routing_key=self.name, properties=Basic.Properties(delivery_mode=2, message_id=id))

    async def produce(self, count: int) -> list[Any]:
        made = [{"n": self.count + n} for n in range(count)]
        self.count += count
        await self.send({f"{self.name}-{data['n']}": json.dumps(data).encode() for data in made})
        return made

    async def spoil(self) -> bytes:
        await self.send({"spoilt": b'{"n": '})
        return b'{"n": '

    async def flood(self, count: int, size: int) -> None:
        await self.send({f"flood-{n}": json.dumps({"n": n, "text": "x" * size}).encode() for n in range(count)})

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        await asyncio.to_thread(self.server.start)


class TestSink(SinkSuite):
    patience = 30.0
    connected = True
    mode: ClassVar[str] = "structured"
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "url": {"url": "http://127.0.0.1"},
        "exchange": {"exchange_type": "topic"},
        "{topic}": {"routing_key": "{topic}"},
        "mode": {"mode": "x"},
    }

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self, rabbitmq_server: Server) -> None:
        rabbitmq_server.start()
        self.server = rabbitmq_server
        self.name = f"k{next(NAMES)}"
        self.found: list[Event] = []
        async with connected(self.server) as channel:
            await channel.queue_declare(self.name, durable=True)
            await channel.exchange_declare(f"{self.name}-x", exchange_type="topic", durable=True)
            await channel.queue_bind(self.name, f"{self.name}-x", "suite.#")

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return AmqpSink, {"url": self.server.url, "exchange": f"{self.name}-x", "mode": self.mode}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return denied_at(self.server, secret)

    async def received(self) -> list[Event]:
        read = bindings.Reader(bindings.AMQP, "suite", type=None, usual="{key}", names=("key",))
        async with connected(self.server) as channel:
            while (message := await channel.basic_get(self.name, no_ack=True)).delivery_tag:
                headers = headers_of(message.header.properties)
                self.found.append(read(headers, message.body, id="", names={"key": message.routing_key or ""}))
        return self.found

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        await asyncio.to_thread(self.server.start)


class TestSinkInHeaders(TestSink):
    mode = "binary"
    lossless = False
    denied = SinkSuite.denied


# --- what RabbitMQ has of its own ---------------------------------------------------------------------


class Bench:
    """A queue with a client beside it."""

    def __init__(self, server: Server, channel: AbstractChannel) -> None:
        self.server = server
        self.channel = channel
        self.name = f"b{next(NAMES)}"
        self.inlet = SuiteInlet()

    def source(self, **options: Any) -> AmqpSource:
        return AmqpSource("in", msgspec.convert({"url": self.server.url, "queue": self.name, **options}, AmqpSource.Options))

    def sink(self, **options: Any) -> AmqpSink:
        return AmqpSink("out", msgspec.convert({"url": self.server.url, **options}, AmqpSink.Options))

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[AmqpSource]:
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

    async def send(self, body: bytes, key: str = "", exchange: str = "", **said: Any) -> None:
        properties = Basic.Properties(**said)
        await self.channel.basic_publish(body, exchange=exchange, routing_key=key or self.name, properties=properties, mandatory=True)

    async def left(self, queue: str = "") -> int:
        """Return how many messages are ready in a queue."""
        return (await self.channel.queue_declare(queue or self.name, passive=True)).message_count or 0


@pytest_asyncio.fixture
async def bench(rabbitmq_server: Server) -> AsyncIterator[Bench]:
    rabbitmq_server.start()
    async with connected(rabbitmq_server) as channel:
        yield Bench(rabbitmq_server, channel)


async def test_a_message_is_made_an_event_of_what_its_properties_say(bench: Bench) -> None:
    async with bench.running():
        await bench.send(b"1", message_id="mine", message_type="made", timestamp=TIME, priority=7, headers={"traceparent": "00-1"})
        await bench.send(b"a=1", content_type="text/plain")
        said, plain = await bench.events(2)
    assert said == Event(
        type="made",
        source="source/in",
        id="mine",
        data=1,
        subject=bench.name,
        time=TIME,
        priority=7,
        extensions={"traceparent": "00-1"},
    )
    assert (plain.type, plain.data, plain.datacontenttype, plain.priority) == (bench.name, "a=1", "text/plain", None)


async def test_a_queue_is_made_and_bound(bench: Bench) -> None:
    options = {"exchange": f"{bench.name}-x", "exchange_type": "topic", "routing_key": ["order.*", "user.new"]}
    async with bench.running(**options, type="{exchange} {routing_key} {header.kind}", arguments={"x-max-length": 10}):
        for key in ("order.a", "user.new"):
            await bench.send(b"1", key, f"{bench.name}-x", headers={"kind": 5})
        with pytest.raises(aiormq.exceptions.PublishError):
            await bench.send(b"1", "user.old", f"{bench.name}-x")
        assert [event.type for event in await bench.events(2)] == [f"{bench.name}-x {key} 5" for key in ("order.a", "user.new")]
    with pytest.raises(aiormq.exceptions.ChannelPreconditionFailed, match="x-max-length"):
        await bench.channel.queue_declare(bench.name, durable=True)


async def test_a_message_is_acknowledged_when_it_is_accepted_and_not_before(bench: Bench) -> None:
    bench.inlet.room.clear()
    async with bench.running():
        await bench.send(b"1")
        while not bench.inlet.tries:
            await asyncio.sleep(0.01)
    assert await bench.left() == 1, "it has gone back"
    bench.inlet.room.set()
    async with bench.running():
        await bench.events()
    assert await bench.left() == 0


async def test_no_more_than_prefetch_are_sent_while_there_is_no_room(bench: Bench) -> None:
    bench.inlet.room.clear()
    async with bench.running(prefetch=4) as source:
        for n in range(20):
            await bench.send(str(n).encode(), message_id=str(n))
        while not bench.inlet.tries or await bench.left() > 16:
            await asyncio.sleep(0.01)
        assert (bench.inlet.most + len(source._arrived), await bench.left()) == (4, 16)
        bench.inlet.room.set()
        assert [event.data for event in await bench.events(20)] == list(range(20))


async def test_what_is_no_event_is_acknowledged_or_rejected_to_where_dead_letters_go(bench: Bench) -> None:
    dead = f"{bench.name}-dead"
    await bench.channel.queue_declare(dead, durable=True)
    options = {"arguments": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}}
    async with bench.running(**options):
        await bench.send(b"{", message_id="1")
        await bench.events(1)
    assert (await bench.left(), await bench.left(dead)) == (0, 0)
    async with bench.running(**options, reject=True):
        for body in (b"1", b"{", b"2", b"}"):
            await bench.send(body)
        found = await bench.events(5)
    assert [event.data for event in found] == [1, 2, b"{", b"{", b"}"]
    assert isinstance(found[2], Malformed)
    assert (await bench.left(), await bench.left(dead)) == (0, 2)
    bench.inlet = SuiteInlet()
    async with bench.running(queue=dead, content="bytes"):
        letter = (await bench.events(2))[0]
    assert (letter.data, letter.extensions) == (b"{", {"deathqueue": bench.name, "deathreason": "rejected"})


async def test_what_the_journal_could_not_take_goes_back(bench: Bench) -> None:
    bench.inlet.failures = 1
    source = bench.source()
    await source.open()
    await bench.send(b"1")
    with pytest.raises(JournalError):
        await source.run(bench.inlet)
    await source.close()
    assert await bench.left() == 1


async def test_a_queue_that_is_deleted_ends_the_run_and_is_made_again(bench: Bench) -> None:
    source = bench.source()
    await source.open()
    task = asyncio.create_task(source.run(bench.inlet))
    await bench.channel.queue_delete(bench.name)
    with pytest.raises(ConnectionError, match=f'sends nothing more of the queue "{bench.name}": it was deleted'):
        await asyncio.wait_for(task, 10)
    await source.close()
    async with bench.running():
        await bench.send(b"1")
        await bench.events()


async def test_an_exchange_that_is_not_as_it_should_be_is_told(bench: Bench) -> None:
    missing = 'expected an exchange "nope", found none; make it, correct `exchange`, or give an `exchange_type` to have it made'
    with pytest.raises(ConnectionError) as caught:
        await bench.source(exchange="nope").open()
    assert str(caught.value) == missing
    with pytest.raises(ConnectionError) as caught:
        await bench.sink(exchange="nope").open()
    assert str(caught.value) == missing
    with pytest.raises(ConnectionError, match="inequivalent arg 'type'"):
        await bench.sink(exchange="amq.topic", exchange_type="fanout").open()


async def test_the_next_server_is_tried_when_the_first_does_not_answer(bench: Bench) -> None:
    async with bench.running(url=["amqp://127.0.0.1:1", bench.server.url]):
        await bench.send(b"1")
        await bench.events()


async def test_an_event_goes_to_an_exchange_and_comes_back_as_it_was(bench: Bench) -> None:
    event = Event(type="made", source="s", id="ünï", subject="x", time=TIME, data={"n": 1}, key="k", priority=9)
    async with bench.running(exchange=f"{bench.name}-x", exchange_type="direct", routing_key="k", prefetch=1):
        sink = bench.sink(exchange=f"{bench.name}-x", exchange_type="direct", routing_key="{key}")
        await sink.open()
        await sink.write([event])
        assert msgspec.structs.replace((await bench.events())[0], datacontenttype=None) == event
    await sink.write([event])
    message = await bench.channel.basic_get(bench.name, no_ack=True)
    await sink.close()
    said = message.header.properties
    assert (said.message_id, said.delivery_mode, said.priority, said.timestamp) == ("s/ünï", 2, 9, TIME)
    assert said.headers is not None
    assert said.headers["cloudEvents:id"] == "ünï"


async def test_what_no_queue_takes_is_refused_for_itself_alone(bench: Bench) -> None:
    await bench.channel.queue_declare(bench.name)
    sink = bench.sink(routing_key="{key}")
    await sink.open()
    good = Event(type="a", source="s", id="good", key=bench.name)
    lost, none = Event(type="a", source="s", id="lost", key="nobody"), Event(type="a", source="s", id="none")
    long = Event(type="a", source="s", id="long", key="k" * 256)
    wide = Event(type="a", source="s", id="wide", key=bench.name, subject="x" * 200_000)
    with pytest.raises(PartialFailure) as caught:
        await sink.write([lost, none, long, wide, good])
    assert caught.value.failures.pop("lost") == (
        "no queue takes it; bind one, correct `exchange` or `routing_key`, or set `mandatory = false`"
    )
    assert {id: type(error) for id, error in caught.value.failures.items()} == dict.fromkeys(("none", "long", "wide"), Reject)
    await sink.close()
    assert await bench.left() == 1
    careless = bench.sink(routing_key="nobody", mandatory=False)
    await careless.open()
    await careless.write([good])
    await careless.close()


async def test_a_queue_that_is_full_is_told_and_tried_again(bench: Bench) -> None:
    await bench.channel.queue_declare(bench.name, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    sink = bench.sink(routing_key=bench.name)
    await sink.open()
    await sink.write([Event(type="a", source="s", id="1")])
    with pytest.raises(PartialFailure) as caught:
        await sink.write([Event(type="a", source="s", id="2")])
    await sink.close()
    assert caught.value.failures == {"2": "the server has not taken it: a queue is full, or could not be written"}


async def test_an_exchange_that_is_deleted_is_a_lost_connection(bench: Bench) -> None:
    sink = bench.sink(exchange=f"{bench.name}-x", exchange_type="fanout", mandatory=False)
    await sink.open()
    await bench.channel.exchange_delete(f"{bench.name}-x")
    with pytest.raises(ConnectionError, match=r"the connection is lost: .*no exchange"):
        await sink.write([Event(type="a", source="s", id="1"), Event(type="a", source="s", id="2")])
    await sink.close()
    await sink.open()
    await sink.write([Event(type="a", source="s", id="1")])
    await sink.close()


async def test_without_tls_at_the_server_a_connection_by_it_is_refused(bench: Bench) -> None:
    source = bench.source(url=bench.server.url.replace("amqp://", "amqps://"))
    with pytest.raises(ConnectionError, match=r"SSL|wrong version"):
        await source.open()


def test_passwords_are_not_shown() -> None:
    connection = Connection(logging.getLogger(), "amqp://me:sword%20fish@h", None, Tls(), Path())
    assert connection.shown("at me:sword%20fish@h, sword fish") == "at me:***@h, ***"
