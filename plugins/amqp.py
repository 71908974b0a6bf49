"""The source and the sink `amqp`: messages of a queue, and messages to an exchange, of RabbitMQ and its like (AMQP 0-9-1).

The server sends no more than `prefetch` messages that are not acknowledged yet. Half of them are accepted at once while the
others arrive; all of these are acknowledged by one word. What is not acknowledged goes back to its place in the queue when
the channel is closed, and so do messages that the journal could not take.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import AMQPError, DeliveryError, PublishError
from pamqp.commands import Basic
from pamqp.common import FieldValue

from runtime import Event, Inlet, Malformed, PartialFailure, Reject, Sink, Source, bindings, hookimpl

from ._amqp import Access, Connection, Exchange, Text, Url, check, headers_of
from ._tls import Tls

SHORT = 255  # bytes of a routing key and of a property at most
HEADERS = 100_000  # bytes of attributes, that have to go into one frame of the server's 128 KiB
HIGHEST = 9  # priority
DEATH = {"x-first-death-queue": "deathqueue", "x-first-death-reason": "deathreason"}  # of a message that was a dead letter at the server


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which `queue`, made with `arguments` when it is not there, and bound to an `exchange` by one or more `routing_key`.

    `type` is the type of all events, or a template of `{type}`, `{routing_key}`, `{exchange}` and `{header.NAME}`.
    """

    url: Url = "amqp://guest:guest@127.0.0.1:5672/"
    queue: Annotated[str, msgspec.Meta(min_length=1, max_length=SHORT, examples=["orders"])]
    prefetch: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 500
    exchange: Text | None = None
    exchange_type: Exchange | None = None
    routing_key: str | list[str] | None = None
    arguments: dict[str, str | int | bool] = {}
    type: Text | None = None
    content: bindings.Content = "json"
    reject: bool = False
    access: Access | None = None
    tls: Tls | None = None


