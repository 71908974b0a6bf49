"""How the source `redis` reads: entries of a stream, elements of a list, messages of a channel.

Each has `open`, which finds or makes what it needs, and `run`, which brings what there is until it is cancelled. What
was read and not accepted stays with the server, under the name of the consumer, and is what the next `run` begins with.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from runtime import Event, Inlet, bindings

from ._redis import BLOCK, Connection, Server, Text

TIMES = range(10**12, 10**14)  # milliseconds that are a time, in an id that the server has made
NOTHING: dict[str, str] = {}


class SourceOptions(Server, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which `stream`, as the `consumer` of a `group`, or which `list`, or which `channel`.

    `type` is the type of all events, or a template of `{stream}`, `{list}` or `{channel}`, and `{header.NAME}`, a field.
    """

    stream: Annotated[str, msgspec.Meta(min_length=1, examples=["orders"])] | None = None
    list: Text | None = None
    channel: Text | None = None
    group: Text | None = None
    consumer: Text | None = None
    type: Text | None = None
    content: bindings.Content = "json"
    field: Text = "data"
    batch: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    start: Literal["all", "new"] = "all"
    claim_after: Annotated[float, msgspec.Meta(ge=0.1, le=86_400)] = 60.0
    side: Literal["left", "right"] = "left"


class StreamReader:
    """The entries of a stream that a group gives to a consumer: first those it was given before, then new ones and others' leftovers."""

    def __init__(self, connection: Connection, read: bindings.Reader, stream: str, group: str, options: SourceOptions) -> None:
        self._ask = connection.ask
        self._ask_all = connection.ask_all
        self._read = read
        self._stream, self._group, self._consumer = stream, group, options.consumer or socket.gethostname()
        self._batch = options.batch
        self._start = "0" if options.start == "all" else "$"
        self._field = options.field.encode()
        self._claim_after = options.claim_after

    async def open(self) -> None:
        """Make the group, unless there is one."""
        [answer] = await self._ask_all([("XGROUP", "CREATE", self._stream, self._group, self._start, "MKSTREAM")])
        if isinstance(answer, Exception) and not str(answer).startswith("BUSYGROUP"):
            raise ConnectionError(f'stream "{self._stream}": {answer}')

    async def run(self, inlet: Inlet) -> None:
        """Bring entries until cancelled.

        Raises:
            ConnectionError: the connection is lost, or the group.
            JournalError: entries could not be accepted; they come again.
        """
        while entries := await self._next("0", 0):
            await self._accept(inlet, entries)
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if loop.time() >= due:
                await self._claim(inlet)
                due = loop.time() + self._claim_after
            await self._accept(inlet, await self._next(">", min(BLOCK, max(due - loop.time(), 0.001))))

    async def _next(self, after: str, block: float) -> list[Any]:
        """Return entries: with `0` those that were given before, with `>` new ones, for which it waits `block` seconds."""
        command = ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", self._batch)
        wait = ("BLOCK", max(int(block * 1000), 1)) if block else ()
        answer = await self._ask(*command, *wait, "STREAMS", self._stream, after)
        return list(answer[0][1]) if answer else []

    async def _claim(self, inlet: Inlet) -> None:
        """Take over what others were given and have not acknowledged for long."""
        cursor: str | bytes = "0-0"
        while True:
            idle = int(self._claim_after * 1000)
            found = await self._ask("XAUTOCLAIM", self._stream, self._group, self._consumer, idle, cursor, "COUNT", self._batch)
            cursor = found[0]
            await self._accept(inlet, [entry for entry in found[1] if entry])
            if cursor == b"0-0":
                return

    async def _accept(self, inlet: Inlet, entries: Sequence[Any]) -> None:
        """Let the journal take entries, and acknowledge them; those that were deleted meanwhile have no fields."""
        if not entries:
            return
        ids = [id for id, _ in entries]
        putting = asyncio.ensure_future(inlet.put([self._event(id, fields) for id, fields in entries if fields is not None]))
        try:
            while not (await asyncio.wait({putting}, timeout=self._claim_after / 2))[0]:
                await self._ask("XCLAIM", self._stream, self._group, self._consumer, 0, *ids, "JUSTID")  # so that nobody takes it over
            putting.result()
        except BaseException:
            putting.cancel()
            await asyncio.wait({putting})
            raise
        await self._ask("XACK", self._stream, self._group, *ids)

    def _event(self, id: bytes, fields: Sequence[bytes]) -> Event:
        """Return the event of an entry: the body is the field `field`, or, where there is none, all fields as an object."""
        pairs = dict(zip(fields[::2], fields[1::2], strict=True))
        body = pairs.pop(self._field, None)
        texts = {_text(name): _text(value) for name, value in pairs.items()} if pairs else NOTHING
        headers = {name.lower(): value for name, value in texts.items()} if texts else NOTHING
        if body is None:
            body = b""
            if "ce_specversion" not in headers:
                body, headers = msgspec.json.encode(texts), {**headers, "content-type": "application/json"}
        entry = id.decode()
        milliseconds = int(entry.partition("-")[0])
        time = datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds in TIMES else None
        return self._read(headers, body, id=f"{self._stream}:{entry}", names={"stream": self._stream}, time=time)


