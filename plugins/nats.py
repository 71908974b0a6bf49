"""The source and the sink `nats`: messages of a subject, or with `stream` those that JetStream keeps.

The source asks for messages by a request for a batch, and for the next when that is used up, so that never more than two
batches are here; each is acknowledged when the journal has it. What could not be accepted is handed back with a delay,
and what waits for room is told to be in progress, so that it comes to nobody else meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from runtime import Event, Inlet, Malformed, PartialFailure, Reject, Sink, Source, bindings, hookimpl

from ._nats import PATIENCE, Access, Connection, Text
from ._tls import Tls

SAFE = "/:?#[]@!$&'()*+,;="  # of an id in a header, as it is in a URI
ACK, TERM, PROGRESS = b"+ACK", b"+TERM", b"+WPI"
NOTHING: Mapping[str, str] = {}
HEARTBEAT = 5.0  # seconds between two signs of life while nothing arrives
EXPIRES = 60.0  # seconds that a request for a batch stands
BYTES = 64 * 1024 * 1024  # of a batch at most
PENDING = 16 * 1024 * 1024  # bytes that wait for room without JetStream, beyond which the client drops messages
STARTS = {"all": DeliverPolicy.ALL, "new": DeliverPolicy.NEW, "last": DeliverPolicy.LAST}

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SUBJECT = re.compile(r"[^\s*>.]+(\.[^\s*>.]+)*")

Url = Annotated[str | list[str], msgspec.Meta(examples=["nats://127.0.0.1:4222"])]


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which `subject`, and with `stream` of which stream, read by the consumer `durable`; `queue` shares a subject without one.

    `type` is the type of all events, or a template of `{subject}` and `{header.NAME}`.
    """

    url: Url = "nats://127.0.0.1:4222"
    subject: Annotated[str, msgspec.Meta(min_length=1, examples=["orders.>"])] | None = None
    stream: Annotated[str, msgspec.Meta(min_length=1, examples=["ORDERS"])] | None = None
    durable: Text | None = None
    queue: Text | None = None
    type: Text | None = None
    content: bindings.Content = "json"
    batch: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    start: Literal["all", "new", "last"] = "all"
    ack_wait: Annotated[float, msgspec.Meta(ge=0.1, le=86_400)] = 30.0
    redelivery: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 1.0
    domain: Text | None = None
    access: Access | None = None
    tls: Tls | None = None


