"""The harness: a real runtime in the process of a test, with its journal in memory and a clock that a test moves.

It lives on a loop in a thread of its own, so that its methods are plain calls in any test. Each returns when all that
needs no time has been done: nothing executes, nothing is ready, and outcomes are recorded. Functions really run (in
threads, on the network, asleep) while the clock stands still, so that what a test sees does not depend on how quick
they are. Nothing of the configuration touches the outside world unless the test names it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from runtime import config, pattern
from runtime.admin.shapes import status_of
from runtime.admin.showing import show
from runtime.codec import to_builtins
from runtime.contracts import Query
from runtime.errors import ResultTimeout, nearest
from runtime.event import Event
from runtime.records import DEAD, STATUSES, Entry
from runtime.testing.clock import VirtualClock
from runtime.testing.loop import LoopThread, Stuck
from runtime.testing.rehearsal import ALL, Rehearsal, listed

T = TypeVar("T")

PATIENCE = 30.0  # seconds that what needs no time may take
LOOK = 0.01  # seconds between two looks for what comes from outside


class HarnessClock:
    """The clock of a harness: it stands still until `advance` moves it."""

    def __init__(self, clock: VirtualClock, do: Callable[[str, Coroutine[Any, Any, None]], None]) -> None:
        self._clock = clock
        self._do = do

    def time(self) -> float:
        """Return the Unix time that the runtime sees."""
        return self._clock.time()

    def advance(self, seconds: float) -> None:
        """Move the clock; what becomes due on the way (delays, retries, schedules) is done to its end, each at its time."""
        if not seconds >= 0:
            raise ValueError(f"clock.advance: expected seconds not below 0, found {seconds:g}; the clock never goes back")
        self._do("clock.advance", self._clock.advance(seconds))


class Harness:
    """The project in `folder`, for a test; a context manager, running inside of it.

    `sources` and `sinks` name those of the configuration that run for real. Of the others, a source is started only
    when it is `offline`, and a sink is replaced by a recorder, see `delivered`. What a function returns is encoded
    before the next one is given it, as after a restart. `patience` is how many seconds (of real time) a call waits
    for what needs no time; beyond it a call raises TimeoutError.

    Raises:
        ConfigError: the configuration or a plugin is faulty, or there is no such source or sink.
        LoadError: at entry: the functions folder does not make a generation.
    """

    def __init__(
        self,
        folder: str | Path = ".",
        *,
        config: str = config.DEFAULT_NAME,
        sources: Collection[str] = (),
        sinks: Collection[str] = (),
        patience: float = PATIENCE,
    ) -> None:
        self._time = VirtualClock(settle=self._rest)
        self.clock = HarnessClock(self._time, self._do)
        self._patience = patience
        self._rehearsal = Rehearsal(Path(folder).absolute() / config, self._time, sources, sinks)
        self._app, self._recorders = self._rehearsal.app, self._rehearsal.recorders
        self._inlet = self._app.inlet("harness")
        self._calls = itertools.count(1)

    def __enter__(self) -> Self:
        self._loop = LoopThread(self._rehearsal.is_busy)
        try:
            self._do("start", self._started())
        except BaseException:
            self._loop.close(self._patience)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._do("stop", self._app.stop(0.0))
        except TimeoutError:
            if error is None:
                raise  # otherwise the test has failed already, and its error says more
        finally:
            self._loop.close(self._patience)

    async def _started(self) -> None:
        await self._app.start()
        await self._settled()

    # --- what a test does -----------------------------------------------------------------------------

    def emit(self, type: str, data: Any = None, *, delay: float = 0.0, **attributes: Any) -> Event:
        """Accept an event and return it as it is recorded, when all has been done that it brings about.

        `data` is anything that a function may return. `attributes` are those of `Event`: `key`, `priority`, `id`,
        `subject`, `source` …; with `delay`, in seconds, it is not due before.

        Raises:
            MalformedEvent: it is not what CloudEvents can say.
        """
        return self._do("emit", self._emit(self._event(type, data, delay, attributes)))

    def call(self, type: str, data: Any = None, **attributes: Any) -> Any:
        """Accept an event, without retries, and return the result of its run, as a route with `reply = "result"` answers.

        Raises:
            NotRouted: no function handles the type.
            DataError: the data fits no root function.
            RunFailed: a step has failed; the event is a dead letter.
            ResultTimeout: there is no result before the clock is moved.
        """
        named = {"id": f"call-{next(self._calls)}", **attributes}
        return self._do("call", self._call(self._event(type, data, 0.0, named)))

    def redrive(self, event: Event) -> None:
        """Run the steps of a dead letter that have not been done, and send an unrouted event through the graph.

        Raises:
            ValueError: it is neither.
        """
        self._do("redrive", self._redrive(event))

    def wait_for(self, type: str, count: int = 1) -> list[Event]:
        """Return the events whose type fits a pattern when there are `count` of them: for sources that run for real.

        Raises:
            TimeoutError: there are fewer after the seconds of `patience`.
        """
        return self._do("wait_for", self._wait_for(type, count))

    # --- and sees -------------------------------------------------------------------------------------

    def events(self, type: str = ">", *, status: str | None = None) -> list[Event]:
        """Return the events whose type fits a pattern, and that stand so, in the order of acceptance, emitted ones included."""
        return self._do("events", self._events(type, status))

    def dead(self) -> list[Event]:
        """Return the dead letters in the order of acceptance."""
        return self.events(status=DEAD)

    def show(self, event: Event) -> dict[str, Any]:
        """Return what `runtime show --json` tells of an event: how it stands, its steps, attempts and errors."""
        return self._do("show", self._show(event))

    def delivered(self, sink: str) -> list[Event]:
        """Return what a sink would have got, in order.

        Raises:
            ValueError: there is no sink of this name that a recorder stands in for.
        """
        if sink not in self._recorders:
            raise ValueError(
                f'delivered: expected a sink of the configuration that does not run for real, found "{sink}"'
                f"{nearest(sink, self._recorders)}; there are: {listed(self._recorders)}"
            )
        return list(self._recorders[sink].events)

    def address(self, source: str) -> str:
        """Return where a source that runs for real listens.

        Raises:
            ValueError: there is none of this name that listens.
        """
        there = dict(self._app.addresses())
        if source not in there:
            raise ValueError(
                f'address: expected a source that runs for real and listens, found "{source}"; '
                f"there are: {listed(there)}; name it in `sources`"
            )
        return there[source]

    # --- how ------------------------------------------------------------------------------------------

    def _do(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns on the loop of the harness."""
        try:
            return self._loop.call(work, self._patience)
        except Stuck:
            running = ", ".join(self._rehearsal.running()) or "nothing that can be named: an async function may block the loop"
            raise TimeoutError(
                f"{what}: expected all that needs no time to be done within {self._patience:g} s, still running: {running}; "
                "mend what hangs, or give the harness more `patience`"
            ) from None

    async def _rest(self) -> None:
        await self._loop.rest()

    async def _settled(self) -> None:
        """Return when all that needs no time has been done: also what is due now."""
        await self._time.advance(0.0)

    def _event(self, type: str, data: Any, delay: float, attributes: dict[str, Any]) -> Event:
        if delay:
            attributes["due"] = datetime.fromtimestamp(self._time.time() + delay, UTC)
        return Event(**{"type": type, "source": "harness", "data": to_builtins(data), **attributes})

    async def _emit(self, event: Event) -> Event:
        (id,) = await self._inlet.put(event)
        accepted = await self._entry(msgspec.structs.replace(event, id=id))
        await self._settled()
        return accepted.event

    async def _call(self, event: Event) -> Any:
        calling = asyncio.create_task(self._inlet.call(event))
        await self._settled()
        if not calling.done():
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            raise ResultTimeout(event.id, 0.0)
        return calling.result()

    async def _redrive(self, event: Event) -> None:
        entry = await self._entry(event)
        if not await self._app.engine.redrive(entry):
            raise ValueError(
                f"redrive: expected a dead letter, or an unrouted event that something handles now, found a {entry.status} one"
            )
        await self._settled()

    async def _wait_for(self, type: str, count: int) -> list[Event]:
        until = time.monotonic() + self._patience
        while len(found := await self._events(type, None)) < count:
            if time.monotonic() > until:
                raise TimeoutError(
                    f'wait_for: expected {count} events of type "{type}" within {self._patience:g} s, found {len(found)}; '
                    "see to the source that brings them, or give the harness more `patience`"
                )
            await asyncio.sleep(LOOK)
            await self._settled()
        return found

    async def _events(self, type: str, status: str | None) -> list[Event]:
        if why := pattern.fault_of(type):
            raise ValueError(f'events: "{type}" is not a pattern of event types: {why}')
        if status is not None and status not in STATUSES:
            raise ValueError(f'events: "{status}" is no status{nearest(status, STATUSES)}; allowed: {", ".join(STATUSES)}')
        live = self._app.engine.live()
        entries = await self._app.journal.query(Query(type=type, limit=ALL))
        return [entry.event for entry in reversed(entries) if status in (None, status_of(entry, live))]

    async def _show(self, event: Event) -> dict[str, Any]:
        app, entry = self._app, await self._entry(event)
        return await show(app, entry, [other for other in await app.journal.find(entry.event.id) if other is not entry])

    async def _entry(self, event: Event) -> Entry:
        """Return the record of an event."""
        for entry in await self._app.journal.find(event.id):
            if entry.event.source == event.source:
                return entry
        raise ValueError(f'there is no event "{event.id}" from "{event.source}" here; take one that the harness returned')
