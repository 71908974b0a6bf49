"""The source and the sink `redis`: a stream that a group reads, a list, a channel; the sink also a set.

The source reads a batch, and the next when the journal has it: what it was given and has not acknowledged is one batch
at most, and comes again. A connection of Redis says one thing at a time, so that each source and sink has its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from runtime import Event, Inlet, PartialFailure, Reject, Sink, Source, bindings, hookimpl

from ._redis import Connection, Part, Server, Text
from ._redis_readers import ChannelReader, ListReader, SourceOptions, StreamReader

MODES: Mapping[str, bindings.Mode] = {"stream": "binary", "channel": "structured", "list": "structured", "set": "structured"}


class RedisSource(Source):
    """Brings the entries of a stream, the elements of a list, or the messages of a channel."""

    Options = SourceOptions
    finite = False
    acknowledges = True

    def __init__(self, name: str, options: SourceOptions) -> None:
        super().__init__(name, options)
        self._kind, _ = _one_of({"stream": options.stream, "list": options.list, "channel": options.channel})
        if options.group is not None and self._kind != "stream":
            raise ValueError(f"`group`: expected a `stream` beside it, found `{self._kind}`; only streams have groups")
        self._read = bindings.Reader(
            bindings.KAFKA, name, type=options.type, usual=f"{{{self._kind}}}", names=(self._kind,), content=options.content
        )

    async def open(self) -> None:
        """Connect, and find or make the group, or subscribe.

        Raises:
            ConnectionError: the server does not answer, or refuses; the text says why.
        """
        self._connection = Connection(self.name, self.options, self.folder)
        await self._connection.open()
        self._reader = self._reading()
        try:
            await self._reader.open()
        except BaseException:
            await self._connection.close()
            raise

    def _reading(self) -> StreamReader | ListReader | ChannelReader:
        options, connection, read = self.options, self._connection, self._read
        if options.stream is not None:
            return StreamReader(connection, read, options.stream, options.group or self.name, options)
        if options.list is not None:
            return ListReader(connection, read, options.list, options)
        assert options.channel is not None
        return ChannelReader(connection, read, options.channel, options)

    async def run(self, inlet: Inlet) -> None:
        """Bring events until cancelled.

        Raises:
            ConnectionError: the connection is lost.
            JournalError: events could not be accepted; of a stream or list they come again.
        """
        await self._reader.run(inlet)

    async def close(self) -> None:
        """Disconnect; what was not accepted stays with the server, under the name of the consumer."""
        await self._connection.close()


class SinkOptions(Server, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To which `stream`, `list`, `channel` or `set`, each a template of attributes like `{type}`."""

    stream: Annotated[str, msgspec.Meta(min_length=1, examples=["invoices"])] | None = None
    list: Text | None = None
    channel: Text | None = None
    set: Text | None = None
    mode: bindings.Mode | None = None
    field: Text = "data"
    max_entries: Annotated[int, msgspec.Meta(ge=1)] | None = None
    side: Literal["left", "right"] = "right"


class RedisSink(Sink):
    """Adds events to a stream, a list or a set, or publishes them to a channel."""

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        places = {"stream": options.stream, "list": options.list, "channel": options.channel, "set": options.set}
        self._kind, place = _one_of(places)
        self._place = bindings.Address(self._kind, place)
        self._mode = options.mode or MODES[self._kind]
        if self._mode == "binary" and self._kind != "stream":
            raise ValueError(f'`mode`: expected "structured" beside `{self._kind}`, found "binary"; only entries of a stream have fields')
        if options.max_entries is not None and self._kind != "stream":
            raise ValueError(f"`max_entries`: expected a `stream` beside it, found `{self._kind}`; remove it")
        self._asking = asyncio.Lock()
        self._under_way: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectionError: the server does not answer, or refuses; the text says why.
        """
        self._connection = Connection(self.name, self.options, self.folder)
        await self._connection.open()

    async def write(self, events: list[Event]) -> None:
        """Send the events, and wait until the server has them.

        Raises:
            ConnectionError: the connection is lost.
            PartialFailure: some were not taken; each has the error that says why.
        """
        failures: dict[str, str | Exception] = {}
        commands: dict[str, Sequence[Part]] = {}
        for event in events:
            try:
                commands[event.id] = self._command(event)
            except Reject as error:
                failures[event.id] = error
        answers = await self._answers(list(commands.values())) if commands else []
        failures |= {
            id: self._connection.shown(f"the server refuses: {answer}")
            for id, answer in zip(commands, answers, strict=True)
            if isinstance(answer, Exception)
        }
        if failures:
            raise PartialFailure(failures)

    def _command(self, event: Event) -> Sequence[Part]:
        place = self._place(event)
        headers, body = bindings.write(bindings.KAFKA, event, self._mode)
        if self._kind == "list":
            return ("RPUSH" if self.options.side == "right" else "LPUSH", place, body)
        if self._kind != "stream":
            return ("PUBLISH" if self._kind == "channel" else "SADD", place, body)
        limit = ("MAXLEN", "~", self.options.max_entries) if self.options.max_entries else ()
        fields = (part for pair in headers.items() for part in pair)
        return ("XADD", place, *limit, "*", *fields, self.options.field, body)

    async def _answers(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """Return the answers; who is cancelled meanwhile leaves the connection as it was, with every answer read."""
        asking = asyncio.ensure_future(self._ask(commands))
        self._under_way.add(asking)
        asking.add_done_callback(self._end)
        return await asyncio.shield(asking)

    async def _ask(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        async with self._asking:
            return await self._connection.ask_all(commands)

    def _end(self, asking: asyncio.Future[Any]) -> None:
        self._under_way.discard(asking)
        if not asking.cancelled():
            asking.exception()  # was told, or nobody waits for it

    async def close(self) -> None:
        """Disconnect."""
        for asking in self._under_way:
            asking.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._connection.close()


def _one_of(places: Mapping[str, str | None]) -> tuple[str, str]:
    given = [(kind, place) for kind, place in places.items() if place is not None]
    if len(given) != 1:
        names = ", ".join(f"`{kind}`" for kind in places)
        raise ValueError(f"expected one of {names}, found {' and '.join(f'`{kind}`' for kind, _ in given) or 'none'}; give one")
    return given[0]


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"redis": RedisSource}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"redis": RedisSink}
