"""The source and the sink `kafka`, against the mock cluster that librdkafka carries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import count as counting
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from runtime_plugins._kafka import Access, Connection
from runtime_plugins._tls import Tls
from runtime_plugins.kafka import KafkaSink, KafkaSource
from servers import PASSWORD, USER, Server

from runtime import Event, JournalError, PartialFailure, Reject, Sink, Source, bindings
from runtime.testing import SinkSuite, SourceSuite
from runtime.testing.inlet import SuiteInlet

NAMES = counting(1)
SOON = {"session.timeout.ms": 1000, "heartbeat.interval.ms": 100}  # a member that was killed leaves after a second
PARTITIONS = 4  # of each topic of the mock cluster
TOPICS = 8  # that the suite reads, as the mock cluster keeps no more than 5 MB of a partition


def produce(server: Server, topic: str, bodies: Sequence[bytes | None], partition: int = 0, **more: Any) -> None:
    """Have messages in a partition of a topic."""
    client = Producer({"bootstrap.servers": server.url, "acks": "all", "queue.buffering.max.messages": 0})
    for body in bodies:
        client.produce(topic, body, partition=partition, **more)
    assert client.flush(10) == 0


def consume(server: Server, topic: str) -> list[Message]:
    """Return all messages of a topic, by partition."""
    client = Consumer({"bootstrap.servers": server.url, "group.id": "tests", "enable.auto.commit": False})
    found: list[Message] = []
    for partition in client.list_topics(topic, timeout=10).topics[topic].partitions or [0]:
        place = TopicPartition(topic, partition)
        with suppress(Exception):
            count = client.get_watermark_offsets(place, timeout=10)[1]
            place.offset = 0
            client.assign([place])
            messages: list[Message] = []
            while len(messages) < count:
                messages += client.consume(count - len(messages), 1)
            found += messages
    client.close()
    return found


def committed(server: Server, group: str, topic: str) -> int:
    """Return the offset that a group has committed of the first partition."""
    client = Consumer({"bootstrap.servers": server.url, "group.id": group})
    (place,) = client.committed([TopicPartition(topic, 0)], timeout=10)
    client.close()
    return place.offset


class TestSource(SourceSuite):
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "topic": {},
        "`topic`": {"topic": "a b"},
        "{subject}": {"topic": "a", "type": "{subject}"},
        "batch": {"topic": "a", "batch": 0},
        "acess": {"topic": "a", "acess": {}},
        "`group`": {"topic": "a", "settings": {"group.id": "b"}},
        "enable.auto.commit": {"topic": "a", "settings": {"enable.auto.commit": True}},
        "mechanism": {"topic": "a", "access": {"user": "a", "password": "b", "mechanism": "x"}},
    }
    read_ahead = 100

    @pytest.fixture(autouse=True)
    def _place(self, kafka_server: Server) -> None:
        kafka_server.start()
        self.server = kafka_server
        self.topic = f"s{next(NAMES)}"
        self.topics = [self.topic, *(f"{self.topic}-{number}" for number in range(1, TOPICS))]
        self.count = 0
        client = Producer({"bootstrap.servers": kafka_server.url})
        for topic in self.topics:
            client.list_topics(topic, timeout=10)  # makes it

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        options = {"servers": self.server.url, "topic": self.topics, "group": self.topic, "batch": 100, "type": "made"}
        return KafkaSource, {**options, "settings": SOON}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {**self.make()[1], "access": {"user": USER, "password": secret}}

    async def send(self, bodies: list[bytes]) -> None:
        await asyncio.to_thread(produce, self.server, self.topic, bodies)

    async def produce(self, count: int) -> list[Any]:
        made = [{"n": self.count + n} for n in range(count)]
        self.count += count
        await self.send([json.dumps(data).encode() for data in made])
        return made

    async def flood(self, count: int, size: int) -> None:
        bodies = [json.dumps({"n": number, "text": "x" * size}).encode() for number in range(count)]
        places = [(topic, partition) for topic in self.topics for partition in range(PARTITIONS)]
        for number, (topic, partition) in enumerate(places):
            await asyncio.to_thread(produce, self.server, topic, bodies[number :: len(places)], partition)

    async def spoil(self) -> bytes:
        await self.send([b'{"n": '])
        return b'{"n": '

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestSink(SinkSuite):
    connected = True
    mode: ClassVar[str] = "structured"
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "topic": {"topic": ""},
        "{header}": {"topic": "{header}"},
        "mode": {"mode": "x"},
        "acks": {"settings": {"acks": 0}},
    }

    @pytest.fixture(autouse=True)
    def _place(self, kafka_server: Server) -> None:
        kafka_server.start()
        self.server = kafka_server
        self.topic = f"k{next(NAMES)}"

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return KafkaSink, {"servers": self.server.url, "topic": self.topic, "mode": self.mode}

    ordered = False  # over the partitions of the topic

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {**self.make()[1], "access": {"user": USER, "password": secret}}

    async def received(self) -> list[Event]:
        read = bindings.Reader(bindings.KAFKA, "suite", type=None, usual="{topic}", names=("topic",))
        found: list[Event] = []
        for message in await asyncio.to_thread(consume, self.server, self.topic):
            headers = {name: str(value, "utf-8") for name, value in dict(message.headers() or ()).items()}  # type: ignore[arg-type]
            found.append(read(headers, message.value() or b"", id="", names={}))
        return found

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestSinkInHeaders(TestSink):
    mode = "binary"
    lossless = False


# --- what Kafka has of its own ------------------------------------------------------------------------


class Bench:
    """A topic, and sources and sinks of it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.topic = f"b{next(NAMES)}"
        self.inlet = SuiteInlet()

    def produce(self, *bodies: bytes | None, partition: int = 0, **more: Any) -> None:
        produce(self.server, self.topic, bodies, partition, **more)

    def source(self, **options: Any) -> KafkaSource:
        given = {"servers": self.server.url, "topic": self.topic, "group": self.topic, "settings": SOON, **options}
        return KafkaSource("in", msgspec.convert(given, KafkaSource.Options))

    def sink(self, **options: Any) -> KafkaSink:
        return KafkaSink("out", msgspec.convert({"servers": self.server.url, "topic": self.topic, **options}, KafkaSink.Options))

    @asynccontextmanager
    async def running(self, inlet: SuiteInlet | None = None, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
        source = self.source(**options)
        await source.open()
        task = asyncio.create_task(source.run(inlet or self.inlet))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await source.close()

    async def events(self, count: int = 1) -> list[Event]:
        await self.until(lambda: len(self.inlet.events) + len(self.inlet.malformed) >= count)
        return [*self.inlet.events, *self.inlet.malformed]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.01)

    def committed(self) -> int:
        return committed(self.server, self.topic, self.topic)