class ListReader:
    """The elements of a list, each of which waits in another list, of the consumer, until it is accepted.

    An element has no name in Redis. So each batch has a token there, which is changed in one step with the removal of its
    elements: token and place in the batch are the id of an event, and the same when it comes again.
    """

    def __init__(self, connection: Connection, read: bindings.Reader, list: str, options: SourceOptions) -> None:
        self._ask = connection.ask
        self._ask_all = connection.ask_all
        self._read = read
        self._list, self._side = list, options.side.upper()
        consumer = options.consumer or socket.gethostname()
        self._taken, self._tokens = f"{list}:taken:{consumer}", f"{list}:token:{consumer}"
        self._batch = options.batch
        self._token = ""

    async def open(self) -> None:
        """See to it that both are lists, or not there."""
        await self._ask("LLEN", self._list)
        await self._ask("LLEN", self._taken)

    async def run(self, inlet: Inlet) -> None:
        """Bring elements until cancelled.

        Raises:
            ConnectionError: the connection is lost.
            JournalError: elements could not be accepted; they come again.
        """
        await self._begin(inlet)
        while True:
            first = await self._ask("BLMOVE", self._list, self._taken, self._side, "RIGHT", BLOCK)
            if first is not None:
                more = min(await self._ask("LLEN", self._list), self._batch - 1)
                moved = await self._ask_all([("LMOVE", self._list, self._taken, self._side, "RIGHT")] * more) if more else []
                await self._accept(inlet, [first, *(body for body in moved if isinstance(body, bytes))])

    async def _begin(self, inlet: Inlet) -> None:
        """Begin with what was taken before and not accepted."""
        left = await self._ask("LRANGE", self._taken, 0, -1)
        known = await self._ask("GET", self._tokens)
        if left and known:
            self._token = known.decode()
        else:
            self._token = str(uuid.uuid4())
            await self._ask("SET", self._tokens, self._token)
        if left:
            await self._accept(inlet, left)

    async def _accept(self, inlet: Inlet, bodies: Sequence[bytes]) -> None:
        await inlet.put(
            [
                self._read(NOTHING, body, id=f"{self._list}:{self._token}:{place}", names={"list": self._list})
                for place, body in enumerate(bodies)
            ]
        )
        self._token = str(uuid.uuid4())
        removals = [("LREM", self._taken, 1, body) for body in bodies]  # only these: another might use the same name
        *_, done = await self._ask_all([("MULTI",), *removals, ("SET", self._tokens, self._token), ("EXEC",)])
        if isinstance(done, Exception):
            raise ConnectionError(f'list "{self._taken}": {done}')


class ChannelReader:
    """The messages of a channel, or of all that a pattern names; what is published while it does not listen is gone."""

    def __init__(self, connection: Connection, read: bindings.Reader, channel: str, options: SourceOptions) -> None:
        self._connection = connection
        self._read = read
        self._channel = channel
        self._batch = options.batch

    async def open(self) -> None:
        """Subscribe."""
        word = "PSUBSCRIBE" if any(letter in self._channel for letter in "*?[\\") else "SUBSCRIBE"
        await self._connection.ask(word, self._channel)

    async def run(self, inlet: Inlet) -> None:
        """Bring messages until cancelled.

        Raises:
            ConnectionError: the connection is lost.
            JournalError: messages could not be accepted, and are gone.
        """
        is_asked = False
        while True:
            said = await self._connection.wait(BLOCK)
            if said is None:
                if is_asked:
                    raise ConnectionError(f"the server has given no sign of life for {2 * BLOCK:g} s")
                await self._connection.say("PING")
            is_asked = said is None
            events = []
            while said is not None:
                if said[0] in (b"message", b"pmessage"):
                    channel = _text(said[-2])
                    events.append(self._read(NOTHING, said[-1], id="", names={"channel": channel}, subject=channel))
                said = await self._connection.wait(0) if len(events) < self._batch else None
            if events:
                await inlet.put(events)


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
