"""Intake: from a source into the journal; only then may the source acknowledge."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from runtime.cloudevents import check_event
from runtime.contracts import Clock, Journal
from runtime.errors import Full
from runtime.event import Event, Malformed
from runtime.function import Emission
from runtime.records import DEAD, FAILED, UNROUTED, Entry, Outcome, Route

DEATH = "runtime.dead"  # the type of the event that tells of a dead letter


class Intake:
    """Accepts events into the journal and hands the new ones to `admit`.

    `route` tells how an event of a type begins, `waiting` how many events wait, of which there may be `max_backlog`.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        *,
        route: Callable[[str], Route],
        admit: Callable[[Entry], None],
        waiting: Callable[[], int],
        max_backlog: int,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._route = route
        self.admit = admit
        self._waiting = waiting
        self.max_backlog = max_backlog
        self._room: deque[asyncio.Future[None]] = deque()
        self._now = datetime.fromtimestamp(0, UTC)
        self._now_at = 0.0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for a further event."""
        return self._waiting() >= self.max_backlog

    async def accept(self, entries: list[Entry], *, wait: bool, cursor: tuple[str, Any] | None = None) -> list[Entry]:
        """Append entries to the journal and admit the new ones; see `Journal.append` for the answer.

        Raises:
            Full: `wait` is False and there is no room.
            JournalError: nothing was accepted.
        """
        while (waiting := self._waiting()) >= self.max_backlog:
            if not wait:
                raise Full(waiting, self.max_backlog)
            await self._wait_for_room()
        return await self._journal.append(entries, cursor=cursor, then=partial(self._admit_new, entries))

    async def _wait_for_room(self) -> None:
        room = asyncio.get_running_loop().create_future()
        self._room.append(room)
        try:
            await room
        except asyncio.CancelledError:
            if not room.cancelled():
                self.make_room()  # for somebody else
            raise

    def _admit_new(self, entries: list[Entry], accepted: list[Entry]) -> None:
        """Admit the entries that are new; called by the journal, whether or not the source still waits."""
        for entry, first in zip(entries, accepted, strict=True):
            if first is entry:
                self.admit(entry)

    def make_room(self) -> None:
        """Let sources go on that wait for room; called when events have left the backlog."""
        if not self._room:
            return
        places = self.max_backlog - self._waiting()
        while self._room and places > 0:
            room = self._room.popleft()
            if not room.done():
                room.set_result(None)
                places -= 1

    def entry(self, event: Event, *, retries: int | None = None, **steering: Any) -> Entry:
        """Return the entry of an event that comes from outside, a copy with `steering` where something is to be filled in.

        Raises:
            MalformedEvent: it is not what CloudEvents can say.
        """
        check_event(event)
        now = self._clock.time()
        looked_up = bool(event.id)
        if event.time is None:
            steering["time"] = self._moment(now)
        if isinstance(event, Malformed):
            return _set_aside(event, now, steering)
        if steering or not looked_up:
            event = msgspec.structs.replace(event, **steering)
        due = event.due.timestamp() if event.due is not None else 0.0
        return self._made(event, now, due, hops=_hops(event), retries=retries, looked_up=looked_up)

    def _made(self, event: Event, now: float, due: float, **more: Any) -> Entry:
        """Return the entry of an event that begins as its type says."""
        route = self._route(event.type)
        ended = now if route.status == UNROUTED else 0.0
        return Entry(event=event, accepted=now, due=due, ended=ended, status=route.status, sinks=route.sinks, ran=route.ran, **more)

    def emitted(self, cause: Entry, function: str, emissions: Sequence[Emission]) -> list[Entry]:
        """Return the entries of what a function emitted; ids are made of event, function and count."""
        now = self._clock.time()
        return [self._emission(cause, function, emission, count, now) for count, emission in enumerate(emissions)]

    def _emission(self, cause: Entry, function: str, emission: Emission, count: int, now: float) -> Entry:
        before = cause.event
        due = now + emission.delay if emission.delay else 0.0
        origin = before.extensions.get("correlationid", before.id)
        priority = before.priority if emission.priority is None else emission.priority
        event = Event(
            type=emission.type,
            source="runtime" if function == "runtime" else f"function/{function}",
            id=emission.id or f"{cause.uid}-{function}-{count}",
            data=emission.data,
            time=self._moment(now),
            subject=emission.subject,
            key=before.key if emission.key is None else emission.key,
            priority=priority,
            due=datetime.fromtimestamp(due, UTC) if due else None,
            extensions={"causationid": before.id, "correlationid": origin, "hops": cause.hops + 1},
        )
        return self._made(event, now, due, cause=cause.seq, hops=cause.hops + 1, looked_up=emission.id is not None)

    def death(self, outcome: Outcome) -> list[Entry]:
        """Return the event `runtime.dead` that tells of a dead letter; none when nobody wants it, or it would tell of its own."""
        entry = outcome.entry
        if entry.event.type == DEATH or self._route(DEATH).status == UNROUTED:
            return []
        steps = {**entry.steps, **{step.function: step for step in outcome.steps}}
        failed, error = next(((step.function, step.error) for step in steps.values() if step.status == FAILED), (None, None))
        told = {"type": error.type, "message": error.message} if error else {"type": None, "message": outcome.reason}
        event = entry.event
        data = {"uid": entry.uid, "id": event.id, "type": event.type, "source": event.source, "function": failed, "error": told}
        now = self._clock.time()
        return [self._emission(entry, "runtime", Emission(DEATH, data), int(now * 1000), now)]  # an event may die more than once

    def _moment(self, now: float) -> datetime:
        """Return the aware datetime of `now`; the last one while the clock shows the same millisecond."""
        if not 0 <= now - self._now_at < 0.001:
            self._now = datetime.fromtimestamp(now, UTC)
            self._now_at = now
        return self._now


def _set_aside(event: Malformed, now: float, steering: dict[str, Any]) -> Entry:
    """Return the entry of a message that cannot be understood: a dead letter from the start, for no function and no sink."""
    kept = {name: getattr(event, name) for name in Event.__struct_fields__} | steering
    return Entry(event=Event(**kept), accepted=now, ended=now, status=DEAD, reason=event.why, ran=True, looked_up=bool(event.id))


def _hops(event: Event) -> int:
    """Return the emissions behind an event; as text when it came in HTTP headers."""
    if "hops" not in event.extensions:
        return 0
    hops = str(event.extensions.get("hops", 0))
    return int(hops) if hops.isascii() and hops.isdecimal() and len(hops) < 10 else 0
