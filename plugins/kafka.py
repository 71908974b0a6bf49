"""The source and the sink `kafka`: messages of topics, shared by the members of a consumer group.

The client has a thread of its own, in which it is asked for what has arrived; no more than one batch is here at a time.
The offsets of a batch are committed when the journal has it, those of partitions that meanwhile went to another member
are not. While there is no room the partitions are paused, and the client is still asked, so that the group keeps us.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from runtime import Event, Inlet, PartialFailure, Reject, Sink, Source, bindings, hookimpl

from ._kafka import Access, Connection, Servers, Settings, Text, check_settings
from ._tls import Tls

T = TypeVar("T")

LOOK = 0.2  # seconds that the client may wait for a message; as long takes a stop
PULSE = 1.0  # seconds between two signs of life while there is no room
QUEUE = {  # what the client fetches ahead, and how soon it goes on when that is used up
    "queued.min.messages": 10_000,
    "queued.max.messages.kbytes": 4096,
    "fetch.max.bytes": 4_194_304,
    "fetch.queue.backoff.ms": 10,
}
STARTS = {"all": "earliest", "new": "latest"}
NOTHING: Mapping[str, str] = {}

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which `topic` or topics (`^` before a regular expression) of which cluster, shared by the members of `group`.

    `type` is the type of all events, or a template of `{topic}` and `{header.NAME}`; `settings` are those of librdkafka.
    """

    servers: Servers = "127.0.0.1:9092"
    topic: Annotated[str | list[str], msgspec.Meta(examples=["orders"])]
    group: Text | None = None
    type: Text | None = None
    content: bindings.Content = "json"
    batch: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    start: Literal["all", "new"] = "all"
    access: Access | None = None
    tls: Tls | None = None
    settings: Settings = {}


