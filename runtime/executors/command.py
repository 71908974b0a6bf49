"""Calls functions that are commands: one CloudEvent a line on stdin, one answer a line on stdout.

A process answers one event at a time, so that an answer needs no name. A crew is the processes of one function as it is
configured: an idle one takes the next event, another is started when there is none, and dispatch sees to it that there are
no more than the `concurrency` of the function. What a process may have done wrong (died, hung, written too much) ends it,
never another. Answers cannot be told apart, so a process that has said one line too many is out of step, and is ended, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from runtime import cloudevents
from runtime.codec import read_json, to_json
from runtime.contracts import Call, Clock, Timer
from runtime.errors import CommandError, DataError, MalformedEvent
from runtime.executors.answers import take_answer
from runtime.executors.child import Child, Stamp, TooMuch, shown
from runtime.executors.warden import Warden
from runtime.settings import CommandSettings
from runtime.specs import FunctionSpec

IDLE = 60.0  # seconds after which a process that has had nothing to do is ended


class Commands:
    """The crews of all functions that are commands; `folder` is that of the configuration file."""

    def __init__(self, clock: Clock, folder: Path) -> None:
        self._clock = clock
        self._folder = folder.absolute()
        self._warden = Warden()
        self._crews: dict[str, Crew] = {}
        self._children: set[Child] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None

    async def call(self, call: Call) -> Any:
        """Return the result of one call; see `runtime.contracts.Executor`."""
        line = _event_of(call)
        crew = self._crew(call.function)
        child, value = await self._ask(crew, line)
        self._put_back(crew, child)
        try:
            return take_answer(call, value, crew.who)
        except CommandError as error:
            raise crew.failure(error, child) from None

    def adopt(self, functions: Iterable[FunctionSpec]) -> None:
        """End the processes of functions that are not among these any more, when they have done their work."""
        targets = {function.name: function.call for function in functions}
        for crew in [crew for crew in self._crews.values() if targets.get(crew.name) != crew.target]:
            self._retire(self._crews.pop(crew.name).idle)

    async def _ask(self, crew: Crew, line: bytes) -> tuple[Child, Any]:
        """Return a process and what it has answered; one that does anything else is killed.

        Raises:
            CommandError: it cannot be started, dies, or answers what cannot be read.
        """
        while True:
            child = self._take(crew)
            try:
                answer = await (child.ask_once(line) if crew.once else child.ask(line))
                if answer is None and child.code == 0 and child.calls > 1:
                    self._retire([child])
                    continue  # it has ended by itself after the event before
                return child, crew.read(child, answer)
            except BaseException as error:
                child.kill()
                self._retire([child])
                if isinstance(error, TooMuch):
                    raise CommandError(f"{crew.who}: {error}") from None
                raise

    def _crew(self, function: FunctionSpec) -> Crew:
        crew = self._crews.get(function.name)
        if crew is None or crew.target != function.call or crew.settings != function.settings:
            self._retire(crew.idle if crew is not None else [])
            crew = self._crews[function.name] = Crew(function, self._folder)
        return crew

    def _take(self, crew: Crew) -> Child:
        """Return an idle process, or a new one."""
        while crew.idle:
            child = crew.idle.pop()
            if child.code is None and not child.silent and child.stamp == crew.stamp():
                return child
            self._retire([child])
        child = crew.start(self._warden)
        self._children.add(child)
        return child

    def _put_back(self, crew: Crew, child: Child) -> None:
        """Keep a process for the next event, unless it has served or is out of date."""
        most = crew.target.max_calls
        if child.silent or crew is not self._crews.get(crew.name) or (most is not None and child.calls >= most):
            self._retire([child])
            return
        child.idle_since = self._clock.monotonic()
        crew.idle.append(child)
        if self._timer is None:
            self._timer = self._clock.call_later(IDLE, self._sweep)

    def _sweep(self) -> None:
        """End the processes that have been idle for long; look again while there are others."""
        self._timer = None
        now = self._clock.monotonic()
        for crew in self._crews.values():
            self._retire([child for child in crew.idle if now - child.idle_since >= IDLE])
            crew.idle = [child for child in crew.idle if now - child.idle_since < IDLE]
        if any(crew.idle for crew in self._crews.values()):
            self._timer = self._clock.call_later(IDLE, self._sweep)

    def _retire(self, children: list[Child]) -> None:
        for child in children:
            task = asyncio.get_running_loop().create_task(self._end(child), name="end of a command")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, child: Child) -> None:
        await child.end()
        self._children.discard(child)

    async def close(self) -> None:
        """End all processes: those at work at once, the others when they are told to."""
        if self._timer is not None:
            self._timer.cancel()
        idle = {child for crew in self._crews.values() for child in crew.idle}
        for child in self._children - idle:
            child.kill()
        self._retire(list(self._children))
        await asyncio.gather(*self._ending)
        self._warden.close()


class Crew:
    """The processes of one function as it is configured; `who` it is, for people, without what may be secret."""

    def __init__(self, function: FunctionSpec, folder: Path) -> None:
        self.name, self.settings = function.name, function.settings
        self.target: CommandSettings = function.call
        self.once = self.target.mode == "once"
        self.idle: list[Child] = []
        self.who = f'"{function.name}" ({function.where}), the command {self.target.command[0]}'
        self._cwd = folder / (self.target.cwd or "")
        self._words = [*_placed(self.target.sandbox, folder), *_placed(self.target.command, folder)]
        self._log = logging.getLogger(f"functions.{function.name}")

    def stamp(self) -> Stamp:
        """Return what tells whether a file of the command has been saved."""
        return tuple(_stamp(self._cwd / word) for word in self._words)

    def start(self, warden: Warden) -> Child:
        """Return a new process.

        Raises:
            CommandError: it cannot be started.
        """
        own = {"FUNCTION_NAME": self.name, "FUNCTION_SETTINGS": to_json(self.settings).decode()}
        stamp = self.stamp()
        try:
            child = Child(self._words, env=os.environ | own | self.target.env, cwd=self._cwd, say=self._log.info, warden=warden)
        except OSError as error:
            raise CommandError(f"{self.who}: {self._unstartable(error)}") from None
        child.stamp = stamp
        return child

    def _unstartable(self, error: OSError) -> str:
        if not self._cwd.is_dir():
            return "expected a working directory, found none; correct `cwd`, or make the folder"
        first = (self.target.sandbox or self.target.command)[0]
        wanted = "a program that can be executed"
        if isinstance(error, FileNotFoundError):
            return f"expected {wanted}, found no {first}, or not what its first line names; install it, or correct the path"
        if isinstance(error, PermissionError):
            return f"expected {wanted}, found that {first} is none; chmod +x it, or name the interpreter before it"
        return f"expected {wanted}, found: {error.strerror}"

    def read(self, child: Child, answer: bytes | None) -> Any:
        """Return the value that a process has answered with.

        Raises:
            CommandError: it has answered with something else, or not at all.
        """
        once = self.once
        if answer is None or (once and child.code):
            raise self.failure(CommandError(f"{self.who}: expected an answer, found that it {_fate(child)}{_last(child)}"), child)
        if child.output:
            found = f"{shown(answer)} and {shown(child.output)}"
            raise self.failure(CommandError(f"{self.who}: expected one line, found {found}; print logs on stderr"), child)
        if once and not answer.strip():
            return None
        try:
            return read_json("stdout", answer)
        except MalformedEvent:
            wanted = "JSON and nothing else on stdout" if once else "a line of JSON"
            error = CommandError(f"{self.who}: expected {wanted}, found {shown(answer)}; print logs on stderr")
            raise self.failure(error, child) from None

    def failure(self, error: CommandError, child: Child) -> CommandError:
        """Return an error that remembers what the process has said on stderr."""
        if child.told:
            error.add_note("\n".join(["The last lines on stderr:", *child.told]))
        return error


def _event_of(call: Call) -> bytes:
    """Return the event as a line; its data is what the function is to be given.

    Raises:
        DataError: that cannot be encoded.
    """
    (payload,), _ = call.function.parameters.bind(call)
    event = call.event
    if call.function.after:  # its content type and its schema are those of the data, not of a result
        event = msgspec.structs.replace(event, data=payload, datacontenttype=None, dataschema=None)
    try:
        return cloudevents.encode(event) + b"\n"
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f'what "{call.function.name}" is given cannot be encoded: {error}') from None


def _placed(words: Sequence[str], folder: Path) -> list[str]:
    """Return the words of a command; a relative path to its program is relative to the folder."""
    return [str(folder / word) if not number and "/" in word else word for number, word in enumerate(words)]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _fate(child: Child) -> str:
    """Return how a process has ended."""
    if child.code is None:
        return "has closed its stdout"
    if child.code >= 0:
        return f"ended with exit code {child.code}"
    try:
        return f"was killed by {signal.Signals(-child.code).name}"
    except ValueError:
        return f"was killed by signal {-child.code}"


def _last(child: Child) -> str:
    return f'; its last words: "{child.told[-1][:200]}"' if child.told else ""
