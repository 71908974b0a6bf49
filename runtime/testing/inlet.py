"""The inlet that a source under test is given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from runtime.cloudevents import check_event
from runtime.errors import Full, JournalError
from runtime.event import Event, Malformed


class SuiteInlet:
    """Keeps what it accepts, and treats a source as a runtime does on a bad day; see `runtime.contracts.Inlet`.

    `events` are those accepted, each source and id once, and `malformed` those that could not be understood. While `room`
    is not set, `put` waits; `failures` is how many further calls fail; with `hangs` the events are accepted, and the
    source does not get to know. `tries` counts the calls, `waiting` how many wait now, `most` is how many events have
    waited at once. Accepting an event takes `pace` seconds. A call without events only records the cursor.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.malformed: list[Malformed] = []
        self.cursor: Any = None
        self.room = asyncio.Event()
        self.room.set()
        self.failures = 0
        self.hangs = False
        self.tries = 0
        self.most = 0
        self.waiting = 0
        self.pace = 0.0
        self._offered = 0
        self._released = asyncio.Event()
        self._ids: dict[tuple[str, str], str] = {}

    async def put(self, events: Event | Sequence[Event], *, cursor: Any = None, wait: bool = True) -> list[str]:
        """Accept events; see `Inlet.put`."""
        batch = [events] if isinstance(events, Event) else list(events)
        for event in batch:
            check_event(event)
        ids = await self._take(batch, wait=wait) if batch else []
        if cursor is not None:
            self.cursor = msgspec.json.decode(msgspec.json.encode(cursor))
        if batch and self.hangs:
            await self._released.wait()
            raise JournalError("the suite has ended the run; go on with the next one")
        return ids

    async def _take(self, batch: list[Event], *, wait: bool) -> list[str]:
        self.tries += 1
        if not wait and not self.room.is_set():
            raise Full(self._offered, self._offered)
        self._offered += len(batch)
        self.most = max(self.most, self._offered)
        self.waiting += 1
        try:
            await self.room.wait()
            if self.pace:
                await asyncio.sleep(self.pace * len(batch))
        finally:
            self.waiting -= 1
            self._offered -= len(batch)
        if self.failures:
            self.failures -= 1
            raise JournalError("the suite refuses to record this; bring it again")
        return [self._accept(event) for event in batch]

    def _accept(self, event: Event) -> str:
        if (event.source, event.id) in self._ids:
            return event.id
        id = event.id or f"suite-{len(self.events) + len(self.malformed)}"
        self._ids[event.source, id] = id
        accepted = msgspec.structs.replace(event, id=id)
        if isinstance(accepted, Malformed):
            self.malformed.append(accepted)
        else:
            self.events.append(accepted)
        return id

    def release(self) -> None:
        """End what hangs, because the run is over."""
        self._released.set()

    async def call(self, event: Event, *, timeout: float | None = None, retries: int = 0) -> Any:  # noqa: ARG002, ASYNC109 - as the contract says
        """Accept an event that has no result; see `Inlet.call`."""
        await self.put(event)
