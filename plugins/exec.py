"""The source and the sink `exec`: lines that a command writes, and commands that take events.

A pipe keeps nothing: what a command has written and the journal has not accepted is gone with the process. While the
runtime is full the pipe fills, and the command waits. A command that takes events answers for each, by its exit code or by a line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from runtime import Event, Inlet, Malformed, MalformedEvent, PartialFailure, Reject, Sink, Source, bindings, cloudevents, codec, hookimpl

from ._process import Failed, Process

BATCH = 500  # lines accepted at once

Command = Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1, examples=[["journalctl", "-f"]])]


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which `command`, in the folder `cwd` and with the variables `env` besides those of the runtime.

    A line is the data of an event of the `type`, as `content` says; without a `type` it is a CloudEvent.
    """

    command: Command
    type: Annotated[str, msgspec.Meta(min_length=1, examples=["log.line"])] | None = None
    content: bindings.Content = "json"
    cwd: str | None = None
    env: dict[str, str] = {}


class ExecSource(Source):
    """Runs a command and makes an event of each line on its stdout; it ends when the command ends well."""

    Options = SourceOptions

    def __init__(self, name: str, options: SourceOptions) -> None:
        super().__init__(name, options)
        usual = options.type or bindings.UNKNOWN
        self._read = bindings.Reader(bindings.NATS, name, type=usual, usual=usual, names=(), content=options.content)
        self._events: list[Event] = []  # not accepted yet: kept when the journal fails, and the command is started again

    async def open(self) -> None:
        """Start the command.

        Raises:
            Failed: it cannot be started.
        """
        options = self.options
        self._process = await Process.start(options.command, self.folder, options.cwd, options.env, self.log, stdin=False)

    async def run(self, inlet: Inlet) -> None:
        """Bring lines until the command has ended well.

        Raises:
            Failed: it has ended otherwise, or writes what is no line.
            JournalError: lines could not be accepted.
        """
        await self._put(inlet)
        while lines := await self._process.lines():
            self._events += [self._event(line) for line in lines if line.strip()]
            await self._put(inlet)
        if await self._process.code():
            raise Failed(await self._process.fate())

    async def _put(self, inlet: Inlet) -> None:
        while self._events:
            await inlet.put(self._events[:BATCH])
            del self._events[:BATCH]

    def _event(self, line: bytes) -> Event:
        line = line.removesuffix(b"\r")
        if self.options.type is not None:
            return self._read({}, line, id="", names={})
        try:
            return cloudevents.decode(line)
        except MalformedEvent as error:
            return Malformed(type=bindings.UNKNOWN, source=f"source/{self.name}", data=line, why=str(error))

    async def close(self) -> None:
        """End the command."""
        await self._process.end()


class SinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which `command`, in the folder `cwd` and with the variables `env` besides those of the runtime.

    It gets an event as a line of JSON: one that is `persistent` gets all and answers a line for each, with `mode = "once"`
    each event gets a command of its own, whose exit code is the answer.
    """

    command: Command
    mode: Literal["persistent", "once"] = "persistent"
    cwd: str | None = None
    env: dict[str, str] = {}


class ExecSink(Sink):
    """Gives events to a command, and waits for its answers."""

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Start the command, unless each event gets its own.

        Raises:
            ConnectionError: it cannot be started.
        """
        if self.options.mode == "persistent":
            self._process = await self._start()

    async def _start(self) -> Process:
        options = self.options
        try:
            return await Process.start(options.command, self.folder, options.cwd, options.env, self.log, stdin=True)
        except Failed as error:
            raise ConnectionError(str(error)) from None

    async def write(self, events: list[Event]) -> None:
        """Give the events to the command.

        Raises:
            ConnectionError: it has ended, answers what is no answer, or cannot be started.
            PartialFailure: it has failed for some.
        """
        if self.options.mode == "once":
            found = {event.id: await self._once(event) for event in events}
        else:
            async with self._turn:
                found = await self._ask(events)
        if failures := {id: why for id, why in found.items() if why is not None}:
            raise PartialFailure(failures)

    async def _once(self, event: Event) -> str | Exception | None:
        """Return what a command of its own has against an event."""
        process = await self._start()
        try:
            process.write(cloudevents.encode(event) + b"\n")
            process.hang_up()
            while await process.lines():
                pass
            return await process.fate() if await process.code() else None
        finally:
            await process.end()

    async def _ask(self, events: list[Event]) -> dict[str, str | Exception | None]:
        """Return what the command has against each event; one that has not answered for all is ended."""
        if self._process is None:
            self._process = await self._start()
        process = self._process
        try:
            answers = await _exchange(process, events)
            return {event.id: _refusal(answer) for event, answer in zip(events, answers, strict=True)}
        except BaseException as error:
            self._process = None
            await process.end()
            if isinstance(error, Failed):
                raise ConnectionError(str(error)) from None
            raise

    async def close(self) -> None:
        """End the command: its stdin is closed, and it has a second to end."""
        if self._process is not None:
            process, self._process = self._process, None
            await process.end(gently=True)


async def _exchange(process: Process, events: list[Event]) -> list[bytes]:
    """Return the lines that a command answers to events, one for each."""
    if process.has_said and (lines := await process.lines()):
        raise ConnectionError(f"expected nothing before the next event, found {len(lines)} lines; print logs on stderr")
    process.write(b"".join(cloudevents.encode(event) + b"\n" for event in events))
    answers: list[bytes] = []
    while len(answers) < len(events):
        if not (lines := await process.lines()):
            raise ConnectionError(await process.fate())
        answers += lines
    if len(answers) > len(events):
        raise ConnectionError(f"expected a line in answer to each of {len(events)} events, found {len(answers)}; print logs on stderr")
    return answers


def _refusal(answer: bytes) -> str | Exception | None:
    """Return what a line has against an event.

    Raises:
        ConnectionError: it is no answer.
    """
    try:
        said: Any = codec.read_json("the answer", answer)
    except MalformedEvent as error:
        raise ConnectionError(f"{error}; print logs on stderr") from None
    if isinstance(said, dict) and "error" in said:
        return str(said["error"])
    return Reject(str(said["reject"])) if isinstance(said, dict) and "reject" in said else None


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"exec": ExecSource}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"exec": ExecSink}
