"""The source and the sink `nats`, against a real server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count as counting
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from runtime_plugins._nats import Connection
from runtime_plugins.nats import NatsSink, NatsSource
from servers import USER, Server

from runtime import Event, JournalError, PartialFailure, Reject, Sink, Source, bindings
from runtime.testing import SinkSuite, SourceSuite
from runtime.testing.inlet import SuiteInlet

NAMES = counting(1)


class OnServer(SourceSuite):
    """What the suites need of a server."""

    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "subject": {"url": "nats://127.0.0.1"},
        "durable": {"stream": "ORDERS", "durable": "a b"},
        "queue": {"stream": "ORDERS", "queue": "a"},
        "{topic}": {"subject": "a", "type": "{topic}"},
        "batch": {"subject": "a", "batch": 0},
        "acess": {"subject": "a", "acess": {}},
    }
    read_ahead = 100
    is_kept = False

    @pytest.fixture(autouse=True)
    def _place(self, nats_server: Server, guarded_nats_server: Server) -> None:
        nats_server.start()
        self.server, self.guarded = nats_server, guarded_nats_server
        self.name = f"s{next(NAMES)}"
        self.count = 0

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return NatsSource, self.options(self.server)

    def options(self, server: Server) -> dict[str, Any]:
        return {"url": server.url, "subject": f"{self.name}.>", "batch": 100, "type": "made"}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return self.options(self.guarded) | {"access": {"user": USER, "password": secret}}

    async def send(self, bodies: list[bytes]) -> None:
        client = await nats.connect(self.server.url)
        for body in bodies:
            if self.is_kept:
                await client.jetstream().publish_async(f"{self.name}.made", body)
            else:
                await client.publish(f"{self.name}.made", body)
        if self.is_kept:
            await client.jetstream().publish_async_completed()
        await client.flush()
        await client.close()

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


class TestJetStream(OnServer):
    is_kept = True
    reorders = True  # the server puts what is handed back behind others, when it asks itself in between

    @pytest_asyncio.fixture(autouse=True)
    async def _stream(self, _place: None) -> None:
        client = await nats.connect(self.server.url)
        await client.jetstream().add_stream(StreamConfig(name=self.name, subjects=[f"{self.name}.>"]))
        await client.close()

    def options(self, server: Server) -> dict[str, Any]:
        return super().options(server) | {"stream": self.name, "ack_wait": 1.0, "redelivery": 0}

    async def flood(self, count: int, size: int) -> None:
        await self.send([json.dumps({"n": number, "text": "x" * size}).encode() for number in range(count)])


class OnSink(SinkSuite):
    connected = True
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "subject": {"subject": ""},
        "{topic}": {"subject": "{topic}"},
        "mode": {"mode": "x"},
    }
    mode: ClassVar[str] = "structured"

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self, nats_server: Server, guarded_nats_server: Server) -> None:
        nats_server.start()
        self.server, self.guarded = nats_server, guarded_nats_server
        self.name = f"k{next(NAMES)}"
        client = await nats.connect(self.server.url)
        await client.jetstream().add_stream(StreamConfig(name=self.name, subjects=[f"{self.name}.>"]))
        await client.close()

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return NatsSink, {"url": self.server.url, "subject": f"{self.name}.{{type}}", "mode": self.mode}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {"url": self.guarded.url, "access": {"user": USER, "password": secret}}

    async def received(self) -> list[Event]:
        read = bindings.Reader(bindings.NATS, "suite", type=None, usual="{subject}", names=("subject",))
        client = await nats.connect(self.server.url)
        context = client.jetstream()
        found: list[Event] = []
        count = (await context.stream_info(self.name)).state.messages
        pulled = await context.pull_subscribe(f"{self.name}.>", stream=self.name) if count else None
        while pulled is not None and len(found) < count:
            for message in await pulled.fetch(count - len(found), timeout=5):
                headers = {name.lower(): value for name, value in (message.headers or {}).items()}
                found.append(read(headers, message.data, id="", names={"subject": message.subject}))
        await client.close()
        return found

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestSink(OnSink):
    """Without JetStream a server that is killed takes with it what it has taken; see below for what is left."""

    fail = SinkSuite.fail


class TestSinkJetStream(OnSink):
    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        kind, options = super().make()
        return kind, {**options, "stream": self.name}


class TestSinkInHeaders(TestSinkJetStream):
    mode = "binary"
    lossless = False


class TestCore(OnServer):
    remembers = False
    replays = False
    holds = False


# --- what JetStream and NATS have of their own --------------------------------------------------------


class Bench:
    """A stream with a client beside it."""

    def __init__(self, server: Server, client: Client) -> None:
        self.server = server
        self.client = client
        self.context = client.jetstream()
        self.name = f"b{next(NAMES)}"
        self.inlet = SuiteInlet()

    def source(self, **options: Any) -> NatsSource:
        return NatsSource("in", msgspec.convert({"url": self.server.url, "stream": self.name, **options}, NatsSource.Options))

    def sink(self, **options: Any) -> NatsSink:
        return NatsSink("out", msgspec.convert({"url": self.server.url, **options}, NatsSink.Options))

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[NatsSource]:
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


@pytest_asyncio.fixture
async def bench(nats_server: Server) -> AsyncIterator[Bench]:
    nats_server.start()
    client = await nats.connect(nats_server.url)
    made = Bench(nats_server, client)
    await made.context.add_stream(StreamConfig(name=made.name, subjects=[f"{made.name}.>"], duplicate_window=60))
    yield made
    await client.close()


async def test_an_id_is_that_of_the_sender_or_made_of_the_place_in_the_stream(bench: Bench) -> None:
    await bench.context.publish(f"{bench.name}.a", b"1", headers={"Nats-Msg-Id": "mine", "traceparent": "00-1"})
    await bench.context.publish(f"{bench.name}.b", b"2")
    async with bench.running():
        sent, made = await bench.events(2)
    assert (sent.id, sent.type, sent.subject, sent.extensions) == ("mine", f"{bench.name}.a", f"{bench.name}.a", {"traceparent": "00-1"})
    message = await bench.context.get_msg(bench.name, 2)
    assert made.id.startswith(f"{bench.name}:2:")
    assert message.time is not None
    assert made.time is not None
    assert abs(made.time.timestamp() - message.time.timestamp()) < 0.001


async def test_a_message_is_acknowledged_and_one_that_is_no_event_ended(bench: Bench) -> None:
    ended = await bench.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>")
    await bench.context.publish(f"{bench.name}.a", b"1")
    await bench.context.publish(f"{bench.name}.a", b"{")
    async with bench.running():
        await bench.events(2)
        assert json.loads((await ended.next_msg(5)).data)["stream_seq"] == 2
    info = await bench.context.consumer_info(bench.name, "in")
    assert (info.num_pending, info.num_ack_pending) == (0, 0)


async def test_what_waits_for_room_is_in_progress_and_comes_to_nobody_else(bench: Bench) -> None:
    bench.inlet.room.clear()
    await bench.context.publish(f"{bench.name}.a", b"1")
    async with bench.running(ack_wait=0.2):
        while not bench.inlet.tries:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.7)
        info = await bench.context.consumer_info(bench.name, "in")
        assert (info.num_ack_pending, info.num_redelivered) == (1, 0)
        bench.inlet.room.set()
        await bench.events()


async def test_what_the_journal_could_not_take_comes_again_after_a_pause(bench: Bench) -> None:
    bench.inlet.failures = 1
    await bench.context.publish(f"{bench.name}.a", b"1")
    source = bench.source(redelivery=60)
    await source.open()
    with pytest.raises(JournalError):
        await source.run(bench.inlet)
    await source.close()
    async with bench.running():
        await bench.context.publish(f"{bench.name}.a", b"2")
        assert [event.data for event in await bench.events()] == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "nowhere"}, 'expected a stream "nowhere", found none; make it, or correct `stream`'),
        ({"durable": "pushed"}, 'durable "pushed": expected one that is pulled and acknowledged, found another; name another one'),
        ({"durable": "other", "subject": "NAME.a"}, 'durable "other": expected one of the subject NAME.a, found NAME.b; name another one'),
    ],
)
async def test_a_stream_or_consumer_that_is_not_as_it_should_be_is_told(bench: Bench, options: dict[str, str], message: str) -> None:
    await bench.context.add_consumer(bench.name, ConsumerConfig(durable_name="pushed", deliver_subject="x"))
    await bench.context.add_consumer(
        bench.name, ConsumerConfig(durable_name="other", ack_policy=AckPolicy.EXPLICIT, filter_subject=f"{bench.name}.b")
    )
    source = bench.source(**{name: value.replace("NAME", bench.name) for name, value in options.items()})
    with pytest.raises(ConnectionError) as caught:
        await source.open()
    assert str(caught.value) == message.replace("NAME", bench.name)


async def test_a_consumer_that_is_deleted_ends_the_run_and_is_made_again(bench: Bench) -> None:
    source = bench.source()
    await source.open()
    task = asyncio.create_task(source.run(bench.inlet))
    while not source._asked:
        await asyncio.sleep(0.01)
    await bench.context.delete_consumer(bench.name, "in")
    with pytest.raises(ConnectionError, match="the server says 409 Consumer Deleted"):
        await asyncio.wait_for(task, 10)
    await source.close()
    await bench.context.publish(f"{bench.name}.a", b"1")
    async with bench.running():
        assert [event.data for event in await bench.events()] == [1]


async def test_a_queue_group_shares_messages(bench: Bench) -> None:
    options = {"stream": None, "subject": f"core.{bench.name}", "queue": "workers"}
    async with bench.running(**options), bench.running(**options):
        for number in range(50):
            await bench.client.publish(f"core.{bench.name}", str(number).encode())
        assert sorted(event.data for event in await bench.events(50)) == list(range(50))


async def test_without_jetstream_memory_is_bounded_and_what_is_dropped_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.inlet.room.clear()
    async with bench.running(stream=None, subject="flood", batch=10) as source:
        for _ in range(100):
            await bench.client.publish("flood", b'"' + b"x" * 500_000 + b'"')
        await bench.client.flush()
        async with asyncio.timeout(10):
            while "messages" not in caplog.text:
                await asyncio.sleep(0.01)
        assert len(source._arrived) <= 10
    assert "the runtime is full: the client has dropped" in caplog.text


async def test_an_event_goes_through_a_stream_and_comes_back_as_it_was(bench: Bench) -> None:
    event = Event(type="made", source="s", id="ünï", subject="x", data={"n": 1}, key="k", priority=9, datacontenttype="application/json")
    sink = bench.sink(subject=f"{bench.name}.{{key}}", stream=bench.name)
    await sink.open()
    await sink.write([event])
    await sink.write([event])
    await sink.close()
    async with bench.running():
        assert await bench.events() == [event]
    message = await bench.context.get_msg(bench.name, 1)
    assert message.subject == f"{bench.name}.k"
    assert message.headers is not None
    assert message.headers["Nats-Msg-Id"] == "s/%C3%BCn%C3%AF"
    assert (await bench.context.stream_info(bench.name)).state.messages == 1, "the second is known by its id"


async def test_without_jetstream_a_sink_notices_that_the_server_has_gone_and_goes_on_with_it(bench: Bench) -> None:
    event = Event(type="plain", source="s", id="1")
    sink = bench.sink(subject=f"plain.{bench.name}")
    await sink.open()
    await sink.write([event])
    bench.server.kill()
    with pytest.raises(ConnectionError, match="the connection is lost"):
        await asyncio.wait_for(sink.write([event]), 10)
    await sink.close()
    with pytest.raises(ConnectionError, match="Connect call failed"):
        await sink.open()
    bench.server.start()
    other = await nats.connect(bench.server.url)
    subscription = await other.subscribe(f"plain.{bench.name}")
    await other.flush()
    await sink.open()
    await sink.write([event])
    assert (await subscription.next_msg(5)).headers == {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "s",
        "ce-type": "plain",
    }
    await sink.close()
    await other.close()


async def test_what_no_server_takes_is_refused_for_itself_alone(bench: Bench) -> None:
    sink = bench.sink(subject=f"{bench.name}.{{key}}", stream=bench.name)
    await sink.open()
    good = Event(type="a", source="s", id="good", key="k")
    bad = {"none": None, "space": "a b", "wild": "*"}
    with pytest.raises(PartialFailure) as caught:
        await sink.write(
            [
                good,
                *(Event(type="a", source="s", id=id, key=key) for id, key in bad.items()),
                Event(type="a", source="s", id="large", key="k", data="x" * 2_000_000),
            ]
        )
    await sink.close()
    assert {id: type(error) for id, error in caught.value.failures.items()} == dict.fromkeys([*bad, "large"], Reject)
    assert (await bench.context.stream_info(bench.name)).state.messages == 1


async def test_a_subject_that_no_stream_takes_is_told_and_tried_again(bench: Bench) -> None:
    sink = bench.sink(subject="nobody", stream=bench.name)
    await sink.open()
    with pytest.raises(PartialFailure) as caught:
        await sink.write([Event(type="a", source="s", id="1")])
    await sink.close()
    assert caught.value.failures == {"1": "no stream takes the subject; make one, or correct `subject` or `stream`"}


def test_passwords_in_the_url_are_not_shown() -> None:
    connection = Connection(logging.getLogger(), "nats://me:swordfish@h", None, None, Path())
    assert connection.shown("cannot reach nats://me:swordfish@h, swordfish") == "cannot reach nats://***@h, ***"
