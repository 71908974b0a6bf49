"""The source and the sink `mqtt`: messages of topics, by MQTT 5.

The broker keeps a session for the client id of the source: what comes while it is away, and what it was sent and has not
acknowledged. It sends at most `batch` messages that are not acknowledged; of those with QoS 0, which know no such
limit, only so many bytes are kept here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Literal

import msgspec
import zmqtt

from runtime import Event, Inlet, PartialFailure, Reject, Sink, Source, bindings, hookimpl

from ._mqtt import Broker, Connection, Text

RETAINED = {
    "always": zmqtt.RetainHandling.SEND_ON_SUBSCRIBE,
    "new": zmqtt.RetainHandling.SEND_IF_NOT_EXISTS,
    "never": zmqtt.RetainHandling.DO_NOT_SEND,
}
PENDING = 16 * 1024 * 1024  # bytes with QoS 0 that wait for room, beyond which messages are dropped
UNLIMITED = 65_535  # messages under way, when the broker says nothing

Quality = Annotated[int, msgspec.Meta(ge=0, le=2)]
Topic = Annotated[str, msgspec.Meta(min_length=1)]


class SourceOptions(Broker, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which topics, with the wildcards of MQTT; `$share/GROUP/TOPIC` shares one with others.

    `type` is the type of all events, or a template of `{topic}`, `{words}` (the topic with dots), and `{header.NAME}`.
    """

    topic: Annotated[Topic | list[Topic], msgspec.Meta(examples=["sensors/#"])]
    qos: Quality = 1
    type: Text | None = None
    content: bindings.Content = "json"
    batch: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    retained: Literal["new", "always", "never"] = "new"
    session: Annotated[int, msgspec.Meta(ge=0, le=4_294_967_295)] = 604_800


class MqttSource(Source):
    """Brings the messages of topics."""

    Options = SourceOptions
    finite = False
    acknowledges = True

    def __init__(self, name: str, options: SourceOptions) -> None:
        super().__init__(name, options)
        self._topics = [options.topic] if isinstance(options.topic, str) else options.topic
        for topic in self._topics or [""]:
            _check_filter(topic)
        self._read = bindings.Reader(
            bindings.MQTT, name, type=options.type, usual="{words}", names=("topic", "words"), content=options.content
        )
        self._arrived: list[zmqtt.Message] = []
        self._pending = 0  # bytes with QoS 0 among them
        self._dropped = 0  # messages, since it was last told
        self._awake = asyncio.Event()

    async def open(self) -> None:
        """Connect, go on with the session, and subscribe.

        Raises:
            ConnectionError: the broker does not answer, or refuses; the text says why.
        """
        self._arrived, self._pending, self._dropped = [], 0, 0
        self._connection = Connection(self.options, self.folder)
        await self._connection.open(
            self.options.client_id or f"{socket.gethostname()}-{self.name}",
            clean_session=False,
            session_expiry_interval=self.options.session,
            receive_maximum=self.options.batch,
            session_replay_buffer_size=0,  # what of the session comes before the answer to the subscription
        )
        self._subscription = self._connection.client.subscribe(
            *self._topics,
            qos=zmqtt.QoS(self.options.qos),
            auto_ack=False,
            receive_buffer_size=0,  # a full one would keep signs of life from being read
            retain_handling=RETAINED[self.options.retained],
        )
        try:
            await self._subscription.start()
        except (zmqtt.MQTTError, OSError) as error:
            await self._connection.close()
            raise self._connection.lost(error) from None
        except BaseException:
            await self._connection.close()
            raise
        self._taking = asyncio.create_task(self._take(), name=f"source {self.name} takes")

    async def _take(self) -> None:
        """Take what arrives, until the connection is lost."""
        try:
            while True:
                message = await self._subscription.get_message()
                if message.qos == zmqtt.QoS.AT_MOST_ONCE:
                    if self._pending + len(message.payload) > PENDING:
                        self._drop()
                        continue
                    self._pending += len(message.payload)
                self._arrived.append(message)
                self._awake.set()
        finally:
            self._awake.set()

    def _drop(self) -> None:
        self._dropped += 1
        if self._dropped == 1:
            asyncio.get_running_loop().call_later(1, self._tell_dropped)

    def _tell_dropped(self) -> None:
        self.log.warning("the runtime is full: %d messages with QoS 0 were dropped", self._dropped)
        self._dropped = 0

    async def run(self, inlet: Inlet) -> None:
        """Bring messages until cancelled.

        Raises:
            ConnectionError: the connection is lost.
            JournalError: messages could not be accepted; those with QoS 1 and 2 come again.
        """
        while True:
            while not self._arrived:
                if self._taking.done():
                    raise self._lost()
                self._awake.clear()
                await self._awake.wait()
            batch, self._arrived = self._arrived[: self.options.batch], self._arrived[self.options.batch :]
            await self._accept(inlet, batch)

    def _lost(self) -> ConnectionError:
        error = self._taking.exception()
        return self._connection.lost(error if isinstance(error, Exception) else zmqtt.MQTTDisconnectedError())

    async def _accept(self, inlet: Inlet, batch: Sequence[zmqtt.Message]) -> None:
        """Let the journal take messages, and acknowledge them in order."""
        await inlet.put([self._event(message) for message in batch])
        self._pending -= sum(len(message.payload) for message in batch if message.qos == zmqtt.QoS.AT_MOST_ONCE)
        try:
            for message in batch:
                await message.ack()
        except (zmqtt.MQTTError, OSError) as error:
            raise self._connection.lost(error) from None

    def _event(self, message: zmqtt.Message) -> Event:
        said = message.properties
        headers = {name.lower(): value for name, value in said.user_properties} if said else {}
        if said and said.content_type:
            headers["content-type"] = said.content_type
        names = {"topic": message.topic, "words": message.topic.strip("/").replace("/", ".")}
        return self._read(headers, message.payload, id="", names=names, subject=message.topic)

    async def close(self) -> None:
        """Disconnect; the session stays, with what was not acknowledged."""
        if not self._taking.done():
            with suppress(zmqtt.MQTTError, OSError):
                await self._connection.client.ping(1)  # acknowledgements under way would be lost, when more comes meanwhile
        self._taking.cancel()
        await asyncio.gather(self._taking, return_exceptions=True)
        with suppress(zmqtt.MQTTError, OSError):
            await self._subscription.detach()
        await self._connection.close()


