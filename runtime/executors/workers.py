"""One worker process, seen from the runtime: its calls, what it says, and its end."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, Final, Protocol, cast

import msgspec

from runtime.contracts import Call
from runtime.errors import DataError
from runtime.executors.crossing import log_again, members_of
from runtime.executors.frames import UNLIMITED, Answer, Broken, Dropped, Frames, Job, Logged, Mark, Ready, Reply, frame_of
from runtime.executors.zygotes import Notice, Request, Zygotes

MEETING: Final = 0.001  # seconds in which a worker that has just begun a call is sure to have said so
LEAVING: Final = 5.0  # seconds that a worker has to close its resources
CHUNK: Final = 262_144  # bytes that are read at once
DRAINING: Final = 0.2  # seconds that the last answers of a dead worker may take, or the news of its end

_ANSWERS = msgspec.msgpack.Decoder(list[Answer])


class Owner(Protocol):
    """What a worker tells its pool."""

    name: str
    max_calls: float

    def feed(self) -> None:
        """Give calls that wait to who can have more of them."""

    def measure(self) -> None:
        """Take note of what the calls that have ended took."""

    def give_back(self, calls: list[Waiting]) -> None:
        """Take calls that it will not begin."""

    def replied(self, worker: Worker, waiting: Waiting, reply: Reply) -> None:
        """Take the answer to a call."""

    def broken(self, answer: Broken) -> None:
        """Take that it cannot make the function."""

    def died(self, worker: Worker, notice: Notice, culprit: Waiting | None, others: list[Waiting]) -> None:
        """Take the end of its process, in the middle of `culprit`."""


class Waiting:
    """A call on its way; `number` is that by which its worker knows it."""

    __slots__ = ("call", "future", "number")

    def __init__(self, call: Call, future: asyncio.Future[Reply]) -> None:
        self.call = call
        self.future = future
        self.number = 0


class Worker(asyncio.Protocol):
    """One worker process, seen from here. All that happens to it is told to its pool.

    `sent` are the calls that it has, by number; `held`: it is to begin none of them any more, until it has said so.
    """

    def __init__(self, pool: Owner, zygotes: Zygotes) -> None:
        self._pool = pool
        self._zygotes = zygotes
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._outbox: list[Job] = []
        self._rest: socket.socket | None = None  # leads to what it said before a write to it failed
        self._notice: Notice | None = None
        self._lost = False
        self._met = False
        self._count = 0
        self._max_calls = pool.max_calls
        self._written = 0
        self._dropped = 0
        self.sent: dict[int, Waiting] = {}
        self.ready = self.useful = self.held = self.killed = self.leaving = self.dead = False
        self.gone = asyncio.Event()
        self.idle_since = 0.0
        self.head = 0  # the first of `sent` at the last look

    async def start(self, task: bytes, request: Request) -> None:
        """Have the process started.

        Raises:
            OSError: there is no room for another process.
        """
        ours, theirs = socket.socketpair()
        with theirs, shared_file() as file:
            try:
                file.truncate(Mark.SIZE)
                self.mark = Mark(file.fileno())
                self.mark.limit = UNLIMITED
                self._number = self._zygotes.fork(request, (theirs.fileno(), file.fileno()), self._on_end)
            except OSError:
                ours.close()
                raise
        self._rest = ours.dup()
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        assert self._transport is not None
        self._transport.write(task)
        if self.leaving:  # it was told so meanwhile
            self._hang_up()

    # --- calls ----------------------------------------------------------------------------------------

    def takes(self, depth: int) -> bool:
        """Return whether it can have another call, when so many may be sent ahead."""
        return self.ready and not self.held and not self.leaving and len(self.sent) < depth and self._count < self._max_calls

    @property
    def spent(self) -> bool:
        """Whether it has been given as many calls as one worker may have."""
        return self._count >= self._max_calls

    def send(self, waiting: Waiting) -> None:
        """Send a call: at once to a worker that has nothing to do, else with all others of this turn of the loop."""
        self._count += 1
        waiting.number = self._count
        idle = not self.sent
        self.sent[self._count] = waiting
        self._outbox.append(Job(self._count, members_of(waiting.call)))
        if idle:
            self._write()
        elif len(self._outbox) == 1:
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        jobs, self._outbox = self._outbox, []
        if not jobs or self._transport is None or self.dead:
            return
        self._written = jobs[-1].number
        try:
            frame = frame_of(jobs)
        except (TypeError, ValueError, OverflowError, RecursionError):
            self._write_each(jobs)
        else:
            self._transport.write(frame)

    def _write_each(self, jobs: Iterable[Job]) -> None:
        """Send calls one by one; what cannot be sent fails alone."""
        assert self._transport is not None
        for job in jobs:
            try:
                self._transport.write(frame_of([job]))
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                waiting = self.sent.pop(job.number)
                name = self._pool.name
                fail(waiting, DataError(f'what "{name}" is to be given cannot be encoded: {error}'))

    def hold(self) -> None:
        """Take back the calls that have not begun."""
        if self.held or self.dead:
            return
        self.held = True
        self._met = False
        self.mark.limit = self.mark.begun
        for job in self._outbox:
            self._pool.give_back([self.sent.pop(job.number)])
        self._outbox.clear()
        asyncio.get_running_loop().call_later(MEETING, self._take_back)

    def _take_back(self) -> None:
        if self.dead:
            return
        self._met = True
        begun = self.mark.begun
        free = [self.sent.pop(number) for number in list(self.sent) if number > begun]
        if begun in self.sent and self.sent[begun].future.done():  # it was abandoned, and began at the last moment
            self.kill()
        if not free or self._dropped >= self._written:  # it has begun all, or said that it dropped them
            self._go_on()
        if self.leaving and not self.sent:
            self.leave()
        self._pool.give_back(free)

    def _go_on(self) -> None:
        self.held = False
        self.mark.limit = UNLIMITED

    def abandon(self, waiting: Waiting) -> None:
        """End a call whose caller is gone: by the end of the process, if it has begun."""
        if self.mark.begun == waiting.number:
            self.kill()
        elif self.mark.begun < waiting.number:
            self.hold()

    # --- what it says ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the way to it."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take answers."""
        sent, replied = self.sent, self._pool.replied
        for body in self._frames.feed(data):
            for answer in _ANSWERS.decode(body):
                if type(answer) is not Reply:
                    self._take(answer)
                elif (waiting := sent.pop(answer.number, None)) is not None:
                    replied(self, waiting, answer)
        self._pool.measure()
        self._pool.feed()

    def _take(self, answer: Answer) -> None:
        if isinstance(answer, Reply):
            waiting = self.sent.pop(answer.number, None)
            if waiting is not None:
                self._pool.replied(self, waiting, answer)
        elif isinstance(answer, Logged):
            log_again(answer)
        elif isinstance(answer, Ready):
            self.ready = True
        elif isinstance(answer, Dropped):
            self._dropped = answer.number
            begun = self.mark.begun
            self._pool.give_back([self.sent.pop(number) for number in list(self.sent) if begun < number <= answer.number])
            if self.held and answer.number >= self._written and self._met:
                self._go_on()
        else:
            self.leaving = True
            self._pool.broken(answer)

    # --- its end --------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Let it end by itself, when it does nothing."""
        self.leaving = True
        if self._transport is not None:
            self._hang_up()
        asyncio.get_running_loop().call_later(LEAVING, self.kill)

    def _hang_up(self) -> None:
        assert self._transport is not None
        self._transport.close()
        if self._rest is not None:
            self._rest.close()

    def _unread(self) -> list[bytes]:
        """Return what it said and nobody has read: a write that fails closes the transport with what is there to read."""
        bodies: list[bytes] = []
        with suppress(OSError):
            while self._rest is not None and (data := self._rest.recv(CHUNK)):
                bodies += self._frames.feed(data)
        if self._rest is not None:
            self._rest.close()
        return bodies

    def kill(self) -> None:
        """Kill it with all that it has started."""
        self.killed = True
        if not self.dead:
            self._zygotes.kill(self._number)

    def connection_lost(self, _error: Exception | None) -> None:
        """Take the end of what it says; one that still lives is of no use."""
        self._lost = True
        if self._notice is not None:
            self._end()
        elif not self.leaving:
            asyncio.get_running_loop().call_later(DRAINING, self._zygotes.kill, self._number)

    def _on_end(self, notice: Notice) -> None:
        """Take the end of the process; what it said before comes first."""
        self._notice = notice
        if self._lost:
            self._end()
        else:
            asyncio.get_running_loop().call_later(DRAINING, self._drained)

    def _drained(self) -> None:
        if not self._lost and self._transport is not None:  # what it has started holds the connection
            self._transport.abort()

    def _end(self) -> None:
        if self.dead:
            return
        self.dead = True
        self.gone.set()
        assert self._notice is not None
        for body in [*self._unread(), *Frames().feed(self.mark.kept)]:  # what it had done, and could not say any more
            for answer in _ANSWERS.decode(body):
                self._take(answer)
        culprit = None if self.killed else self.sent.pop(self.mark.begun, None)
        self._pool.died(self, self._notice, culprit, list(self.sent.values()))


def shared_file() -> IO[bytes]:
    """Return a file for the memory that two processes share, which is on no disk where the system can do that."""
    return os.fdopen(os.memfd_create("mark"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def fail(waiting: Waiting, error: Exception) -> None:
    """Give an error to who waits, if somebody does."""
    if not waiting.future.done():
        waiting.future.set_exception(error)