@pytest.fixture
def bench(kafka_server: Server) -> Bench:
    kafka_server.start()
    made = Bench(kafka_server)
    Producer({"bootstrap.servers": kafka_server.url}).list_topics(made.topic, timeout=10)
    return made


async def test_a_message_tells_its_key_time_topic_and_trace_and_its_id_is_its_place(bench: Bench) -> None:
    bench.produce(b"1", key="ä", headers={"traceparent": "00-1"}, timestamp=1_800_000_000_123)
    bench.produce(None)
    async with bench.running():
        first, second = await bench.events(2)
    assert (first.id, first.type, first.subject, first.key, first.data) == (
        f"{bench.topic}:0:0:1800000000123",
        bench.topic,
        bench.topic,
        "ä",
        1,
    )
    assert first.time == datetime(2027, 1, 15, 8, 0, 0, 123000, UTC)
    assert first.extensions == {"traceparent": "00-1"}
    assert (second.key, second.data) == (None, None)
    assert second.id.startswith(f"{bench.topic}:0:1:")


async def test_a_type_may_be_made_of_the_topic_and_a_header(bench: Bench) -> None:
    bench.produce(b"1", headers={"Kind": b"placed"})
    async with bench.running(type="{topic}.{header.kind}"):
        (event,) = await bench.events()
    assert event.type == f"{bench.topic}.placed"


