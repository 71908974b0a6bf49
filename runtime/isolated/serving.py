"""A worker process from inside: makes one function of the texts it is sent, and calls it, one call at a time.

It is told all by its socket and ends when that is closed. A sync function has the main thread for itself, as any program,
and no loop runs there; an async one is called on a loop that goes on between the calls. Answers are sent when no more
calls wait or, of several calls that were sent together, by a second thread soon after they have ended, so that none
waits for a long one behind it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runtime.clock import SystemClock
from runtime.codec import to_builtins
from runtime.errors import DataError, PartialFailure, Reject, Skip, Unavailable
from runtime.event import Event
from runtime.executors.frames import (
    Broken,
    Dropped,
    Effects,
    Failure,
    Frames,
    Job,
    Mark,
    Member,
    Ready,
    Reply,
    Task,
)
from runtime.flow.failure import clean, error_of, told
from runtime.flow.results import plain_result
from runtime.function import Context, Emission
from runtime.isolated.line import Line, Sender
from runtime.keeper import Keeper
from runtime.loading import importer
from runtime.resources import Lease, ResourceSpec, make_resources
from runtime.specs import FunctionSpec, Isolation, make_function

CHUNK = 262_144  # bytes that are read at once
SMALL = 2**63
T = TypeVar("T")

OURS = {"Skip": Skip, "Reject": Reject, "Unavailable": Unavailable, "DataError": DataError, "PartialFailure": PartialFailure}

_TASK = msgspec.msgpack.Decoder(Task)
_JOBS = msgspec.msgpack.Decoder(list[Job])


class MemberCall:
    """One attempt, as getters of parameters see it; made for every call, so that it holds no more than it must."""

    _context: Context | None = None

    def __init__(self, function: FunctionSpec, member: Member, resources: Lease | None) -> None:
        self.function = function
        self.member = member
        self.event: Event = member.event
        self.results = member.results
        self.state = member.state
        self.resources = resources
        self.columns: list[list[Any]] = []

    @property
    def context(self) -> Context:
        """The context of the attempt, made when first asked for."""
        if self._context is None:
            member, function = self.member, self.function
            self._context = Context(
                member.event,
                function.name,
                attempt=member.attempt,
                deadline=member.deadline,
                settings=function.settings,
                idempotency_key=member.idempotency_key,
                max_emits=member.max_emits,
            )
        return self._context

    @property
    def emitted(self) -> Sequence[Emission]:
        """What was emitted so far."""
        return self._context.emitted if self._context is not None else ()


class Worker:
    """Calls one function for the runtime; `mark` is shared with it."""

    def __init__(self, connection: socket.socket, mark: Mark) -> None:
        self._connection = connection
        self._mark = mark
        self._line = Line(connection, mark)
        self._frames = Frames()
        self._jobs: deque[Job] = deque()
        self._last = 0

    def serve(self) -> None:
        """Make the function, and call it until the runtime closes the connection."""
        bodies = self._bodies()
        body = next(bodies, None)
        if body is None:
            return
        task = _TASK.decode(body)
        logging.basicConfig(handlers=[Sender(self._line)], level=task.level, force=True)
        logging.captureWarnings(capture=True)
        try:
            self._function, self._resources = made_of(task.isolation)
        except BaseException as error:  # noqa: BLE001 - whatever a file raises
            self._line.send(Broken(failure_of(error)))
            return
        self._line.send(Ready())
        if self._function.kind.startswith("async"):
            asyncio.run(self._serve_on_loop())
        else:
            self._serve_in_place(bodies)

    def _bodies(self) -> Iterator[bytes]:
        while data := self._connection.recv(CHUNK):
            yield from self._frames.feed(data)

    def _take(self, body: bytes) -> None:
        jobs = _JOBS.decode(body)
        self._jobs += jobs
        self._last = jobs[-1].number
        if len(self._jobs) > 1:
            self._line.begin()

    def _next(self) -> Job | None:
        """Return the next job if there is one that may begin; say so when all were taken back."""
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        if self._mark.begin(job.number):
            return job
        self._jobs.clear()
        self._line.add(Dropped(self._last))
        return None

    # --- a sync function ------------------------------------------------------------------------------

    def _serve_in_place(self, bodies: Iterator[bytes]) -> None:
        keeping = KeeperThread(self._resources) if self._resources else None
        try:
            for body in bodies:
                self._take(body)
                while (job := self._next()) is not None:
                    began = time.perf_counter()
                    self._line.add(contextvars.Context().run(self._reply, job, keeping, began))
                self._line.end()
        finally:
            if keeping is not None:
                keeping.close()

    def _reply(self, job: Job, keeping: KeeperThread | None, began: float) -> Reply:
        lease = None
        try:
            lease = keeping.lease() if keeping is not None else None
            calls, args, kwargs = self._bound(job, lease)
            result = self._function.call(*args, **kwargs)
            if self._function.kind == "generator":
                for value in result:
                    self._emit(calls[0], value)
                result = None
            return self._done(job, calls, result, began)
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its failure
            return Reply(job.number, time.perf_counter() - began, None, [], failure_of(error))
        finally:
            if lease is not None and keeping is not None:
                keeping.release(lease)

    # --- an async one ---------------------------------------------------------------------------------

    async def _serve_on_loop(self) -> None:
        loop = asyncio.get_running_loop()
        keeper = Keeper(SystemClock())
        keeper.adopt(self._resources)
        readable = asyncio.Event()
        loop.add_reader(self._connection, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                data = self._connection.recv(CHUNK)
                if not data:
                    return
                for body in self._frames.feed(data):
                    self._take(body)
                while self._jobs:
                    await loop.create_task(self._work_off(keeper), context=contextvars.Context())
                self._line.end()
        finally:
            loop.remove_reader(self._connection)
            await keeper.close()

    async def _work_off(self, keeper: Keeper) -> None:
        """Do the calls that wait, until one has set context variables, which the next must not see."""
        clean = contextvars.copy_context()
        while (job := self._next()) is not None:
            self._line.add(await self._reply_on_loop(job, keeper))
            if contextvars.copy_context() != clean:
                return

    async def _reply_on_loop(self, job: Job, keeper: Keeper) -> Reply:
        began = time.perf_counter()
        lease = None
        try:
            lease = await keeper.lease(self._resources) if self._resources else None
            calls, args, kwargs = self._bound(job, lease)
            result = self._function.call(*args, **kwargs)
            if self._function.kind == "async":
                result = await result
            else:
                async for value in result:
                    self._emit(calls[0], value)
                result = None
            return self._done(job, calls, result, began)
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its failure
            return Reply(job.number, time.perf_counter() - began, None, [], failure_of(error))
        finally:
            if lease is not None:
                lease.release()

    # --- both -----------------------------------------------------------------------------------------

    def _bound(self, job: Job, lease: Lease | None) -> tuple[list[MemberCall], list[Any], dict[str, Any]]:
        """Return the attempts of a job, and what the function is called with."""
        function = self._function
        members = job.members
        if len(members) == 1:
            calls = [MemberCall(function, members[0], lease)]
        else:
            calls = [MemberCall(function, member, lease) for member in members]
        if function.batch > 1:
            calls[0].columns = [[get(call) for call in calls] for get in function.parameters.each]
        return calls, *function.parameters.bind(calls[0])

    def _emit(self, call: MemberCall, value: Any) -> None:
        if value is not None:
            assert self._function.emits is not None
            call.context.emit(self._function.emits, value)

    def _done(self, job: Job, calls: list[MemberCall], result: Any, began: float) -> Reply:
        function = self._function
        if type(result) is not int or not -SMALL < result < SMALL:  # which is plain as it is
            result = plain_result(function.name, result)
        effects: list[Effects] = []
        if function.parameters.takes_state or calls[0].emitted or (len(calls) > 1 and any(call.emitted for call in calls)):
            effects = [self._effects(call) for call in calls]
        return Reply(job.number, time.perf_counter() - began, result, effects)

    def _effects(self, call: MemberCall) -> Effects:
        name = self._function.name
        state = _plain(call.state, f'the state of "{name}"')
        return Effects([_emission(name, one) for one in call.emitted], state)


class KeeperThread:
    """A loop in a thread, with what keeps the resources of a sync function."""

    def __init__(self, resources: list[ResourceSpec]) -> None:
        self._resources = resources
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="resources", daemon=True).start()
        self._keeper = Keeper(SystemClock())
        self._loop.call_soon_threadsafe(self._keeper.adopt, resources)

    def lease(self) -> Lease:
        """Return the resources, opened if they are not."""
        return self._wait(self._keeper.lease(self._resources))

    def release(self, lease: Lease) -> None:
        """Let go of what was leased."""
        self._loop.call_soon_threadsafe(lease.release)

    def close(self) -> None:
        """Close all of them."""
        self._wait(self._keeper.close())

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def serve(connection: socket.socket, mark: Mark) -> None:
    """Serve the runtime on a connection until it closes that, or is gone."""
    with suppress(ConnectionError):
        Worker(connection, mark).serve()


def made_of(isolation: Isolation) -> tuple[FunctionSpec, list[ResourceSpec]]:
    """Return the function that an isolation describes, and the resources it takes.

    Raises:
        LoadError: its files cannot be loaded.
        LookupError: none of them declares it.
    """
    modules = importer.load(Path(isolation.folder), sources=isolation.texts)
    importer.publish(modules)
    placed = [(one.declaration, one.file, one.line) for one in modules.declared if one.declaration.is_resource]
    wanted = [one for one in placed if one[0].name in isolation.resources]
    resources, faults = make_resources(wanted, isolation.resources)
    found = [one for one in modules.declared if one.declaration.name == isolation.name and not one.declaration.is_resource]
    if not found:
        raise LookupError(f'no file declares "{isolation.name}"; a function of a convention that a plugin adds cannot be isolated')
    overrides = {isolation.name: {**isolation.overrides, "isolate": False, "memory": None, "settings": isolation.settings}}
    made = make_function(found[0].declaration, found[0].file, found[0].line, 1, overrides, resources)
    if isinstance(made, list):
        raise LookupError("; ".join(map(str, [*faults, *made])))  # noqa: TRY004 - it was one in the process of the runtime
    return made, list(made.resources)


def failure_of(error: BaseException) -> Failure:
    """Return what tells the runtime of an error."""
    kind = next((name for name, kind in OURS.items() if isinstance(error, kind)), "Exception")
    record, line = error_of(error), told(error)
    if isinstance(error, MemoryError):
        kind = "MemoryError"
    if isinstance(error, Skip):
        record = msgspec.structs.replace(record, message=clean(str(error.reason)))
    retry_after = error.retry_after if isinstance(error, Unavailable) else 0.0
    failures: dict[str, Any] = {}
    if isinstance(error, PartialFailure):
        failures = {str(id): failure_of(why) if isinstance(why, Exception) else clean(str(why)) for id, why in error.failures.items()}
    return Failure(kind, record, line, retry_after, failures)


def _emission(function: str, emission: Emission) -> Emission:
    return msgspec.structs.replace(emission, data=_plain(emission.data, f'the data of "{emission.type}" that "{function}" emits'))


def _plain(value: Any, what: str) -> Any:
    try:
        return to_builtins(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"{what} cannot be encoded: {error}") from None