class AmqpSource(Source):
    """Brings the messages of a queue."""

    Options = SourceOptions
    finite = False
    acknowledges = True

    def __init__(self, name: str, options: SourceOptions) -> None:
        super().__init__(name, options)
        check(options.url, options.tls)
        if options.exchange is None and (options.routing_key is not None or options.exchange_type is not None):
            raise ValueError("expected an `exchange` beside `routing_key` and `exchange_type`, found none; give it, or leave them out")
        keys = options.routing_key if options.routing_key is not None else "#"
        self._keys = [keys] if isinstance(keys, str) else keys
        self._read = bindings.Reader(
            bindings.AMQP,
            name,
            type=options.type,
            usual="{type}",
            names=("type", "routing_key", "exchange"),
            content=options.content,
        )
        self._arrived: list[DeliveredMessage] = []
        self._awake = asyncio.Event()
        self._fault = ""

    async def open(self) -> None:
        """Connect, find or make the queue, bind it, and ask for its messages.

        Raises:
            ConnectionError: there is no server, queue or exchange as it should be; the text says why.
        """
        options = self.options
        self._connection = Connection(self.log, options.url, options.access, options.tls, self.folder)
        await self._connection.open()
        self._arrived, self._fault = [], ""
        try:
            await self._connection.queue(options.queue, options.arguments)
            if options.exchange is not None:
                await self._connection.exchange(options.exchange, options.exchange_type)
            channel = self._connection.channel
            for key in self._keys if options.exchange is not None else ():
                await self._connection.asked(channel.queue_bind(options.queue, options.exchange or "", key))
            self._connection.woken = self._awake.set
            channel.on_consumer_cancel_callbacks.add(self._on_cancel)
            await self._connection.asked(channel.basic_qos(prefetch_count=options.prefetch))
            await self._connection.asked(channel.basic_consume(options.queue, self._take))
        except BaseException:
            await self._connection.close()
            raise

    async def _take(self, message: DeliveredMessage) -> None:
        self._arrived.append(message)
        self._awake.set()

    def _on_cancel(self, _: object) -> None:
        self._fault = f'the server sends nothing more of the queue "{self.options.queue}": it was deleted, or moved'
        self._awake.set()

    async def run(self, inlet: Inlet) -> None:
        """Bring messages until cancelled.

        Raises:
            ConnectionError: the connection is lost, or the queue.
            JournalError: messages could not be accepted; they go back to the queue.
        """
        most = max(1, self.options.prefetch // 2)
        while True:
            while not self._arrived:
                if self._fault or self._connection.is_lost:
                    raise ConnectionError(self._fault) if self._fault else self._connection.lost()
                self._awake.clear()
                await self._awake.wait()
            batch, self._arrived = self._arrived[:most], self._arrived[most:]
            events = [self._event(message) for message in batch]
            await inlet.put(events)
            await self._acknowledge(batch, events)

    async def _acknowledge(self, batch: Sequence[DeliveredMessage], events: Sequence[Event]) -> None:
        """Acknowledge all that was sent up to the last message of a batch; what is no event may be rejected."""
        channel = self._connection.channel
        try:
            last = 0
            for message, event in zip(batch, events, strict=True):
                if self.options.reject and isinstance(event, Malformed):
                    await channel.basic_reject(message.delivery_tag or 0, requeue=False)
                else:
                    last = message.delivery_tag or 0
            if last:
                await channel.basic_ack(last, multiple=True)
        except (AMQPError, OSError, RuntimeError) as error:
            raise self._connection.lost(error) from None

    def _event(self, message: DeliveredMessage) -> Event:
        said = message.header.properties
        headers, key = headers_of(said), message.routing_key or ""
        names = {"type": said.message_type or key, "routing_key": key, "exchange": message.exchange or ""}
        event = self._read(headers, message.body, id=said.message_id or "", names=names, subject=key or None, time=_utc(said.timestamp))
        changes: dict[str, Any] = {}
        if event.priority is None and said.priority is not None and said.priority <= HIGHEST:
            changes["priority"] = said.priority
        if deaths := {extension: headers[name] for name, extension in DEATH.items() if name in headers}:
            changes["extensions"] = deaths | event.extensions
        return msgspec.structs.replace(event, **changes) if changes else event

    async def close(self) -> None:
        """Disconnect; what was not acknowledged goes back to the queue."""
        await self._connection.close()


class SinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To which `exchange`, with which `routing_key`, a template of attributes like `{type}`.

    `mandatory`: an event that no queue takes is told, and tried again.
    """

    url: Url = "amqp://guest:guest@127.0.0.1:5672/"
    exchange: Annotated[str, msgspec.Meta(max_length=SHORT, examples=["events"])] = ""
    exchange_type: Exchange | None = None
    routing_key: Text = "{type}"
    mode: bindings.Mode = "binary"
    persistent: bool = True
    mandatory: bool = True
    access: Access | None = None
    tls: Tls | None = None


class AmqpSink(Sink):
    """Publishes events to an exchange, and waits until the server confirms that it has them."""

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        check(options.url, options.tls)
        if options.exchange_type is not None and not options.exchange:
            raise ValueError("expected an `exchange` beside `exchange_type`, found none; give it, or leave that out")
        self._key = bindings.Address("routing_key", options.routing_key)

    async def open(self) -> None:
        """Connect, and find or make the exchange.

        Raises:
            ConnectionError: no server answers, it refuses, or has no such exchange; the text says why.
        """
        options = self.options
        self._connection = Connection(self.log, options.url, options.access, options.tls, self.folder)
        await self._connection.open()
        if options.exchange:
            try:
                await self._connection.exchange(options.exchange, options.exchange_type)
            except BaseException:
                await self._connection.close()
                raise

    async def write(self, events: list[Event]) -> None:
        """Publish the events, and wait until the server has confirmed all.

        Raises:
            ConnectionError: the connection is lost.
            PartialFailure: some were not taken; each has the error that says why.
        """
        answers = await asyncio.gather(*(self._publish(event) for event in events), return_exceptions=True)
        failures: dict[str, str | Exception] = {}
        for event, error in zip(events, answers, strict=True):
            if isinstance(error, Reject):
                failures[event.id] = error
            elif isinstance(error, PublishError):
                failures[event.id] = "no queue takes it; bind one, correct `exchange` or `routing_key`, or set `mandatory = false`"
            elif isinstance(error, DeliveryError):
                failures[event.id] = "the server has not taken it: a queue is full, or could not be written"
            elif isinstance(error, AMQPError | OSError | RuntimeError) or self._connection.is_lost:
                raise self._connection.lost(error) from None
            elif error is not None:
                raise error
        if failures:
            raise PartialFailure(failures)

    async def _publish(self, event: Event) -> None:
        options, key = self.options, self._key(event)
        headers, body = bindings.write(bindings.AMQP, event, options.mode)
        content_type = headers.pop("content-type", None)
        if len(key.encode()) > SHORT:
            raise Reject(f"`routing_key`: expected at most {SHORT} bytes, found {len(key.encode())}; correct it, or what makes the event")
        if sum(len(name) + len(value.encode()) for name, value in headers.items()) > HEADERS:
            raise Reject(f'expected attributes of at most {HEADERS:,} bytes, found more; `mode = "structured"` takes them')
        said = Basic.Properties(
            content_type=content_type,
            headers=dict[str, FieldValue](headers),
            delivery_mode=2 if options.persistent else 1,
            priority=event.priority,
            message_id=_message_id(event),
            timestamp=event.time,
        )
        await self._connection.channel.basic_publish(
            body, exchange=options.exchange, routing_key=key, properties=said, mandatory=options.mandatory, wait=False
        )

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()


def _message_id(event: Event) -> str:
    """Return what names an event among all: a message that comes back is known by it."""
    name = f"{event.source}/{event.id}"
    return name if len(name.encode()) <= SHORT else hashlib.sha256(name.encode()).hexdigest()


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"amqp": AmqpSource}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"amqp": AmqpSink}