class SinkOptions(Broker, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To which `topic`, a template of attributes like `{type}`, and with which quality of service."""

    topic: Annotated[str, msgspec.Meta(min_length=1, examples=["invoices/{key}"])]
    qos: Quality = 1
    retain: bool = False
    expiry: Annotated[int, msgspec.Meta(ge=1, le=4_294_967_295)] | None = None
    mode: bindings.Mode = "binary"


class MqttSink(Sink):
    """Publishes events to a topic."""

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        self._topic = bindings.Address("topic", options.topic)

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectionError: the broker does not answer, or refuses; the text says why.
        """
        self._connection = Connection(self.options, self.folder)
        await self._connection.open(self.options.client_id or "")
        said = self._connection.client.connection_info.properties
        self._room = asyncio.Semaphore((said and said.receive_maximum) or UNLIMITED)

    async def write(self, events: list[Event]) -> None:
        """Publish the events, and wait until the broker has those with QoS 1 and 2.

        Raises:
            ConnectionError: the connection is lost.
            PartialFailure: some were not taken; each has the error that says why.
        """
        outcomes = await asyncio.gather(*(self._publish(event) for event in events), return_exceptions=True)
        failures: dict[str, str | Exception] = {}
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, zmqtt.MQTTDisconnectedError | zmqtt.MQTTTimeoutError | OSError):
                raise self._connection.lost(outcome)
            if isinstance(outcome, Reject):
                failures[event.id] = outcome
            elif isinstance(outcome, Exception):
                failures[event.id] = self._connection.shown(f"{type(outcome).__name__}: {outcome}")
        if failures:
            raise PartialFailure(failures)

    async def _publish(self, event: Event) -> None:
        topic = self._topic(event)
        headers, body = bindings.write(bindings.MQTT, event, self.options.mode)
        content_type = headers.pop("content-type", None)
        said = zmqtt.PublishProperties(
            content_type=content_type, user_properties=tuple(headers.items()), message_expiry_interval=self.options.expiry
        )
        async with self._room:
            try:
                await self._connection.client.publish(
                    topic, body, qos=zmqtt.QoS(self.options.qos), retain=self.options.retain, properties=said
                )
            except zmqtt.MQTTInvalidTopicError as error:
                raise Reject(f"`topic`: {error}; correct it, or what makes the event") from None
            except (zmqtt.MQTTQoSExceededError, zmqtt.MQTTRetainNotAvailableError) as error:
                raise Reject(f"{error}; correct `qos` or `retain`") from None

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()


def _check_filter(topic: str) -> None:
    words = topic.split("/")
    for at, word in enumerate(words):
        is_wild = word == "+" or (word == "#" and at == len(words) - 1)
        if (any(letter in word for letter in "+#") and not is_wild) or not topic:
            raise ValueError(f'`topic`: expected words with / between them, + for one and # for the rest, found "{topic}"; correct it')
    if words[0] == "$share" and (len(words) < 3 or not words[1]):
        raise ValueError(f'`topic`: expected $share/GROUP/TOPIC, found "{topic}"; correct it')


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"mqtt": MqttSource}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"mqtt": MqttSink}