class KafkaSource(Source):
    """Brings the messages of topics as a member of a consumer group."""

    Options = SourceOptions
    finite = False
    acknowledges = True

    def __init__(self, name: str, options: SourceOptions) -> None:
        super().__init__(name, options)
        self._topics = [options.topic] if isinstance(options.topic, str) else options.topic
        for topic in self._topics or [""]:
            if not (_TOPIC.fullmatch(topic) or topic.startswith("^")):
                raise ValueError(f'`topic`: expected letters, digits, ., _ and -, or a ^ in front, found "{topic}"; correct it')
        check_settings(options.settings)
        self._read = bindings.Reader(bindings.KAFKA, name, type=options.type, usual="{topic}", names=("topic",), content=options.content)
        self._connection = Connection(name, options.servers, options.access, options.tls, options.settings)
        self._arrived: list[Message] = []
        self._accepted: dict[tuple[str, int], int] = {}  # the offset that is next, by topic and partition
        self._gone: set[tuple[str, int]] = set()  # what went to another member since the batch was taken

    async def open(self) -> None:
        """Connect, and join the group.

        Raises:
            ConnectionError: no broker is there, it refuses, or has no such topic; the text says why.
        """
        self._thread = ThreadPoolExecutor(1, f"kafka {self.name}")
        self._arrived.clear()
        self._accepted.clear()
        self._consumer: Consumer | None = None
        try:
            await self._asking(self._join)
        except BaseException:
            await self.close()
            raise

    def _asking(self, ask: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, ask, *arguments)

    def _join(self) -> None:
        group, start = self.options.group or self.name, STARTS[self.options.start]
        usual = {name: value for name, value in QUEUE.items() if name not in self.options.settings}
        config = self._connection.config(self.folder, group_id=group, auto_offset_reset=start, enable_auto_commit=False) | usual
        self._consumer = self._connection.make(Consumer, config)
        for topic in self._topics:
            if not topic.startswith("^"):
                found = self._consumer.list_topics(topic, timeout=10).topics[topic].error
                if found is not None:
                    raise ConnectionError(f'topic "{topic}": {self._connection.told(found)}; make it, or correct `topic`')
        self._consumer.subscribe(self._topics, on_revoke=self._give_up, on_lost=self._give_up)

    def _give_up(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Note what goes to another member: what of it was not accepted comes to that."""
        with suppress(KafkaException):
            consumer.resume(partitions)  # or those that come back would still be paused
        gone = {(one.topic, one.partition) for one in partitions}
        self._gone |= gone
        self._arrived = [message for message in self._arrived if _place(message) not in gone]
        for place in gone:
            self._accepted.pop(place, None)

    async def run(self, inlet: Inlet) -> None:
        """Bring messages until cancelled.

        Raises:
            ConnectionError: no broker is there any more.
            JournalError: messages could not be accepted; they come again.
        """
        while True:
            batch = await self._asking(self._take)
            if batch:
                await self._accept(inlet, batch)

    def _take(self) -> list[Message]:
        """Return what has arrived, at most a batch; waits for the first."""
        assert self._consumer is not None
        self._connection.check(self._consumer)
        found, self._arrived = self._arrived, []
        if not found and (first := self._consumer.poll(LOOK)) is not None:
            self._gone.clear()
            found = self._consumer.consume(self.options.batch - 1, 0) if self.options.batch > 1 else []
            if _place(first) not in self._gone:  # it comes again, from where it was committed
                found = [first, *found]
        self._gone.clear()
        for message in found:
            if (error := message.error()) is not None:
                raise ConnectionError(self._connection.told(error))
        return found

    def _wait(self) -> None:
        """Show that we live, but take nothing."""
        assert self._consumer is not None
        self._consumer.pause(self._consumer.assignment())
        if (message := self._consumer.poll(0)) is not None:  # of a partition that has just come
            self._arrived.append(message)

    async def _accept(self, inlet: Inlet, batch: Sequence[Message]) -> None:
        """Let the journal take messages, and commit their offsets."""
        assert self._consumer is not None
        putting = asyncio.ensure_future(inlet.put([self._event(message) for message in batch]))
        is_paused = False
        try:
            while not (await asyncio.wait({putting}, timeout=PULSE))[0]:
                await self._asking(self._wait)
                is_paused = True
            putting.result()
        except BaseException:
            putting.cancel()
            await asyncio.wait({putting})
            raise
        accepted = {_place(message): (message.offset() or 0) + 1 for message in batch}
        self._accepted |= {place: next for place, next in accepted.items() if place not in self._gone}
        self._consumer.commit(offsets=self._offsets(accepted), asynchronous=True)
        if is_paused:
            await self._asking(lambda consumer: consumer.resume(consumer.assignment()), self._consumer)

    def _offsets(self, places: Mapping[tuple[str, int], int]) -> list[TopicPartition]:
        return [TopicPartition(place[0], place[1], self._accepted[place]) for place in places if place in self._accepted]

    def _event(self, message: Message) -> Event:
        topic, (kind, stamp) = message.topic() or "", message.timestamp()
        headers, key = NOTHING, message.key()
        if found := dict(message.headers() or ()):
            headers = {name.lower(): _text(value) for name, value in found.items() if value is not None}
        return self._read(
            headers,
            message.value() or b"",
            id=f"{topic}:{message.partition()}:{message.offset()}:{stamp}",
            names={"topic": topic},
            subject=topic,
            time=None if kind == TIMESTAMP_NOT_AVAILABLE else datetime.fromtimestamp(stamp / 1000, UTC),
            key=_text(key) if key else None,
        )

    async def close(self) -> None:
        """Leave the group, with all that was accepted committed."""
        self._thread.submit(self._leave)
        await asyncio.to_thread(self._thread.shutdown)

    def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(KafkaException):
                if self._accepted and not self._connection.is_down:
                    consumer.commit(offsets=self._offsets(self._accepted), asynchronous=False)
            consumer.close()


class SinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To which `topic`, a template of attributes like `{type}`; `settings` are those of librdkafka."""

    servers: Servers = "127.0.0.1:9092"
    topic: Text = "{type}"
    mode: bindings.Mode = "binary"
    access: Access | None = None
    tls: Tls | None = None
    settings: Settings = {}


class KafkaSink(Sink):
    """Writes events to topics; those of one key stay in order, each once as far as the cluster can tell."""

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        self._topic = bindings.Address("topic", options.topic)
        check_settings(options.settings)
        self._connection = Connection(name, options.servers, options.access, options.tls, options.settings)
        self._writing: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectionError: no broker is there, or it refuses; the text says why.
        """
        usual = {"linger.ms": 0, "partitioner": "murmur2_random"} | self.options.settings
        config = self._connection.config(self.folder, acks="all", enable_idempotence=True) | usual
        self._is_closed = False
        self._producer = await asyncio.to_thread(self._connection.make, Producer, config)

    async def write(self, events: list[Event]) -> None:
        """Write the events, and wait until all replicas that are in sync have them.

        Raises:
            ConnectionError: no broker is there any more.
            PartialFailure: some were not taken; each has the error that says why.
        """
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, events))
        self._writing.add(writing)
        writing.add_done_callback(self._end)
        await asyncio.shield(writing)

    def _end(self, writing: asyncio.Future[Any]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled():
            writing.exception()  # was told, or nobody waits for it

    def _write(self, events: list[Event]) -> None:
        failures: dict[str, str | Exception] = {}
        waiting = set(range(len(events)))

        def settle(number: int, error: Exception | str | None) -> None:  # perhaps in the thread of another write
            if error is not None:
                failures[events[number].id] = error
            waiting.discard(number)

        for number, event in enumerate(events):
            try:
                self._send(event, partial(settle, number))
            except Reject as error:
                settle(number, error)
            except KafkaException as error:
                settle(number, self._refusal(error.args[0]))
        while waiting:
            self._turn()
        if failures:
            raise PartialFailure(failures)

    def _send(self, event: Event, settle: Callable[[Exception | str | None], None]) -> None:
        topic = self._topic(event)
        if not _TOPIC.fullmatch(topic):
            raise Reject(f'`topic`: expected letters, digits, ., _ and -, found "{topic}"; correct it, or what makes the event')
        headers, body = bindings.write(bindings.KAFKA, event, self.options.mode)
        while True:
            try:
                return self._producer.produce(
                    topic,
                    body or None,
                    event.key,
                    headers=list(headers.items()),
                    on_delivery=lambda error, _: settle(self._refusal(error) if error else None),
                )
            except BufferError:  # what the client keeps for itself is full
                self._turn()

    def _turn(self) -> None:
        """Let the client tell what has become of messages."""
        self._producer.poll(0.05)
        if self._is_closed:
            raise ConnectionError("the sink was closed")
        self._connection.check(self._producer)

    def _refusal(self, error: KafkaError) -> str | Exception:
        if error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD):
            return Reject(f"the cluster does not take it: {error.str()}")
        return self._connection.told(error)

    async def close(self) -> None:
        """Disconnect; what is under way fails."""
        self._is_closed = True
        if self._writing:
            await asyncio.wait(self._writing)
        self._producer.purge()
        await asyncio.to_thread(self._producer.flush, 1)


def _place(message: Message) -> tuple[str, int]:
    return message.topic() or "", message.partition() or 0


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"kafka": KafkaSource}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"kafka": KafkaSink}