async def test_an_offset_is_committed_when_the_journal_has_its_message_and_not_before(bench: Bench) -> None:
    bench.produce(b"1", b"{", b"3")
    bench.inlet.room.clear()
    async with bench.running():
        await bench.until(lambda: bench.inlet.waiting > 0)
        assert await asyncio.to_thread(bench.committed) < 0
        bench.inlet.room.set()
        await bench.events(3)
        async with asyncio.timeout(10):
            while await asyncio.to_thread(bench.committed) != 3:
                await asyncio.sleep(0.01)


async def test_nothing_is_committed_of_what_the_journal_could_not_take(bench: Bench) -> None:
    bench.produce(b"1", b"2")
    bench.inlet.failures = 1
    async with bench.running() as task:
        with pytest.raises(JournalError):
            await asyncio.wait_for(asyncio.shield(task), 10)
    assert await asyncio.to_thread(bench.committed) < 0
    async with bench.running():
        assert [event.data for event in await bench.events(2)] == [1, 2]


async def test_what_is_accepted_is_committed_when_it_stops(bench: Bench) -> None:
    bench.produce(*(str(number).encode() for number in range(7)))
    async with bench.running(batch=2):
        await bench.events(7)
    assert await asyncio.to_thread(bench.committed) == 7


async def test_while_there_is_no_room_it_stays_in_the_group_and_goes_on_where_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime_plugins.kafka.PULSE", 0.1)
    bench.produce(*(str(number).encode() for number in range(20)))
    bench.inlet.room.clear()
    async with bench.running(batch=5, settings={**SOON, "max.poll.interval.ms": 1000}) as task:
        await bench.until(lambda: bench.inlet.waiting > 0)
        await asyncio.sleep(2)
        assert bench.inlet.tries == 1
        bench.inlet.room.set()
        assert [event.data for event in await bench.events(20)] == list(range(20))
        assert not task.done()
    assert bench.inlet.most <= 5


async def test_a_partition_that_goes_to_another_member_comes_to_that_from_where_it_was(bench: Bench) -> None:
    """One member holds on to a batch while another joins: nothing of it is committed for partitions that are not its any more."""
    other = SuiteInlet()
    for partition in range(PARTITIONS):
        bench.produce(*(f"[{partition},{number}]".encode() for number in range(5)), partition=partition)
    bench.inlet.room.clear()
    async with bench.running(batch=7):
        await bench.until(lambda: bench.inlet.waiting > 0)
        async with bench.running(other):
            await bench.until(lambda: len(other.events) >= 10)
            bench.inlet.room.set()
            await bench.until(lambda: len({tuple(event.data) for event in [*bench.inlet.events, *other.events]}) == 20)
            bench.produce(b"[0,5]", b"[0,6]")
            bench.produce(b"[3,5]", b"[3,6]", partition=3)
            await bench.until(lambda: len({tuple(event.data) for event in [*bench.inlet.events, *other.events]}) == 24)
    for inlet in (bench.inlet, other):
        for partition in range(PARTITIONS):
            numbers = [event.data[1] for event in inlet.events if event.data[0] == partition]
            assert numbers == sorted(numbers)


async def test_members_of_a_group_share_the_partitions(bench: Bench) -> None:
    other = SuiteInlet()
    async with bench.running(), bench.running(other):
        async with asyncio.timeout(20):
            while not (bench.inlet.events and other.events):
                for partition in range(PARTITIONS):
                    await asyncio.to_thread(bench.produce, b"1", partition=partition)
                await asyncio.sleep(0.1)


async def test_new_messages_only_are_brought_when_told_so(bench: Bench) -> None:
    bench.produce(b"1")
    async with bench.running(start="new"):
        async with asyncio.timeout(20):
            while not bench.inlet.events:
                await asyncio.to_thread(bench.produce, b"2")
                await asyncio.sleep(0.1)
        assert {event.data for event in bench.inlet.events} == {2}


async def test_topics_may_be_told_by_a_pattern(bench: Bench) -> None:
    bench.produce(b"1")
    async with bench.running(topic=f"^{bench.topic[:1]}{bench.topic[1:]}$"):
        assert [event.data for event in await bench.events()] == [1]


