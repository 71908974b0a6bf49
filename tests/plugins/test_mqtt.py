"""The source and the sink `mqtt`, against a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count as counting
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
import pytest
import pytest_asyncio
import zmqtt
from runtime_plugins._mqtt import Broker, Connection
from runtime_plugins.mqtt import MqttSink, MqttSource
from servers import PASSWORD, USER, Server

from runtime import Event, PartialFailure, Reject, Sink, Source, bindings
from runtime.testing import SinkSuite, SourceSuite
from runtime.testing.inlet import SuiteInlet

NAMES = counting(1)
END = b"that was all"
INFLIGHT = 20  # messages with QoS 2 that mosquitto takes at once


@asynccontextmanager
async def client(server: Server, name: str = "", **options: Any) -> AsyncIterator[zmqtt.MQTTClient]:
    """A client of its own, with a session that is kept when it has a name."""
    at = urlsplit(server.url)
    session: dict[str, Any] = {"clean_session": False, "session_expiry_interval": 3600} if name else {}
    once = zmqtt.ReconnectConfig(enabled=False)
    made = zmqtt.MQTTClient(at.hostname or "", at.port or 1883, client_id=name, version="5.0", reconnect=once, **session, **options)
    await made.connect()
    yield made
    await made.disconnect()


class OnServer(SourceSuite):
    """What the suites need of a broker."""

    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "topic": {"url": "mqtt://127.0.0.1"},
        "a#": {"topic": "a#"},
        "#/b": {"topic": ["a", "#/b"]},
        "GROUP": {"topic": "$share/a"},
        "url": {"topic": "a", "url": "http://127.0.0.1"},
        "mqtts": {"topic": "a", "tls": {}},
        "qos": {"topic": "a", "qos": 3},
        "{subject}": {"topic": "a", "type": "{subject}"},
        "clientid": {"topic": "a", "clientid": "a"},
    }
    read_ahead = 100
    qos = 1

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self, mosquitto_server: Server, guarded_mosquitto_server: Server) -> None:
        mosquitto_server.start()
        self.server, self.guarded = mosquitto_server, guarded_mosquitto_server
        self.name = f"s{next(NAMES)}"
        self.count = 0
        source = self.build()  # the session is there from when the source was first connected
        await source.open()
        await source.close()

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return MqttSource, self.options(self.server)

    def options(self, server: Server) -> dict[str, Any]:
        topic = {"topic": f"{self.name}/+", "client_id": self.name, "qos": self.qos}
        return {"url": server.url, **topic, "batch": 100, "type": "made"}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return self.options(self.guarded) | {"user": USER, "password": secret}

    def said(self, number: int) -> zmqtt.PublishProperties | None:
        """Return what is said of the message with this number; by default nothing."""
        del number
        return None

    async def send(self, bodies: list[bytes], first: int = 0) -> None:
        waiting = list(enumerate(bodies, first))
        while waiting:
            try:
                async with client(self.server) as made:
                    while waiting:  # what a broker that was killed has not acknowledged is published again, as a sender would
                        await asyncio.gather(*(self._publish(made, *one) for one in waiting[:INFLIGHT]))
                        del waiting[:INFLIGHT]
            except (zmqtt.MQTTError, OSError):
                await asyncio.sleep(0.05)

    async def _publish(self, made: zmqtt.MQTTClient, number: int, body: bytes) -> None:
        await made.publish(f"{self.name}/made", body, qos=zmqtt.QoS(self.qos), properties=self.said(number))

    async def produce(self, count: int) -> list[Any]:
        made = [{"n": self.count + n} for n in range(count)]
        first = self.count
        self.count += count
        await self.send([json.dumps(data).encode() for data in made], first)
        return made

    async def spoil(self) -> bytes:
        await self.send([b'{"n": '], -1)
        return b'{"n": '

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestOnce(OnServer):
    """With QoS 1, of senders that give ids."""

    def said(self, number: int) -> zmqtt.PublishProperties:
        words = {"specversion": "1.0", "id": f"{number}", "source": "suite", "type": "made"}
        return zmqtt.PublishProperties(content_type="application/json", user_properties=tuple(words.items()))

    async def flood(self, count: int, size: int) -> None:
        await self.send([json.dumps({"n": number, "text": "x" * size}).encode() for number in range(count)])


class TestExactly(TestOnce):
    qos = 2


class TestAtMostOnce(OnServer):
    qos = 0
    remembers = False
    replays = False
    holds = False


class OnSink(SinkSuite):
    connected = True
    qos = 1
    mode: ClassVar[str] = "structured"
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "topic": {},
        "{topic}": {"topic": "{topic}"},
        "mode": {"topic": "a", "mode": "x"},
        "expiry": {"topic": "a", "expiry": 0},
    }

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self, mosquitto_server: Server, guarded_mosquitto_server: Server) -> None:
        mosquitto_server.start()
        self.server, self.guarded = mosquitto_server, guarded_mosquitto_server
        self.name = f"k{next(NAMES)}"
        self.found: list[Event] = []
        async with client(self.server, self.name) as made:
            subscription = made.subscribe(self.name, qos=zmqtt.QoS.EXACTLY_ONCE)
            await subscription.start()
            await subscription.detach()

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return MqttSink, {"url": self.server.url, "topic": self.name, "mode": self.mode, "qos": self.qos}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {"url": self.guarded.url, "topic": "a", "user": USER, "password": secret}

    async def received(self) -> list[Event]:
        read = bindings.Reader(bindings.MQTT, "suite", type=None, usual="x", names=())
        async with client(self.server) as other:
            await other.publish(self.name, END, qos=zmqtt.QoS.AT_LEAST_ONCE)
        async with client(self.server, self.name, session_replay_buffer_size=0) as made:
            subscription = made.subscribe(self.name, qos=zmqtt.QoS.EXACTLY_ONCE, auto_ack=False, receive_buffer_size=0)
            await subscription.start()
            while True:
                message = await asyncio.wait_for(subscription.get_message(), self.patience)
                await message.ack()
                if message.payload == END:
                    break
                headers = dict(message.properties.user_properties) if message.properties else {}
                if message.properties and message.properties.content_type:
                    headers["content-type"] = message.properties.content_type
                self.found.append(read(headers, message.payload, id="", names={}))
            await made.ping()  # then it knows what was acknowledged
            await subscription.detach()
        return self.found

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestSink(OnSink):
    pass


class TestSinkInProperties(OnSink):
    mode = "binary"
    lossless = False


class TestSinkExactly(OnSink):
    qos = 2


# --- what MQTT has of its own -------------------------------------------------------------------------


class Bench:
    """A topic with a client beside it."""

    def __init__(self, server: Server, made: zmqtt.MQTTClient) -> None:
        self.server = server
        self.client = made
        self.name = f"b{next(NAMES)}"
        self.inlet = SuiteInlet()

    def source(self, **options: Any) -> MqttSource:
        usual = {"url": self.server.url, "topic": f"{self.name}/#", "client_id": self.name}
        return MqttSource("in", msgspec.convert(usual | options, MqttSource.Options))

    def sink(self, **options: Any) -> MqttSink:
        return MqttSink("out", msgspec.convert({"url": self.server.url, "topic": self.name, **options}, MqttSink.Options))

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

    async def publish(self, word: str, body: bytes, qos: int = 1, *, retain: bool = False, **said: Any) -> None:
        properties = zmqtt.PublishProperties(**said) if said else None
        await self.client.publish(f"{self.name}/{word}", body, qos=zmqtt.QoS(qos), retain=retain, properties=properties)

    async def events(self, count: int = 1) -> list[Event]:
        async with asyncio.timeout(10):
            while len(self.inlet.events) + len(self.inlet.malformed) < count:
                await asyncio.sleep(0.01)
        return [*self.inlet.events, *self.inlet.malformed]


@pytest_asyncio.fixture
async def bench(mosquitto_server: Server) -> AsyncIterator[Bench]:
    mosquitto_server.start()
    async with client(mosquitto_server) as made:
        yield Bench(mosquitto_server, made)


async def test_type_data_and_trace_are_those_that_the_message_says(bench: Bench) -> None:
    said: dict[str, Any] = {"content_type": "text/plain", "user_properties": (("Kind", "warm"), ("traceparent", "00-1"))}
    async with bench.running():
        await bench.publish("a/b", b"21.5")
        await bench.publish("a/b", b"21.5", **said)
        number, text = await bench.events(2)
    assert (number.type, number.subject, number.data) == (f"{bench.name}.a.b", f"{bench.name}/a/b", 21.5)
    assert number.id != text.id, "two messages with the same body are two events"
    assert (text.data, text.datacontenttype, text.extensions) == ("21.5", "text/plain", {"traceparent": "00-1"})
    async with bench.running(type="{topic}:{header.kind}"):
        await bench.publish("a", b"1", **said)
        *_, other = await bench.events(3)
    assert other.type == f"{bench.name}/a:warm"


async def test_a_session_keeps_what_is_published_while_the_source_is_away(bench: Bench) -> None:
    async with bench.running():
        await bench.publish("a", b"1")
        await bench.events()
    await bench.publish("a", b"2")
    async with bench.running():
        assert [event.data for event in await bench.events(2)] == [1, 2]


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_message_is_acknowledged_when_the_journal_has_it(bench: Bench, qos: int) -> None:
    bench.inlet.room.clear()
    async with bench.running(qos=qos):
        await bench.publish("a", b"1", qos)
        while not bench.inlet.tries:
            await asyncio.sleep(0.01)
    bench.inlet.room.set()
    async with bench.running(qos=qos):
        assert [event.data for event in await bench.events()] == [1]
        await bench.publish("a", b"2", qos)
        await bench.events(2)
    async with bench.running(qos=qos):
        await bench.publish("a", b"3", qos)
        assert [event.data for event in await bench.events(3)] == [1, 2, 3], "what was acknowledged does not come again"


@pytest.mark.parametrize(("retained", "times"), [("new", 1), ("always", 2), ("never", 0)])
async def test_what_is_retained_comes_as_it_was_asked_for(bench: Bench, retained: str, times: int) -> None:
    await bench.publish("a", b'"kept"', retain=True)
    for number in range(2):
        async with bench.running(retained=retained):
            await bench.publish("b", str(number).encode())
            async with asyncio.timeout(10):
                while number not in [event.data for event in bench.inlet.events]:
                    await asyncio.sleep(0.01)
    assert [event.data for event in bench.inlet.events].count("kept") == times


async def test_a_shared_subscription_shares_messages(bench: Bench) -> None:
    topic = f"$share/workers/{bench.name}/#"
    async with bench.running(topic=topic, client_id=f"{bench.name}a"), bench.running(topic=topic, client_id=f"{bench.name}b"):
        for number in range(50):
            await bench.publish("a", str(number).encode())
        assert sorted(event.data for event in await bench.events(50)) == list(range(50))


async def test_many_topics_are_one_source(bench: Bench) -> None:
    async with bench.running(topic=[f"{bench.name}/a", f"{bench.name}/b/+"]):
        for word in ("a", "b/c", "d"):
            await bench.publish(word, f'"{word}"'.encode())
        await bench.publish("a", b'"end"')
        assert [event.data for event in await bench.events(3)] == ["a", "b/c", "end"]


async def test_memory_is_bounded_with_qos_0_and_what_is_dropped_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.inlet.room.clear()
    async with bench.running(qos=0):
        for _ in range(60):
            await bench.publish("a", b'"' + b"x" * 500_000 + b'"', 1)
        async with asyncio.timeout(10):
            while "were dropped" not in caplog.text:
                await asyncio.sleep(0.01)
        bench.inlet.room.set()
        await bench.events(30)
        assert len(bench.inlet.events) <= 34
        await bench.publish("a", b'"end"', 1)
        async with asyncio.timeout(10):
            while bench.inlet.events[-1].data != "end":
                await asyncio.sleep(0.01)


async def test_another_with_the_same_client_id_takes_over_which_is_told(bench: Bench) -> None:
    async with bench.running() as task, client(bench.server, bench.name):
        with pytest.raises(ConnectionError, match="the connection is lost: MQTTDisconnectedError"):
            await asyncio.wait_for(task, 10)


async def test_a_broker_that_crashes_is_noticed_by_source_and_sink(bench: Bench) -> None:
    sink = bench.sink()
    await sink.open()
    async with bench.running() as task:
        Server.kill(bench.server)
        with pytest.raises(ConnectionError, match="the connection is lost"):
            await asyncio.wait_for(task, 10)
        with pytest.raises(ConnectionError, match="the connection is lost"):
            await asyncio.wait_for(sink.write([Event(type="a", source="s", id="1")]), 10)
        await sink.close()
        with pytest.raises(ConnectionError, match="Connect call failed"):
            await sink.open()


async def test_an_event_goes_through_a_topic_and_comes_back_as_it_was(bench: Bench) -> None:
    event = Event(type="made", source="s", id="ünï", subject="x", data={"n": 1}, key="k", priority=9, datacontenttype="application/json")
    sink = bench.sink(topic=f"{bench.name}/{{key}}", qos=2, expiry=60)
    await sink.open()
    async with bench.running():
        subscription = bench.client.subscribe(f"{bench.name}/k")
        await subscription.start()
        await sink.write([event])
        assert await bench.events() == [event]
        message = await asyncio.wait_for(subscription.get_message(), 10)
        await subscription.stop()
    await sink.close()
    assert message.properties is not None
    assert message.properties.content_type == "application/json"
    assert dict(message.properties.user_properties)["partitionkey"] == "k"
    assert message.properties.message_expiry_interval in range(55, 61)


async def test_a_sink_may_ask_for_messages_to_be_retained(bench: Bench) -> None:
    sink = bench.sink(retain=True, mode="structured")
    await sink.open()
    await sink.write([Event(type="a", source="s", id="1", data=5)])
    await sink.close()
    async with bench.running(topic=bench.name):
        assert [event.data for event in await bench.events()] == [5]


async def test_what_no_broker_takes_is_refused_for_itself_alone(bench: Bench) -> None:
    sink = bench.sink(topic=f"{bench.name}/{{key}}")
    await sink.open()
    bad = {"none": None, "wild": "a/#"}
    async with bench.running():
        with pytest.raises(PartialFailure) as caught:
            await sink.write([Event(type="a", source="s", id=id, key=key) for id, key in {**bad, "good": "k"}.items()])
        assert [event.id for event in await bench.events()] == ["good"]
    await sink.close()
    assert {id: type(error) for id, error in caught.value.failures.items()} == dict.fromkeys(bad, Reject)


async def test_who_is_refused_is_told_why(guarded_mosquitto_server: Server) -> None:
    connection = Connection(Broker(url=guarded_mosquitto_server.url, user=USER, password="wrong-word"), Path())
    with pytest.raises(ConnectionError, match=r"the broker refuses: not authorized \(0x87\)"):
        await connection.open("")


async def test_a_password_opens_a_guarded_broker_by_option_or_url(guarded_mosquitto_server: Server) -> None:
    url = guarded_mosquitto_server.url
    for broker in (Broker(url=url, user=USER, password=PASSWORD), Broker(url=url.replace("//", f"//{USER}:{PASSWORD}@"))):
        connection = Connection(broker, Path())
        await connection.open("")
        assert connection.shown(f"wrong {PASSWORD}") == "wrong ***"
        await connection.close()
