"""The inlet of a source: applies its settings, accepts its events, and waits for results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError

from runtime.engine import Engine
from runtime.errors import DataError, NotRouted, ResultTimeout
from runtime.event import Event, Malformed
from runtime.flow.run import reply
from runtime.graph import Plan
from runtime.records import DEAD, ENDED, UNROUTED
from runtime.settings import SourceSettings

log = logging.getLogger("runtime.inlet")

STATUS_OF = attrgetter("status")


class HostInlet:
    """The inlet of one source; see `runtime.contracts.Inlet`.

    With `wait_for_end` a `put` returns when its events have ended: for sources that acknowledge upstream,
    on a journal that does not survive the process.
    """

    def __init__(self, name: str, settings: SourceSettings, engine: Engine, *, cursor: Any = None, wait_for_end: bool = False) -> None:
        self.name = name
        self.cursor = cursor
        self.events = 0
        self.waiting = 0  # puts that wait for room
        self._engine = engine
        self._intake = engine.intake
        self._next = 0.0
        self._wait_for_end = wait_for_end
        self.configure(settings)

    def configure(self, settings: SourceSettings) -> None:
        """Go by these settings from the next event on."""
        self._priority = settings.priority
        self._key = jmespath.compile(settings.key) if settings.key else None
        self._steers = settings.priority is not None or self._key is not None
        self._interval = 1 / settings.rate if settings.rate else 0.0

    async def put(self, events: Event | Sequence[Event], *, cursor: Any = None, wait: bool = True) -> list[str]:
        """Accept events; see `Inlet.put`."""
        batch = [events] if isinstance(events, Event) else events
        if self._interval:
            await self._pace(len(batch))
        intake = self._intake
        entries = [intake.entry(event, **self._steering(event)) for event in batch] if self._steers else intake.entries(batch)
        accepting = intake.accept(entries, wait=wait, cursor=None if cursor is None else (self.name, cursor))
        if intake.is_full:
            self.waiting += 1
            try:
                accepted = await accepting
            finally:
                self.waiting -= 1
        else:
            accepted = await accepting
        if cursor is not None:
            self.cursor = cursor
        self.events += len(entries)
        if accepted != entries or DEAD in map(STATUS_OF, entries):
            for event, entry, first in zip(batch, entries, accepted, strict=True):
                if isinstance(event, Malformed):
                    if first is entry:
                        self._engine.outcomes.end(entry, DEAD, event.why)  # which tells of the dead letter
                elif first is not entry and first.status == DEAD:
                    await self._engine.redrive(first)
        if self._wait_for_end:
            await self._engine.outcomes.all_ended(accepted)
        return [entry.event.id for entry in accepted]

    async def call(self, event: Event, *, timeout: float | None = None, retries: int = 0) -> Any:  # noqa: ASYNC109 - a promise to the caller
        """Accept an event and wait for its result; see `Inlet.call`."""
        engine = self._engine
        plan = self._plan(event.type)
        if self._interval:
            await self._pace(1)
        entry = engine.intake.entry(event, retries=retries, **self._steering(event))
        _check_data(plan, entry.event)
        first = (await engine.intake.accept([entry], wait=False))[0]
        self.events += 1
        if first is not entry:
            if first.status in (DEAD, UNROUTED):
                await engine.redrive(first, retries=retries)
            plan = self._plan(first.event.type)
            if first.ran or first.status in ENDED:
                await engine.outcomes.settled()  # what it says is recorded then
                return reply(first, plan, first.steps)
        future = engine.outcomes.wait_for(first)
        timer = None if timeout is None else asyncio.get_running_loop().call_later(timeout, _tell_late, future, first.event.id, timeout)
        try:
            return await future
        finally:
            if timer is not None:
                timer.cancel()
            engine.outcomes.give_up(first, future)

    def _plan(self, type: str) -> Plan:
        """Return the plan of a type that has functions.

        Raises:
            NotRouted: it has none.
        """
        plan = self._engine.router.plan(type)
        if not plan.functions:
            raise NotRouted(type, removed=self._engine.router.was_handled(type))
        return plan

    def _steering(self, event: Event) -> dict[str, Any]:
        """Return the priority and key that the settings of the source say, as far as the event says nothing."""
        said: dict[str, Any] = {}
        if self._priority is not None and event.priority is None:
            said["priority"] = self._priority
        if self._key is not None and event.key is None:
            found = self._found_key(event.data)
            if found is not None:
                said["key"] = found if isinstance(found, str) else msgspec.json.encode(found).decode()
        return said

    def _found_key(self, data: Any) -> Any:
        assert self._key is not None
        try:
            return self._key.search(data)
        except JMESPathError as error:  # a function of the expression does not take what is there
            log.warning('source "%s": the key of an event cannot be read from its data: %s', self.name, str(error).splitlines()[0])
            return None

    async def _pace(self, count: int) -> None:
        """Wait until `rate` allows `count` more events."""
        now = self._engine.clock.monotonic()
        start = max(now, self._next)
        self._next = start + count * self._interval
        if start > now:
            await self._engine.clock.sleep(start - now)


def _tell_late(future: asyncio.Future[object], id: str, timeout: float) -> None:
    """Tell who waits for a result that it has not come in time."""
    if not future.done():
        future.set_exception(ResultTimeout(id, timeout))


def _check_data(plan: Plan, event: Event) -> None:
    """See to it that the data fits a root function.

    Raises:
        DataError: it fits none; the fault of the first is told.
    """
    first: DataError | None = None
    for root in plan.roots:
        try:
            for decode in plan.functions[root].parameters.data:
                decode(event.data)
        except DataError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first