async def test_a_topic_that_is_not_there_is_told(bench: Bench) -> None:
    source = bench.source(topic="nowhere")
    with pytest.raises(ConnectionError) as caught:
        await source.open()
    assert str(caught.value) == ('topic "nowhere": UNKNOWN_TOPIC_OR_PART: Broker: Unknown topic or partition; make it, or correct `topic`')


async def test_an_event_goes_through_a_topic_and_comes_back_as_it_was(bench: Bench) -> None:
    event = Event(type="made", source="s", id="ünï", subject="x", data={"n": 1}, key="k", priority=9, datacontenttype="application/json")
    sink = bench.sink(topic="{type}." + bench.topic)
    await sink.open()
    await sink.write([event])
    await sink.close()
    (message,) = await asyncio.to_thread(consume, bench.server, f"made.{bench.topic}")
    assert message.key() == b"k"
    assert dict(message.headers() or ())["ce_id"] == "ünï".encode()
    assert dict(message.headers() or ())["content-type"] == b"application/json"
    async with bench.running(topic=f"made.{bench.topic}"):
        assert await bench.events() == [event]


async def test_events_of_one_key_come_into_one_partition_in_order(bench: Bench) -> None:
    sink = bench.sink()
    await sink.open()
    await sink.write([Event(type="a", source="s", id=str(number), key=f"k{number % 8}", data=number) for number in range(400)])
    await sink.close()
    partitions: dict[bytes, list[tuple[int, int]]] = {}
    for message in await asyncio.to_thread(consume, bench.server, bench.topic):
        partitions.setdefault(message.key(), []).append((message.partition() or 0, int(message.value() or 0)))  # type: ignore[arg-type]
    assert len({partition for found in partitions.values() for partition, _ in found}) > 1
    for key, found in partitions.items():
        assert len({partition for partition, _ in found}) == 1
        assert [number for _, number in found] == list(range(int(key[1:]), 400, 8))


async def test_what_no_cluster_takes_is_refused_for_itself_alone(bench: Bench) -> None:
    sink = bench.sink(topic=f"{bench.topic}{{extension.more}}")
    await sink.open()
    good = Event(type="a", source="s", id="good", extensions={"more": ".x"})
    with pytest.raises(PartialFailure) as caught:
        await sink.write(
            [
                good,
                Event(type="a", source="s", id="none"),
                Event(type="a", source="s", id="space", extensions={"more": " x"}),
                Event(type="a", source="s", id="large", extensions={"more": ".x"}, data="x" * 2_000_000),
            ]
        )
    await sink.close()
    assert {id: type(error) for id, error in caught.value.failures.items()} == dict.fromkeys(["none", "space", "large"], Reject)
    assert len(await asyncio.to_thread(consume, bench.server, f"{bench.topic}.x")) == 1


def test_tls_and_credentials_become_settings_and_are_not_shown(tmp_path: Path) -> None:
    access = Access(user=USER, password=PASSWORD, mechanism="SCRAM-SHA-512")
    connection = Connection("x", ["a:1", "b:2"], access, Tls(ca="ca.pem", cert="me.pem"), {"ssl.key.password": "sesame", "linger.ms": 5})
    config = connection.config(tmp_path, group_id="g")
    del config["error_cb"], config["logger"]
    assert config == {
        "bootstrap.servers": "a:1,b:2",
        "client.id": "runtime-x",
        "enable.ssl.certificate.verification": True,
        "group.id": "g",
        "linger.ms": 5,
        "reconnect.backoff.max.ms": 1000,
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.password": PASSWORD,
        "sasl.username": USER,
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": str(tmp_path / "ca.pem"),
        "ssl.certificate.location": str(tmp_path / "me.pem"),
        "ssl.key.location": str(tmp_path / "me.pem"),
        "ssl.key.password": "sesame",
    }
    assert connection.shown(f"{PASSWORD} and sesame") == "*** and ***"


@pytest.mark.parametrize("settings", [{"no.such": 1}, {"ssl.ca.location": "/nowhere"}])
async def test_settings_that_the_library_refuses_are_told(bench: Bench, settings: dict[str, Any]) -> None:
    sink = bench.sink(settings=settings, tls={})
    with pytest.raises(ConnectionError, match=next(iter(settings)).rpartition(".")[0]):
        await sink.open()