class NatsSource(Source):
    """Brings the messages of a subject, or those that a stream of JetStream keeps."""

    Options = SourceOptions
    finite = False
    acknowledges = True

    def __init__(self, name: str, options: SourceOptions) -> None:
        super().__init__(name, options)
        self._durable = options.durable or name
        if options.stream is None and (options.subject is None or options.durable is not None):
            raise ValueError("expected a `subject`, or a `stream` and its `durable`, found neither; give one of them")
        if options.stream is not None and options.queue is not None:
            raise ValueError("`queue`: expected none beside `stream`, found one; those who name the same `durable` share it")
        if not _NAME.fullmatch(self._durable):
            raise ValueError(f'`durable`: expected letters, digits, - and _, found "{self._durable}"; give it a name of such')
        self._read = bindings.Reader(bindings.NATS, name, type=options.type, usual="{subject}", names=("subject",), content=options.content)
        self._arrived: list[Msg] = []
        self._awake = asyncio.Event()
        self._room = asyncio.Event()
        self._wanted = 0  # messages that are still to come for the last request
        self._asked = 0  # requests so far
        self._fault = ""
        self._delay = 0.0  # seconds until what is handed back comes again

    async def open(self) -> None:
        """Connect, and with a stream find or make the consumer.

        Raises:
            ConnectionError: there is no server, stream or consumer as it should be; the text says why.
        """
        self._connection = Connection(self.log, self.options.url, self.options.access, self.options.tls, self.folder)
        self._connection.woken = self._awake.set
        await self._connection.open()
        self._client = self._connection.client
        self._arrived.clear()
        self._fault, self._wanted, self._delay = "", 0, 0.0
        self._room.set()
        try:
            await (self._subscribe() if self.options.stream is None else self._bind(self.options.stream))
            await self._client.flush(int(PATIENCE))
        except (nats.errors.Error, nats.js.errors.Error) as error:
            await self._connection.close()
            raise ConnectionError(self._connection.shown(f"{type(error).__name__}: {error}")) from None
        except BaseException:
            await self._connection.close()
            raise

    async def _subscribe(self) -> None:
        options = self.options
        await self._client.subscribe(options.subject or "", options.queue or "", cb=self._take, pending_bytes_limit=PENDING)

    async def _bind(self, stream: str) -> None:
        """Find the consumer, or make it, and subscribe to what it will send here."""
        options, context = self.options, self._client.jetstream(domain=self.options.domain, timeout=PATIENCE)
        try:
            found = await context.consumer_info(stream, self._durable)
        except nats.js.errors.NotFoundError:
            config = ConsumerConfig(
                durable_name=self._durable,
                deliver_policy=STARTS[options.start],
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=options.ack_wait,
                filter_subject=options.subject,
                max_ack_pending=2 * options.batch,
            )
            try:
                found = await context.add_consumer(stream, config)
            except nats.js.errors.NotFoundError:
                raise ConnectionError(f'expected a stream "{stream}", found none; make it, or correct `stream`') from None
        self._check(found.config)
        self._ack_wait = found.config.ack_wait or options.ack_wait
        prefix = f"$JS.{options.domain}.API" if options.domain else "$JS.API"
        self._next = f"{prefix}.CONSUMER.MSG.NEXT.{stream}.{self._durable}"
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._receive, pending_bytes_limit=4 * BYTES)

    def _check(self, found: ConsumerConfig) -> None:
        """See to it that a consumer that was there is one that can be read so."""
        subject = self.options.subject
        if found.deliver_subject or found.ack_policy != AckPolicy.EXPLICIT:
            raise ConnectionError(
                f'durable "{self._durable}": expected one that is pulled and acknowledged, found another; name another one'
            )
        if subject is not None and found.filter_subject not in (subject, None, "") and subject not in (found.filter_subjects or ()):
            raise ConnectionError(
                f'durable "{self._durable}": expected one of the subject {subject}, found {found.filter_subject}; name another one'
            )

    async def _take(self, message: Msg) -> None:
        """Take a message without JetStream; while there are enough, the others wait in the client."""
        self._arrived.append(message)
        self._awake.set()
        if len(self._arrived) >= self.options.batch:
            self._room.clear()
            await self._room.wait()

    async def _receive(self, message: Msg) -> None:
        """Take a message of JetStream, or what it says of a request."""
        if message.reply:
            self._arrived.append(message)
            self._wanted -= 1
        else:
            headers = message.headers or {}
            status, said = headers.get("Status", ""), headers.get("Description", "")
            if status == "503" or "onsumer" in said or "eadership" in said:
                self._fault = f"the server says {status} {said}"
            elif status != "100" and message.subject == f"{self._inbox}.{self._asked}":
                self._wanted = 0
        self._awake.set()

    async def run(self, inlet: Inlet) -> None:
        """Bring messages until cancelled.

        Raises:
            ConnectionError: the connection is lost, or the consumer.
            JournalError: messages could not be accepted; JetStream sends them again.
        """
        is_kept = self.options.stream is not None
        while True:
            if is_kept and self._wanted <= 0:
                await self._ask()
            await self._wait(is_kept=is_kept)
            batch, self._arrived = self._arrived[: self.options.batch], self._arrived[self.options.batch :]
            self._room.set()
            if batch:
                await (self._accept(inlet, batch) if is_kept else inlet.put([self._event(message) for message in batch]))

    async def _ask(self) -> None:
        """Request the next batch."""
        self._asked += 1
        self._wanted = self.options.batch
        times = {"expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
        request = {"batch": self.options.batch, "max_bytes": BYTES, **times}
        await self._publish(self._next, json.dumps(request).encode(), reply=f"{self._inbox}.{self._asked}")

    async def _wait(self, *, is_kept: bool) -> None:
        """Return when there may be messages; raises when there is no connection any more, nor a sign of life."""
        patience = 2 * HEARTBEAT
        while not self._arrived:
            if self._fault or self._connection.is_lost:
                raise ConnectionError(self._fault) if self._fault else self._connection.lost()
            self._awake.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._awake.wait()
            except TimeoutError:
                if is_kept:
                    raise ConnectionError(f"the server has given no sign of life for {patience:g} s") from None
            if is_kept and self._wanted <= 0:
                return

    async def _accept(self, inlet: Inlet, batch: Sequence[Msg]) -> None:
        """Let the journal take messages, and acknowledge them; what is no event is acknowledged as one that is not to come again."""
        events = [self._event(message) for message in batch]
        putting = asyncio.ensure_future(inlet.put(events))
        try:
            while not (await asyncio.wait({putting}, timeout=self._ack_wait / 2))[0]:
                await self._answer(PROGRESS, [*batch, *self._arrived])
            putting.result()
        except BaseException as error:
            putting.cancel()
            await asyncio.wait({putting})
            self._arrived[:0] = batch
            self._delay = self.options.redelivery if isinstance(error, Exception) else 0.0
            raise
        for message, event in zip(batch, events, strict=True):
            await self._publish(message.reply, TERM if isinstance(event, Malformed) else ACK)

    async def _answer(self, said: bytes, messages: Sequence[Msg]) -> None:
        for message in messages:
            await self._publish(message.reply, said)

    async def _publish(self, subject: str, said: bytes, reply: str = "") -> None:
        try:
            await self._client.publish(subject, said, reply)
        except nats.errors.Error:
            raise self._connection.lost() from None

    def _event(self, message: Msg) -> Event:
        headers, id, time = NOTHING, "", None
        if message.headers:
            headers = {name.lower(): str(value) for name, value in message.headers.items()}  # no text when it is not ASCII
            id = headers.get("nats-msg-id", "")
        if self.options.stream is not None:
            words = message.reply.split(".")  # $JS.ACK.[domain.account.]stream.consumer.deliveries.sequence.sequence.time.pending[.…]
            at = 5 if len(words) == 9 else 7
            time = datetime.fromtimestamp(int(words[at + 2]) / 1e9, UTC)
            id = id or f"{self.options.stream}:{words[at]}:{words[at + 2]}"
        return self._read(headers, message.data, id=id, names={"subject": message.subject}, subject=message.subject, time=time)

    async def close(self) -> None:
        """Take no more, hand back what has arrived and was not accepted, in order, and disconnect."""
        with suppress(ConnectionError, nats.errors.Error, TimeoutError):
            if self.options.stream is not None and not self._connection.is_lost:
                async with asyncio.timeout(1):
                    await self._subscription.drain()  # type: ignore[no-untyped-call]
                await self._answer(_nak(self._delay), self._arrived)
        await self._connection.close()


class SinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To which `subject`, a template of attributes like `{type}`, and with `stream` whether JetStream has it when it is written."""

    url: Url = "nats://127.0.0.1:4222"
    subject: Text = "{type}"
    stream: Annotated[str, msgspec.Meta(min_length=1, examples=["ORDERS"])] | None = None
    mode: bindings.Mode = "binary"
    domain: Text | None = None
    access: Access | None = None
    tls: Tls | None = None


class NatsSink(Sink):
    """Publishes events to a subject, or into a stream of JetStream, which drops those that it already has."""

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        self._subject = bindings.Address("subject", options.subject)
        self._lost = asyncio.Event()
        self._under_way: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectionError: no server answers, or it refuses; the text says why.
        """
        self._connection = Connection(self.log, self.options.url, self.options.access, self.options.tls, self.folder)
        self._lost = asyncio.Event()
        self._connection.woken = self._notice
        await self._connection.open()
        self._client = self._connection.client
        self._context = self._client.jetstream(domain=self.options.domain, timeout=PATIENCE)

    def _notice(self) -> None:
        if self._connection.is_lost:
            self._lost.set()

    async def write(self, events: list[Event]) -> None:
        """Publish the events, and wait until the server has them.

        Raises:
            ConnectionError: the connection is lost.
            PartialFailure: some were not taken; each has the error that says why.
        """
        failures: dict[str, str | Exception] = {}
        answers: dict[str, asyncio.Future[Any]] = {}
        try:
            for event in events:
                try:
                    await self._send(event, answers)
                except (Reject, nats.errors.MaxPayloadError) as error:
                    failures[event.id] = error if isinstance(error, Reject) else Reject("it is larger than the server takes")
            await self._taken(answers)
        except (nats.errors.Error, nats.js.errors.Error, OSError) as error:
            raise self._connection.lost() if self._connection.is_lost else error from None
        failures |= {id: _refusal(why) for id, answer in answers.items() if (why := answer.exception()) is not None}
        if failures:
            raise PartialFailure(failures)

    async def _send(self, event: Event, answers: dict[str, asyncio.Future[Any]]) -> None:
        subject = self._subject(event)
        if not _SUBJECT.fullmatch(subject):
            raise Reject(f'`subject`: expected words with dots between them, found "{subject}"; correct it, or what makes the event')
        headers, body = bindings.write(bindings.NATS, event, self.options.mode)
        if self.options.stream is None:
            await self._client.publish(subject, body, headers=headers)
        else:
            headers["Nats-Msg-Id"] = quote(f"{event.source}/{event.id}", safe=SAFE)
            answers[event.id] = await self._context.publish_async(subject, body, stream=self.options.stream, headers=headers)

    async def _taken(self, answers: Mapping[str, asyncio.Future[Any]]) -> None:
        """Return when the server has answered.

        Raises:
            ConnectionError: it does not any more.
        """
        answered = asyncio.ensure_future(asyncio.wait(answers.values()) if answers else self._client.flush(int(PATIENCE)))
        self._under_way.add(answered)  # and is not cancelled: the client does not survive an answer that nobody waits for any more
        answered.add_done_callback(self._end)
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({answered, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise self._connection.lost()
            answered.result()
        finally:
            lost.cancel()

    def _end(self, answered: asyncio.Future[Any]) -> None:
        self._under_way.discard(answered)
        if not answered.cancelled():
            answered.exception()  # was told, or nobody waits for it

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()


def _nak(delay: float) -> bytes:
    """Return what hands a message back for so many seconds; without a delay it comes before those that were never sent."""
    return b"-NAK " + json.dumps({"delay": int(delay * 1e9)}).encode() if delay else b"-NAK"


def _refusal(error: BaseException) -> str:
    if isinstance(error, nats.js.errors.NoStreamResponseError):
        return "no stream takes the subject; make one, or correct `subject` or `stream`"
    return f"{type(error).__name__}: {error}"


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"nats": NatsSource}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"nats": NatsSink}
